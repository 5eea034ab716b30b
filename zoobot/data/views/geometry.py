"""The random choices and the geometry of views, for any number of views at once.

Coordinates are continuous: (x, y) with y down, the centre of the first pixel at (0.5, 0.5), as in
Pillow and torchvision. The view's square is the largest one centred in the image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from zoobot.data.views.config import CROP_RATIO, ERASING, GalaxyViewConfig, affine_ranges

FREE_ROTATION_DEG = 90  # largest angle with ``rotation_prob``


class RandomNumbers(Protocol):
    """Source of random numbers: a ``numpy.random.Generator`` or ``GalaxyRandom``."""

    def random(self, shape: int | tuple[int, ...], /) -> np.ndarray:
        """Uniform in [0, 1)."""

    def uniform(self, low: Any, high: Any, shape: int | tuple[int, ...], /) -> np.ndarray:
        """Uniform in [low, high)."""


@dataclass(frozen=True)
class ViewParameters:
    """Random choices for N views. Lengths are fractions of the side of the view's square."""

    rotation_deg: np.ndarray  # (N,) clockwise
    shift_frac: np.ndarray  # (N, 2) x, y
    zoom: np.ndarray  # (N,)
    shear_deg: np.ndarray  # (N, 2) x, y
    window_frac: np.ndarray  # (N, 4) left, top, width, height of the crop, after the affine
    flip: np.ndarray  # (N, 2) bool: left-right, up-down
    erase_size_frac: np.ndarray  # (N, E, 2) width, height; 0 where nothing is erased
    erase_place: np.ndarray  # (N, E, 2) in [0, 1): 0 is flush left or top, 1 flush right or bottom


def sample_view_parameters(
    config: GalaxyViewConfig, rng: RandomNumbers, num: int = 1
) -> ViewParameters:
    """Draw the parameters of ``num`` views, uniform in their ranges; ratios are log-uniform.

    The distributions are those of torchvision's RandomAffine, RandomResizedCrop, flips and
    RandomErasing, except that shifts and crops are not rounded to whole pixels.
    """
    zeros, ones = np.zeros(num), np.ones(num)
    rotation, shift, zoom, shear = zeros, np.zeros((num, 2)), ones, np.zeros((num, 2))
    window = np.broadcast_to([0.0, 0.0, 1.0, 1.0], (num, 4))
    if config.random_affine:
        degrees, translate, scale, shears = affine_ranges(config.random_affine)
        rotation = rng.uniform(*degrees, num)
        shift = rng.uniform(-1.0, 1.0, (num, 2)) * translate
        zoom = rng.uniform(*scale, num)
        shear = rng.uniform(shears[:, 0], shears[:, 1], (num, 2))
    elif config.rotation_prob > 0:
        angle = rng.uniform(-FREE_ROTATION_DEG, FREE_ROTATION_DEG, num)
        rotation = np.where(rng.random(num) < config.rotation_prob, angle, 0.0)
    if config.random_resized_crop:
        crop = {"ratio": CROP_RATIO, **config.random_resized_crop}
        size = _rectangles(rng, (num,), crop["scale"], [1 / r for r in crop["ratio"]])
        window = np.concatenate([rng.random((num, 2)) * (1 - size), size], axis=1)
    flip = rng.random((num, 2)) < config.flip_prob
    shape = (num, config.erase_iterations)
    erasing = {**ERASING, **config.random_erasing}
    size = _rectangles(rng, shape, erasing["scale"], erasing["ratio"])
    size *= rng.random((*shape, 1)) < erasing["p"]
    place = rng.random((*shape, 2))
    return ViewParameters(rotation, shift, zoom, shear, window, flip, size, place)


def compose_matrices(
    parameters: ViewParameters,
    image_size: Sequence[int] | np.ndarray,
    output_size: int,
    crop_px: int | None = None,
    side_px: float | None = None,
) -> np.ndarray:
    """Matrices from points of the view to points of the image, one per view.

    torchvision's affine moves a point p of the square, relative to its centre, to
    ``zoom * R(rotation) @ [[1, 0], [-tan(shear_y), 1]] @ [[1, -tan(shear_x)], [0, 1]] @ p``
    plus the shift. Then the crop window is cut out, flipped and resized. The matrix here is the
    inverse of all this.

    Args:
        parameters: of N views.
        image_size: (width, height) in pixels, or (N, 2).
        output_size: side of the view in pixels.
        crop_px: side of the square in whole pixels, as torchvision cuts it.
        side_px: side of the centred square in pixels; by default the image's shorter side.

    Returns:
        (N, 2, 3) float64. For a matrix M, the point (x, y) of the view shows the point
        ``M @ [x, y, 1]`` of the image, both in pixels.
    """
    size = np.asarray(image_size, dtype=np.float64)
    if crop_px is None:
        side, centre = size.min(axis=-1) if side_px is None else np.float64(side_px), size / 2
    else:  # at the whole pixels where torchvision's CenterCrop cuts
        edge = (size - crop_px) / 2
        edge = np.where(edge < 0, np.ceil(edge), np.rint(edge))
        side, centre = np.float64(crop_px), edge + crop_px / 2
    angle = np.radians(parameters.rotation_deg)
    tan_x, tan_y = np.tan(np.radians(parameters.shear_deg)).T
    cos, sin = np.cos(angle), np.sin(angle)
    # inverse affine: [[1, tan_x], [0, 1]] @ [[1, 0], [tan_y, 1]] @ R(-rotation) / zoom
    bottom_x, bottom_y = tan_y * cos - sin, tan_y * sin + cos
    inverse = np.empty((len(angle), 2, 2))
    inverse[:, 0, 0], inverse[:, 0, 1] = cos + tan_x * bottom_x, sin + tan_x * bottom_y
    inverse[:, 1, 0], inverse[:, 1, 1] = bottom_x, bottom_y
    inverse *= (side / parameters.zoom)[:, None, None]
    window = parameters.window_frac[:, 2:]
    step = np.where(parameters.flip, -window, window) / output_size  # (N, 2)
    middle = parameters.window_frac[:, :2] + window / 2 - 0.5
    origin = middle - parameters.shift_frac - step * (output_size / 2)
    matrix = np.empty((len(angle), 2, 3))
    matrix[..., :2] = inverse * step[:, None, :]
    matrix[..., 2] = (inverse @ origin[..., None])[..., 0] + centre
    return matrix


def erase_boxes(parameters: ViewParameters, output_size: int) -> np.ndarray:
    """Rectangles to set to 0: (N, E, 4) int64: left, top, width, height in pixels."""
    size = np.minimum(np.rint(parameters.erase_size_frac * output_size), output_size)
    corner = np.floor(parameters.erase_place * (output_size - size + 1))
    return np.concatenate([corner, size], axis=-1).astype(np.int64)


def sample_matrix(
    config: GalaxyViewConfig, image_size: Sequence[int], rng: RandomNumbers
) -> np.ndarray:
    """Matrix (2, 3) float64 of one random view of an image of (width, height) pixels."""
    crop_px = config.output_size if config.center_crop else None
    parameters = sample_view_parameters(config, rng)
    return compose_matrices(parameters, image_size, config.output_size, crop_px)[0]


def _rectangles(
    rng: RandomNumbers,
    shape: tuple[int, ...],
    area_range: Sequence[float],
    ratio_range: Sequence[float],
) -> np.ndarray:
    """Widths and heights (*shape, 2), at most 1: area uniform, height / width log-uniform."""
    area = rng.uniform(*area_range, shape)
    root = np.exp(0.5 * rng.uniform(*sorted(math.log(r) for r in ratio_range), shape))
    side = np.sqrt(area)
    return np.minimum(np.stack([side / root, side * root], axis=-1), 1.0)
