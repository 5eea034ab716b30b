"""``ForeignLoader``: what the loop asks of a loader, for loaders that are not ours.

Who deals galaxies to processes: by default every process reads the same batches in the same order,
and keeps every world_size-th galaxy of each. A loader whose sampler is torch's
``DistributedSampler``, or that is said to (``own_share``), has galaxies of its own in each process.
Processes compare what they read, so that no galaxy is lost or counted twice in silence.
"""

import hashlib
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from zoobot.system import distributed
from zoobot.system.errors import OneProcessError, UserError


@runtime_checkable
class HasEpochs(Protocol):
    """A loader or sampler whose order depends on the epoch."""

    def set_epoch(self, epoch: int) -> None:
        """The epoch to give next."""


class ForeignLoader:
    """What the loop asks of a loader, for any iterable of batches with a length.

    Batches are dicts with ``image`` (B, C, H, W) and the label columns, each (B,) or (B, 1), or
    pairs (images, labels) with labels (B,) or (B, L).

    Where every process reads all batches, the last one joins the one before if it would leave a
    process with fewer than two galaxies.

    Args:
        loader: gives the batches.
        split: of the galaxies: ``train``, ``val``, ``test`` or ``predict``.
        label_cols: names of the L label columns, for pairs and for error messages.
        check: called with each batch's labels, a table, and ``split``; None: they are not checked.
        accumulation: batches that make one optimiser step.
        seed: of the batches' order and views.
        own_share: each process's loader has galaxies of its own. None: if its sampler is a
            ``DistributedSampler``.

    Raises:
        ValueError: for a loader without a length or without batches; or whose length differs
            between processes, unless they evaluate shares of their own.
    """

    def __init__(
        self,
        loader: Iterable[dict | Sequence],
        split: str,
        *,
        label_cols: Sequence[str] = (),
        check: Callable[[pd.DataFrame, str], None] | None = None,
        accumulation: int = 1,
        seed: int = 0,
        own_share: bool | None = None,
    ):
        try:
            self._num_batches = len(loader)
        except TypeError as error:
            raise UserError("a loader of batches must have a length") from error
        self._loader = loader
        self._split = split
        self._label_cols = list(label_cols)
        self._check = check
        self._seed = seed
        is_declared = _has_distributed_sampler(loader) if own_share is None else own_share
        self._own_share = is_declared and distributed.world_size() > 1
        self._epoch = self._first_batch = 0
        lengths = distributed.gather(self._num_batches)
        if 0 in lengths:
            raise UserError(f"the {split} loader has no batches")
        if len({*lengths}) > 1 and (split == "train" or not self._own_share):
            raise UserError(
                f"the {split} loaders of the processes have {', '.join(map(str, lengths))} "
                "batches: give every process as many"
            )
        self._num_common = min(lengths)
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
        """Batches in an order that is a function of (seed, epoch)."""
        batches = (_as_dict(batch, self._label_cols) for batch in self._seeded())
        for number, batch in enumerate(batches if self._own_share else self._for_all(batches)):
            self._compare_processes(number, batch)
            if number >= self._first_batch:
                if self._check:
                    self._check_labels(batch)
                yield batch if self._own_share else _share(batch)

    def _seeded(self) -> Iterator[dict | Sequence]:
        """The loader's batches, each drawn with a seed of its own, whatever was drawn between.

        The seed is the same in every process, unless each has galaxies of its own.
        """
        rank = distributed.rank() if self._own_share else 0
        seed = ((self._seed * 1_000_003 + self._epoch) * 65_537 + rank * 1_000_000_007) % 2**62
        torch.manual_seed(seed)
        batches = iter(self._loader)
        for number in itertools.count():
            torch.manual_seed(seed + number)
            batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _for_all(self, batches: Iterator[dict]) -> Iterator[dict]:
        """Batches with a galaxy for each process; a small last one is joined to the one before."""
        num_ranks = distributed.world_size()
        ahead = deque(itertools.islice(batches, 2))
        while ahead:
            batch = ahead.popleft()
            ahead.extend(itertools.islice(batches, 1))
            if len(ahead) == 1 and len(ahead[0]["image"]) < 2 * num_ranks:
                batch = _joined(batch, ahead.popleft())
            if len(batch["image"]) < num_ranks:
                raise UserError(
                    f"a batch of the {self._split} loader has {len(batch['image'])} galaxies for "
                    f"{num_ranks} processes, which share every batch: choose a larger batch size"
                )
            yield batch

    def _compare_processes(self, number: int, batch: dict) -> None:
        """ValueError if processes don't read what they should; looks at batches 1, 2, 4, 8, ..."""
        number += 1
        if distributed.world_size() == 1 or number > self._num_common or number & (number - 1):
            return
        read = distributed.gather(_digest(batch, with_images=self._own_share))
        if self._own_share and len({*read}) == 1:
            raise UserError(
                f"all processes got the same galaxies in batch {number} of the {self._split} "
                "loader, though it is said to have a share for each: give its sampler the number "
                "of processes and the rank, or leave use_distributed_sampler=False out"
            )
        if not self._own_share and len({*read}) > 1:
            other = next(rank for rank, digest in enumerate(read) if digest != read[0])
            raise UserError(
                f"process {other} got other galaxies than process 0 in batch {number} of the "
                f"{self._split} loader: give every process the same batches in the same order "
                "(seed what shuffles them), of which each keeps its share. If each loader has "
                "galaxies of its own, use torch's DistributedSampler, or "
                "get_trainer(use_distributed_sampler=False)"
            )

    def _check_labels(self, batch: dict) -> None:
        try:
            self._check(_table_of(batch), self._split)
        except UserError as error:
            if self._own_share:  # the other processes don't see it
                raise OneProcessError(str(error)) from error
            raise


def _has_distributed_sampler(loader: Iterable) -> bool:
    if not isinstance(loader, DataLoader):
        return False
    inner = vars(loader.batch_sampler).get("sampler") if loader.batch_sampler is not None else None
    return any(isinstance(sampler, DistributedSampler) for sampler in (loader.sampler, inner))


def _as_dict(batch: dict | Sequence, label_cols: list[str]) -> dict:
    """A batch as a dict with ``image`` and one entry (B,) for each label column.

    Raises:
        ValueError: for another kind of batch, or other shapes.
    """
    if isinstance(batch, list | tuple) and len(batch) == 2:
        images, labels = (torch.as_tensor(part) for part in batch)
        batch = {"image": images, **_columns(labels.reshape(len(labels), -1), label_cols)}
    if not isinstance(batch, dict) or "image" not in batch:
        raise UserError(
            "a batch must be a dict with 'image' and the label columns, or a pair of images and "
            f"labels, not {_told(batch)}"
        )
    batch = {k: torch.as_tensor(v) if _is_numbers(v) else v for k, v in batch.items()}
    if torch.is_tensor(batch.get("labels")) and batch["labels"].ndim == 2:
        batch |= _columns(batch.pop("labels"), batch.pop("label_cols", label_cols))
    if not torch.is_tensor(batch["image"]) or batch["image"].ndim != 4:
        raise UserError(f"a batch's 'image' must be (B, C, H, W), not {_told(batch['image'])}")
    for column in label_cols:
        if torch.is_tensor(batch.get(column)) and batch[column].ndim == 2:
            batch[column] = batch[column].squeeze(1)
    return batch


def _columns(labels: torch.Tensor, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """Labels (B, L) as one entry (B,) for each of L names; nothing if there are no names."""
    if names and labels.shape[1] != len(names):
        raise UserError(
            f"a batch's labels have shape {tuple(labels.shape)}; the model learns "
            f"{len(names)} columns: {', '.join(names[:10])}"
        )
    return dict(zip(names, labels.unbind(1), strict=False))


def _is_numbers(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "biuf"


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return f"a dict with {[*value][:10]}"
    shape = f" of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else ""
    return f"a {type(value).__name__}{shape}"


def _is_of_galaxies(value: Any, batch: dict) -> bool:
    """Whether an entry of a batch has a value for each galaxy."""
    is_list = isinstance(value, list | tuple) or torch.is_tensor(value) and value.ndim > 0
    return is_list and len(value) == len(batch["image"])


def _joined(first: dict, second: dict) -> dict:
    """Two batches as one."""

    def join(key: str) -> torch.Tensor | list:
        if torch.is_tensor(first[key]):
            return torch.cat([first[key], second[key]])
        return [*first[key], *second[key]]

    return {k: join(k) if _is_of_galaxies(v, first) else v for k, v in first.items()}


def _share(batch: dict) -> dict:
    """Every world_size-th galaxy of a batch, from this rank on."""
    part = slice(distributed.rank(), None, distributed.world_size())
    return {k: v[part] if _is_of_galaxies(v, batch) else v for k, v in batch.items()}


def _digest(batch: dict, with_images: bool) -> str:
    """Tells batches of other galaxies apart: by ``id_str``, else by labels (and images)."""
    hashed = hashlib.blake2b(str(len(batch["image"])).encode())
    for key, value in batch.items():
        is_told = key == "id_str" if "id_str" in batch else with_images or key != "image"
        if is_told and torch.is_tensor(value):
            hashed.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        elif is_told:
            hashed.update(repr(value).encode())
    return hashed.hexdigest()


def _table_of(batch: dict) -> pd.DataFrame:
    """What a batch tells of each galaxy by one value: labels, ``id_str``."""
    columns = {
        key: value.cpu().numpy() if torch.is_tensor(value) else list(value)
        for key, value in batch.items()
        if _is_of_galaxies(value, batch) and not (torch.is_tensor(value) and value.ndim != 1)
    }
    columns.setdefault("id_str", [f"number {i}" for i in range(len(batch["image"]))])
    return pd.DataFrame(columns)
