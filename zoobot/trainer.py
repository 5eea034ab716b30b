"""``Trainer``: fits, validates, tests and predicts over the loop, by Lightning's method names."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from zoobot import engine, optim
from zoobot.contracts import DataModule, Loader, TrainableModel
from zoobot.data.catalog import SPLITS
from zoobot.data.datamodule import CatalogDataModule
from zoobot.data.foreign_loaders import ForeignLoader
from zoobot.data.loaders import GalaxyLoader, RegroupedLoader, own_loader
from zoobot.models.finetune import FinetuneableZoobotClassifier
from zoobot.models.finetune_base import FinetuneableZoobotAbstract
from zoobot.runs import checkpoint
from zoobot.runs.folder import Run
from zoobot.runs.resume import Progress, find_state
from zoobot.system import distributed
from zoobot.system.errors import OneProcessError, UserError


class Trainer:
    """Fits, validates, tests and predicts; see ``get_trainer``.

    Attributes:
        callback_metrics: name -> float: of the best epoch after ``fit``, then of ``validate`` or
            ``test``.
        best_model_path: the checkpoint of the best epoch, after ``fit``.
    """

    def __init__(
        self,
        save_dir: str | Path,
        *,
        file_template: str = "{epoch}",
        save_top_k: int = 1,
        max_epochs: int = 100,
        patience: int = 10,
        device: str = "auto",
        precision: str = "auto",
        grad_clip: float | None = None,
        accumulation: int = 1,
        unfreeze_after: int = 0,
        show_progress: bool = True,
        seed: int | None = None,
        save_every_minutes: float = engine.Settings.save_every_minutes,
        max_skipped_steps: int = engine.Settings.max_skipped_steps,
        on_save_error: str = "stop",
        own_share: bool | None = None,
    ):
        self.save_dir = Path(save_dir)
        self.file_template = file_template
        self.save_top_k = save_top_k
        self.max_epochs = max_epochs
        self.patience = patience
        self.precision = precision
        self.grad_clip = grad_clip
        self.accumulation = accumulation
        self.unfreeze_after = unfreeze_after
        self.show_progress = show_progress
        self.seed = seed
        self.save_every_minutes = save_every_minutes
        self.max_skipped_steps = max_skipped_steps
        self.on_save_error = on_save_error
        self.own_share = own_share
        self.device = distributed.choose_device(device)
        self.callback_metrics: dict[str, float] = {}
        self.best_model_path = ""
        self._run: Run | None = None
        distributed.join(self.device)

    @property
    def checkpoint_callback(self) -> "Trainer":
        """Where scripts for Lightning look for ``best_model_path``."""
        return self

    def fit(
        self,
        model: nn.Module,
        train_dataloaders: DataModule | Loader | None = None,
        val_dataloaders: Loader | None = None,
        datamodule: DataModule | None = None,
        ckpt_path: str | Path | None = None,
        *,
        config: dict | None = None,
        resume_from: dict | None = None,
    ) -> None:
        """Train; afterwards the model has the best epoch's weights.

        Args:
            model: a ``TrainableModel``: one of ``zoobot.models``, or a subclass.
            train_dataloaders, val_dataloaders: two loaders; or in place of the first a datamodule.
            datamodule: with ``setup(stage)``, ``train_dataloader()`` and ``val_dataloader()``.
            ckpt_path: a checkpoint to go on from; ``last``: this folder's, if there is one.
            config: what to write to ``config.json``; by default the trainer's and the model's
                arguments.
            resume_from: a state as ``runs.resume.find_state`` reads it, instead of ``ckpt_path``.

        Raises:
            ValueError: for labels that the model can't learn, or if the loss is not finite.
        """
        self._check_model(model)
        if isinstance(train_dataloaders, DataModule):
            datamodule = train_dataloaders
        tables = {}
        if isinstance(datamodule, CatalogDataModule):  # before setup, and of test before training
            tables = {s: datamodule.labels(s) for s in filter(datamodule.num_galaxies, SPLITS)}
            for split, table in tables.items():
                model.check_labels(table, split)
        if datamodule is not None:
            datamodule.setup("fit")
            train_dataloaders = datamodule.train_dataloader()
            val_dataloaders = datamodule.val_dataloader()
        if not tables:
            tables = _checked_labels(model, {"train": train_dataloaders, "val": val_dataloaders})
        settings = self._settings(model)
        train = self._loop_loader(train_dataloaders, model, "train", self.accumulation)
        val = self._loop_loader(val_dataloaders, model, "val")
        optim.check_schedule(settings.scheduler_kwargs, settings.epochs, train.num_steps)
        ours, validated = own_loader(train_dataloaders), own_loader(val_dataloaders)
        model.learn_from_labels(tables.get("train"))
        model.to(self.device)
        optimizer = model.configure_optimizers()
        if validated is not None:
            model.images_seen = validated.dataset.describe_images()
        resume_from = self._start_run(model, config, ckpt_path, resume_from)
        if ours is not None and validated is not None:
            num_val = f"{len(validated.dataset)} to validate"
            self._run.say(f"{len(ours.dataset)} galaxies to train on, {num_val}")
        if ours is not None and ours.sampler.note:
            self._run.warn(ours.sampler.note)
        self._run.say(
            f"{model.introduce()}; {settings.dtype} on {self.device}\n"
            f"{optim.group_table(optimizer.param_groups)}"
        )
        if isinstance(model, FinetuneableZoobotClassifier) and model.run_linear_sanity_check:
            self._check_with_linear_model(model, train, val, settings)
        progress = self._train(model, optimizer, train, val, settings, resume_from)
        distributed.barrier()
        self.best_model_path = str(self._run.best_path(progress.best_epoch))
        self._load(model, "best")
        self.callback_metrics = distributed.from_main(self._run.metrics_of(progress.best_epoch))

    def _train(self, model, optimizer, train, val, settings, resume_from) -> Progress:
        try:
            return engine.fit(model, optimizer, train, val, settings, self._run, resume_from)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise OneProcessError(
                "a batch had one galaxy, for which BatchNorm has no variance: choose a batch size "
                "that gives each process two or more, or an encoder without BatchNorm"
            ) from error

    def _check_model(self, model: nn.Module) -> None:
        """ValueError for a model that can't be trained so; its encoder is left unfrozen."""
        if not isinstance(model, TrainableModel):
            raise UserError(
                f"{type(model).__name__} can't be trained: subclass FinetuneableZoobotAbstract, or "
                "give it what zoobot.contracts.TrainableModel lists"
            )
        if self.unfreeze_after:
            model.freeze_encoder(True)  # a model that can't be frozen says so
            if isinstance(model, FinetuneableZoobotAbstract) and model.training_mode != "full":
                raise UserError("unfreeze_after has no meaning with training_mode='head_only'")
        model.freeze_encoder(False)

    def _start_run(
        self,
        model: TrainableModel,
        config: dict | None,
        ckpt_path: str | Path | None,
        resume_from: dict | None,
    ) -> dict | None:
        """Open the run's folder; returns the state to go on from, if any."""
        description = {**model.describe(), **model.images_seen.to_dict()}
        config = config or {**self._plain_settings(), "model": description}
        if ckpt_path is not None:
            resume = "auto" if ckpt_path == "last" else str(ckpt_path)
            may_change = {"epochs", "patience", "save_top_k"}
            resume_from = find_state(self.save_dir, resume, config, may_change)
        self._run = Run(
            self.save_dir,
            config,
            description,
            model.metric_key,
            resume_from,
            file_template=self.file_template,
            show_progress=self.show_progress,
            on_save_error=self.on_save_error,
        )
        return resume_from

    def validate(
        self,
        model: nn.Module,
        dataloaders: DataModule | Loader | None = None,
        ckpt_path: str | Path | None = None,
        verbose: bool = True,
        datamodule: DataModule | None = None,
        collect: Callable[[dict, torch.Tensor], None] = engine.ignore,
    ) -> list[dict[str, float]]:
        """Metrics of the validation galaxies, in a list of one dict; see ``test``."""
        source = datamodule or dataloaders
        return self._evaluate(model, source, ckpt_path, verbose, "validation", collect)

    def test(
        self,
        model: nn.Module,
        dataloaders: DataModule | Loader | None = None,
        ckpt_path: str | Path | None = None,
        verbose: bool = True,
        datamodule: DataModule | None = None,
        collect: Callable[[dict, torch.Tensor], None] = engine.ignore,
    ) -> list[dict[str, float]]:
        """Metrics of the test galaxies, in a list of one dict.

        Args:
            dataloaders: a loader, or a data module.
            ckpt_path: ``best`` loads the best weights of ``fit`` first, a path that file's; None
                takes the model as it is.
            collect: called with each batch and its outputs, see ``engine.evaluate``.
        """
        source = datamodule or dataloaders
        return self._evaluate(model, source, ckpt_path, verbose, "test", collect)

    def predict(
        self,
        model: nn.Module,
        dataloaders: DataModule | Loader | None = None,
        datamodule: DataModule | None = None,
        ckpt_path: str | Path | None = None,
    ) -> list[torch.Tensor]:
        """Predictions, a tensor a batch, on the CPU.

        In one process they are in the catalog's order; each of several has every world_size-th
        galaxy.

        Args:
            model: one of this package, ``ZoobotEncoder`` too.
        """
        self._load(model, ckpt_path)
        settings = engine.Settings(self.device, engine.choose_dtype(self.precision, self.device))
        given = _loader_of(datamodule or dataloaders, "predict")
        loader = own_loader(given)
        if loader is None:
            seed = self.seed or 0
            loader = ForeignLoader(given, "predict", seed=seed, own_share=self.own_share)
        model.to(self.device).eval()
        with torch.inference_mode(), settings.autocast():
            return [
                model.predictions(model(batch["image"]).float()).cpu()
                for batch in engine.on_device(loader, self.device)
            ]

    def _evaluate(
        self, model, source, ckpt_path, verbose: bool, split: str, collect: Callable
    ) -> list[dict[str, float]]:
        self._load(model, ckpt_path)
        name = "val" if split == "validation" else split
        loader = self._loop_loader(_loader_of(source, name), model, name)
        _checked_labels(model, {name: loader})
        model.to(self.device)
        metrics = engine.evaluate(model, loader, self._settings(model), collect=collect)
        self.callback_metrics = {model.metric_key(split, k): v for k, v in metrics.items()}
        if self._run is not None and split == "test":
            self._run.log(self._run.last_epoch, split, metrics)
        elif verbose and distributed.is_main():
            told = [f"{k} {v:.5g}" for k, v in self.callback_metrics.items() if k.count("/") == 1]
            print("  ".join(told))
        return [self.callback_metrics]

    def _load(self, model: nn.Module, ckpt_path: str | Path | None) -> None:
        if ckpt_path is None:
            return
        if ckpt_path == "best":
            ckpt_path = self.save_dir / "best.safetensors"
        weights, _ = checkpoint.load_model(ckpt_path)
        checkpoint.load_exactly(model, weights, str(ckpt_path))

    def _settings(self, model: TrainableModel) -> engine.Settings:
        return engine.Settings(
            device=self.device,
            dtype=engine.choose_dtype(self.precision, self.device),
            epochs=self.max_epochs,
            patience=self.patience,
            scheduler_kwargs=model.scheduler_kwargs,
            frozen_epochs=self.unfreeze_after,
            grad_clip=self.grad_clip,
            seed=model.seed if self.seed is None else self.seed,
            save_top_k=self.save_top_k,
            save_every_minutes=self.save_every_minutes,
            max_skipped_steps=self.max_skipped_steps,
        )

    def _plain_settings(self) -> dict:
        names = "save_top_k patience precision grad_clip accumulation unfreeze_after"
        return {"epochs": self.max_epochs} | {name: vars(self)[name] for name in names.split()}

    def _loop_loader(
        self, loader, model: TrainableModel, split: str, accumulation: int = 1
    ) -> GalaxyLoader | RegroupedLoader | ForeignLoader:
        """The loader that the loop takes, for a loader of ours or any iterable of batches."""
        if loader is None:
            raise UserError("give a datamodule, or the loaders")
        ours = own_loader(loader)
        if ours is not None:
            return ours if accumulation == 1 else RegroupedLoader(ours, accumulation)
        return ForeignLoader(
            loader,
            split,
            label_cols=model.label_columns(),
            check=model.check_labels,
            accumulation=accumulation,
            seed=model.seed if self.seed is None else self.seed,
            own_share=self.own_share,
        )

    def _check_with_linear_model(self, model, train, val, settings) -> None:
        features = {}
        model.eval()
        for split, loader in (("train", train), ("val", val)):
            encoded = []
            for batch in loader:
                images, y = model.batch_to_supervised_tuple(engine.to_device(batch, self.device))
                with torch.inference_mode(), settings.autocast():
                    own = model.encoder(images).float()
                encoded.append((own.cpu().numpy(), y.cpu().numpy()))
            pairs = itertools.chain(*distributed.gather(encoded))  # a rank may have none
            features[split] = tuple(np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
        accuracy = model.linear_sanity_check(features)
        self._run.say(
            "linear model on the encoder's features as they are: accuracy "
            + ", ".join(f"{split} {value:.3f}" for split, value in accuracy.items())
        )


def _checked_labels(model: TrainableModel, loaders: dict[str, Loader]) -> dict[str, pd.DataFrame]:
    """Split -> labels, those of our loaders, once the model has checked them."""
    ours = {split: own_loader(loader) for split, loader in loaders.items()}
    tables = {split: own.dataset.label_table() for split, own in ours.items() if own is not None}
    for split, table in tables.items():
        model.check_labels(table, split)
    return tables


def _loader_of(source: DataModule | Loader, split: str) -> Loader:
    """A data module's loader of a split; a loader as it is."""
    if not isinstance(source, DataModule):
        return source
    source.setup("validate" if split == "val" else split)
    if split == "val":
        return source.val_dataloader()
    return source.test_dataloader() if split == "test" else source.predict_dataloader()
