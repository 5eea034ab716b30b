"""What all parts of ``gpu.py`` need: galaxies, batches, models."""

import argparse
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from bench_common import (
    TREE,
    KeptBatch,
    Training,
    make_catalog,
    make_model,
    make_shards,
    training_view,
)
from bench_timing import FromThird, alternate, flops_a_step, images_per_s, matmul_flops_per_s

from zoobot.data.dataset import CatalogDataset
from zoobot.data.device_batches import to_device
from zoobot.data.image_cache import keep_images
from zoobot.data.loaders import GalaxyLoader, train_loader
from zoobot.data.sources import Galaxies, RowsOf
from zoobot.data.views.device import device_view_of

NUM_CHECKED = 64  # galaxies of a check
NUM_STEPS = 48  # of an epoch that is timed
SMOKE_STEPS = 4
PREFETCH = 2  # batches a worker: those of 512 raw images are 138 MB each


class Repeated:
    """The galaxies of shards over and over: a source as ``zoobot.data.sources`` describes it."""

    def __init__(self, galaxies: Galaxies, times: int):
        self._galaxies = galaxies
        self._times = times
        self.label_cols = galaxies.label_cols
        self.raw_px = galaxies.raw_px
        self.shard_sizes = galaxies.shard_sizes * times

    def __len__(self) -> int:
        return len(self._galaxies) * self._times

    def id_str(self, i: int) -> str:
        """The id of galaxy ``i``."""
        time, place = divmod(i, len(self._galaxies))
        return f"{self._galaxies.id_str(place)}-{time}"

    def ids(self, rows: range) -> pa.ChunkedArray:
        """The ids of consecutive galaxies."""
        return pa.chunked_array([[self.id_str(i) for i in rows]], pa.large_string())

    def source(self, i: int) -> bytes | np.ndarray:
        """The image of galaxy ``i``."""
        return self._galaxies.source(i % len(self._galaxies))

    def labels(self, indices: Sequence[int]) -> torch.Tensor:
        """(B, L) labels."""
        return self._galaxies.labels(np.asarray(indices, dtype=np.int64) % len(self._galaxies))

    def fingerprint(self) -> str:
        """Text that identifies the galaxies."""
        return f"{self._galaxies.fingerprint()} x {self._times}"


@dataclasses.dataclass
class Bench:
    """Galaxies and models, made when first asked for."""

    args: argparse.Namespace
    folder: Path

    def __post_init__(self) -> None:
        self._trainings: dict[bool, Training] = {}

    @property
    def on_gpu(self) -> bool:
        """Whether this is no rehearsal on a CPU."""
        return self.args.device == "cuda"

    @functools.cached_property
    def device(self) -> torch.device:
        return torch.device("cuda", 0) if self.on_gpu else torch.device("cpu")

    @functools.cached_property
    def shards(self) -> dict:
        """Encoding -> the galaxies. Many processes write them: before CUDA starts in this one."""
        catalog = make_catalog(self.args, self.folder)
        return {
            encoding: make_shards(
                catalog, TREE.label_cols, self.folder / encoding, encoding, self.args.shard_px
            )
            for encoding in ("raw", "jpeg")
        }

    def few_galaxies(self, encoding: str) -> RowsOf:
        """The first galaxies of the shards."""
        shards = self.shards[encoding]
        return RowsOf(shards, range(min(NUM_CHECKED, len(shards))))

    @functools.cached_property
    def few(self) -> CatalogDataset:
        """A few raw galaxies in training views, which are left to the device."""
        return self.for_device(self.few_galaxies("raw"))

    def for_device(self, galaxies: Galaxies) -> CatalogDataset:
        """Galaxies in training views, which are left to the device."""
        view = device_view_of(training_view(self.args.image_size), galaxies)
        return CatalogDataset(galaxies, transform=view)

    @functools.cached_property
    def few_batch(self) -> dict:
        """A few galaxies, on the CPU, with their views to be made."""
        return self.few.batch(0, range(len(self.few)))

    @functools.cached_property
    def raw_batch(self) -> dict:
        """A full batch, on the CPU, with its views to be made."""
        return self.for_device(self.shards["raw"]).batch(0, range(self.args.batch_size))

    @functools.cached_property
    def kept(self) -> dict:
        """A full batch on the device, its views made."""
        return to_device(self.raw_batch, self.device)

    @property
    def num_steps(self) -> int:
        """Steps of an epoch."""
        return NUM_STEPS if self.on_gpu else SMOKE_STEPS

    def repeated(self, encoding: str) -> Repeated:
        """As many galaxies as an epoch has."""
        shards = self.shards[encoding]
        return Repeated(shards, -(-self.num_steps * self.args.batch_size // len(shards)))

    def loader(self, encoding: str, *, cached: bool = False) -> GalaxyLoader:
        """An epoch of full batches from shards, their views left to the device.

        Args:
            cached: images are kept on the device, of a rehearsal in memory.
        """
        dataset = self.for_device(self.repeated(encoding))
        if cached:
            dataset.cache = self.cache
            keep_images(dataset, self.device)
        return train_loader(
            dataset,
            self.args.batch_size,
            num_workers=self.args.num_workers,
            pin_memory=self.on_gpu,
            prefetch_factor=PREFETCH,
        )

    @property
    def cache(self) -> str:
        """Where images are kept."""
        return "device" if self.on_gpu else "memory"

    @functools.cached_property
    def peak(self) -> float:
        """FLOP/s that a bfloat16 matrix product reaches."""
        return matmul_flops_per_s(self.args.device, torch.bfloat16, self.args.smoke)

    @functools.cached_property
    def flops(self) -> float:
        """Floating-point operations of a training step for one image."""
        return flops_a_step(self.model().to(self.device), self.kept["image"][:1])

    def model(self, **options):
        """A model, the same every time."""
        return make_model(self.args.encoder, self.args.image_size, **options)

    def training(self, compiled: bool) -> Training:
        """A model in training in bfloat16, the same for all parts, so that it is compiled once."""
        if compiled not in self._trainings:
            how = {"compile": "on" if compiled else "off"}
            self._trainings[compiled] = Training(self.model(), self.device, "bf16", **how)
        return self._trainings[compiled]

    def epochs_per_s(self, training: Training, batches, *, warm: bool) -> float:
        """Images a second of training from an epoch's third step on.

        Args:
            warm: train an epoch before: workers are then no longer ahead of the steps.
        """
        timer = FromThird(self.args.device)

        def epoch() -> float:
            training.epoch(batches, timer)
            return self.args.batch_size * timer.steps_per_s()

        return self.median({"epoch": epoch}, fresh=() if warm else ["epoch"])["epoch"]

    def kept_batches(self, num_steps: int | None = None) -> KeptBatch:
        """The batch on the device, for every step of an epoch."""
        return KeptBatch(self.kept, num_steps or self.num_steps)

    def images_per_s(self, work: Callable, num_images: int) -> float:
        """Median images a second of work on so many images."""
        return self.median({"work": images_per_s(work, num_images, self.args.device)})["work"]

    def median(self, cases: dict[str, Callable[[], float]], fresh=()) -> dict[str, float]:
        """Median figure of each case, called in turn."""
        return alternate(cases, self.args.rounds, fresh)


def row(what: str, value: float, unit: str, limit: str = "") -> dict:
    """A line of the table of speeds; ``limit`` is what bounds it."""
    return {"what": what, "value": round(value, 3), "unit": unit, "limit": limit}
