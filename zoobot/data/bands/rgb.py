"""Pictures of galaxies in any bands, for people: a colour composite of three, or one in grey."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from PIL import Image

from zoobot.data.bands.image import BandImage, offsets
from zoobot.data.bands.scaling import lupton, sky_of
from zoobot.data.bands.spec import ImageSpec
from zoobot.data.views.cpu import GalaxyView
from zoobot.system.errors import UserError

NOISE_LEVEL = 0.06  # brightness of the sky, so that negative noise is seen too
BALANCE = 0.75  # 1: the bright pixels have no colour on average; 0: they keep all of it
BRIGHT_PERCENT = 2.0  # of the pixels, that tell how bright a channel is
FAINTEST = 3.0  # times its noise: a channel without light is not made as strong as the others
BRIGHTEST = 99.9  # percentile of the pixels
SOFTENING = 4.0  # of the noise: a larger one shows less of the faint and more of the bright


def rgb_bands(spec: ImageSpec, chosen: Sequence[str] | None = None) -> tuple[str, ...]:
    """The bands of a picture: red, green and blue; or one, for grey.

    Args:
        chosen: three bands or one; by default the last, the middle and the first, for bands are
            usually given from blue to red. Of more than five the outermost are not taken: they are
            often the noisiest.

    Raises:
        ValueError: a band is none of the spec's, or there are not three or one.
    """
    if chosen is None:
        bands = spec.bands[1:-1] if len(spec.bands) > 5 else spec.bands
        return (bands[-1], bands[len(bands) // 2], bands[0]) if len(bands) > 2 else bands[-1:]
    unknown = [band for band in chosen if band not in spec.bands]
    if unknown or len(chosen) not in (1, 3):
        raise UserError(
            f"picture of bands {' '.join(chosen)}: give red, green and blue, or one band, of "
            f"{' '.join(spec.bands)}"
        )
    return tuple(chosen)


def galaxy_rgb(
    image: BandImage | torch.Tensor | np.ndarray,
    spec: ImageSpec,
    bands: Sequence[str] | None = None,
    size_px: int | None = None,
    balance: Sequence[float] | None = None,
) -> Image.Image:
    """A picture of a galaxy, as Lupton et al. (2004, PASP 116, 133) make it.

    Args:
        image: as ``read_band_image`` reads it; or a view (C, S, S) as a dataset gives it.
        spec: of the image.
        bands: red, green and blue, or one for grey; see ``rgb_bands``.
        size_px: side of the picture; by default that of the view, or of the largest band.
        balance: factor of each channel, as ``white_balance`` finds them for several galaxies, whose
            colours can then be compared; by default that of this galaxy, which takes away most of
            its colour.

    Returns:
        A Pillow image of mode 'RGB'.

    Raises:
        ValueError: ``bands`` are none of the spec's, or the image has another number of bands.
    """
    flux = _flux(image, spec, bands, size_px)
    if balance is None:
        balance = _factors(np.log(_strength(flux))) ** BALANCE
    flux = flux * np.asarray(balance, np.float32)[:, None, None]
    if spec.scaling in ("lupton", "percentiles"):
        levels = flux
    else:
        noise = math.hypot(*_noise(flux)) / len(flux)  # of the channels' mean
        levels = lupton(flux / np.float32(SOFTENING * noise))
    levels = levels / max(np.percentile(levels.max(0), BRIGHTEST), 1e-6)
    levels = levels + NOISE_LEVEL
    levels = levels / np.maximum(levels.max(0), 1)  # keeps the hue of what is brighter than white
    rgb = (levels.clip(0, 1) * 255 + 0.5).astype(np.uint8)
    rgb = np.broadcast_to(rgb, (3, *rgb.shape[1:])).transpose(1, 2, 0)
    picture = Image.fromarray(np.ascontiguousarray(rgb))
    if size_px and picture.size != (size_px, size_px):
        picture = picture.resize((size_px, size_px), Image.Resampling.BILINEAR)
    return picture


def white_balance(
    images: Iterable[BandImage], spec: ImageSpec, bands: Sequence[str] | None = None
) -> np.ndarray:
    """Factor of each channel (C,) with which these galaxies are grey on average.

    In units of its noise the deepest band would colour every galaxy.

    Args:
        images: at least one.
        spec, bands: as for ``galaxy_rgb``.

    See ``in_flux`` for colours that do not depend on each image's own noise.
    """
    return _factors(np.mean([np.log(_strength(_flux(i, spec, bands))) for i in images], axis=0))


def in_flux(spec: ImageSpec) -> ImageSpec:
    """The same bands, read as the file's numbers above the sky: so colours are those of the sky.

    In units of its noise, which is higher where a galaxy fills the image, a band is too faint.
    """
    ones = (1.0,) * len(spec.bands)
    return dataclasses.replace(spec, scaling="linear", noise=ones, mean=None, std=None)


def _strength(flux: np.ndarray) -> np.ndarray:
    """Mean of each channel (C,), of (C, H, W), where the image is bright."""
    bright = flux.sum(0) >= np.percentile(flux.sum(0), 100 - BRIGHT_PERCENT)
    return np.maximum(flux[:, bright].mean(1), FAINTEST * np.array(_noise(flux)))


def _noise(flux: np.ndarray) -> list[float]:
    """Of the sky in each channel of (C, H, W)."""
    return [sky_of(channel.ravel())[1] for channel in flux]


def _factors(log_strength: np.ndarray) -> np.ndarray:
    return np.exp(log_strength.mean() - log_strength)


def _flux(
    image: BandImage | torch.Tensor | np.ndarray,
    spec: ImageSpec,
    bands: Sequence[str] | None,
    size_px: int | None = None,
) -> np.ndarray:
    """Pixels (C, H, W) of the chosen bands before their scaling, the sky at 0."""
    chosen = [spec.bands.index(band) for band in rgb_bands(spec, bands)]
    offset = None
    if isinstance(image, BandImage):
        side = size_px or round(max(image.sides_px))
        image = GalaxyView({"output_size": side})(image)
    else:
        offset = offsets(spec)
    pixels = torch.as_tensor(image).detach().cpu().float().numpy()
    if pixels.ndim != 3 or len(pixels) != len(spec.bands):
        raise UserError(f"an image {pixels.shape} is none of {len(spec.bands)} bands (C, H, W)")
    if offset is not None:
        pixels = pixels + offset[:, None, None]
    if spec.std is not None:
        pixels = pixels * np.array(spec.std, np.float32)[:, None, None]
    return (np.sinh(pixels) * spec.softening if spec.scaling == "asinh" else pixels)[chosen]
