"""``train_default_zoobot_from_scratch`` with the arguments of Zoobot 2.x, over this package's loop.

``train.py`` does the same from the command line, and more.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from zoobot.data.datamodule import CatalogDataModule
from zoobot.data.views.config import GalaxyViewConfig, minimal_view_config
from zoobot.data.views.cpu import get_galaxy_transform
from zoobot.models.tree import ZoobotTree
from zoobot.pytorch.training.old_arguments import translated
from zoobot.pytorch.training.trainer import LightningTrainer, get_trainer
from zoobot.schemas import Schema
from zoobot.system.errors import UserError, did_you_mean

GRAD_CLIP = 0.3
SHARDS = "train on shards by train.py --shards DIR (docs/shards.md)"
REFUSED = {"train_urls": SHARDS, "val_urls": SHARDS, "test_urls": SHARDS, "cache_dir": SHARDS}
RENAMED = {"model_architecture": "architecture_name", "resize_size": "resize_after_crop"}


def train_default_zoobot_from_scratch(
    save_dir: str | Path,
    schema: Schema,
    catalog: pd.DataFrame | None = None,
    train_catalog: pd.DataFrame | None = None,
    val_catalog: pd.DataFrame | None = None,
    test_catalog: pd.DataFrame | None = None,
    *,
    epochs: int = 1000,
    patience: int = 8,
    architecture_name: str = "efficientnet_b0",
    batch_size: int = 128,
    dropout_rate: float = 0.2,
    drop_connect_rate: float = 0.2,
    learning_rate: float = 1e-3,
    betas: Sequence[float] = (0.9, 0.999),
    weight_decay: float = 0.01,
    scheduler_params: dict | None = None,
    color: bool = False,
    resize_after_crop: int = 224,
    crop_scale_bounds: Sequence[float] = (0.7, 0.8),
    crop_ratio_bounds: Sequence[float] = (0.9, 1.1),
    nodes: int | None = None,
    gpus: int | None = None,
    num_workers: int | str = "auto",
    prefetch_factor: int = 4,
    mixed_precision: bool | None = None,
    compile_model: bool | None = None,
    wandb_logger: object = None,
    checkpoint_file_template: str | None = None,
    auto_insert_metric_name: bool = True,
    save_top_k: int = 3,
    extra_callbacks: object = None,
    random_state: int = 42,
    **others,
) -> tuple[ZoobotTree, LightningTrainer]:
    """Train a ``ZoobotTree`` with fresh weights on vote counts; returns it and its trainer.

    Galaxies are rotated, flipped, and cropped to a random part; for validation the usual size
    of the part is taken from the centre. At the end the model has the best weights, and a
    ``test_catalog`` is tested.

    Args:
        catalog: split for training, validation and test; or the catalogs of these.
        epochs, patience, save_top_k, checkpoint_file_template: see ``get_trainer``.
        dropout_rate, drop_connect_rate: of the head; and of the encoder's blocks, where timm's
            architecture has that.
        color: three channels; False: one, the greyscale.
        resize_after_crop: side of the view in pixels.
        crop_scale_bounds, crop_ratio_bounds: the part's area, 0 to 1; and its width by its height.
        gpus: 0: on the CPU; else the number of processes that torchrun started.
        nodes, auto_insert_metric_name: without effect.
        mixed_precision: None: as the hardware has it; False: float32; True: float16.
        compile_model: see ``get_trainer``'s ``compile``; None: if that pays.
        wandb_logger, extra_callbacks: see ``get_trainer``.
        random_state: of the split, the order, the views and dropout.

    Raises:
        ValueError: for another argument of Zoobot's or Lightning's that is not supported, and as
            ``CatalogDataModule``, ``ZoobotTree`` and ``get_trainer`` say.
    """
    for name in others:
        told = f"train_default_zoobot_from_scratch has no argument {name!r}"
        if name in REFUSED:
            raise UserError(f"{told}: {REFUSED[name]}")
        if name in RENAMED:
            raise UserError(f"{told}: write {RENAMED[name]}=")
        raise UserError(
            f"{told}{did_you_mean(name, train_default_zoobot_from_scratch.__kwdefaults__)}"
        )
    crop = {"scale": tuple(crop_scale_bounds), "ratio": tuple(crop_ratio_bounds)}
    train_view = GalaxyViewConfig(random_resized_crop=crop, rotation_prob=1.0, flip_prob=0.5)
    test_view = minimal_view_config()
    test_view.random_affine["scale"] = ((sum(crop["scale"]) / 2) ** -0.5,) * 2
    for view in (train_view, test_view):
        view.output_size, view.greyscale = resize_after_crop, not color
    data = CatalogDataModule(
        schema.label_cols,
        get_galaxy_transform(train_view),
        get_galaxy_transform(test_view),
        catalog=catalog,
        train_catalog=train_catalog,
        val_catalog=val_catalog,
        test_catalog=test_catalog,
        batch_size=batch_size,
        num_workers=num_workers,
        prefetch_factor=prefetch_factor,
        seed=random_state,
    )
    model = ZoobotTree(
        schema=schema,
        architecture_name=architecture_name,
        channels=3 if color else 1,
        dropout_rate=dropout_rate,
        timm_kwargs={"drop_path_rate": drop_connect_rate},
        learning_rate=learning_rate,
        betas=betas,
        weight_decay=weight_decay,
        seed=random_state,
        **translated({"scheduler_params": scheduler_params}),
    )
    trainer = get_trainer(
        save_dir,
        checkpoint_file_template or "{epoch}",
        save_top_k,
        epochs,
        patience,
        devices=gpus or "auto",
        accelerator="cpu" if gpus == 0 else "gpu" if gpus else "auto",
        logger=wandb_logger,
        callbacks=extra_callbacks,
        precision={None: "auto", False: "32", True: "16-mixed"}[mixed_precision],
        compile={None: "auto", False: "off", True: "on"}[compile_model],
        gradient_clip_val=GRAD_CLIP,
        seed=random_state,
        num_nodes=nodes,
    )
    trainer.fit(model, data)
    if test_catalog is not None:
        trainer.test(model, data)
    return model, trainer
