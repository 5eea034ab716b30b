"""``MemoryCache``: decoded images in memory that workers share."""

from collections.abc import Callable

import numpy as np

from zoobot.system.shared_memory import SharedBytes

SHAPE_BYTES = 3 * np.dtype(np.int32).itemsize  # of a galaxy's pixels


class MemoryCache:
    """Decoded images of N galaxies, each kept when it is first read, by whichever process reads it.

    Every galaxy has a slot of one size. A larger image is not kept, but read again every time. A
    slot that is partly filled takes as much memory as its image.

    Args:
        num_galaxies: N.
        slot_bytes: most bytes of an image.
        memory: ``bytes_needed`` bytes.
        view: of which images are kept: what is decoded depends on it.
        dtype: of pixels.
    """

    def __init__(
        self,
        num_galaxies: int,
        slot_bytes: int,
        memory: SharedBytes,
        view: Callable,
        dtype: np.dtype | type = np.uint8,
    ):
        self.view = view
        self._dtype = dtype
        self._num_galaxies = num_galaxies
        self._slot_bytes = slot_bytes
        self._memory = memory

    @staticmethod
    def bytes_needed(num_galaxies: int, slot_bytes: int) -> int:
        """Bytes of the slots, and of the shapes of the images in them."""
        return num_galaxies * (SHAPE_BYTES + slot_bytes)

    def get(self, galaxy: int, read: Callable[[], np.ndarray]) -> np.ndarray:
        """A galaxy's pixels, on three axes; read and kept if they are not there yet."""
        kept = self._shape_of(galaxy)
        if kept.any():
            return self._pixels(galaxy, tuple(kept.tolist()))
        pixels = read()
        if pixels.nbytes <= self._slot_bytes:
            self._pixels(galaxy, pixels.shape)[:] = pixels
            kept[:] = pixels.shape  # last: who sees the shape finds the pixels
        return pixels

    def num_kept(self) -> int:
        """How many galaxies are kept by now."""
        shapes = self._memory.array(np.int32, (self._num_galaxies, 3))
        return int(shapes.any(axis=1).sum())

    def _shape_of(self, galaxy: int) -> np.ndarray:
        return self._memory.array(np.int32, (3,), galaxy * SHAPE_BYTES)

    def _pixels(self, galaxy: int, shape: tuple[int, int, int]) -> np.ndarray:
        start = self._num_galaxies * SHAPE_BYTES + galaxy * self._slot_bytes
        return self._memory.array(self._dtype, shape, start)
