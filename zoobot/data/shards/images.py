"""Encode images for shards: as pixels of one size, or as JPEGs up to a size."""

import io
import math

import numpy as np
from PIL import Image

from zoobot.data.images import check_file, read_image
from zoobot.data.views.area import area_mean

JPEG_MAGIC = b"\xff\xd8\xff"


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


def encode_jpeg(source: str | bytes, description: dict, quality: int, name: str) -> bytes:
    """A JPEG whose shorter side is at most ``img_size``.

    A JPEG that is small enough is copied byte by byte. Other images are decoded, shrunk if they
    are too large, and encoded with ``quality``.

    Raises:
        ImageError: the image can't be read.
    """
    size = description["img_size"]
    own = _jpeg_bytes(source)
    if own is not None and _shorter_side(own) <= size:
        read_image(own, channels=1, min_side_px=1, name=name)  # the fastest check of the whole file
        return own
    channels, scaling = description["channels"], description["fits_scaling"]
    image = read_image(source, channels, scaling, min_side_px=size, name=name)
    shrink = size / min(image.size)
    if shrink < 1:
        image = image.resize([round(x * shrink) for x in image.size], Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=quality, subsampling="4:4:4")
    return encoded.getvalue()


def _jpeg_bytes(source: str | bytes) -> bytes | None:
    """The bytes of a JPEG; None if the source is not a JPEG or can't be read."""
    if isinstance(source, bytes):
        return source if source.startswith(JPEG_MAGIC) else None
    check_file(source, source)
    try:
        with open(source, "rb") as file:
            start = file.read(len(JPEG_MAGIC))
            return start + file.read() if start == JPEG_MAGIC else None
    except (OSError, TypeError):
        return None


def _shorter_side(jpeg: bytes) -> float:
    """The shorter side in pixels, from the header; infinite if that can't be read."""
    try:
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
            return min(image.size) if image.format == "JPEG" else math.inf
    except Exception:  # of any type if the file is damaged; read_image makes the message
        return math.inf
