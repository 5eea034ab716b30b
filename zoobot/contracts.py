"""What the loop and the trainer ask of a model, of loaders, and of a data module."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import pandas as pd
import torch
from torch import nn

from zoobot.data.dataset import ImagesSeen
from zoobot.metrics import Measure
from zoobot.models.finetune_base import FinetuneableZoobotAbstract
from zoobot.system.errors import UserError


class Model(Protocol):
    """What the loop asks of a model, an ``nn.Module`` from images (B, C, H, W) in 0-1 to outputs.

    Attributes:
        measure: what is measured; the first is the loss by which the best epoch is chosen.
    """

    measure: Measure

    def batch_to_supervised_tuple(self, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and labels of a batch."""

    def losses(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(B, K) float32, from float32 outputs; a galaxy's loss is the sum of its row."""

    def freeze_encoder(self, frozen: bool) -> None:
        """Freeze or unfreeze the encoder. The trainer unfreezes it before training; the loop asks
        only if ``Settings.frozen_epochs`` is used."""


@runtime_checkable
class TrainableModel(Model, Protocol):
    """What the trainer asks of a model, besides what the loop asks.

    Attributes:
        scheduler_kwargs: of ``timm.scheduler.create_scheduler_v2``; None: a constant rate.
        seed: of dropout.
        images_seen: set by the trainer, and saved with the model.
    """

    scheduler_kwargs: dict | None
    seed: int
    images_seen: ImagesSeen

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimiser, with groups as ``optim.parameter_groups`` makes them."""

    def label_columns(self) -> list[str]:
        """Names of the columns of its labels."""

    def check_labels(self, table: pd.DataFrame, where: str) -> None:
        """ValueError if labels (a table with ``id_str``) can't be learned."""

    def learn_from_labels(self, table: pd.DataFrame | None) -> None:
        """Called with the training labels before training; None if the loader does not tell."""

    def introduce(self) -> str:
        """What a run says of its model at the start."""

    def describe(self) -> dict:
        """What is needed to build the model again, as plain types."""

    def metric_key(self, split: str, name: str) -> str:
        """How a metric is called in the logs."""


def check_trainable(model: nn.Module, unfreeze_after: int = 0) -> None:
    """ValueError for a model that can't be trained so; its encoder is left unfrozen."""
    if not isinstance(model, TrainableModel):
        raise UserError(
            f"{type(model).__name__} can't be trained: subclass FinetuneableZoobotAbstract, or "
            "give it what zoobot.contracts.TrainableModel lists"
        )
    if unfreeze_after:
        model.freeze_encoder(True)  # a model that can't be frozen says so
        if isinstance(model, FinetuneableZoobotAbstract) and model.training_mode != "full":
            raise UserError("unfreeze_after has no meaning with training_mode='head_only'")
    model.freeze_encoder(False)


class Loader(Protocol):
    """What the loop asks of the galaxies to evaluate: batches, and their number."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[dict]: ...


class TrainLoader(Loader, Protocol):
    """What the loop asks of the galaxies to train on.

    A step may have several batches. Each batch has ``step_galaxies``, the number of galaxies in its
    step over all ranks, and ``ends_step``, whether it is the last one of its step
    (``zoobot.data.samplers.in_steps``).

    Attributes:
        num_steps: optimiser steps of an epoch.
    """

    num_steps: int

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """The epoch whose batches to give next, from this step on."""


@runtime_checkable
class DataModule(Protocol):
    """Galaxies by split: ours, galaxy-datasets' or one of your own.

    It has ``train_dataloader``, ``val_dataloader``, ``test_dataloader`` and
    ``predict_dataloader``, of which only those are called that are needed.
    """

    def setup(self, stage: str) -> None:
        """Called with ``fit``, ``validate``, ``test`` or ``predict`` before its loaders are."""


def loader_of(source: DataModule | Loader, split: str) -> Loader:
    """A data module's loader of ``val``, ``test`` or ``predict``; a loader as it is."""
    if not isinstance(source, DataModule):
        return source
    source.setup("validate" if split == "val" else split)
    if split == "val":
        return source.val_dataloader()
    return source.test_dataloader() if split == "test" else source.predict_dataloader()
