"""Encode images for shards: as pixels of one size, or as JPEGs up to a size."""

import contextlib
import dataclasses
import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from zoobot.data.bands.image import read_band_image
from zoobot.data.bands.read import read_bands
from zoobot.data.bands.spec import ImageSpec
from zoobot.data.images import ImageError, check_file, image_of, pixels_in, read_image
from zoobot.data.shards.jpeg import without_notes
from zoobot.data.shards.reader import FORMAT_OF_BANDS
from zoobot.data.views.area import area_mean
from zoobot.data.views.device import LARGEST_HALF, fit_bands
from zoobot.system.files import open_to_read

JPEG_MAGIC = b"\xff\xd8\xff"


def encoder_of(
    description: dict, quality: int, keep_metadata: bool = False
) -> Callable[[str | bytes, str], bytes]:
    """The function that encodes an image for shards of this description, of source and name."""
    if "bands" in description:
        spec = ImageSpec.from_dict(description["bands"])
        spec = dataclasses.replace(spec, mean=None, std=None)  # what is stored is not standardised
        return lambda source, name: encode_bands(source, spec, description, name)
    if description["encoding"] == "raw":
        return lambda source, name: encode_raw(source, description, name)
    return lambda source, name: encode_jpeg(source, description, quality, name, keep_metadata)


def describe_bands(spec: ImageSpec, first: str | bytes) -> dict:
    """What is other in the description of shards of bands.

    They are stored as float16; as uint8 if they are so in the first image, and not scaled.

    Args:
        first: one of the images.
    """
    is_8bit = False
    if spec.scaling == "none":
        with contextlib.suppress(ImageError):  # told with all others that can't be read
            is_8bit = all(band.dtype == np.uint8 for band in read_bands(first, spec))
    return {
        "format_version": FORMAT_OF_BANDS,
        "channels": len(spec.bands),
        "fits_scaling": None,
        "bands": spec.to_dict(),
        "image_dtype": "uint8" if is_8bit else "float16",
    }


def encode_bands(source: str | bytes, spec: ImageSpec, description: dict, name: str) -> bytes:
    """Pixels (S, S, C) of the square of sky that all bands cover, scaled; S is ``img_size``.

    Raises:
        ImageError: the image can't be read, or is not of 8 bits in shards of uint8.
    """
    fitted = fit_bands(read_band_image(source, spec, name), description["img_size"])
    if description["image_dtype"] == "uint8":
        if fitted.min() < 0 or fitted.max() > 255:
            raise ImageError(
                f"{name}: pixels from {fitted.min():g} to {fitted.max():g}, where the shards began "
                "with 8-bit bands: give a --scaling"
            )
        fitted = fitted + 0.5
    return fitted.clip(-LARGEST_HALF, LARGEST_HALF).astype(description["image_dtype"]).tobytes()


def encode_raw(source: str | bytes, description: dict, name: str) -> bytes:
    """uint8 pixels (S, S, C) of the image's centred square, resized to S = ``img_size``.

    To shrink, pixels are averaged over areas; to enlarge, interpolation is bilinear.

    Args:
        source: path or encoded bytes.
        description: of the shard.
        name: of the image, for error messages.

    Raises:
        ImageError: the image can't be read.
    """
    image = read_image(source, description["channels"], description["fits_scaling"], name=name)
    side, size = min(image.size), description["img_size"]
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    if side > size:
        return (area_mean(np.asarray(image), size) + 0.5).astype(np.uint8).tobytes()
    return image.resize((size, size), Image.Resampling.BILINEAR).tobytes()


def encode_jpeg(
    source: str | bytes, description: dict, quality: int, name: str, keep_metadata: bool = False
) -> bytes:
    """A JPEG whose shorter side is at most ``img_size``, without EXIF, colour profile or comments.

    Of a JPEG that is small enough the rest is copied; all of it with ``keep_metadata``. Other
    images are decoded, shrunk if they are too large, and encoded with ``quality``.

    Raises:
        ImageError: the image can't be read.
    """
    size = description["img_size"]
    own = _jpeg_bytes(source)
    if own is not None and _shorter_side(own) <= size:
        read_image(own, channels=1, min_side_px=1, name=name)  # the fastest check of the whole file
        copied = own if keep_metadata else without_notes(own)
        if copied is not None:
            return copied
    channels, scaling = description["channels"], description["fits_scaling"]
    image = read_image(source, channels, scaling, min_side_px=size, name=name)
    shrink = size / min(image.size)
    if shrink < 1:
        image = image.resize([round(x * shrink) for x in image.size], Image.Resampling.LANCZOS)
    encoded, image = io.BytesIO(), image_of(pixels_in(image))  # Pillow would write its comment
    image.save(encoded, "JPEG", quality=quality, subsampling="4:4:4")
    return encoded.getvalue()


def _jpeg_bytes(source: str | bytes) -> bytes | None:
    """The bytes of a JPEG; None if the source is not a JPEG or can't be read."""
    if isinstance(source, bytes):
        return source if source.startswith(JPEG_MAGIC) else None
    check_file(source, source)
    try:
        with open_to_read(source) as file:
            start = file.read(len(JPEG_MAGIC))
            return start + file.read() if start == JPEG_MAGIC else None
    except (OSError, TypeError, ValueError):
        return None


def _shorter_side(jpeg: bytes) -> float:
    """The shorter side in pixels, from the header; infinite if that can't be read."""
    try:
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
            return min(image.size) if image.format == "JPEG" else math.inf
    except Exception:  # of any type if the file is damaged; read_image makes the message
        return math.inf
