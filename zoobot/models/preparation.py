"""How a galaxy's image becomes what a model takes, in numbers and in words.

For people and programs that prepare images without this package.
"""

from collections.abc import Mapping
from typing import Any

from zoobot.data.bands.spec import ImageSpec
from zoobot.data.dataset import ImagesSeen
from zoobot.data.views import GalaxyView, GalaxyViewConfig
from zoobot.data.views.config import affine_ranges

# Settings that a view shown by ``zoom`` may have: its size and channels are told beside it.
# How a JPEG is decoded is no part of the view.
TOLD = {
    *("output_size", "greyscale", "random_affine", "random_erasing", "pil_to_tensor"),
    "min_side_px",
}
SCALINGS = {
    "asinh": "arcsinh((x - sky) / ({softening:g} * noise)), where the sky is the band's median and "
    "the noise {noise}",
    "linear": "(x - sky) / noise, where the sky is the band's median and the noise {noise}",
    "lupton": "(x - sky) / noise as for `linear`, then the three bands together as in Lupton et "
    "al. 2004 (zoobot.data.bands.scaling.lupton)",
    "percentiles": "all together, the lowest pixel to 0 and the percentile 99.7 to 1, with an "
    "arcsinh between (zoobot.data.brightness.scale_to_unit)",
    "none": "not at all: the numbers of the file",
}
AS_SCALED = "As (bands, rows, columns), not standardised."
MEASURED_NOISE = "the distance from the median down to the percentile 16"


def preparation(seen: ImagesSeen, channels: int) -> dict[str, Any]:
    """What a model's images are made of, as plain types.

    Args:
        seen: how the images that the model was validated with were made.
        channels: that the model takes.

    Returns:
        ``channels``; ``size_px``, side of the view; ``zoom``: the view shows the central square of
        which the side is the image's shorter side divided by this; ``bands``, their names, and
        their ``mean`` and ``std`` once scaled; ``steps``: how the view is made, in words; and
        ``numbers``: what becomes of its numbers then. What is not known, or not so, is None.
    """
    is_ours = seen.view is not None and seen.transform is None
    view = GalaxyView(seen.view).config if is_ours else None
    spec = None if seen.bands is None else ImageSpec.from_dict(seen.bands)
    is_standardised = spec is not None and spec.has_statistics
    zoom = None if view is None else fixed_zoom(view)
    return {
        "channels": channels,
        "size_px": seen.image_size,
        "zoom": zoom,
        "bands": None if spec is None else [*spec.bands],
        "mean": [*spec.mean] if is_standardised else None,
        "std": [*spec.std] if is_standardised else None,
        "steps": [*_pixels(seen, spec, channels), *_view(seen, zoom)],
        "numbers": _numbers(spec),
    }


def fixed_zoom(view: GalaxyViewConfig) -> float | None:
    """How far a view zooms into the image's central square, if that is all it does; else None."""
    if view.changes().keys() - TOLD:
        return None
    if not view.random_affine:
        return 1.0
    degrees, translate, (low, high), shear = affine_ranges(view.random_affine)
    is_fixed = degrees == (0, 0) and low == high and not translate.any() and not shear.any()
    return low if is_fixed else None


def _pixels(seen: ImagesSeen, spec: ImageSpec | None, channels: int) -> list[str]:
    if spec is not None:
        noise = MEASURED_NOISE
        if spec.noise is not None:
            each = zip(spec.bands, spec.noise, strict=True)
            noise = "is " + ", ".join(f"{value:g} of {band}" for band, value in each)
        told = SCALINGS[spec.scaling].format(softening=spec.softening, noise=noise)
        return [
            f"The bands {', '.join(spec.bands)}, in this order, in floats.",
            f"They are scaled ({spec.scaling}): {told}. Missing pixels become 0.",
        ]
    kind = {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
    told = [f"An image of 8 bits, {kind}."]
    if seen.fits_scaling is not None:
        told.append(f"A FITS image is made one by the scaling `{seen.fits_scaling}`.")
    return told


def _view(seen: ImagesSeen, zoom: float | None) -> list[str]:
    size = "its size is not known" if seen.image_size is None else f"{seen.image_size} px a side"
    if zoom is not None:
        return [
            "The central square, of which the side is the image's shorter side divided by "
            f"{zoom:g}.",
            f"It is resized to {size}; where it shrinks, a pixel is the mean over its area "
            "(Pillow's BOX), else bilinear.",
        ]
    how = "a view that is not told" if seen.view is None else f"the view {_short(seen.view)}"
    return [f"It is shown by {seen.transform or how}; {size}."]


def _numbers(spec: ImageSpec | None) -> str:
    if spec is None:
        return "Divided by 255, as (channels, rows, columns)."
    if not spec.has_statistics:
        return AS_SCALED
    return f"Each band less its mean, divided by its spread: {spec.told_statistics()}."


def _short(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())
