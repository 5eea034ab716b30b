"""Scale the numbers of bands to what a network learns from; the sky becomes 0.

A band's sky is the median of its pixels, its noise the distance from the median down to the
percentile 16, both of pixels that are no ``find_no_data``: a galaxy, a star or a cosmic ray does
not change them. Missing pixels become 0, as the sky.
"""

from collections.abc import Sequence

import numpy as np

from zoobot.data.bands.spec import ImageSpec
from zoobot.data.brightness import (
    LARGEST,
    find_no_data,
    is_unusual,
    low_and_median,
    scale_to_unit,
)
from zoobot.system.errors import UserError

LUPTON_Q = 8.0
LUPTON_STRETCH = 5.0  # units of noise: the intensity where it turns from linear


def scale_bands(
    bands: Sequence[np.ndarray], spec: ImageSpec
) -> tuple[list[np.ndarray], list[float]]:
    """Scale a galaxy's bands, as ``spec.scaling`` says.

    - ``asinh``: arcsinh((x - sky) / (softening * noise)) of each band (Lupton et al. 1999).
    - ``linear``: (x - sky) / noise of each band.
    - ``lupton``: as ``linear``, then three bands together as in Lupton et al. 2004: each times
      arcsinh(Q I / s) / (Q I / s), where I is their mean: colours are kept.
    - ``percentiles``: as 8-bit images are scaled: the lowest pixel of all bands becomes 0, the
      percentile 99.7 becomes 1, with an arcsinh between (``brightness.scale_to_8bit``).
    - ``none``: as they are.

    Args:
        bands: (H, W) numbers each, NaN where missing.

    Returns:
        float32 (H, W) each, and the values that were taken for no data.

    Raises:
        ValueError: a band has no finite pixel.
    """
    no_data: list[float] = []
    if spec.scaling == "percentiles":
        return _by_percentiles(bands)
    scaled = []
    for i, (name, stored) in enumerate(zip(spec.bands, bands, strict=True)):
        # In 16 bits or fewer, and in unsigned integers, differences would overflow.
        pixels = stored.astype(np.result_type(stored.dtype, np.float32), copy=False)
        missing, found, sky, noise = _look_at(pixels, name)
        no_data += found
        if spec.scaling == "none":
            sky, noise = 0.0, 1.0
        elif spec.noise is not None:
            noise = spec.noise[i]
        unit = noise * (spec.softening if spec.scaling == "asinh" else 1.0)
        values = pixels - sky
        values /= unit
        values = values.astype(np.float32, order="C", copy=False)
        if missing is not None:
            values[missing] = 0.0
        scaled.append(np.arcsinh(values, out=values) if spec.scaling == "asinh" else values)
    if spec.scaling == "lupton":
        if len({band.shape for band in scaled}) > 1:
            raise UserError("scaling lupton needs bands of one size; use asinh")
        scaled = [*lupton(np.stack(scaled))]
    return scaled, no_data


def lupton(bands: np.ndarray) -> np.ndarray:
    """Scale bands (C, H, W), in units of the sky noise, together, so that colours are kept."""
    mean = np.maximum(bands.mean(0), 1e-6)
    x = LUPTON_Q * mean / LUPTON_STRETCH
    return bands * (np.arcsinh(x) / x / LUPTON_Q)


def _look_at(pixels: np.ndarray, name: str) -> tuple[np.ndarray | None, list[float], float, float]:
    """Which pixels are missing (None: none is), the values for no data, the sky and its noise."""
    missing = None
    if pixels.dtype.kind == "f" and not -LARGEST <= pixels.min() <= pixels.max() <= LARGEST:
        missing = ~(np.abs(pixels) <= LARGEST)  # NaN too
    usable = pixels.ravel() if missing is None else pixels[~missing]
    if usable.size == 0:
        raise UserError(f"band {name} has no finite pixels")
    p16, median = low_and_median(usable)
    no_data = find_no_data(usable) if is_unusual(usable, p16, median) else []
    if no_data:
        known = np.isin(pixels, no_data)
        missing = known if missing is None else missing | known
        usable = pixels[~missing]
        p16, median = low_and_median(usable)
    return missing, no_data, median, _noise(usable, p16, median)


def sky_of(pixels: np.ndarray) -> tuple[float, float]:
    """Level and noise of the sky among finite pixels (N,); the noise is above 0."""
    p16, median = low_and_median(pixels)
    return median, _noise(pixels, p16, median)


def _noise(pixels: np.ndarray, p16: float, median: float) -> float:
    if median > p16:
        return median - p16
    return float(pixels.std(dtype=np.float64)) or 1.0  # drawn, masked, or counts of few photons


def _by_percentiles(bands: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[float]]:
    shapes = [band.shape for band in bands]
    unit, no_data = scale_to_unit(np.concatenate([b.ravel() for b in bands]), "asinh")
    ends = np.cumsum([band.size for band in bands])[:-1]
    return [u.reshape(s) for u, s in zip(np.split(unit, ends), shapes, strict=True)], no_data
