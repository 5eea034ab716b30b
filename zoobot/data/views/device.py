"""Views on the device: workers decode and fit images, and a whole batch is resampled at once.

The random choices are drawn by the workers, so that a galaxy's view in an epoch is a function of
(seed, epoch, galaxy) on any device; they are those of ``zoobot.data.views``, of which only the
pixels are computed elsewhere.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from zoobot.data.images import ImageError, read_pixels
from zoobot.data.views.config import affine_ranges
from zoobot.data.views.cpu import (
    GalaxyView,
    compose_matrices,
    erase_boxes,
    resample,
    sample_view_parameters,
)
from zoobot.system.errors import UserError

VIEW_KEYS = ("matrix", "erased", "view_px", "oversampling")  # of a batch, for `warp`
LARGEST_FIT = 2.2  # times what the view needs
GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)


class GalaxyRandom:
    """Random numbers of N galaxies at once; a galaxy's do not depend on the others.

    SplitMix64 (Steele, Lea & Flood 2014) of a key a galaxy and a count of draws. It has the two
    methods of ``numpy.random.Generator`` that ``sample_view_parameters`` calls; shapes start with
    N.
    """

    def __init__(self, seed: int, epoch: int, indices):
        key = np.array(indices, dtype=np.uint64)
        for word in (epoch, seed):
            key = _mix(key * GOLDEN_GAMMA + np.uint64(word % 2**64))
        self._key = key
        self._drawn = 0

    def random(self, shape) -> np.ndarray:
        """Uniform in [0, 1): an array of this shape."""
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        num_a_galaxy = math.prod(shape[1:])
        counts = np.arange(self._drawn, self._drawn + num_a_galaxy, dtype=np.uint64) + np.uint64(1)
        self._drawn += num_a_galaxy
        bits = _mix(self._key[:, None] + counts * GOLDEN_GAMMA)
        return ((bits >> np.uint64(11)) * 2.0**-53).reshape(shape)

    def uniform(self, low, high, shape) -> np.ndarray:
        """Uniform in [low, high)."""
        return low + (np.asarray(high) - low) * self.random(shape)


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer; uint64 arithmetic wraps around."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class DeviceView:
    """A view in two steps: ``fit`` and ``draw`` in a worker, ``warp`` on the device.

    Args:
        view: the view, of which ``fixed_crop`` and ``center_crop`` can't be divided so.
        fitted_px: side of the fitted images; best that of the images themselves, which then need no
            fitting. By default what the view's largest zoom shows at full resolution.

    Raises:
        ValueError: for a view that can't be divided, or none of ours.
    """

    def __init__(self, view: GalaxyView, fitted_px: int | None = None):
        if not isinstance(view, GalaxyView):
            raise UserError(f"augmenting on the device needs a view of ours, not {view!r:.60}")
        for name in ("fixed_crop", "center_crop"):
            if getattr(view.config, name):
                raise UserError(f"a view with {name} can't be made on the device: use the CPU")
        self.config = view.config
        self.view_px = view.config.output_size
        low, high = _zooms(view.config)
        self.fitted_px = fitted_px or math.ceil(self.view_px * high)
        # image pixels a view pixel; up to a quarter more than one, bilinear sampling is as good
        shrink = self.fitted_px / self.view_px / low
        self.oversampling = max(1, math.ceil(shrink - 0.25))

    def fit(self, pixels: np.ndarray) -> np.ndarray:
        """The central square of pixels (H, W, C), at ``fitted_px``; as they are if they fit."""
        size_px = (self.fitted_px, self.fitted_px)
        if pixels.shape[:2] != size_px or (self.config.greyscale and pixels.shape[2] == 3):
            image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])
            image = image.convert("L") if self.config.greyscale else image
            whole = sample_view_parameters(type(self.config)(), np.random.default_rng(0))
            matrix = compose_matrices(whole, image.size, self.fitted_px)[0]
            pixels = np.array(resample(image, matrix, self.fitted_px)).reshape(*size_px, -1)
        return pixels

    def draw(self, seed: int, epoch: int, indices) -> dict:
        """The views of these galaxies in this epoch, as a batch holds them.

        Returns:
            ``matrix`` float32 (B, 2, 3) from points of the view to points of the fitted image;
            ``erased`` int16 (B, E, 4): left, top, width, height; ``view_px``, ``oversampling``.
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


def device_view_of(view: GalaxyView, galaxies) -> DeviceView:
    """The view of these galaxies, fitted to their images' own size unless they are far too large.

    Resizing would cost a worker more time than decoding.
    """
    divided = DeviceView(view)
    if len(galaxies) == 0:
        return divided
    try:
        side_px = min(read_pixels(galaxies.source(0), 3, "linear").shape[:2])
    except ImageError:  # whoever reads the galaxies will tell
        return divided
    return DeviceView(view, side_px) if side_px <= LARGEST_FIT * divided.fitted_px else divided


def _zooms(config) -> tuple[float, float]:
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
    """Fitted images (B, C, F, F), uint8, to views (B, C, S, S), float32 in 0-1, on their device.

    Args:
        matrix, erased, view_px, oversampling: see ``DeviceView.draw``.
    """
    num, channels, fitted_px, _ = images.shape
    fine_px = view_px * oversampling
    linear = matrix[:, :, :2] * (view_px / fitted_px)  # coordinates from -1 to 1 on both sides
    shift = linear.sum(dim=2) + matrix[:, :, 2] * (2 / fitted_px) - 1
    theta = torch.cat([linear, shift[:, :, None]], dim=2)
    grid = F.affine_grid(theta, [num, channels, fine_px, fine_px], align_corners=False)
    views = F.grid_sample(images.float(), grid, align_corners=False)
    if oversampling > 1:
        views = F.avg_pool2d(views, oversampling)
    views = views.div_(255).masked_fill_(_inside(erased, view_px)[:, None], 0.0)
    return views.contiguous(memory_format=torch.channels_last)


def _inside(boxes: torch.Tensor, size: int) -> torch.Tensor:
    """(B, S, S) bool: the pixels within any of a view's boxes (B, E, 4)."""
    place = torch.arange(size, device=boxes.device)
    inside = torch.zeros(len(boxes), size, size, dtype=torch.bool, device=boxes.device)
    for box in boxes.unbind(1):
        left, top, width, height = box[:, :, None].unbind(1)
        columns = (place >= left) & (place < left + width)  # (B, S)
        rows = (place >= top) & (place < top + height)
        inside |= rows[:, :, None] & columns[:, None, :]
    return inside
