"""Decoded images of galaxies, kept for the epochs to come: where, and whether they fit.

What is kept is what a random view is made of: an image as it was decoded, at the size that the view
needs. So every epoch's views are bitwise what they are without.
"""

import contextlib
import math

import numpy as np
import torch

from zoobot.data.dataset import CatalogDataset
from zoobot.data.device_cache import DeviceCache, half_of_free
from zoobot.data.images import ImageError
from zoobot.data.memory_cache import MemoryCache
from zoobot.system import distributed
from zoobot.system.errors import OneProcessError, UserError
from zoobot.system.shared_memory import SharedBytes, free_bytes, share_on_node

CACHES = ("auto", "none", "device", "memory")
NUM_SIZED = 16  # galaxies whose images tell how large the others are


def keep_images(dataset: CatalogDataset, device: torch.device, kind: str = "galaxy") -> str:
    """Have a dataset keep its images; all processes of a run call it together.

    ``dataset.cache`` says where. ``device``: in the GPU's memory. ``memory``: in the computer's,
    shared by the processes of a node. ``auto``: the first of them that fits and pays. ``none``.
    A dataset that has been here keeps what it has.

    Args:
        dataset: galaxies that are read in every epoch.
        device: where their batches go.
        kind: of images, in words.

    Returns:
        What to tell the user of it; may be empty.

    Raises:
        ValueError: the images don't fit where they are to be kept, or there is no GPU.
    """
    cache = dataset.cache
    check_cache(cache, device)
    if dataset.keeps_images:
        return ""
    ways = []
    if cache == "device" or (cache == "auto" and device.type == "cuda"):
        ways.append(_keep_on_device)
    if cache == "memory" or (cache == "auto" and dataset.galaxies.raw_px is None):
        ways.append(_keep_in_memory)  # for raw pixels of shards, the system does the same
    lacks = []
    for keep in ways if len(dataset) else ():
        kept, told = keep(dataset, device)
        if kept:
            return f"cache: {len(dataset):,} {kind} images, {told}"
        lacks.append(told)
    if not lacks:
        return ""
    told = f"the {len(dataset):,} {kind} images are not kept: {'; '.join(lacks)}"
    if cache != "auto":
        raise OneProcessError(f"--cache {cache}: {told}: use --cache auto, or none")
    return f"cache: {told}"


def check_cache(cache: str, device: torch.device) -> None:
    """ValueError for a ``cache`` that there is not, or not with this device."""
    if cache not in CACHES:
        raise UserError(f"cache={cache!r}: use one of {', '.join(CACHES)}")
    if cache == "device" and device.type != "cuda":
        raise UserError("--cache device needs a GPU: use --cache memory, auto or none")


def _keep_on_device(dataset: CatalogDataset, device: torch.device) -> tuple[bool, str]:
    """Whether the images are kept in the GPU's memory; and how much they take, or why not."""
    if not dataset.is_only_decoded:
        return False, "their views are made on the CPU"
    needed = math.prod(dataset.fitted_shape) * dataset.fitted_dtype.itemsize
    free = half_of_free(device)
    if not all(distributed.gather(needed <= free)):
        return False, f"{_gb(needed)} are more than half of what the GPU has free, {_gb(free)}"
    dataset.on_device = DeviceCache(dataset.fitted_shape, device, dataset.fitted_dtype)
    return True, f"{_gb(needed)} of the GPU's memory"


def _keep_in_memory(dataset: CatalogDataset, device: torch.device) -> tuple[bool, str]:
    """Whether the images are kept in memory; and how much they take, or why not."""
    slot_bytes, dtype = _largest_image(dataset)
    needed, free = MemoryCache.bytes_needed(len(dataset), slot_bytes), free_bytes() // 2
    fits = slot_bytes > 0 and needed <= free
    memory = share_on_node(SharedBytes(needed) if fits and distributed.local_rank() == 0 else None)
    if dtype is None:
        return False, "those that were looked at can't be read"
    if slot_bytes == 0:
        return False, "their bands are not of one size"
    if memory is None and fits:
        return False, "this node's processes can't share memory"
    if memory is None:
        return False, f"{_gb(needed)} are more than half of the free memory, {_gb(free)}"
    dataset.in_memory = MemoryCache(len(dataset), slot_bytes, memory, dataset.transform, dtype)
    return True, f"{_gb(needed)} of memory"


def _largest_image(dataset: CatalogDataset) -> tuple[int, np.dtype | None]:
    """Bytes and type of the largest of a few images; None: none of them can be read.

    0 bytes: some have bands of different sizes, which are not kept.
    """
    sizes, dtype = [], None
    for galaxy in {*np.linspace(0, len(dataset) - 1, NUM_SIZED).astype(int).tolist()}:
        with contextlib.suppress(ImageError):  # told when it is read to train on
            pixels = dataset.pixels(galaxy)
            sizes, dtype = [*sizes, pixels.nbytes], pixels.dtype
    return max(sizes) if sizes and min(sizes) else 0, dtype


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2g} GB"
