"""``BandImage``: one galaxy's image of any number of bands, scaled, as views take it."""

import dataclasses

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


def read_band_image(source: BandSource, spec: ImageSpec, name: str | None = None) -> BandImage:
    """Read and scale a galaxy's bands; in units of their spread, once ``spec.std`` is known.

    Args:
        source, name: as for ``read_bands``.

    Raises:
        ImageError: as ``read_bands``, or a band has no finite pixel.
    """
    bands = read_bands(source, spec, name)
    try:
        scaled, no_data = scale_bands(bands, spec)
    except UserError as error:
        raise ImageError(f"{name or source}: {error}") from error
    if spec.std is not None:
        scaled = [band / np.float32(std) for band, std in zip(scaled, spec.std, strict=True)]
    return BandImage(tuple(scaled), sides_px(spec, scaled), tuple(no_data))


def sides_px(spec: ImageSpec, bands: list[np.ndarray]) -> tuple[float, ...]:
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
