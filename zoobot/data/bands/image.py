"""``BandImage``: one galaxy's image of any number of bands, scaled, as views take it."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from zoobot.data.bands.read import BandSource, read_bands
from zoobot.data.bands.scaling import scale_bands
from zoobot.data.bands.spec import ImageSpec
from zoobot.data.images import ImageError
from zoobot.system.errors import UserError


@dataclasses.dataclass(frozen=True)
class BandImage:
    """Bands that show the same square of sky, each with its own pixels.

    Attributes:
        bands: (H, W) float32 each; the sky, and missing pixels, are 0.
        sides_px: side of the common square in each band's pixels; it is centred in each.
        no_data: values that were taken for no data.
    """

    bands: tuple[np.ndarray, ...]
    sides_px: tuple[float, ...]
    no_data: tuple[float, ...] = ()


def read_band_image(
    source: BandSource | np.ndarray, spec: ImageSpec, name: str | None = None
) -> BandImage:
    """Read and scale a galaxy's bands; in units of their spread, once ``spec.std`` is known.

    Args:
        source, name: as for ``read_bands``; or pixels (S, S, C) of shards, which are scaled
            already and show the whole square of sky.

    Raises:
        ImageError: as ``read_bands``, or a band has no finite pixel.
    """
    if isinstance(source, np.ndarray):
        scaled = _standardised([*np.moveaxis(source, -1, 0).astype(np.float32, order="C")], spec)
        return BandImage(tuple(scaled), tuple(float(len(band)) for band in scaled))
    bands = read_bands(source, spec, name)
    try:
        scaled, no_data = scale_bands(bands, spec)
    except UserError as error:
        raise ImageError(f"{name or source}: {error}") from error
    scaled = _standardised(scaled, spec)
    return BandImage(tuple(scaled), sides_px(spec, scaled), tuple(no_data))


def _standardised(bands: list[np.ndarray], spec: ImageSpec) -> list[np.ndarray]:
    """Bands (H, W) in units of their spread, if that is known; they are changed in place."""
    if spec.std is None:
        return bands
    for band, std in zip(bands, spec.std, strict=True):
        band /= np.float32(std)
    return bands


def stack_bands(image: BandImage) -> np.ndarray:
    """The bands as one array (C, H, W); an empty one if they are not of one size."""
    if len({band.shape for band in image.bands}) > 1:
        return np.empty((0, 0, 0), np.float32)
    return np.stack(image.bands)


def sides_px(spec: ImageSpec, bands: Sequence[np.ndarray]) -> tuple[float, ...]:
    """Side of the largest centred square of sky that all bands cover, in each band's pixels."""
    shorter = [min(band.shape) for band in bands]
    if spec.pixel_scale is None:
        return tuple(map(float, shorter))
    side = min(px * scale for px, scale in zip(shorter, spec.pixel_scale, strict=True))
    return tuple(side / scale for scale in spec.pixel_scale)


def offsets(spec: ImageSpec) -> np.ndarray | None:
    """What is subtracted from views (C,), so that each band's mean is 0; None: not yet known."""
    if spec.mean is None or spec.std is None:
        return None
    return np.array(spec.mean, np.float32) / np.array(spec.std, np.float32)
