"""``DeviceCache``: decoded images in the memory of a GPU, from which batches are put together."""

import warnings
from collections.abc import Sequence

import numpy as np
import torch

from zoobot.system.shared_memory import SharedBytes, free_bytes

FIRST_BATCHES = 3  # not kept: by then, the training step has taken the memory that it needs


class DeviceCache:
    """Fitted images of N galaxies on a device, each kept when it has first been there.

    Workers read the images that are not kept, and say which these are. On the device, a batch is
    made whole: new images are kept, the others selected by their numbers.

    Args:
        shape: (N, F, F, C) of the images.
        dtype: of the images.
        device: where they are kept, unless they are more than half of what is free once training
            has begun: then a warning says so, and they are read every epoch.
    """

    def __init__(
        self,
        shape: tuple[int, int, int, int],
        device: torch.device,
        dtype: torch.dtype = torch.uint8,
    ):
        self._shape = shape
        self._dtype = dtype
        self._device = device
        self._kept = SharedBytes(shape[0])
        self._images: torch.Tensor | None = None
        self._written: torch.cuda.Event | None = None
        self._num_to_pass = FIRST_BATCHES
        self._fits = True

    def __getstate__(self) -> dict:
        """For workers, which do not touch the device: without the images."""
        return self.__dict__ | {"_images": None, "_written": None}

    def missing(self, galaxies: Sequence[int]) -> list[int]:
        """The places in a batch of the galaxies whose images must be read."""
        kept = self._kept.array(bool, self._shape[:1])[galaxies]
        return np.flatnonzero(~kept).tolist()

    def parts(self, galaxies: Sequence[int], places_read: Sequence[int]) -> dict:
        """What ``complete`` needs of a batch; its ``image`` is for one of which none is read."""
        _, side_px, _, channels = self._shape
        return {
            "image": torch.empty(0, channels, side_px, side_px, dtype=self._dtype),
            "galaxies": torch.tensor(galaxies),
            "galaxies_read": torch.tensor([galaxies[place] for place in places_read]).long(),
            "new": [galaxies[place] for place in places_read],
        }

    def complete(self, batch: dict) -> torch.Tensor:
        """All images of a batch (B, C, F, F), of which it has those that were read."""
        images = batch["image"]
        if self._images is None and not self._start():
            return images  # all were read
        if self._written is not None:  # on another stream, perhaps
            torch.cuda.current_stream(self._device).wait_event(self._written)
        if batch["new"]:
            pixels = images.permute(0, 2, 3, 1).to(self._device)
            self._images.index_copy_(0, batch["galaxies_read"].to(self._device), pixels)
            self._kept.array(bool, self._shape[:1])[batch["new"]] = True
            if self._device.type == "cuda":
                self._written = torch.cuda.current_stream(self._device).record_event()
        whole = self._images.index_select(0, batch["galaxies"].to(self._device))
        return whole.to(images.device).permute(0, 3, 1, 2)

    def _start(self) -> bool:
        """Take the memory, once the first batches have passed; False as long as there is none."""
        if self._num_to_pass or not self._fits:
            self._num_to_pass = max(0, self._num_to_pass - 1)
            return False
        needed, free = int(np.prod(self._shape)) * self._dtype.itemsize, half_of_free(self._device)
        self._fits = needed <= free
        if self._fits:
            with torch.inference_mode(False):  # so that training may write to it, too
                self._images = torch.empty(self._shape, dtype=self._dtype, device=self._device)
            return True
        told = (
            f"{needed / 1e9:.2g} GB of images don't fit into half of the memory that training "
            f"leaves free on the GPU, {free / 1e9:.2g} GB"
        )
        warnings.warn(f"cache: {told}; they are read every epoch", stacklevel=2)
        return False


def half_of_free(device: torch.device) -> int:
    """Half of the memory that is free on a device."""
    return (torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_bytes()) // 2
