"""``ForeignLoader``: what the loop asks of a loader, for loaders that are not ours."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader

from zoobot.system import distributed
from zoobot.system.errors import UserError


@runtime_checkable
class HasEpochs(Protocol):
    """A loader or sampler whose order depends on the epoch."""

    def set_epoch(self, epoch: int) -> None:
        """The epoch to give next."""


class ForeignLoader:
    """What the loop asks of a loader, for any iterable of batches with a length.

    Args:
        loader: gives dicts with ``image`` and the label columns.
        check: called with each batch's labels, a table, and ``split``; None: they are not checked.
        split: of the galaxies, for error messages.
        accumulation: batches that make one optimiser step.
        seed: of the batches' order and views.
        whole: every process reads all batches and keeps its share of their galaxies; a last batch
            with fewer galaxies than processes joins the one before. If False, each process has
            batches of its own.

    Raises:
        ValueError: for a loader without a length, or without batches.
    """

    def __init__(
        self,
        loader: Iterable[dict],
        check: Callable[[pd.DataFrame, str], None] | None,
        split: str,
        accumulation: int = 1,
        seed: int = 0,
        whole: bool = True,
    ):
        try:
            self._num_batches = len(loader)
        except TypeError as error:
            raise UserError("a loader of batches must have a length") from error
        if self._num_batches == 0:
            raise UserError(f"the {split} loader has no batches")
        self._loader = loader
        self._epoch = self._first_batch = 0
        self._check = check
        self._split = split
        self._seed = seed
        self._whole = whole
        self.accumulation = accumulation
        self.num_steps = math.ceil(self._num_batches / accumulation)

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """The epoch to give next, from this step on: what comes before is read and left out."""
        self._epoch, self._first_batch = epoch, first_step * self.accumulation
        parts = [self._loader]
        if isinstance(self._loader, DataLoader):
            parts += [self._loader.sampler, self._loader.batch_sampler]
        for part in parts:
            if isinstance(part, HasEpochs):
                part.set_epoch(epoch)

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[dict]:
        """Batches in an order that is a function of (seed, epoch), the same on all ranks."""
        for number, batch in enumerate(self._seeded()):
            if number < self._first_batch:
                continue
            if not isinstance(batch, dict) or "image" not in batch:
                raise UserError("a batch must be a dict with 'image' and the label columns")
            if self._check:
                self._check(_table_of(batch), self._split)
            yield _share(batch) if self._whole else batch

    def _seeded(self) -> Iterator[dict]:
        """All batches, each drawn with a seed of its own, whatever was drawn in between."""
        seed = (self._seed * 1_000_003 + self._epoch) * 65_537 % 2**62
        torch.manual_seed(seed)
        batches = iter(_joined(self._loader) if self._whole else self._loader)
        for number in itertools.count():
            torch.manual_seed(seed + number)
            batch = next(batches, None)
            if batch is None:
                return
            yield batch


def _joined(loader: Iterable[dict]) -> Iterator[dict]:
    """Batches of at least as many galaxies as there are processes."""
    before = None
    for batch in loader:
        if before is not None and len(batch["image"]) < distributed.world_size():
            batch, before = {key: _concatenate(before[key], batch[key]) for key in batch}, None
        if before is not None:
            yield before
        before = batch
    if before is not None:
        yield before


def _concatenate(first: torch.Tensor | list, second: torch.Tensor | list) -> torch.Tensor | list:
    return torch.cat([first, second]) if torch.is_tensor(first) else [*first, *second]


def _share(batch: dict) -> dict:
    """Every world_size-th galaxy of a batch, from this rank on."""
    part = slice(distributed.rank(), None, distributed.world_size())
    return {key: value[part] for key, value in batch.items()}


def _table_of(batch: dict) -> pd.DataFrame:
    arrays = torch.Tensor | np.ndarray
    columns = {
        key: value
        for key, value in batch.items()
        if key != "image" and not (isinstance(value, arrays) and value.ndim != 1)
    }
    columns.setdefault("id_str", [f"number {i}" for i in range(len(batch["image"]))])
    return pd.DataFrame(columns)
