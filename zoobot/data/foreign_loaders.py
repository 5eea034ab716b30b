"""``ForeignLoader``: what the loop asks of a loader, for loaders that are not ours.

Who deals galaxies to processes: by default every process reads the same batches in the same order,
and keeps every world_size-th galaxy of each. A loader whose sampler is torch's
``DistributedSampler``, or that is said to (``own_share``), has galaxies of its own in each process.
Processes compare what they read, so that no galaxy is lost or counted twice in silence.
"""

import contextlib
import hashlib
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import pandas as pd
import torch
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from zoobot.data.foreign_batches import as_dict, is_of_galaxies, warn_of_range
from zoobot.data.samplers import Step, in_steps
from zoobot.system import distributed
from zoobot.system.errors import OneProcessError, UserError
from zoobot.system.workers import starting_workers


@runtime_checkable
class HasEpochs(Protocol):
    """A loader or sampler whose order depends on the epoch."""

    def set_epoch(self, epoch: int) -> None:
        """The epoch to give next."""


class ForeignLoader:
    """What the loop asks of a loader, for any iterable of batches with a length.

    What a batch may be is in ``foreign_batches.as_dict``. The last one joins the one before if it
    would leave a process with fewer than two galaxies, except of shares that are evaluated.

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
        if told := {"step_galaxies", "ends_step"}.intersection(label_cols):
            raise UserError(f"a label column can't be called {told.pop()!r}: rename it")
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
        self._accumulation = accumulation
        self.num_steps = math.ceil(self._num_batches / accumulation)

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """The epoch to give next, from this step on: what comes before is read and left out."""
        self._epoch, self._first_batch = epoch, first_step * self._accumulation
        parts = [self._loader]
        if isinstance(self._loader, DataLoader):
            parts += [self._loader.sampler, self._loader.batch_sampler]
        for part in parts:
            if isinstance(part, HasEpochs):
                part.set_epoch(epoch)

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[dict]:
        """Batches in an order that is a function of (seed, epoch).

        The batches of a step are read before the first of them is given: only then it is known how
        many galaxies the step has. torch's generators are left as they were.
        """
        batches = self._whole()
        while step := list(itertools.islice(batches, self._accumulation)):
            num_galaxies = sum(len(batch["image"]) for batch in step)
            if self._own_share and self._split == "train":
                num_galaxies = sum(distributed.gather(num_galaxies))
            mine = step if self._own_share else map(_share, step)
            yield from in_steps(mine, [Step(num_galaxies, len(step))])

    def _whole(self) -> Iterator[dict]:
        """The batches as they are read, from the first step on, their labels checked."""
        batches = (self._as_dict(batch) for batch in self._seeded())
        for number, batch in enumerate(self._joined(self._compared(batches))):
            if number == 0:
                warn_of_range(batch["image"])
            if number >= self._first_batch:
                if self._check:
                    self._check_labels(batch)
                yield batch

    def _seeded(self) -> Iterator[dict | Sequence]:
        """The loader's batches, each drawn with a seed of its own, whatever was drawn between.

        The seed is the same in every process, unless each has galaxies of its own.
        """
        rank = distributed.rank() if self._own_share else 0
        seed = ((self._seed * 1_000_003 + self._epoch) * 65_537 + rank * 1_000_000_007) % 2**62
        with _seeded_with(seed), starting_workers():
            batches = iter(self._loader)
        for number in itertools.count():
            with _seeded_with(seed + number):
                batch = next(batches, None)
            if (batch is None) != (number == self._num_batches):
                given = f"only {number}" if batch is None else "more"
                raise OneProcessError(
                    f"the {self._split} loader said that it has {self._num_batches} batches, and "
                    f"gave {given}: mend its __len__, on which the learning rate's schedule and "
                    "the steps of other processes rely"
                )
            if batch is None:
                return
            yield batch

    def _as_dict(self, batch: dict | Sequence) -> dict:
        try:
            return as_dict(batch, self._label_cols)
        except UserError as error:  # other processes may have other batches
            raise OneProcessError(f"a batch of the {self._split} loader: {error}") from error

    def _joined(self, batches: Iterator[dict]) -> Iterator[dict]:
        """Batches with a galaxy for each process, where all share every batch.

        The last one is joined to the one before if a process would get none of it, or one to train
        on.
        """
        num_ranks = 1 if self._own_share else distributed.world_size()
        ahead = deque(itertools.islice(batches, 2))
        while ahead:
            batch = ahead.popleft()
            ahead.extend(itertools.islice(batches, 1))
            if len(ahead) == 1 and self._is_small(len(ahead[0]["image"]), num_ranks):
                batch = _join(batch, ahead.popleft())
            if len(batch["image"]) < num_ranks:
                raise UserError(
                    f"a batch of the {self._split} loader has {len(batch['image'])} galaxies for "
                    f"{num_ranks} processes, which share every batch: choose a larger batch size"
                )
            yield batch

    def _is_small(self, size: int, num_ranks: int) -> bool:
        """Whether the last batch, of this size, leaves a process with fewer than two galaxies."""
        if not self._own_share:
            return size < 2 * num_ranks
        return self._split == "train" and min(distributed.gather(size)) < 2  # lengths are the same

    def _compared(self, batches: Iterator[dict]) -> Iterator[dict]:
        """The batches, once processes are found to read what they should.

        What they have read so far is compared at batches 1, 2, 4, 8, ... and at the last one. Where
        each has a share of its own, only the first is.
        """
        hashed = hashlib.blake2b()
        for number, batch in enumerate(batches, start=1):
            if distributed.world_size() > 1 and number <= self._num_common:
                if not self._own_share or number == 1:
                    _feed(hashed, batch, with_images=self._own_share)
                    if not number & (number - 1) or number == self._num_common:
                        self._compare(number, distributed.gather(hashed.hexdigest()))
            yield batch

    def _compare(self, number: int, read: list[str]) -> None:
        """ValueError unless processes read the same batches, or others if each has a share."""
        if self._own_share and len({*read}) == 1:
            raise UserError(
                f"all processes got the same galaxies in batch {number} of the {self._split} "
                "loader, though it is said to have a share for each: give its sampler the number "
                "of processes and the rank, or leave use_distributed_sampler=False out"
            )
        if not self._own_share and len({*read}) > 1:
            other = next(rank for rank, digest in enumerate(read) if digest != read[0])
            raise UserError(
                f"process {other} has got other galaxies than process 0 by batch {number} of the "
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


@contextlib.contextmanager
def _seeded_with(seed: int) -> Iterator[None]:
    """Seed torch's generators for a ``with`` block; after it they are as before."""
    gpus = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(gpus):
        torch.manual_seed(seed)
        yield


def _has_distributed_sampler(loader: Iterable) -> bool:
    if not isinstance(loader, DataLoader):
        return False
    inner = vars(loader.batch_sampler).get("sampler") if loader.batch_sampler is not None else None
    return any(isinstance(sampler, DistributedSampler) for sampler in (loader.sampler, inner))


def _share(batch: dict) -> dict:
    """Every world_size-th galaxy of a batch, from this rank on."""
    part = slice(distributed.rank(), None, distributed.world_size())
    return {k: v[part] if is_of_galaxies(v, batch) else v for k, v in batch.items()}


def _join(first: dict, second: dict) -> dict:
    """Two batches as one."""

    def join(key: str) -> torch.Tensor | list:
        if key not in second:
            raise UserError(f"the last batch of a loader lacks {key!r}, which others have")
        if torch.is_tensor(first[key]):
            return torch.cat([first[key], second[key]])
        return [*first[key], *second[key]]

    return {k: join(k) if is_of_galaxies(v, first) else v for k, v in first.items()}


def _feed(hashed, batch: dict, with_images: bool) -> None:
    """Add to a hash what tells batches of other galaxies apart: ids, else labels (and images)."""
    hashed.update(str(len(batch["image"])).encode())
    for key, value in batch.items():
        is_told = key == "id_str" if "id_str" in batch else with_images or key != "image"
        if is_told and torch.is_tensor(value):
            hashed.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        elif is_told:
            hashed.update(repr(value).encode())


def _table_of(batch: dict) -> pd.DataFrame:
    """What a batch tells of each galaxy by one value: labels, ``id_str``."""
    columns = {
        key: value.cpu().numpy() if torch.is_tensor(value) else list(value)
        for key, value in batch.items()
        if is_of_galaxies(value, batch) and not (torch.is_tensor(value) and value.ndim != 1)
    }
    columns.setdefault("id_str", [f"number {i}" for i in range(len(batch["image"]))])
    return pd.DataFrame(columns)
