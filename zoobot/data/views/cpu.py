"""Views of a galaxy: what the model is shown of an image, random in training, else fixed.

A view is ONE resample. Rotation, shear, zoom, translation, crop, flips and resize are composed
into a 2x3 matrix that takes points of the view to points of the image; then rectangles are erased.
The random numbers (`sample_view_parameters`), the geometry (`compose_matrices`, `erase_boxes`) and
the pixels (`resample`) are separate, and the first two work on a batch.

Coordinates are continuous: (x, y) with y down, the centre of the first pixel at (0.5, 0.5), as in
Pillow and torchvision. The view's square is the largest one centred in the image, so a galaxy keeps
its shape in an image that is not square. Outside the image is black.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as TF

from zoobot.data.images import to_8bit
from zoobot.data.views.config import (
    CROP_RATIO,
    ERASING,
    FIXED_CROP_KEYS,
    GalaxyViewConfig,
    affine_ranges,
    check_view_config,
)
from zoobot.data.views.config import default_view_config as default_view_config
from zoobot.data.views.config import fast_view_config as fast_view_config
from zoobot.data.views.config import minimal_view_config as minimal_view_config
from zoobot.data.views.config import zoomed_view_configs as zoomed_view_configs
from zoobot.system.errors import UserError

FREE_ROTATION_DEG = 90  # of `rotation_prob`
REDUCE_LEAVES = 2  # average whole blocks first, if a shrink of at least this is left after it


def get_galaxy_transform(config):
    """The view that `config` (a GalaxyViewConfig, or a mapping of its fields) describes.

    Raises:
        ValueError: a setting is unknown, unsupported or out of range.
    """
    return GalaxyView(config)


class GalaxyView:
    """Callable `view(image, rng)`; see `get_galaxy_transform`.

    Attributes:
        config: a checked copy of the settings.
        min_side_px: how large the shorter side of the image must be for the largest zoom (shear's
            stretch aside) to shrink it; hand it to `read_image`. None: every pixel is needed.
    """

    def __init__(self, config):
        if isinstance(config, Mapping):
            values, config = config, GalaxyViewConfig()
            for name, value in values.items():
                setattr(config, name, value)
        if not isinstance(config, GalaxyViewConfig):
            raise UserError(f"a view config is a GalaxyViewConfig, not {type(config).__name__}")
        check_view_config(config)
        self.config = copy.deepcopy(config)
        self.min_side_px = _min_side_px(config)

    def __call__(self, image, rng=None):
        """
        Args:
            image: PIL.Image; or uint8, a tensor (C, H, W) or an array (H, W, C) or (H, W).
            rng: numpy.random.Generator; None makes one from torch's generator.

        Returns:
            uint8 tensor (C, S, S) with S = output_size, C = 1 for grey images or `greyscale`,
            else 3. Its memory order is (S, S, C), of which a batch is channels-last at no cost.
        """
        config, size = self.config, self.config.output_size
        image = self._crop(_as_pil(image))
        rng = _generator_from_torch() if rng is None else rng
        parameters = sample_view_parameters(config, rng)
        crop_px = size if config.center_crop else None
        matrix = compose_matrices(parameters, image.size, size, crop_px)[0]
        pixels = np.array(resample(image, matrix, size, config.interpolation_method))
        for left, top, width, height in erase_boxes(parameters, size)[0]:
            pixels[top : top + height, left : left + width] = 0
        return torch.from_numpy(pixels.reshape(size, size, -1)).permute(2, 0, 1)

    def _crop(self, image):
        if self.config.greyscale:
            image = image.convert("L")
        if self.config.fixed_crop:
            box = tuple(self.config.fixed_crop[key] for key in FIXED_CROP_KEYS)
            if box[2] > image.width or box[3] > image.height:
                raise UserError(f"fixed_crop {box} is outside an image of {image.size} pixels")
            image = image.crop(box)
        return image


@dataclass(frozen=True)
class ViewParameters:
    """The random choices of N views. Lengths are fractions of the side of the view's square."""

    rotation_deg: np.ndarray  # (N,) clockwise
    shift_frac: np.ndarray  # (N, 2) x, y
    zoom: np.ndarray  # (N,)
    shear_deg: np.ndarray  # (N, 2) x, y
    window_frac: np.ndarray  # (N, 4) left, top, width, height of the crop, after the affine
    flip: np.ndarray  # (N, 2) bool: left-right, up-down
    erase_size_frac: np.ndarray  # (N, E, 2) width, height; 0 where nothing is erased
    erase_place: np.ndarray  # (N, E, 2) in [0, 1): 0 is flush left or top, 1 flush right or bottom


def sample_view_parameters(config, rng, num=1):
    """Draw the parameters of `num` views, each uniform within its range, ratios log-uniform.

    The distributions are those of torchvision's RandomAffine, RandomResizedCrop, flips and
    RandomErasing, but for translations and crops, which aren't rounded to whole pixels.
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


def compose_matrices(parameters, image_size, output_size, crop_px=None):
    """One matrix a view from points of the view to points of the image.

    An affine as torchvision defines it moves a point p of the square, about the centre, to
    `zoom * R(rotation) @ [[1, 0], [-tan(shear_y), 1]] @ [[1, -tan(shear_x)], [0, 1]] @ p + shift`;
    the crop window is cut from the result, then flipped, then resized. Here is the way back.

    Args:
        parameters: ViewParameters of N views.
        image_size: (width, height) in pixels, or (N, 2).
        output_size: side of the view in pixels.
        crop_px: side of the square in pixels; by default the image's shorter side.

    Returns:
        (N, 2, 3) float64 M: `M @ [x, y, 1]` is the point of the image, in pixels, that the point
        (x, y) of the view, in pixels, shows.
    """
    size = np.asarray(image_size, dtype=np.float64)
    if crop_px is None:
        side, centre = size.min(axis=-1), size / 2
    else:  # on the whole pixels that torchvision's CenterCrop takes
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


def erase_boxes(parameters, output_size):
    """(N, E, 4) int64: left, top, width, height in pixels of the rectangles to set to 0."""
    size = np.minimum(np.rint(parameters.erase_size_frac * output_size), output_size)
    corner = np.floor(parameters.erase_place * (output_size - size + 1))
    return np.concatenate([corner, size], axis=-1).astype(np.int64)


def sample_matrix(config, image_size, rng):
    """(2, 3) float64: the matrix of one random view of an image of (width, height) pixels."""
    crop_px = config.output_size if config.center_crop else None
    parameters = sample_view_parameters(config, rng)
    return compose_matrices(parameters, image_size, config.output_size, crop_px)[0]


def resample(image, matrix, output_size, interpolation="bilinear"):
    """Show `image` through `matrix`.

    Bilinear where it magnifies. Where it shrinks, a view along the image's axes is Pillow's mean
    over the area of a view pixel; others are the mean of point samples at most one image pixel
    apart along the view's axes, which approaches it for any shape of that area and needs no blur
    before: faster and nearer to the area mean than bilinear sampling of a shrunk image.

    Args:
        image: PIL.Image of mode 'L' or 'RGB'.
        matrix: (2, 3) from view to image, see `compose_matrices`.
        output_size: side of the view in pixels.
        interpolation: 'bilinear' or 'nearest' (one point sample a pixel).

    Returns:
        PIL.Image of (output_size, output_size) pixels.
    """
    matrix = np.round(matrix, 9)  # so that whole pixels and right angles are exactly that
    if interpolation == "nearest":
        return _transform(image, matrix, (output_size, output_size), Image.Resampling.NEAREST)
    if matrix[0, 1] == 0 and matrix[1, 0] == 0:
        aligned = _resize_window(image, matrix, output_size)
        if aligned is not None:
            return aligned
    blocks = int(np.hypot(matrix[:, 0], matrix[:, 1]).min() / REDUCE_LEAVES)
    if blocks > 1:
        image, matrix = image.reduce(blocks), matrix / blocks
    steps = np.hypot(matrix[0, :2], matrix[1, :2])  # image pixels per view pixel, along x and y
    if steps.max() <= 1 + 1e-6:
        return _transform(image, matrix, (output_size, output_size), Image.Resampling.BILINEAR)
    num_x, num_y = np.maximum(2, np.ceil(steps - 1e-6)).astype(int).tolist()
    fine = matrix / np.array([num_x, num_y, 1])
    fine_size = (output_size * num_x, output_size * num_y)
    return _transform(image, fine, fine_size, Image.Resampling.NEAREST).reduce((num_x, num_y))


def apply_transform(transform, image, seed=None):
    """Apply a GalaxyView, or any torchvision v2 transform, to an image from `read_image`.

    Transforms other than a GalaxyView are given a uint8 `tv_tensors.Image` (C, H, W).

    Args:
        seed: whole numbers >= 0 of which the random draws are a function; None draws from torch's
            generator as it stands.

    Returns:
        (C, H, W) tensor: uint8, or float32 if the transform made floats.

    Raises:
        ValueError: the transform returned something else.
    """
    if isinstance(transform, GalaxyView):
        return transform(image, None if seed is None else np.random.default_rng(seed))
    pixels = tv_tensors.Image(TF.pil_to_tensor(image))
    if seed is None:
        output = transform(pixels)
    else:
        with torch.random.fork_rng(devices=[]):
            words = np.random.SeedSequence(seed).generate_state(2)
            torch.manual_seed((int(words[0]) << 31) ^ int(words[1]))
            output = transform(pixels)
    if isinstance(output, Image.Image):
        output = TF.pil_to_tensor(output)
    if not isinstance(output, torch.Tensor) or output.ndim != 3:
        got = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise UserError(f"the transform gave {got}: it must give an image tensor (C, H, W)")
    output = output.as_subclass(torch.Tensor)
    if output.is_floating_point():
        return output.float()
    if output.dtype != torch.uint8:
        raise UserError(f"the transform gave {output.dtype}: it must give uint8 or floats in 0-1")
    return output


def _as_pil(image):
    if isinstance(image, Image.Image):
        return image if image.mode in ("L", "RGB") else to_8bit(image)
    pixels = image.permute(1, 2, 0).numpy() if isinstance(image, torch.Tensor) else image
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        kind = getattr(image, "dtype", type(image).__name__)
        raise UserError(f"a view takes a PIL image or uint8 pixels, not {kind}")
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim != 2 and (pixels.ndim != 3 or pixels.shape[-1] != 3):
        raise UserError(f"pixels of shape {tuple(image.shape)}: need 1 or 3 channels")
    return Image.fromarray(np.ascontiguousarray(pixels))


def _min_side_px(config):
    if config.fixed_crop or config.center_crop or config.interpolation_method == "nearest":
        return None
    zoom = 1.0
    if config.random_affine:
        zoom = affine_ranges(config.random_affine)[2][1]
    elif config.random_resized_crop:
        zoom = 1 / math.sqrt(max(config.random_resized_crop["scale"][0], 1e-4))
    return math.ceil(config.output_size * zoom)


def _generator_from_torch():
    return np.random.default_rng(torch.randint(2**63 - 1, ()).item())


def _rectangles(rng, shape, area_range, ratio_range):
    """(*shape, 2) width, height within 1, of uniform area and log-uniform height / width."""
    area = rng.uniform(*area_range, shape)
    root = np.exp(0.5 * rng.uniform(*sorted(math.log(r) for r in ratio_range), shape))
    side = np.sqrt(area)
    return np.minimum(np.stack([side / root, side * root], axis=-1), 1.0)


def _transform(image, matrix, size, resampling):
    affine = Image.Transform.AFFINE
    return image.transform(size, affine, tuple(matrix.ravel().tolist()), resample=resampling)


def _resize_window(image, matrix, output_size):
    """Area mean (bilinear where it magnifies) and flips of an axis-aligned window.

    The area mean, not a wider antialiasing filter, so that fixed views are as sharp as random ones.
    None if the window leaves the image.
    """
    ends = matrix[:, 2] + np.outer([0, output_size], np.diag(matrix))  # (2, 2) corners
    low, high = ends.min(axis=0), ends.max(axis=0)
    if (low < -1e-6).any() or (high > np.array(image.size) + 1e-6).any():
        return None
    box = tuple(np.clip([*low, *high], 0, [*image.size] * 2).tolist())
    size = (output_size, output_size)
    shrinks = min(box[2] - box[0], box[3] - box[1]) > output_size
    filter_ = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
    image = image.resize(size, filter_, box)
    if matrix[0, 0] < 0:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if matrix[1, 1] < 0:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return image
