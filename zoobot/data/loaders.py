"""Loaders: batches of a dataset's galaxies, made by worker processes or threads.

Batches come in two forms. ``GalaxyLoader`` is for the loop. It gives dicts with ``image`` uint8
(B, C, H, W) (float32 in 0-1 if the transform makes floats), ``id_str`` (a list of B), ``labels``
(B, L) and ``label_cols``, the names of its L columns. If views are made on the device, a batch also
has what ``views.device.warp`` needs. ``CatalogLoader`` is for users. It gives dicts with ``image``
float32 in 0-1, ``id_str``, and one entry (B,) for each label column.
"""

import atexit
import itertools
import multiprocessing
import os
import signal
import time
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from multiprocessing import TimeoutError
from multiprocessing.process import BaseProcess
from typing import Protocol

import torch
from torch.utils.data import DataLoader, Dataset

from zoobot.data.batch_memory import check_batches
from zoobot.data.dataset import CatalogDataset
from zoobot.data.device_batches import float_images
from zoobot.data.images import ImageError
from zoobot.data.samplers import EvalSampler, Step, TrainSampler, in_steps
from zoobot.system import distributed
from zoobot.system.cores import pool_of_single_cores
from zoobot.system.errors import OneProcessError, UserError
from zoobot.system.workers import NOT_FOR_WORKERS, check_sent, starting_workers

CPU = torch.device("cpu")
WORKER_TIMEOUT_S = 600
POLL_S = 5
MOST_THREADS = 4
MOST_BYTES_AHEAD = 2 * 1024**3  # of images in batches made ahead, in each process


class _WholeBatches(Dataset):
    """A dataset whose keys are whole batches: (epoch, numbers of galaxies), from a sampler."""

    def __init__(self, dataset: CatalogDataset):
        self.dataset = dataset

    def __getitem__(self, key: tuple[int, list[int]]) -> dict:
        return self.dataset.batch(*key)


class WorkerError(OneProcessError):
    """A worker crashed, was killed, or took too long over a batch."""


class BatchSampler(Protocol):
    """What ``GalaxyLoader`` asks of a sampler: it says which galaxies make each batch."""

    accumulation: int
    largest_batch: int  # the most galaxies in a batch
    note: str  # what a user should know of how galaxies are dealt; may be empty

    def __len__(self) -> int:
        """Number of batches."""

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        """Epoch and numbers of the galaxies of each batch."""

    def steps(self) -> list[Step]:
        """The steps of the next iteration."""

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """The epoch to give next, from this optimiser step on."""


class GalaxyLoader:
    """Batches of a dataset, made by worker processes or threads.

    Workers that only decode or copy images are threads: handing pixels over to another process
    would take as long again, and decoders release the interpreter's lock. There are at most
    ``MOST_THREADS``; more would wait for that lock.

    Batches are made ahead: ``prefetch_factor`` by each worker, or fewer if their images would take
    more than ``MOST_BYTES_AHEAD``, but at least one. (Of a transform that is not ours the size of
    images is not known, and not counted.)

    Args:
        dataset: the galaxies.
        sampler: says which galaxies make each batch.
        num_workers: workers; 0: the process itself.
        pin_memory: put batches into memory from which a GPU copies without waiting.
        prefetch_factor: the most batches that each worker makes ahead.
        record_errors: give batches with ``errors`` for unreadable images; else raise ImageError.
        timeout_s: longest wait for a batch.

    Raises:
        ValueError: the images of its batches do not fit into the memory that is free.
    """

    def __init__(
        self,
        dataset: CatalogDataset,
        sampler: BatchSampler,
        num_workers: int,
        pin_memory: bool = False,
        prefetch_factor: int = 4,
        record_errors: bool = False,
        timeout_s: float = WORKER_TIMEOUT_S,
    ):
        self.dataset = dataset
        self._record_errors = record_errors
        self.sampler = sampler
        self._pin_memory = pin_memory
        self.num_workers = num_workers
        self._timeout_s = timeout_s
        self._again = (num_workers, pin_memory, prefetch_factor, record_errors, timeout_s)
        self._on_gpu: GalaxyLoader | None = None
        self._num_threads = 0
        if dataset.is_only_copied or (dataset.is_only_decoded and num_workers <= MOST_THREADS):
            self._num_threads, num_workers = min(num_workers, MOST_THREADS), 0
        num_making = max(1, self._num_threads or num_workers)
        check_batches(dataset, sampler.largest_batch, num_making, pin_memory)
        bytes_ahead = num_making * sampler.largest_batch * (dataset.image_bytes or 0)
        if bytes_ahead:
            prefetch_factor = max(1, min(prefetch_factor, MOST_BYTES_AHEAD // bytes_ahead))
        self.num_ahead = num_making * prefetch_factor
        self._loader = DataLoader(
            _WholeBatches(dataset),
            batch_size=None,
            sampler=sampler,
            num_workers=num_workers,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            prefetch_factor=prefetch_factor if num_workers else None,
            timeout=min(POLL_S, timeout_s) if num_workers else 0,
            worker_init_fn=_start_worker,
        )

    @property
    def accumulation(self) -> int:
        """Micro-batches that make one optimiser step."""
        return self.sampler.accumulation

    @property
    def num_steps(self) -> int:
        """Optimiser steps an epoch."""
        return len(self) // self.accumulation

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """The epoch to give next, from this optimiser step on."""
        self.sampler.set_epoch(epoch, first_step)

    def made_for(self, device: torch.device) -> "GalaxyLoader":
        """These batches for a loop on this device; see ``CatalogDataset.made_for``."""
        if device.type == "cuda" and self._on_gpu is not None:
            return self._on_gpu
        dataset = self.dataset.made_for(device)
        if dataset is self.dataset:
            return self
        self._on_gpu = type(self)(dataset, self.sampler, *self._again)
        return self._on_gpu

    def steps(self) -> list[Step]:
        """The steps of the next iteration."""
        return self.sampler.steps()

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[dict]:
        batches = self._in_threads() if self._num_threads else self._in_processes()
        if self.dataset.decoder is not None:
            batches = self.dataset.decoder.ahead(batches)
        for batch in in_steps(batches, self.steps()):
            if batch["errors"] and not self._record_errors:
                told = [*batch["errors"].values()]
                raise ImageError("; ".join(told[:5]) + ("; ..." if len(told) > 5 else ""))
            batch["label_cols"] = self.dataset.label_cols
            if self.dataset.on_device is not None:
                batch["cache"] = self.dataset.on_device
            yield batch

    def _in_processes(self) -> Iterator[dict]:
        """Batches of torch's loader; an error of a worker names the galaxies of its batch."""
        batches, number, since = self._start(), 0, time.monotonic()
        while True:
            try:
                batch = next(batches, None)
            except UserError as error:  # torch puts the worker's traceback before what it says
                kind = type(error)
                raise kind(str(error).rpartition(f"{kind.__name__}: ")[2].strip()) from error
            except (RuntimeError, ConnectionError, FileNotFoundError, EOFError) as error:
                told, waited = str(error), time.monotonic() - since
                if told.startswith("DataLoader timed out") and waited < self._timeout_s:
                    continue
                is_of_dataset = told.startswith("Caught ")  # not of handing over its batch
                if is_of_dataset or type(error) is RuntimeError and "DataLoader" not in told:
                    raise
                key = next(itertools.islice(self.sampler, number, None))
                raise self._worker_error(key, f"{told}, after {waited:.0f} s.") from error
            if batch is None:
                return
            yield batch
            number, since = number + 1, time.monotonic()

    def _start(self) -> Iterator[dict]:
        """torch's iterator; whether workers live is checked when a batch is ``POLL_S`` late."""
        if self._loader.num_workers == 0:
            return iter(self._loader)
        check_sent("the transform", self.dataset.transform)
        others = {*multiprocessing.active_children()}
        with starting_workers():
            batches = iter(self._loader)
            _end_with(self, {*multiprocessing.active_children()} - others)
        return batches

    def _in_threads(self) -> Iterator[dict]:
        """Batches made by threads, in order, some ahead of their use."""
        waiting = deque()
        # Of daemons: one that hangs holds up nobody.
        with pool_of_single_cores(self._num_threads) as pool:

            def first() -> dict:
                key, batch = waiting.popleft()
                try:
                    return batch.get(self._timeout_s)
                except TimeoutError as error:
                    told = f"no batch within {self._timeout_s:g} s."
                    raise self._worker_error(key, told) from error

            for key in self.sampler:
                waiting.append((key, pool.apply_async(self._make, (key,))))
                if len(waiting) > self.num_ahead:
                    yield first()
            while waiting:
                yield first()

    def _worker_error(self, key: tuple[int, list[int]], told: str) -> WorkerError:
        ids = self.dataset.ids_of(key[1])
        return WorkerError(
            f"an image-reading worker failed over the batch of id_str {', '.join(ids[:5])}"
            f"{', ...' if len(ids) > 5 else ''}: {told} Was it short of memory (fewer "
            "--num-workers), is a disk out of reach, or does an image make its reader crash?"
        )

    def _make(self, key: tuple[int, list[int]]) -> dict:
        batch = self.dataset.batch(*key)
        if not self._pin_memory:
            return batch
        return {k: v.pin_memory() if torch.is_tensor(v) else v for k, v in batch.items()}


def _start_worker(worker: int) -> None:
    torch.set_num_threads(1)
    for number in NOT_FOR_WORKERS:  # those that a fork server started may hear
        signal.signal(number, signal.SIG_IGN)


def _end_with(loader: GalaxyLoader, workers: set[BaseProcess]) -> None:
    """Kill a loader's own workers when it, or this process, ends; one may hang for ever."""
    parent = os.getpid()

    def kill() -> None:
        atexit.unregister(kill)
        if os.getpid() == parent:  # not in a worker, which has a copy of this
            for worker in workers:
                worker.kill()

    if workers:  # none: those of an earlier epoch go on
        atexit.register(kill)
        weakref.finalize(loader, kill).atexit = False


class RegroupedLoader:
    """A ``GalaxyLoader``, several of whose steps make one; the last may be shorter."""

    def __init__(self, loader: GalaxyLoader, steps: int):
        self._loader = loader
        self._steps = steps
        self.num_steps = -(-loader.num_steps // steps)

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """The epoch to give next, from this optimiser step on."""
        self._loader.set_epoch(epoch, first_step * self._steps)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[dict]:
        steps = self._loader.steps()
        groups = [steps[i : i + self._steps] for i in range(0, len(steps), self._steps)]
        joined = [Step(*map(sum, zip(*group, strict=True))) for group in groups]
        return in_steps(self._loader, joined)


class CatalogLoader:
    """A ``GalaxyLoader`` whose batches are for users; every pass is another epoch.

    The loop takes ``loader``, the one beneath: uint8 images are a quarter of the bytes.
    """

    def __init__(self, loader: GalaxyLoader):
        self.loader = loader
        self._epoch = 0

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict]:
        self.loader.set_epoch(self._epoch)
        self._epoch += 1
        for batch in self.loader:
            labels = batch.get("labels", torch.empty(len(batch["image"]), 0))
            labels = labels if labels.is_floating_point() else labels.long()
            columns = dict(zip(batch["label_cols"], labels.unbind(1), strict=True))
            batch["image"] = batch["image"].cpu()  # of a decoder on a GPU
            yield {"image": float_images(batch), "id_str": batch["id_str"], **columns}


def own_loader(loader: Iterable[dict] | None, device: torch.device = CPU) -> GalaxyLoader | None:
    """The ``GalaxyLoader`` that a loader of ours is, or stands for; None for any other loader.

    Args:
        device: of the loop; a GPU makes views itself, see ``CatalogDataset``.
    """
    if isinstance(loader, CatalogLoader):
        loader = loader.loader
    return loader.made_for(device) if isinstance(loader, GalaxyLoader) else None


def train_loader(
    dataset: CatalogDataset,
    batch_size: int,
    accumulation: int = 1,
    num_workers: int = 0,
    **loading,
) -> GalaxyLoader:
    """Shuffled batches for training; ``batch_size`` is that of an optimiser step over all ranks."""
    sizes = dataset.galaxies.shard_sizes
    sampler = TrainSampler(len(dataset), batch_size, accumulation, dataset.seed, sizes)
    return GalaxyLoader(dataset, sampler, num_workers, **loading)


def eval_loader(
    dataset: CatalogDataset, batch_size: int, num_workers: int = 0, **loading
) -> GalaxyLoader:
    """This rank's share in order; ``batch_size`` is the number over all ranks."""
    sampler = EvalSampler(len(dataset), max(1, batch_size // distributed.world_size()))
    return GalaxyLoader(dataset, sampler, num_workers, **loading)
