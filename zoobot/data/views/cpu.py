"""Make the view of a galaxy's image on the CPU: random in training, fixed otherwise.

The image is resampled only once. Rotation, shear, zoom, shift, crop, flips and resize are combined
in a 2x3 matrix that takes points of the view to points of the image. Then rectangles are erased.
The random numbers and the geometry are those of ``views.geometry``; here are the pixels.

Coordinates are continuous, as in Pillow and torchvision: (x, y), y counts down, and the centre of
the first pixel is at (0.5, 0.5). A view shows the largest centred square of the image, so a galaxy
keeps its shape in an image that is not square. Points outside the image are black.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from zoobot.data.bands.image import BandImage
from zoobot.data.images import to_8bit
from zoobot.data.views.config import (
    FIXED_CROP_KEYS,
    GalaxyViewConfig,
    affine_ranges,
    check_view_config,
)
from zoobot.data.views.geometry import compose_matrices, erase_boxes, sample_view_parameters
from zoobot.system.errors import UserError

REDUCE_LEAVES = 2  # least image pixels per view pixel after the image is reduced by whole blocks

AnyImage = Image.Image | torch.Tensor | np.ndarray | BandImage


def get_galaxy_transform(cfg: GalaxyViewConfig | Mapping[str, Any]) -> "GalaxyView":
    """Make a view.

    Args:
        cfg: a ``GalaxyViewConfig``, or a dict of its fields.

    Raises:
        ValueError: a setting is unknown, not supported or out of range.
    """
    return GalaxyView(cfg)


class GalaxyView:
    """A transform of images, called as ``view(image, rng)``; see ``get_galaxy_transform``.

    Attributes:
        config: a checked copy of the settings.
        min_side_px: the image's shorter side that the view needs, for ``read_image``: at this
            size, even the largest zoom does not magnify (shear is not counted), and it is at least
            the config's. None: every pixel is needed.
    """

    def __init__(self, cfg: GalaxyViewConfig | Mapping[str, Any]):
        if isinstance(cfg, Mapping):
            values, cfg = cfg, GalaxyViewConfig()
            for name, value in values.items():
                setattr(cfg, str(name), value)
        if not isinstance(cfg, GalaxyViewConfig):
            raise UserError(f"a view config is a GalaxyViewConfig, not {type(cfg).__name__}")
        check_view_config(cfg)
        self.config = copy.deepcopy(cfg)
        self.min_side_px = _min_side_px(cfg)

    def decoded_at(self, min_side_px: int | None) -> "GalaxyView":
        """The same view of images that are decoded at this shorter side or more; None: in full."""
        if min_side_px == self.min_side_px:
            return self
        view = copy.copy(self)
        view.config = copy.deepcopy(self.config)
        view.config.min_side_px = min_side_px
        view.min_side_px = _min_side_px(view.config)
        return view

    def __call__(self, image: AnyImage, rng: np.random.Generator | None = None) -> torch.Tensor:
        """Make the view of an image.

        Args:
            image: a Pillow image; or uint8, a tensor (C, H, W) or an array (H, W, C) or (H, W); or
                bands, each of which is sampled by its own matrix.
            rng: None makes a generator from torch's generator.

        Returns:
            uint8 tensor (C, S, S) with S = ``output_size``. C is 1 for a grey image or with
            ``greyscale``, otherwise 3. Of bands, float32, C their number. Its order in memory is
            (S, S, C), so that a batch can be channels-last without a copy.
        """
        config, size = self.config, self.config.output_size
        layers = self._layers(image)
        rng = _generator_from_torch() if rng is None else rng
        parameters = sample_view_parameters(config, rng)
        crop_px = size if config.center_crop else None
        interpolation = config.interpolation_method
        kinds = dict.fromkeys((layer.size, side_px) for layer, side_px in layers)
        matrices = {
            kind: compose_matrices(parameters, kind[0], size, crop_px, kind[1])[0] for kind in kinds
        }
        planes = [
            np.asarray(resample(layer, matrices[layer.size, side_px], size, interpolation))
            for layer, side_px in layers
        ]
        pixels = planes[0].copy() if len(planes) == 1 else np.stack(planes, axis=-1)
        for left, top, width, height in erase_boxes(parameters, size)[0]:
            pixels[top : top + height, left : left + width] = 0
        return torch.from_numpy(pixels.reshape(size, size, -1)).permute(2, 0, 1)

    def _layers(self, image: AnyImage) -> list[tuple[Image.Image, float | None]]:
        """What is resampled: an image, or one a band, each with the side of its square."""
        if not isinstance(image, BandImage):
            return [(self._crop(_as_pil(image)), None)]
        sizes = {band.shape for band in image.bands}
        if self.config.greyscale:
            raise UserError("greyscale is for RGB images: leave it off, or choose one of the bands")
        if len(sizes) > 1 and (self.config.fixed_crop or self.config.center_crop):
            raise UserError(f"fixed_crop and center_crop need bands of one size, not {sizes}")
        layers = [self._crop(Image.fromarray(band)) for band in image.bands]
        sides = [None] * len(layers) if self.config.fixed_crop else image.sides_px
        return list(zip(layers, sides, strict=True))

    def _crop(self, image: Image.Image) -> Image.Image:
        """Apply ``greyscale`` and ``fixed_crop``."""
        if self.config.greyscale:
            image = image.convert("L")
        if self.config.fixed_crop:
            box = tuple(self.config.fixed_crop[key] for key in FIXED_CROP_KEYS)
            if box[2] > image.width or box[3] > image.height:
                raise UserError(f"fixed_crop {box} is outside an image of {image.size} pixels")
            image = image.crop(box)
        return image


def resample(
    image: Image.Image, matrix: np.ndarray, output_size: int, interpolation: str = "bilinear"
) -> Image.Image:
    """Compute the pixels of a view.

    A view that magnifies is bilinear. In a view that shrinks, a pixel is the mean over its area in
    the image. If the view is parallel to the image's axes, Pillow computes this mean. Otherwise it
    is approximated by the mean of point samples, at most one image pixel apart along the view's
    axes. This is faster and closer to the true mean than bilinear sampling of a shrunk image, and
    needs no blur before.

    Args:
        image: of mode 'L', 'RGB' or 'F'.
        matrix: (2, 3) from view to image, see ``compose_matrices``.
        output_size: side of the view in pixels.
        interpolation: 'bilinear' or 'nearest' (one point sample per pixel).

    Returns:
        An image of (output_size, output_size) pixels.
    """
    matrix = np.round(matrix, 9)  # makes whole pixels and right angles exact
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


def apply_transform(
    transform: Callable, image: Image.Image | BandImage, seed: int | Sequence[int] | None = None
) -> torch.Tensor:
    """Apply a view, or any torchvision v2 transform, to an image from ``read_image``.

    Args:
        transform: a ``GalaxyView``, or a transform that takes a ``tv_tensors.Image`` (C, H, W):
            uint8, or float32 of bands.
        image: of mode 'L' or 'RGB', or bands.
        seed: whole numbers >= 0 that fix the random draws; None draws from torch's generator.

    Returns:
        (C, H, W) tensor: uint8, or float32 if the transform returned floats.

    Raises:
        ValueError: the transform returned something else.
    """
    if isinstance(transform, GalaxyView):
        return transform(image, None if seed is None else np.random.default_rng(seed))
    from torchvision import tv_tensors  # here: it takes a second
    from torchvision.transforms.v2.functional import pil_to_tensor

    pixels = tv_tensors.Image(
        _stacked(image) if isinstance(image, BandImage) else pil_to_tensor(image)
    )
    if seed is None:
        output = transform(pixels)
    else:
        with torch.random.fork_rng(devices=[]):
            words = np.random.SeedSequence(seed).generate_state(2)
            torch.manual_seed((int(words[0]) << 31) ^ int(words[1]))
            output = transform(pixels)
    if isinstance(output, Image.Image):
        output = pil_to_tensor(output)
    if not isinstance(output, torch.Tensor) or output.ndim != 3:
        got = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise UserError(f"the transform gave {got}: it must give an image tensor (C, H, W)")
    output = output.as_subclass(torch.Tensor)
    if output.is_floating_point():
        return output.float()
    if output.dtype != torch.uint8:
        raise UserError(f"the transform gave {output.dtype}: it must give uint8 or floats in 0-1")
    return output


def _stacked(image: BandImage) -> torch.Tensor:
    """Bands of one size (C, H, W), for transforms that are not ours."""
    shapes = {band.shape for band in image.bands}
    if len(shapes) > 1:
        raise UserError(f"bands of sizes {sorted(shapes)[:3]} need a view of ours")
    return torch.from_numpy(np.stack(image.bands))


def _as_pil(image: AnyImage) -> Image.Image:
    """An image of mode 'L' or 'RGB'; see ``GalaxyView.__call__``."""
    if isinstance(image, Image.Image):
        return image if image.mode in ("L", "RGB") else to_8bit(image)
    pixels = image.permute(1, 2, 0).numpy() if isinstance(image, torch.Tensor) else image
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        is_array = isinstance(image, np.ndarray | torch.Tensor)
        kind = image.dtype if is_array else type(image).__name__
        raise UserError(f"a view takes a PIL image or uint8 pixels, not {kind}")
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim != 2 and (pixels.ndim != 3 or pixels.shape[-1] != 3):
        raise UserError(f"pixels of shape {tuple(image.shape)}: need 1 or 3 channels")
    return Image.fromarray(np.ascontiguousarray(pixels))


def decoded_alike(*transforms: Callable) -> list[Callable]:
    """Views, or other transforms, of one run, for which a JPEG is decoded at one size.

    It is the largest that one of them needs. Of a transform that is not ours it is not known: it
    gets full images, and then so do all. Else a validation view, which zooms less than the largest
    zoom of training, would often be made of a JPEG decoded at half the size.
    """
    needed = [t.min_side_px if isinstance(t, GalaxyView) else None for t in transforms]
    least = None if None in needed else max(needed)
    return [t.decoded_at(least) if isinstance(t, GalaxyView) else t for t in transforms]


def _min_side_px(config: GalaxyViewConfig) -> int | None:
    """See ``GalaxyView``."""
    needs_all = config.fixed_crop or config.center_crop or config.interpolation_method == "nearest"
    if needs_all or config.min_side_px is None:
        return None
    zoom = 1.0
    if config.random_affine:
        zoom = affine_ranges(config.random_affine)[2][1]
    elif config.random_resized_crop:
        zoom = 1 / math.sqrt(max(config.random_resized_crop["scale"][0], 1e-4))
    return max(math.ceil(config.output_size * zoom), config.min_side_px)


def _generator_from_torch() -> np.random.Generator:
    return np.random.default_rng(torch.randint(2**63 - 1, ()).item())


def _transform(
    image: Image.Image, matrix: np.ndarray, size: tuple[int, int], resampling: Image.Resampling
) -> Image.Image:
    """Sample an image of ``size`` through a matrix."""
    affine = Image.Transform.AFFINE
    return image.transform(size, affine, tuple(matrix.ravel().tolist()), resample=resampling)


def _resize_window(image: Image.Image, matrix: np.ndarray, output_size: int) -> Image.Image | None:
    """Resize and flip a window that is parallel to the image's axes; None if it leaves the image.

    It takes the area mean (bilinear if it magnifies), not a wider antialiasing filter, so that
    fixed views are as sharp as random ones.
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
