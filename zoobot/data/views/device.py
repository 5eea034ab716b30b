"""Make views on the device: workers decode images, and the device resamples a whole batch at once.

Workers also draw the random numbers, with the code of ``zoobot.data.views.cpu``; only the pixels
are computed on the device. So a galaxy's view depends only on the seed, the epoch and the galaxy,
not on the device.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from zoobot.data.images import ImageError, image_of, read_pixels
from zoobot.data.sources import Galaxies
from zoobot.data.views.config import GalaxyViewConfig, affine_ranges
from zoobot.data.views.cpu import GalaxyView, resample
from zoobot.data.views.geometry import compose_matrices, erase_boxes, sample_view_parameters
from zoobot.system.errors import UserError

VIEW_KEYS = ("matrix", "erased", "view_px", "oversampling")  # in a batch: arguments of ``warp``
LARGEST_FIT = 2.2  # of ``device_view_of``: times the default ``fitted_px``
GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)


class GalaxyRandom:
    """Random numbers for N galaxies at once. Those of a galaxy do not depend on the other galaxies.

    The generator is SplitMix64 (Steele, Lea & Flood 2014). Each galaxy has a key, made from the
    seed, the epoch and the galaxy's number. The class has the two methods of
    ``numpy.random.Generator`` that ``sample_view_parameters`` calls. The first dimension of a shape
    must be N.
    """

    def __init__(self, seed: int, epoch: int, indices: Sequence[int]):
        key = np.array(indices, dtype=np.uint64)
        for word in (epoch, seed):
            key = _mix(key * GOLDEN_GAMMA + np.uint64(word % 2**64))
        self._key = key
        self._drawn = 0

    def random(self, shape: int | tuple[int, ...]) -> np.ndarray:
        """Uniform in [0, 1): an array of this shape."""
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        num_a_galaxy = math.prod(shape[1:])
        counts = np.arange(self._drawn, self._drawn + num_a_galaxy, dtype=np.uint64) + np.uint64(1)
        self._drawn += num_a_galaxy
        bits = _mix(self._key[:, None] + counts * GOLDEN_GAMMA)
        return ((bits >> np.uint64(11)) * 2.0**-53).reshape(shape)

    def uniform(self, low: Any, high: Any, shape: int | tuple[int, ...]) -> np.ndarray:
        """Uniform in [low, high): an array of this shape."""
        return low + (np.asarray(high) - low) * self.random(shape)


def _mix(x: np.ndarray) -> np.ndarray:
    """Last step of SplitMix64: mix the bits of uint64 numbers; overflow wraps around."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class DeviceView:
    """A view in two parts: ``fit`` and ``draw`` in a worker, then ``warp`` on the device.

    A fitted image is a square of one size for the whole batch.

    Args:
        view: a view without ``fixed_crop`` and ``center_crop``, which are not possible here.
        fitted_px: side of the fitted images. Best is the side of the images themselves: then they
            need no resize. The default is the smallest side that the largest zoom of the view does
            not magnify.

    Raises:
        ValueError: the view has ``fixed_crop`` or ``center_crop``, or is another transform.
    """

    def __init__(self, view: GalaxyView, fitted_px: int | None = None):
        if not isinstance(view, GalaxyView):
            raise UserError(f"augmenting on the device needs a view of ours, not {view!r:.60}")
        for name in ("fixed_crop", "center_crop"):
            if vars(view.config)[name]:
                raise UserError(f"a view with {name} can't be made on the device: use the CPU")
        self.config = view.config
        self.view_px = view.config.output_size
        low, high = _zooms(view.config)
        self.fitted_px = fitted_px or math.ceil(self.view_px * high)
        # Image pixels per view pixel. Up to 1.25, one bilinear sample per view pixel is enough.
        shrink = self.fitted_px / self.view_px / low
        self.oversampling = max(1, math.ceil(shrink - 0.25))

    def fit(self, pixels: np.ndarray) -> np.ndarray:
        """Resize the central square of pixels (H, W, C) to ``fitted_px``, grey if the view is.

        Pixels that have this size and these channels already are returned as they are.
        """
        size_px = (self.fitted_px, self.fitted_px)
        if pixels.shape[:2] != size_px or (self.config.greyscale and pixels.shape[2] == 3):
            image = image_of(pixels)
            image = image.convert("L") if self.config.greyscale else image
            whole = sample_view_parameters(type(self.config)(), np.random.default_rng(0))
            matrix = compose_matrices(whole, image.size, self.fitted_px)[0]
            pixels = np.array(resample(image, matrix, self.fitted_px)).reshape(*size_px, -1)
        return pixels

    def draw(self, seed: int, epoch: int, indices: Sequence[int]) -> dict[str, Any]:
        """Draw the views of these galaxies in this epoch: the arguments of ``warp``.

        Returns:
            ``matrix``: float32 (B, 2, 3), from points of the view to points of the fitted image.
            ``erased``: int16 (B, E, 4), rectangles to set to 0: left, top, width, height.
            ``view_px``: side of the view.
            ``oversampling``: samples per view pixel along each axis.
        """
        random = GalaxyRandom(seed, epoch, indices)
        parameters = sample_view_parameters(self.config, random, len(indices))
        matrix = compose_matrices(parameters, (self.fitted_px, self.fitted_px), self.view_px)
        return {
            "matrix": torch.from_numpy(matrix.astype(np.float32)),
            "erased": torch.from_numpy(erase_boxes(parameters, self.view_px).astype(np.int16)),
            "view_px": self.view_px,
            "oversampling": self.oversampling,
        }


def device_view_of(view: GalaxyView, galaxies: Galaxies) -> DeviceView:
    """Make the device view for these galaxies.

    The size of its fitted images is the shorter side of the first galaxy's image. So workers need
    not resize, which takes longer than decoding. If that side is more than ``LARGEST_FIT`` times
    the default ``fitted_px``, the default is used.
    """
    divided = DeviceView(view)
    if len(galaxies) == 0:
        return divided
    try:
        side_px = min(read_pixels(galaxies.source(0), 3, "linear").shape[:2])
    except ImageError:  # the error is reported when the galaxies are read
        return divided
    return DeviceView(view, side_px) if side_px <= LARGEST_FIT * divided.fitted_px else divided


def _zooms(config: GalaxyViewConfig) -> tuple[float, float]:
    """Smallest and largest zoom of a view."""
    if config.random_affine:
        return affine_ranges(config.random_affine)[2]
    if config.random_resized_crop:
        low, high = config.random_resized_crop["scale"]
        return 1 / math.sqrt(high), 1 / math.sqrt(max(low, 1e-4))
    return 1.0, 1.0


def warp(
    images: torch.Tensor,
    matrix: torch.Tensor,
    erased: torch.Tensor,
    view_px: int,
    oversampling: int = 1,
) -> torch.Tensor:
    """Make the views of fitted images, on the device where these are.

    Args:
        images: uint8 (B, C, F, F).
        matrix, erased, view_px, oversampling: see ``DeviceView.draw``.

    Returns:
        float32 (B, C, S, S) in 0-1, with S = ``view_px``.
    """
    num, channels, fitted_px, _ = images.shape
    fine_px = view_px * oversampling
    linear = matrix[:, :, :2] * (view_px / fitted_px)  # view and image coordinates are -1 to 1
    shift = linear.sum(dim=2) + matrix[:, :, 2] * (2 / fitted_px) - 1
    theta = torch.cat([linear, shift[:, :, None]], dim=2)
    grid = F.affine_grid(theta, [num, channels, fine_px, fine_px], align_corners=False)
    views = F.grid_sample(images.float(), grid, align_corners=False)
    if oversampling > 1:
        views = F.avg_pool2d(views, oversampling)
    views = views.div_(255).masked_fill_(_inside(erased, view_px)[:, None], 0.0)
    return views.contiguous(memory_format=torch.channels_last)


def _inside(boxes: torch.Tensor, size: int) -> torch.Tensor:
    """Which pixels of each view are in one of its boxes (B, E, 4): bool (B, S, S)."""
    place = torch.arange(size, device=boxes.device)
    inside = torch.zeros(len(boxes), size, size, dtype=torch.bool, device=boxes.device)
    for box in boxes.unbind(1):
        left, top, width, height = box[:, :, None].unbind(1)
        columns = (place >= left) & (place < left + width)  # (B, S)
        rows = (place >= top) & (place < top + height)
        inside |= rows[:, :, None] & columns[:, None, :]
    return inside
