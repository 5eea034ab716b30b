"""From a catalog to batches: dataset, samplers and loaders.

What a galaxy looks like in an epoch depends on (seed, epoch, galaxy) only: not on the worker, the
rank, the batch size or where a run was interrupted.

Batches come in two forms. ``GalaxyLoader`` gives what the loop wants: a dict with ``image`` uint8
(B, C, H, W) (float32 in 0-1 if the transform makes floats), ``id_str`` list of B, ``labels`` (B, L)
and the names ``label_cols`` of its L columns. ``CatalogLoader`` gives what users want: ``image``
float32 in 0-1, ``id_str``, and one entry (B,) a label column.
"""

import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from zoobot import distributed
from zoobot.data.catalog import label_array
from zoobot.data.images import ImageError, read_image
from zoobot.data.views import (
    GalaxyView,
    apply_transform,
    get_galaxy_transform,
    minimal_view_config,
)

WORKER_TIMEOUT_S = 600


class CatalogDataset(Dataset):
    """Galaxies of a catalog: ``dataset[i]`` is a dict of image, id_str and labels.

    Strings are kept in Arrow buffers and labels in one tensor, which workers share without copying.

    Args:
        catalog: with ``id_str``, ``file_loc`` or ``image``, and the label columns; or, without
            labels, what ``galaxy_table`` makes of it.
        label_cols: columns of numbers; None for no labels.
        transform: a view, or any torchvision v2 transform; by default a fixed view of 224 px.
        target_transform: called by ``dataset[i]`` with a galaxy's dict of labels, returns another.
        channels: 1 or 3, of the image before the transform.
        fits_scaling: brightness of FITS images.
        seed: of the transform's random draws.

    Raises:
        ValueError: for a missing column, or a label that is no number.
    """

    def __init__(
        self,
        catalog: pd.DataFrame | pa.Table,
        label_cols: Sequence[str] | None = None,
        transform: Callable | None = None,
        target_transform: Callable | None = None,
        *,
        channels: int = 3,
        fits_scaling: str = "asinh",
        seed: int = 0,
    ):
        galaxies = catalog if isinstance(catalog, pa.Table) else galaxy_table(catalog)
        self._ids, self._sources = galaxies.columns
        self.label_cols = list(label_cols or [])
        self.labels = torch.from_numpy(label_array(catalog, self.label_cols, "in memory"))
        self.transform = transform or get_galaxy_transform(minimal_view_config())
        self.target_transform = target_transform
        self.channels = channels
        self.fits_scaling = fits_scaling
        self.seed = seed

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> dict:
        """One galaxy, read now, its view drawn from torch's generator.

        Returns:
            ``image`` float32 (C, H, W) in 0-1, ``id_str``, and one number a label column.

        Raises:
            ImageError: the image can't be read.
        """
        galaxy = {"image": as_float(self._image(index)), "id_str": self._ids[index].as_py()}
        labels = dict(zip(self.label_cols, self.labels[index].tolist(), strict=True))
        return galaxy | (self.target_transform(labels) if self.target_transform else labels)

    def batch(self, epoch: int, indices: Sequence[int]) -> dict:
        """These galaxies as they look in this epoch.

        ``image`` lacks those that can't be read: ``errors`` has place in the batch -> reason.
        """
        images, errors = [], {}
        for place, index in enumerate(indices):
            try:
                images.append(self._image(index, (self.seed, epoch, index)))
            except ImageError as error:
                errors[place] = str(error)
        batch = {"id_str": [self._ids[index].as_py() for index in indices], "errors": errors}
        if images:
            batch["image"] = self._stack(images)
        if self.label_cols:
            batch["labels"] = self.labels[indices]
        return batch

    def describe_images(self) -> dict:
        """How images become what the model is shown, as plain types; of other transforms little."""
        described = {"fits_scaling": self.fits_scaling}
        if isinstance(self.transform, GalaxyView):
            described |= {
                "image_size": self.transform.config.output_size,
                "view": self.transform.config.changes(),
            }
        else:
            described["transform"] = repr(self.transform)
        return described

    def label_table(self) -> pd.DataFrame:
        """``id_str`` and the label columns of all galaxies, for checks before training."""
        table = pd.DataFrame(self.labels.numpy(), columns=self.label_cols)
        table.insert(0, "id_str", pd.arrays.ArrowExtensionArray(self._ids))
        return table

    def _image(self, index: int, seed: tuple[int, int, int] | None = None) -> torch.Tensor:
        source = self._sources[index].as_py()
        name = None if isinstance(source, str) else f"id_str {self._ids[index].as_py()!r}"
        min_side_px = getattr(self.transform, "min_side_px", None)
        image = read_image(source, self.channels, self.fits_scaling, min_side_px, name=name)
        return apply_transform(self.transform, image, seed)

    def _stack(self, images: list[torch.Tensor]) -> torch.Tensor:
        """(B, C, H, W) in the views' own memory order (H, W, C), a fifth of reordering's cost."""
        shapes = {tuple(image.shape) for image in images}
        if len(shapes) > 1:
            raise ValueError(
                f"the transform gives images of different shapes, {sorted(shapes)[:3]}: "
                "end it with a resize or crop to one size"
            )
        return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)


def as_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 images as float32 in 0-1; floats as they are."""
    return images if images.is_floating_point() else images.float().div_(255)


def galaxy_table(catalog: pd.DataFrame) -> pa.Table:
    """``id_str``, and ``file_loc`` or else ``image`` (encoded bytes), in Arrow buffers.

    Raises:
        ValueError: a galaxy has neither path nor bytes.
    """
    ids = pa.array(catalog["id_str"].astype(str), type=pa.large_string())
    column, kind = "file_loc", pa.large_string()
    if column in catalog:
        sources = [os.fspath(x) if isinstance(x, os.PathLike) else x for x in catalog[column]]
    else:
        column, kind = "image", pa.large_binary()
        sources = [x.get("bytes") if isinstance(x, dict) else x for x in catalog[column]]
    for source, id_str in zip(sources, catalog["id_str"], strict=True):
        if not isinstance(source, str if column == "file_loc" else bytes):
            raise ValueError(f"column {column!r} of id_str {id_str!r} holds no image: {source!r}")
    return pa.table({"id_str": ids, column: pa.array(sources, kind)})


class _WholeBatches(Dataset):
    """A dataset whose keys are whole batches, (epoch, indices), as the samplers deal them."""

    def __init__(self, dataset: CatalogDataset):
        self.dataset = dataset

    def __getitem__(self, key: tuple[int, list[int]]) -> dict:
        return self.dataset.batch(*key)


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

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.num_galaxies)
        for step in np.array_split(order, self.num_steps):
            share = step[distributed.rank() :: distributed.world_size()]
            for micro_batch in np.array_split(share, self.accumulation):
                yield self.epoch, micro_batch.tolist()


class EvalSampler(Sampler):
    """This rank's galaxies in order, in batches: every galaxy once on exactly one rank."""

    def set_epoch(self, epoch: int) -> None:
        """No effect: every epoch is the same."""

    def __init__(self, num_galaxies: int, batch_size: int):
        self._indices = range(distributed.rank(), num_galaxies, distributed.world_size())
        self._batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self._indices) // self._batch_size)

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        for start in range(0, len(self._indices), self._batch_size):
            yield 0, list(self._indices[start : start + self._batch_size])


class GalaxyLoader:
    """Batches of a dataset through worker processes.

    Args:
        record_errors: give batches with ``errors`` for unreadable images, instead of raising
            ImageError.
    """

    def __init__(
        self,
        dataset: CatalogDataset,
        sampler: Sampler,
        num_workers: int,
        pin_memory: bool = False,
        prefetch_factor: int = 4,
        record_errors: bool = False,
    ):
        self.dataset = dataset
        self._record_errors = record_errors
        self.sampler = sampler
        self._loader = DataLoader(
            _WholeBatches(dataset),
            batch_size=None,
            sampler=sampler,
            num_workers=num_workers,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            prefetch_factor=prefetch_factor if num_workers else None,
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
            if batch["errors"] and not self._record_errors:
                told = [*batch["errors"].values()]
                raise ImageError("; ".join(told[:5]) + ("; ..." if len(told) > 5 else ""))
            batch["label_cols"] = self.dataset.label_cols
            yield batch


def _use_one_thread(worker: int) -> None:
    torch.set_num_threads(1)


class CatalogLoader:
    """A ``GalaxyLoader`` whose batches are for users; every pass is another epoch.

    The loop takes the ``galaxies`` loader beneath: uint8 images are a quarter of the bytes.
    """

    def __init__(self, galaxies: GalaxyLoader):
        self.galaxies = galaxies
        self._epoch = 0

    def __len__(self) -> int:
        return len(self.galaxies)

    def __iter__(self) -> Iterator[dict]:
        self.galaxies.set_epoch(self._epoch)
        self._epoch += 1
        for batch in self.galaxies:
            labels = batch.get("labels", torch.empty(len(batch["image"]), 0))
            labels = labels if labels.is_floating_point() else labels.long()
            columns = dict(zip(batch["label_cols"], labels.unbind(1), strict=True))
            yield {"image": as_float(batch["image"]), "id_str": batch["id_str"], **columns}


def train_loader(
    dataset: CatalogDataset,
    batch_size: int,
    accumulation: int = 1,
    num_workers: int = 0,
    **loading,
) -> GalaxyLoader:
    """Shuffled batches for training; ``batch_size`` is that of an optimiser step over all ranks."""
    sampler = TrainSampler(len(dataset), batch_size, accumulation, dataset.seed)
    return GalaxyLoader(dataset, sampler, num_workers, **loading)


def eval_loader(
    dataset: CatalogDataset, batch_size: int, num_workers: int = 0, **loading
) -> GalaxyLoader:
    """This rank's share in order; ``batch_size`` is the number over all ranks."""
    sampler = EvalSampler(len(dataset), max(1, batch_size // distributed.world_size()))
    return GalaxyLoader(dataset, sampler, num_workers, **loading)
