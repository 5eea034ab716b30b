"""Make views on the device: workers decode images, and the device resamples a whole batch at once.

Workers also draw the random numbers, with the code of ``zoobot.data.views.cpu``; only the pixels
are computed on the device. So a galaxy's view depends only on the seed, the epoch and the galaxy,
not on the device.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from zoobot.data.bands.image import BandImage, read_band_image
from zoobot.data.bands.spec import ImageSpec
from zoobot.data.images import ImageError, image_of, read_pixels
from zoobot.data.sources import Galaxies
from zoobot.data.views.area import area_mean
from zoobot.data.views.config import GalaxyViewConfig, affine_ranges
from zoobot.data.views.cpu import GalaxyView, resample
from zoobot.data.views.geometry import compose_matrices, erase_boxes, sample_view_parameters
from zoobot.data.views.turned import TurnedViews
from zoobot.system.errors import UserError

VIEW_KEYS = ("matrix", "erased", "view_px", "oversampling")  # in a batch: arguments of ``warp``
LARGEST_HALF = 60000.0  # float16 holds up to 65504
LARGEST_FIT = 2.2  # of ``device_view_of``: times the default ``fitted_px``
NUM_LOOKED_AT = 16  # images, for their size
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
        view: a view as ``why_not_divided`` allows it; or ``TurnedViews`` of V angles.
        fitted_px: side of the fitted images. Best is the side of the images themselves: then they
            need no resize. The default is the smallest side that the largest zoom of the view does
            not magnify.

    Raises:
        ValueError: the view can't be divided.
    """

    def __init__(self, view: GalaxyView, fitted_px: int | None = None):
        if reason := why_not_divided(view):
            raise UserError(reason)
        self.config = view.config
        self._turned = [v.config for v in view.views] if isinstance(view, TurnedViews) else []
        self.view_px = view.config.output_size
        low, high = _zooms(view.config)
        self.fitted_px = fitted_px or math.ceil(self.view_px * high)
        # Image pixels per view pixel. Up to 1.25, one bilinear sample per view pixel is enough.
        shrink = self.fitted_px / self.view_px / low
        self.oversampling = max(1, math.ceil(shrink - 0.25))

    def __repr__(self) -> str:
        """What predictions depend on, besides the view's settings."""
        return f"DeviceView(fitted_px={self.fitted_px})"

    def fit(self, pixels: np.ndarray | BandImage) -> np.ndarray:
        """Resize the central square of pixels (H, W, C) to ``fitted_px``, grey if the view is.

        Pixels that have this size and these channels already are returned as they are. Bands become
        float16, as they go to the device.
        """
        if isinstance(pixels, BandImage):
            fitted = fit_bands(pixels, self.fitted_px)
            return fitted.clip(-LARGEST_HALF, LARGEST_HALF).astype(np.float16)
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

            Of turned views the first two are (B, V, 2, 3) and (B, V, E, 4).
        """
        random = GalaxyRandom(seed, epoch, indices)
        drawn = [self._draw(config, random, len(indices)) for config in self._turned]
        matrix, erased = (
            (np.stack(arrays, axis=1) for arrays in zip(*drawn, strict=True))
            if drawn
            else self._draw(self.config, random, len(indices))
        )
        return {
            "matrix": torch.from_numpy(matrix.astype(np.float32)),
            "erased": torch.from_numpy(erased.astype(np.int16)),
            "view_px": self.view_px,
            "oversampling": self.oversampling,
        }

    def _draw(
        self, config: GalaxyViewConfig, random: GalaxyRandom, num: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Matrices (B, 2, 3) and erased rectangles (B, E, 4) of one view of each galaxy."""
        parameters = sample_view_parameters(config, random, num)
        matrix = compose_matrices(parameters, (self.fitted_px, self.fitted_px), self.view_px)
        return matrix, erase_boxes(parameters, self.view_px)


def fit_bands(image: BandImage, size_px: int) -> np.ndarray:
    """The square of sky that all bands cover, float32 (S, S, C) with S = ``size_px``.

    To shrink, pixels are averaged over areas; to enlarge, interpolation is bilinear.
    """
    planes = [
        _fit_band(band, side_px, size_px)
        for band, side_px in zip(image.bands, image.sides_px, strict=True)
    ]
    return np.stack(planes, axis=-1)


def _fit_band(band: np.ndarray, side_px: float, size_px: int) -> np.ndarray:
    if band.shape == (size_px, size_px) and side_px == size_px:
        return band
    if side_px > size_px:
        return area_mean(band, size_px, side_px)
    whole = sample_view_parameters(GalaxyViewConfig(), np.random.default_rng(0))
    matrix = compose_matrices(whole, band.shape[::-1], size_px, side_px=side_px)[0]
    return np.asarray(resample(Image.fromarray(band), matrix, size_px))


def why_not_divided(view: Callable) -> str:
    """Why a view can't be left to the device, in words; empty if it can."""
    if type(view) not in (GalaxyView, TurnedViews):  # a subclass may do anything
        return f"augmenting on the device needs a view of ours, not {view!r:.60}"
    for name in ("fixed_crop", "center_crop"):
        if vars(view.config)[name]:
            return f"a view with {name} can't be made on the device: use the CPU"
    if view.config.interpolation_method != "bilinear":
        return "a view that is not bilinear can't be made on the device: use the CPU"
    return ""


def device_view_of(
    view: GalaxyView, galaxies: Galaxies, spec: ImageSpec | None = None
) -> DeviceView:
    """Make the device view for these galaxies.

    The side of its fitted images is the shorter side of the galaxies' images, as far as
    ``NUM_LOOKED_AT`` of them tell. So workers need not resize, which takes longer than decoding.
    Where their sizes differ, it is the largest, and not less than the default ``fitted_px``. If
    that is more than ``LARGEST_FIT`` times the default, the default is used.
    """
    divided = DeviceView(view)
    usual_px, sides = divided.fitted_px, _sides(galaxies, spec)
    side_px = max([*sides, usual_px]) if len(sides) != 1 else max(sides)
    return DeviceView(view, side_px) if side_px <= LARGEST_FIT * usual_px else divided


def _sides(galaxies: Galaxies, spec: ImageSpec | None) -> set[int]:
    """Shorter sides in pixels of the images of some galaxies, evenly spaced."""
    if galaxies.raw_px is not None:
        return {galaxies.raw_px}
    sides = set()
    for i in range(0, len(galaxies), -(-len(galaxies) // NUM_LOOKED_AT) or 1):
        try:
            source = galaxies.source(i)
            if spec is not None:
                sides.add(round(max(read_band_image(source, spec).sides_px)))
            else:
                sides.add(min(read_pixels(source, 3, "linear").shape[:2]))
        except ImageError:  # the error is reported when the galaxies are read
            pass
    return sides


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

    All is computed in float32, whatever autocast says: numbers of 8 bits of precision, as matrix
    products in bfloat16 or TF32 have, would move a view by up to a pixel.

    Args:
        images: uint8 (B, C, F, F), or floats, whose background is 0.
        matrix, erased, view_px, oversampling: see ``DeviceView.draw``.

    Returns:
        float32 (B, C, S, S) with S = ``view_px``, of uint8 images in 0-1; of turned views
        (B, V * C, S, S).
    """
    with torch.autocast(images.device.type, enabled=False):
        pixels = images.float()
        if matrix.ndim == 3:
            views = _warp(pixels, matrix, erased, view_px, oversampling)
        else:
            turned = zip(matrix.unbind(1), erased.unbind(1), strict=True)
            views = [_warp(pixels, *each, view_px, oversampling) for each in turned]
            views = torch.cat(views, dim=1).contiguous(memory_format=torch.channels_last)
        return views if images.is_floating_point() else views.div_(255)


def _warp(
    images: torch.Tensor,
    matrix: torch.Tensor,
    erased: torch.Tensor,
    view_px: int,
    oversampling: int,
) -> torch.Tensor:
    """One view of each image, float32 (B, C, F, F); see ``warp``."""
    fitted_px, fine_px = images.shape[-1], view_px * oversampling
    # Centres of the samples in view pixels; sums of products, because matmul may be in TF32.
    place = (torch.arange(fine_px, device=images.device) + 0.5) / oversampling
    x, y, shift = (column[:, None, None] for column in matrix.unbind(2))  # (B, 1, 1, 2)
    points = x * place[:, None] + (y * place[:, None, None] + shift)  # (B, F, F, 2) image pixels
    grid = points * (2 / fitted_px) - 1  # the image is from -1 to 1
    views = F.grid_sample(images, grid, align_corners=False)
    if oversampling > 1:
        views = F.avg_pool2d(views, oversampling)
    views = views.masked_fill_(_inside(erased, view_px)[:, None], 0.0)
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
