"""ForeignLoader: batches from loaders that are not ours, as the loop wants them."""

import itertools
import math
from collections.abc import Iterator

import pandas as pd
import torch

from zoobot.system import distributed
from zoobot.system.errors import UserError


class ForeignLoader:
    """What the loop asks of a loader, for any iterable of batches with a length.

    Under several processes each reads ``whole`` batches and keeps its share of their galaxies; a
    last batch with fewer galaxies than processes joins the one before. Not ``whole``: each process
    has its own batches.
    """

    def __init__(self, loader, check, split, accumulation: int = 1, seed: int = 0, whole=True):
        try:
            self._num_batches = len(loader)
        except TypeError as error:
            raise UserError("a loader of batches must have a length") from error
        if self._num_batches == 0:
            raise UserError(f"the {split} loader has no batches")
        self._loader = loader
        self._epoch = self._first_batch = 0
        self.dataset = getattr(loader, "dataset", None)
        self._check = check
        self._split = split
        self._seed = seed
        self._whole = whole
        self.accumulation = accumulation
        self.num_steps = math.ceil(self._num_batches / accumulation)

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """The epoch to give next, from this step on: what comes before is read and left out."""
        self._epoch, self._first_batch = epoch, first_step * self.accumulation
        for part in (self._loader, getattr(self._loader, "sampler", None)):
            if hasattr(part, "set_epoch"):
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


def _joined(loader) -> Iterator[dict]:
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


def _concatenate(first, second):
    return torch.cat([first, second]) if torch.is_tensor(first) else [*first, *second]


def _share(batch: dict) -> dict:
    """Every world_size-th galaxy of a batch, from this rank on."""
    part = slice(distributed.rank(), None, distributed.world_size())
    return {key: value[part] for key, value in batch.items()}


def _table_of(batch: dict) -> pd.DataFrame:
    columns = {k: v for k, v in batch.items() if k != "image" and getattr(v, "ndim", 1) == 1}
    columns.setdefault("id_str", [f"number {i}" for i in range(len(batch["image"]))])
    return pd.DataFrame(columns)
