"""Samplers: they choose the galaxies of each step, rank and micro-batch.

A sampler yields (epoch, numbers of the galaxies in one micro-batch) for its own rank.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from zoobot.system import distributed
from zoobot.system.errors import UserError

SMALLEST_MICRO_BATCH = 2  # galaxies of a rank, where there are enough
SHARDS_MIXED = 16  # galaxies are shuffled within groups of this many shards


class Step(NamedTuple):
    """What there is in an optimiser step: galaxies over all ranks, and batches of one rank."""

    num_galaxies: int
    num_batches: int


def in_steps(batches: Iterable[dict], steps: Iterable[Step]) -> Iterator[dict]:
    """Batches that tell of their step: ``step_galaxies``, over all ranks, and ``ends_step``.

    ``ends_step`` is True for the last batch of a step.

    Raises:
        ValueError: if there are more or fewer batches than the steps have.
    """
    places = (
        {"step_galaxies": step.num_galaxies, "ends_step": number == step.num_batches}
        for step in steps
        for number in range(1, step.num_batches + 1)
    )
    for batch, place in zip(batches, places, strict=True):
        yield batch | place


class TrainSampler(Sampler):
    """Shuffles the training galaxies and divides them into steps, ranks and micro-batches.

    An epoch has ceil(N / batch_size) optimiser steps. Their sizes differ by at most one galaxy, so
    there is no small last step. Each step is divided over the ranks, and each rank's part into
    ``accumulation`` micro-batches. Which galaxies are in a step depends on the seed and the epoch,
    not on the number of ranks. Every galaxy is used exactly once per epoch: there is no padding,
    and none is dropped.

    A micro-batch has two galaxies or more, because BatchNorm has no variance of one. Where
    ``batch_size`` asks for less, steps are larger and fewer, and ``note`` says so; where
    ``accumulation`` does, there are fewer micro-batches. Only if the epoch has fewer than two
    galaxies a rank, some ranks get one.

    Args:
        num_galaxies: N.
        batch_size: the most galaxies in a step, over all ranks.
        accumulation: micro-batches per step and rank; fewer if there are not enough galaxies.
        seed: of the order of the galaxies.
        shard_sizes: number of galaxies in each shard, if galaxies are in shards. Shards are
            shuffled, and then galaxies within groups of ``SHARDS_MIXED`` shards. So the disk reads
            from few shards at a time.

    Attributes:
        num_steps: optimiser steps of an epoch.
        largest_batch: galaxies in the largest micro-batch of this rank; others have one less.
        note: in words, that steps are larger than ``batch_size``; empty if they are not.

    Raises:
        ValueError: there are fewer galaxies than ranks.
    """

    def __init__(
        self,
        num_galaxies: int,
        batch_size: int,
        accumulation: int = 1,
        seed: int = 0,
        shard_sizes: Sequence[int] | None = None,
    ):
        ranks = distributed.world_size()
        if num_galaxies < ranks:
            raise UserError(f"{num_galaxies} training galaxies are too few for {ranks} processes")
        smallest_share = min(SMALLEST_MICRO_BATCH, num_galaxies // ranks)
        self.num_galaxies = num_galaxies
        possible = num_galaxies // (ranks * smallest_share)
        self.num_steps = min(-(-num_galaxies // batch_size), possible)
        smallest, largest = num_galaxies // self.num_steps, -(-num_galaxies // self.num_steps)
        micro_batch_size = -(-batch_size // (ranks * accumulation))
        needed = -(-largest // (ranks * micro_batch_size))
        self.accumulation = min(accumulation, needed, smallest // (ranks * smallest_share))
        largest_share = len(range(distributed.rank(), largest, ranks))
        self.largest_batch = -(-largest_share // self.accumulation)
        self.note = ""
        if largest > batch_size:
            self.note = (
                f"steps have up to {largest} galaxies, not the batch size of {batch_size}: each of "
                f"{ranks} processes needs {smallest_share} or more of them in a step"
            )
        self.seed = seed
        self.shard_sizes = shard_sizes
        self.set_epoch(0)

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """Choose the epoch of the next iteration, and the step that it starts from."""
        self.epoch, self._first_step = epoch, first_step

    def __len__(self) -> int:
        return self.num_steps * self.accumulation

    def steps(self) -> list[Step]:
        """The steps of the next iteration."""
        size, num_larger = divmod(self.num_galaxies, self.num_steps)
        sizes = [size + (step < num_larger) for step in range(self.num_steps)]
        return [Step(size, self.accumulation) for size in sizes[self._first_step :]]

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        for step in np.array_split(self._order(), self.num_steps)[self._first_step :]:
            share = step[distributed.rank() :: distributed.world_size()]
            for micro_batch in np.array_split(share, self.accumulation):
                yield self.epoch, micro_batch.tolist()

    def _order(self) -> np.ndarray:
        """Numbers of all galaxies, shuffled; within groups of shards if there are many shards."""
        rng = np.random.default_rng((self.seed, self.epoch))
        if self.shard_sizes is None or len(self.shard_sizes) <= SHARDS_MIXED:
            return rng.permutation(self.num_galaxies)
        starts = np.cumsum([0, *self.shard_sizes])
        shards = rng.permutation(len(self.shard_sizes))
        mixed = []
        for i in range(0, len(shards), SHARDS_MIXED):
            some = [np.arange(starts[k], starts[k + 1]) for k in shards[i : i + SHARDS_MIXED]]
            mixed.append(rng.permutation(np.concatenate(some)))
        return np.concatenate(mixed)


class EvalSampler(Sampler):
    """Batches of this rank's galaxies in a fixed order. Every galaxy is on exactly one rank."""

    accumulation = 1
    note = ""

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """Do nothing: every epoch is the same."""

    def __init__(self, num_galaxies: int, batch_size: int):
        self._num_galaxies = num_galaxies
        self._indices = range(distributed.rank(), num_galaxies, distributed.world_size())
        self.largest_batch = batch_size

    def steps(self) -> list[Step]:
        """One, for nothing is changed between the batches."""
        return [Step(self._num_galaxies, len(self))]

    def __len__(self) -> int:
        return -(-len(self._indices) // self.largest_batch)

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        for start in range(0, len(self._indices), self.largest_batch):
            yield 0, list(self._indices[start : start + self.largest_batch])
