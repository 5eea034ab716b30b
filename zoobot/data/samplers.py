"""Who gets which galaxies when: steps, ranks, micro-batches."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from zoobot.system import distributed
from zoobot.system.errors import UserError

SHARDS_MIXED = 16


class TrainSampler(Sampler):
    """Deals each epoch's galaxies, shuffled, into steps, ranks and micro-batches.

    An epoch is ceil(N / batch_size) optimiser steps of nearly equal size (they differ by one galaxy
    at most), so that no tail step is tiny. Each step is dealt over ranks and then over
    ``accumulation`` micro-batches (fewer where there are few galaxies). Which galaxies make a step
    depends on (seed, epoch) only, so that any number of ranks takes the same step. Nothing is
    padded, repeated or dropped.

    Args:
        shard_sizes: galaxies of consecutive shards: shards are shuffled, and then the galaxies of
            ``SHARDS_MIXED`` of them at a time, so that a disk need not seek all over.
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
        self.num_galaxies = num_galaxies
        self.num_steps = -(-num_galaxies // batch_size)
        micro_batch_size = -(-batch_size // (ranks * accumulation))
        smallest, largest = num_galaxies // self.num_steps, -(-num_galaxies // self.num_steps)
        needed = -(-largest // (ranks * micro_batch_size))
        self.accumulation = max(1, min(accumulation, needed, smallest // ranks))
        self.seed = seed
        self.shard_sizes = shard_sizes
        self.set_epoch(0)

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """The epoch to deal next, from this step on."""
        self.epoch, self._first_step = epoch, first_step

    def __len__(self) -> int:
        return self.num_steps * self.accumulation

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        for step in np.array_split(self._order(), self.num_steps)[self._first_step :]:
            share = step[distributed.rank() :: distributed.world_size()]
            for micro_batch in np.array_split(share, self.accumulation):
                yield self.epoch, micro_batch.tolist()

    def _order(self) -> np.ndarray:
        """All galaxies, shuffled; those of shards so that few shards are in use at a time."""
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
    """This rank's galaxies in order, in batches: every galaxy once on exactly one rank."""

    accumulation = 1

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """No effect: every epoch is the same."""

    def __init__(self, num_galaxies: int, batch_size: int):
        self._indices = range(distributed.rank(), num_galaxies, distributed.world_size())
        self._batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self._indices) // self._batch_size)

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        for start in range(0, len(self._indices), self._batch_size):
            yield 0, list(self._indices[start : start + self._batch_size])
