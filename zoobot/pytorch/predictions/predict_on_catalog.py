"""``predict`` with the arguments of Zoobot 2.x; the code is in ``zoobot.predictions.predict``."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from zoobot.predictions.ensembles import Model, members_of, same_view
from zoobot.predictions.files import read_predictions
from zoobot.predictions.outputs import as_list
from zoobot.predictions.predict import predict_to_file
from zoobot.pytorch.predictions.any_module import takes_images
from zoobot.pytorch.training.lightning_options import check_options
from zoobot.pytorch.training.trainer import hardware
from zoobot.system.errors import UserError

VIEW = "give inference_transform=, such as get_galaxy_transform(minimal_view_config())"
OF_TRAINING = (  # arguments of Lightning's trainer that say nothing of predictions
    *("devices", "max_epochs", "deterministic", "gradient_clip_val", "accumulate_grad_batches"),
    "use_distributed_sampler",
)
# Arguments of galaxy-datasets' data module, and values that ask for what is so anyway.
OF_VIEWS = {
    "crop_ratio_bounds": (None, (0.9, 1.1)),
    "crop_scale_bounds": (None, (0.7, 0.8)),
    "custom_albumentation_transform": (None,),
    "greyscale": (None, False),
    "train_transform": (None,),
}


def predict(
    catalog: pd.DataFrame,
    model: Model | Sequence[Model],
    save_loc: str | Path | Sequence[str | Path],
    label_cols: Sequence[str] | None = None,
    inference_transform: Callable | None = None,
    datamodule_kwargs: dict | None = None,
    trainer_kwargs: dict | None = None,
    *,
    n_samples: int = 1,
    n_views: int = 1,
    **options,
) -> pd.DataFrame | list[pd.DataFrame]:
    """Predict a catalog into ``save_loc``, and return what is in the file as a table.

    Of a list of files it returns a list of tables.

    Args:
        catalog: with ``id_str`` and ``file_loc`` (or ``image``, encoded bytes).
        model: one of this package; or where one is, as ``zoobot.predictions.models.load_predictor``
            takes it; or for ``n_samples=1`` any module: images to (B, A), see
            ``any_module.takes_images``. Several in a list are an ensemble if they predict the
            same; see ``predict_to_file``.
        save_loc: ``.parquet``, ``.csv``, ``.hdf5``, ``.fits`` or ``.vot``; or a list of files, one
            for each group of models that predict the same.
        label_cols: names of the predicted columns; by default the model's.
        inference_transform: a view, or any torchvision v2 transform; by default that with which
            the model was validated.
        datamodule_kwargs: ``batch_size``, ``num_workers``, ``prefetch_factor``,
            ``test_transform``, ``resize_after_crop`` (the view's side in pixels).
        trainer_kwargs: ``accelerator`` and ``precision``; Lightning's others, if they change no
            result.
        n_samples: forward passes with the head's dropout on; 1: one pass without dropout.
        n_views: angles that each galaxy is turned through; see ``predict_to_file``.
        options: of ``predict_to_file``.

    Raises:
        ValueError: see ``predict_to_file``.
    """
    if isinstance(save_loc, int):
        raise UserError(f"the third argument is save_loc: write n_samples={save_loc} by its name")
    data, trainer = dict(datamodule_kwargs or {}), dict(trainer_kwargs or {})
    size = data.pop("resize_after_crop", None)
    view = data.pop("test_transform", None) or inference_transform
    models = [takes_images(each) for each in members_of(model)]
    if view is None and size is not None:
        view = same_view(models, size)
    for name in OF_TRAINING:
        trainer.pop(name, None)
    ours = {name: trainer.pop(name) for name in ("accelerator", "precision") if name in trainer}
    show = {"show_progress": trainer.pop("enable_progress_bar", True) is not False}
    logger, callbacks = trainer.pop("logger", None), trainer.pop("callbacks", None)
    check_options(trainer, logger, callbacks, "trainer_kwargs")
    options = hardware(**ours) | show | _checked(data) | options
    made = predict_to_file(
        catalog,
        models,
        save_loc,
        label_cols,
        transform=view,
        num_samples=n_samples,
        num_views=n_views,
        **options,
    )
    tables = [read_predictions(path).to_frame() for path in as_list(made)]
    return tables if isinstance(made, list) else tables[0]


def _checked(data: dict) -> dict:
    """Those of a data module's arguments that say how images are read.

    Raises:
        ValueError: for one that is not known, or asks for a view, which is given otherwise.
    """
    for name, value in data.items():
        if name in OF_VIEWS and not any(
            value is usual or value == usual for usual in OF_VIEWS[name]
        ):
            raise UserError(f"datamodule_kwargs: {name} is not supported in predictions: {VIEW}")
        if name not in (*OF_VIEWS, "batch_size", "num_workers", "prefetch_factor"):
            raise UserError(f"datamodule_kwargs: no argument {name!r} in predictions")
    return {
        name: value for name, value in data.items() if name not in OF_VIEWS and value is not None
    }
