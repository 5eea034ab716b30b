"""Brightness: numbers of any range, of FITS and float TIFF images, to 8 bits."""

import numpy as np

from zoobot.system.errors import UserError

ASINH_Q = 1.0  # q in ``scale_to_8bit``; saved models were trained with it
HIGH_PERCENTILE = 99.7  # of the pixels: this becomes white
LOW_PERCENTILE = 2.0  # of the pixels: at most these are cut off below, if they lie far out
SOME_PIXELS = 4096  # tell well enough what is usual
USUAL_LOW = 7.0  # the lowest of 10^8 pixels of noise is 5.6 sigma below the median
BRIGHT = 1e5  # sigma above the median; few stars are
FAR_LOW = 20.0  # sigma below the median; no noise is
MOST_NO_DATA_VALUES = 4  # different values in an image that stand for no data
FEWEST_PIXELS = 16  # to tell what is usual in an image
OFTEN = 16  # pixels of one value
GAP, GAP_IF_OFTEN, GAP_STEPS = 2.0, 0.5, 10.0  # see ``_stands_apart``
NINES = (99.0, 999.0, 9999.0, 99999.0, 999999.0)  # numbers that people write for "no data"
NO_DATA_VALUES = {-x for x in NINES} | {-32767.0, -32768.0, -2147483648.0}
ENORMOUS = 1e6  # times the range of all other pixels
LARGEST = 1e37  # beyond are the ends of float32, which some programs write for "no data"


def scale_to_8bit(values: np.ndarray, scaling: str) -> tuple[np.ndarray, list[float]]:
    """Scale an image's pixels to 0-255; all bands by the same numbers.

    'asinh': pixels from ``low`` to ``high`` become 0-1, others are clipped; then x becomes
    arcsinh(q x) / arcsinh(q) with q = 1 (Lupton et al. 2004, PASP 116, 133). 'linear': the same
    without the arcsinh. ``high`` is the percentile 99.7, ``low`` the lowest pixel that is not far
    below all others. 'none': pixels must be within 0-255 and are rounded; if none is above 1, all
    are first multiplied by 255.

    Missing pixels are black and count for neither end: NaN, and with 'asinh' and 'linear' values
    that stand for no data, such as -9999 or -32768, see ``find_no_data``. Infinity is white.

    Args:
        values: (H, W) or (H, W, C) numbers of any type.
        scaling: one of ``options.FITS_SCALINGS``.

    Returns:
        uint8 pixels of the same shape, and the values that were taken for no data.

    Raises:
        ValueError: no pixel is finite, or pixels are out of range for 'none'.
    """
    unit, no_data = scale_to_unit(values, scaling)
    return (unit * 255 + 0.5).astype(np.uint8), no_data


def scale_to_unit(values: np.ndarray, scaling: str) -> tuple[np.ndarray, list[float]]:
    """The same to 0-1 in float32; see ``scale_to_8bit``."""
    values = _as_float32(values)
    finite = values[np.isfinite(values)]
    if finite.size and max(finite.max(), -finite.min()) > LARGEST:
        values[np.isfinite(values) & (np.abs(values) > LARGEST)] = np.nan
        finite = values[np.isfinite(values)]
    if finite.size == 0:
        raise UserError("no finite pixels")
    no_data: list[float] = []
    if scaling == "none":
        low, high = 0.0, 1.0 if finite.max() <= 1 else 255.0
        if finite.min() < 0 or finite.max() > 255:
            raise UserError(
                f"pixels from {finite.min():g} to {finite.max():g} are not within 0-255: "
                "use fits scaling 'asinh' or 'linear'"
            )
    else:
        low, high, no_data = find_ends(finite)
        if no_data:
            values = np.where(np.isin(values, no_data), np.float32(np.nan), values)
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    unit = (np.clip(values, low, high) - low) / (high - low if high > low else 1.0)
    if scaling == "asinh":
        unit = np.arcsinh(ASINH_Q * unit) / np.arcsinh(ASINH_Q)
    return unit, no_data


def find_ends(finite: np.ndarray) -> tuple[float, float, list[float]]:
    """The numbers that become black and white, and values that stand for no data.

    Args:
        finite: (N,) float32, the finite pixels of an image, all bands together.
    """
    if not is_unusual(finite, *low_and_median(finite)):
        return finite.min(), np.percentile(finite, HIGH_PERCENTILE), []
    no_data = find_no_data(finite)
    if no_data:
        finite = finite[~np.isin(finite, no_data)]
    least, p2, p16, median, high = np.percentile(
        finite, (0.0, LOW_PERCENTILE, 16.0, 50.0, HIGH_PERCENTILE)
    )
    far = median - FAR_LOW * (median - p16)
    if least < far < median:
        least = min(finite[finite >= far].min(), p2)
    return least, high, no_data


def is_unusual(finite: np.ndarray, p16: float, median: float) -> bool:
    """Whether the least or the greatest pixel may stand for no data; else there is no such.

    Args:
        finite: (N,) the finite pixels of an image.
        p16, median: see ``low_and_median``.
    """
    least, greatest = finite.min(), finite.max()
    sigma = median - p16
    is_usual = least < p16 and median - least <= USUAL_LOW * sigma
    return not is_usual or greatest - median > BRIGHT * sigma or greatest in NINES


def find_no_data(finite: np.ndarray) -> list[float]:
    """Values that stand for no data: far apart from all other pixels of the image.

    Below, any value may be one: -9999, -32768, or 0 around an image with a bias. Above, where stars
    and cosmic rays are, only a number of nines, or one a million times beyond all others, is one.
    """
    no_data: list[float] = []
    for sign in (1, -1):
        for _ in range(MOST_NO_DATA_VALUES):
            least = (sign * finite).min()
            rest = finite[finite != sign * least]
            is_often = finite.size - rest.size >= OFTEN
            if rest.size < FEWEST_PIXELS or not _stands_apart(least, sign * rest, is_often):
                break
            if sign < 0 and not _is_never_flux(-least, rest):
                break
            no_data.append(float(sign * least))
            finite = rest
    return no_data


def _stands_apart(value: float, rest: np.ndarray, is_often: bool) -> bool:
    """Whether a value lies far below the rest: twice the width of the rest's own lower quarter.

    Half of it is far enough for a value that many pixels have (``is_often``): noise has no such.
    Counts of few photons have gaps too: where the value is not one that is known to stand for no
    data, the gap must also be of many steps between pixels.
    """
    least, quarter = np.percentile(rest, (0, 25))
    gap = least - value
    if gap <= (GAP_IF_OFTEN if is_often else GAP) * (quarter - least):
        return False
    levels = np.unique(some_of(rest))
    steps = np.diff(levels)
    return value in NO_DATA_VALUES or (len(steps) > 0 and gap > GAP_STEPS * steps.min())


def some_of(pixels: np.ndarray) -> np.ndarray:
    """Some of many pixels (N,), evenly spread."""
    return pixels[:: (pixels.size // SOME_PIXELS) | 1]  # odd: not one column of an image only


def low_and_median(pixels: np.ndarray) -> tuple[float, float]:
    """The percentiles 16 and 50 of pixels (N,), of some of them where they are many.

    They are those of ``np.percentile``, which takes four times as long, but for rounding.
    """
    some = some_of(pixels)
    some = some if some.dtype.kind == "f" else some.astype(np.float64)
    places = [(some.size - 1) * percent / 100 for percent in (16.0, 50.0)]
    floors = [int(place) for place in places]
    ceilings = [min(floor + 1, some.size - 1) for floor in floors]
    ordered = np.partition(some, [*floors, *ceilings])
    low, median = (
        float(ordered[i]) + float(ordered[j] - ordered[i]) * (place - i)
        for i, j, place in zip(floors, ceilings, places, strict=True)
    )
    return low, median


def _is_never_flux(value: float, rest: np.ndarray) -> bool:
    """Whether a value above all others is a number of nines, or beyond any star."""
    return value in NINES or value - rest.max() > ENORMOUS * float(rest.max() - rest.min())


def _as_float32(values: np.ndarray) -> np.ndarray:
    """float32 pixels; numbers beyond float32 are missing."""
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    if values.dtype == np.float64 and np.isinf(narrow).any():
        narrow[np.isinf(narrow) & np.isfinite(values)] = np.nan
    return narrow
