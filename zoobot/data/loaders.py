"""From a catalog to batches: dataset, samplers and loaders.

A batch is a dict: ``image`` uint8 (B, C, H, W), ``id_str`` list of B, ``labels`` (B, A) or (B,).
What a galaxy looks like in an epoch depends on (seed, epoch, galaxy) only: not on the worker, the
rank, the batch size or where a run was interrupted.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from zoobot import distributed
from zoobot.data.images import ImageError, read_image
from zoobot.data.views import GalaxyView

WORKER_TIMEOUT_S = 600


class CatalogDataset(Dataset):
    """Galaxies of a catalog, by position or by (epoch, position).

    Strings are kept in Arrow buffers, which workers share without copying.

    Args:
        catalog: with ``id_str`` and ``file_loc`` or ``image``.
        view: called with (image, rng); its random draws are a function of (seed, epoch, position).
        labels: (N, A) or (N,) array, or None.
    """

    def __init__(
        self,
        catalog: pd.DataFrame,
        view: GalaxyView | Callable,
        labels: np.ndarray | None = None,
        *,
        channels: int = 3,
        fits_scaling: str = "asinh",
        seed: int = 0,
    ):
        self._ids = pa.array(catalog["id_str"], type=pa.large_string())
        if "file_loc" in catalog:
            self._sources = pa.array(catalog["file_loc"], type=pa.large_string())
        else:
            self._sources = pa.array([_image_bytes(x) for x in catalog["image"]], pa.large_binary())
        self.labels = None if labels is None else torch.from_numpy(np.ascontiguousarray(labels))
        self.view = view
        self.channels = channels
        self.fits_scaling = fits_scaling
        self.seed = seed

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        """One galaxy, read now; ImageError if its image can't be read."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        galaxy = {"image": self._image(epoch, index), "id_str": self._ids[index].as_py()}
        if self.labels is not None:
            galaxy["labels"] = self.labels[index]
        return galaxy

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> dict:
        """A whole batch; images that can't be read are named in ``errors``, not raised here."""
        images, errors = [], []
        for epoch, index in keys:
            try:
                images.append(self._image(epoch, index))
            except ImageError as error:
                errors.append(str(error))
        if errors:
            return {"errors": errors}
        indices = [index for _, index in keys]
        batch = {
            "image": _stack_channels_last(images),
            "id_str": self._ids.take(indices).to_pylist(),
        }
        if self.labels is not None:
            batch["labels"] = self.labels[indices]
        return batch

    def _image(self, epoch: int, index: int) -> torch.Tensor:
        source = self._sources[index].as_py()
        name = None if isinstance(source, str) else f"id_str {self._ids[index].as_py()!r}"
        image = read_image(
            source, self.channels, self.fits_scaling, self.view.min_side_px, name=name
        )
        return self.view(image, np.random.default_rng((self.seed, epoch, index)))


def _image_bytes(value) -> bytes:
    return value["bytes"] if isinstance(value, dict) else value


def _stack_channels_last(images: list[torch.Tensor]) -> torch.Tensor:
    """(B, C, H, W) in the views' own memory order (H, W, C), which costs a fifth of reordering."""
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)


def _as_is(batch: dict) -> dict:
    return batch


class TrainSampler(Sampler):
    """Deals each epoch's galaxies, shuffled, into steps, ranks and micro-batches.

    An epoch is ceil(N / batch_size) optimiser steps of nearly equal size (they differ by one galaxy
    at most), so that no tail step is tiny. Each step is dealt over ranks and then over
    ``accumulation`` micro-batches (fewer where there are few galaxies). Which galaxies make a step
    depends on (seed, epoch) only, so that any number of ranks takes the same step. Nothing is
    padded, repeated or dropped.
    """

    def __init__(self, num_galaxies: int, batch_size: int, accumulation: int = 1, seed: int = 0):
        ranks = distributed.world_size()
        if num_galaxies < ranks:
            raise ValueError(f"{num_galaxies} training galaxies are too few for {ranks} processes")
        self.num_galaxies = num_galaxies
        self.num_steps = -(-num_galaxies // batch_size)
        micro_batch_size = -(-batch_size // (ranks * accumulation))
        smallest, largest = num_galaxies // self.num_steps, -(-num_galaxies // self.num_steps)
        needed = -(-largest // (ranks * micro_batch_size))
        self.accumulation = max(1, min(accumulation, needed, smallest // ranks))
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_steps * self.accumulation

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.num_galaxies)
        for step in np.array_split(order, self.num_steps):
            share = step[distributed.rank() :: distributed.world_size()]
            for micro_batch in np.array_split(share, self.accumulation):
                yield [(self.epoch, int(index)) for index in micro_batch]


class EvalSampler(Sampler):
    """This rank's galaxies in order, in batches: every galaxy once on exactly one rank."""

    def __init__(self, num_galaxies: int, batch_size: int):
        self._indices = range(distributed.rank(), num_galaxies, distributed.world_size())
        self._batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self._indices) // self._batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for start in range(0, len(self._indices), self._batch_size):
            yield [(0, index) for index in self._indices[start : start + self._batch_size]]


class GalaxyLoader:
    """Batches of a dataset through worker processes; raises ImageError for unreadable images."""

    def __init__(
        self, dataset: CatalogDataset, sampler: Sampler, num_workers: int, pin_memory: bool = False
    ):
        self.dataset = dataset
        self.sampler = sampler
        self._loader = DataLoader(
            dataset,
            batch_sampler=sampler,
            num_workers=num_workers,
            collate_fn=_as_is,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            prefetch_factor=4 if num_workers else None,
            timeout=WORKER_TIMEOUT_S if num_workers else 0,
            worker_init_fn=_use_one_thread,
        )

    @property
    def accumulation(self) -> int:
        """Micro-batches that make one optimiser step."""
        return getattr(self.sampler, "accumulation", 1)

    @property
    def num_steps(self) -> int:
        """Optimiser steps an epoch."""
        return len(self) // self.accumulation

    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[dict]:
        for batch in self._loader:
            if "errors" in batch:
                errors = batch["errors"]
                raise ImageError("; ".join(errors[:5]) + ("; ..." if len(errors) > 5 else ""))
            yield batch


def _use_one_thread(worker: int) -> None:
    torch.set_num_threads(1)


def train_loader(
    dataset: CatalogDataset,
    batch_size: int,
    accumulation: int = 1,
    num_workers: int = 0,
    pin_memory: bool = False,
) -> GalaxyLoader:
    """Shuffled batches for training; ``batch_size`` is that of an optimiser step over all ranks."""
    sampler = TrainSampler(len(dataset), batch_size, accumulation, dataset.seed)
    return GalaxyLoader(dataset, sampler, num_workers, pin_memory)


def eval_loader(
    dataset: CatalogDataset, batch_size: int, num_workers: int = 0, pin_memory: bool = False
) -> GalaxyLoader:
    """This rank's share in order; ``batch_size`` is the number over all ranks."""
    sampler = EvalSampler(len(dataset), max(1, batch_size // distributed.world_size()))
    return GalaxyLoader(dataset, sampler, num_workers, pin_memory)
