"""Read one galaxy image: png, jpg, tif, webp or FITS, of any size and mode, as 8-bit RGB or grey.

``read_image`` gives a Pillow image, which views (``zoobot.data.views``) take. A file's content says
what it is, not its suffix. EXIF orientation is ignored. Row 0 of a FITS image is the top row. Of a
picture of several pages the first is read; a FITS file of several images is a question to the user.
Images of any bands, in floats, are read by ``zoobot.data.bands``.
"""

import contextlib
import io
import math
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image

from zoobot.data.bands.stored import Stored, only_image
from zoobot.data.brightness import scale_to_8bit
from zoobot.data.file_kinds import BZIP2_MAGIC, FITS_MAGIC, GZIP_MAGIC, ends_well, what_it_is
from zoobot.data.fits_images import open_fits, unpack
from zoobot.limits.memory import check_memory
from zoobot.options import FITS_SCALINGS
from zoobot.system.errors import OneProcessError, UserError
from zoobot.system.files import open_to_read

MAX_PIXELS = 100_000_000  # 400 MB decoded; a larger image is refused before it is decoded
MAX_FILE_BYTES = 1_000_000_000  # of an image file; also of a packed one after unpacking
MANY_PIXELS = 10_000_000  # from here on it is asked whether there is memory to decode them
PIXEL_BYTES, ALPHA_BYTES, FLOAT_BYTES = 8, 20, 32  # that decoding and converting a pixel take
MODES = {1: "L", 3: "RGB"}  # number of channels -> Pillow's name of the mode
PILLOW_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP")
TIFF_TILE_SIDES = (322, 323)  # TIFF tags: width and height of a tile, which is decoded whole

AnyPath = str | os.PathLike[str]
ImageSource = AnyPath | bytes | bytearray | memoryview | dict[str, Any] | np.ndarray


class ImageError(OneProcessError):
    """An image can't be read. The message is one line with the image's name and the reason."""


def read_image(
    source: ImageSource,
    channels: int = 3,
    fits_scaling: str = "asinh",
    min_side_px: int | None = None,
    name: str | None = None,
) -> Image.Image:
    """Decode an image to 8 bits.

    Transparent pixels are put on black. The values of 16-bit images are divided by 257.

    Args:
        source: a path; encoded bytes; a dict ``{'bytes': ..., 'path': ...}`` as Hugging Face has
            it; or uint8 pixels (H, W, C). A file may be packed with gzip or bzip2, a FITS image
            also in tiles (fpack; not its method PLIO).
        channels: 3 (RGB; a grey image gives three equal channels) or 1 (grey, ITU-R 601 luma).
        fits_scaling: how FITS pixels, and float pixels of a tif, become 8 bits: 'asinh', 'linear'
            or 'none', see ``scale_to_8bit``. All bands are scaled by the same numbers, so that
            colours keep their meaning. Pixels without data (NaN, BLANK, -9999 and the like) are
            black.
        min_side_px: the shorter side that the caller needs, if the caller shrinks the image later.
            A JPEG may then be decoded at 1/2, 1/4 or 1/8 of its size, which is faster, but not
            smaller than this.
        name: name of the image in error messages; by default its path or 'embedded image'.

    Returns:
        An image of mode 'RGB' (``channels=3``) or 'L' (``channels=1``). Its ``info['no_data']``
        lists the values that were taken for no data, if there were any.

    Raises:
        ImageError: the image is missing, empty, truncated, damaged, of an unknown format, not an
            ordinary file, or has more than ``MAX_PIXELS`` pixels or ``MAX_FILE_BYTES`` bytes.
        ValueError: ``channels`` or ``fits_scaling`` has a value that is not listed above.
    """
    if channels not in MODES:
        raise UserError(f"channels={channels!r}: images are read with 3 channels or with 1")
    if fits_scaling not in FITS_SCALINGS:
        raise UserError(f"fits_scaling={fits_scaling!r}: use one of {', '.join(FITS_SCALINGS)}")
    if isinstance(source, np.ndarray):
        return image_of(source).convert(MODES[channels])
    file, name = resolve(source, name)
    with opened_image(file, name) as opened:
        content, is_fits = unpacked(opened, name)
        if is_fits:
            with open_fits(content.read()) as stored:
                image = _grey_or_rgb(stored, name)
                _check_memory(math.prod(image.shape), "F")
                pixels = image.read().reshape(image.shape)
            if pixels.ndim == 3 and pixels.shape[2] != 3:
                pixels = np.moveaxis(pixels, 0, -1)
            return _from_float(pixels, channels, fits_scaling, name)
        image = open_with_pillow(content, name)
        if image.format == "JPEG":
            _shrink_on_load(image, channels, min_side_px)
        _check_memory(image.width * image.height, image.mode)
        image.load()
        return to_8bit(image, channels, fits_scaling, name)


def check_image(source: ImageSource, name: str | None = None) -> None:
    """Raise ImageError for an image that can't be read, as far as its header and end tell.

    A file that does not end as it should is decoded, which has the last word. So a file that is cut
    short is found, but not one with damage within.

    Args:
        source, name: as for ``read_image``, but no pixels.
    """
    file, name = resolve(source, name)
    with opened_image(file, name) as opened:
        content, is_fits = unpacked(opened, name)
        if is_fits:
            with open_fits(content.read()) as stored:
                _grey_or_rgb(stored, name)
            return
        image = open_with_pillow(content, name)
        if not ends_well(content, image):
            image.load()


def read_pixels(
    source: ImageSource,
    channels: int = 3,
    fits_scaling: str = "asinh",
    name: str | None = None,
    no_data: list[float] | None = None,
) -> np.ndarray:
    """Decode an image to uint8 pixels (H, W, C) at full size; see ``read_image``.

    RGB JPEGs are decoded by torchvision, as long as it can, which is a fifth faster than Pillow.
    ``read_image`` reads all other images and makes the error messages. Values that were taken for
    no data are added to the list ``no_data``.
    """
    if isinstance(source, np.ndarray) and source.shape[-1] == channels:
        return source
    if channels == 3 and (found := open_rgb_jpeg(source)):
        with contextlib.suppress(Exception):  # read_image then makes the error message
            from torchvision.io import decode_jpeg  # here: it takes a second

            encoded = torch.frombuffer(bytearray(found[0]), dtype=torch.uint8)
            return decode_jpeg(encoded).permute(1, 2, 0).numpy()
    image = read_image(source, channels, fits_scaling, name=name)
    if no_data is not None:
        no_data += image.info.get("no_data", ())
    return pixels_in(image)


def open_rgb_jpeg(source: ImageSource) -> tuple[bytes, Image.Image] | None:
    """The content of an RGB JPEG, and its header as Pillow reads it; None for any other image."""
    if not isinstance(source, (bytes, str)):
        return None
    with contextlib.suppress(Exception):  # ``read_image`` makes the error message
        content = source
        if isinstance(source, str):
            check_file(source, source)
            with open_to_read(source) as file:
                content = file.read()
        header = Image.open(io.BytesIO(content), formats=("JPEG",))
        if header.mode == "RGB" and header.width * header.height <= MAX_PIXELS:
            return content, header
    return None


def pixels_in(image: Image.Image) -> np.ndarray:
    """The pixels (H, W, C) of an image of mode 'RGB' or 'L'."""
    return np.asarray(image).reshape(image.height, image.width, -1)


def image_of(pixels: np.ndarray) -> Image.Image:
    """The image of mode 'RGB' or 'L' that has these pixels (H, W, C)."""
    return Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])


def to_8bit(
    image: Image.Image, channels: int = 3, fits_scaling: str = "asinh", name: str = "image"
) -> Image.Image:
    """Convert a Pillow image of any mode to 'RGB' or 'L'; see ``read_image``."""
    mode = MODES[channels]
    if image.mode == mode:
        return image
    if image.mode.startswith("I;16"):
        return _from_16bit(np.asarray(image), channels)
    if image.mode in ("I", "F"):
        values = np.asarray(image)
        if image.mode == "I" and values.min() >= 0 and values.max() <= 65535:
            return _from_16bit(values, channels)
        return _from_float(values, channels, fits_scaling, name)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        if rgba.getchannel("A").getextrema() != (255, 255):
            rgba = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
        image = rgba.convert("RGB")
    elif image.mode not in ("1", "L", "RGB"):
        image = image.convert("RGB")  # P, CMYK, YCbCr, HSV, LAB, RGBX
    return image.convert(mode)


def resolve(
    source: ImageSource, name: str | None, is_one: bool = True
) -> tuple[str | io.BytesIO, AnyPath]:
    """What to open, a path or bytes in memory, and the name for error messages.

    Args:
        is_one: whether the file is of one galaxy, for which its size is limited.
    """
    if isinstance(source, dict):
        name = name or source.get("path")
        source = source.get("bytes") if source.get("bytes") is not None else source.get("path")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source), name or "embedded image"
    if isinstance(source, (str, os.PathLike)):
        check_file(source, name or source, is_one)
        return os.fspath(source), name or source
    raise ImageError(f"{name or 'image'}: no path and no bytes, but {type(source).__name__}")


@contextlib.contextmanager
def opened_image(file: str | io.BytesIO, name: AnyPath) -> Iterator[BinaryIO]:
    """The file, open; errors within the ``with`` block become ImageErrors that name it."""
    try:
        with open_to_read(file) if isinstance(file, str) else file as opened:
            yield opened
    except ImageError:
        raise
    except UserError as error:
        raise ImageError(f"{name}: {error}") from error
    # The decoders raise exceptions of many types for a damaged file.
    except Exception as error:
        raise ImageError(f"{name}: {_reason(error)}") from error


def unpacked(file: BinaryIO, name: AnyPath) -> tuple[BinaryIO, bool]:
    """The file at its start, unpacked if it is packed; and whether it is FITS."""
    head = file.read(len(FITS_MAGIC))
    for magic in (GZIP_MAGIC, BZIP2_MAGIC):
        if head.startswith(magic):
            file.seek(0)
            file = io.BytesIO(unpack(file, magic, MAX_FILE_BYTES))
            head = file.read(len(FITS_MAGIC))
            break
    if not head:
        raise ImageError(f"{name}: empty file")
    file.seek(0)
    return file, head == FITS_MAGIC


def open_with_pillow(file: BinaryIO, name: AnyPath) -> Image.Image:
    """An image within the limits of size, its pixels not yet decoded."""
    try:
        image = Image.open(file, formats=PILLOW_FORMATS)
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"{name}: {what_it_is(file, name)}") from error
    check_pillow_size(image, name)
    return image


def check_pillow_size(image: Image.Image, name: AnyPath) -> None:
    """Raise ImageError unless the page that Pillow is at, and its tiles, are within the limits."""
    check_size(image.size, name)
    if image.format == "TIFF":
        check_size([image.tag_v2.get(tag) or 1 for tag in TIFF_TILE_SIDES], name)


def _grey_or_rgb(stored: Sequence[Stored], name: AnyPath) -> Stored:
    """The image of a FITS file that is read without bands: the only one, grey or 8-bit RGB."""
    image = only_image(stored)
    if len(image.shape) == 3 and not (image.is_8bit and 3 in image.shape[::2]):
        names = image.plane_names or [f"BAND{i}" for i in range(min(image.shape))]
        raise ImageError(f"{name}: a cube, {image}: say its bands: --bands {' '.join(names)}")
    check_size((image.shape[-2], image.shape[-1]), name)
    return image


def check_file(path: AnyPath, name: AnyPath, is_one: bool = True) -> None:
    """Raise ImageError for a galaxy's file over ``MAX_FILE_BYTES``, and for a device or pipe.

    A device or pipe may have no end. A file that is missing is no error here. A file of many
    galaxies, of which one row is read, may be of any size.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # the caller gets an error when it opens the file
        return
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise ImageError(f"{name}: a device or a pipe, not a file")
    if is_one and found.st_size > MAX_FILE_BYTES:
        raise ImageError(f"{name}: {found.st_size:,} bytes are over the limit {MAX_FILE_BYTES:,}")


def check_size(size: Sequence[int], name: AnyPath) -> None:
    """Raise ImageError unless (width, height) is within the limits."""
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{name}: no pixels: {width} x {height}")
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name}: {width} x {height} is over the limit of {MAX_PIXELS:,} pixels")


def _check_memory(num_pixels: int, mode: str) -> None:
    """ValueError if there isn't memory to decode so many pixels of a mode of Pillow's."""
    alpha = ALPHA_BYTES if mode == "P" or "A" in mode.upper() else PIXEL_BYTES
    if num_pixels > MANY_PIXELS:
        check_memory(num_pixels * (FLOAT_BYTES if mode[0] in "IF" else alpha), "its decoding")


def _shrink_on_load(image: Image.Image, channels: int, min_side_px: int | None) -> None:
    """Make libjpeg decode less of a JPEG: a smaller image, or luma only."""
    size = None if min_side_px is None else (int(min_side_px), int(min_side_px))
    if channels == 1 or size is not None:
        image.draft("L" if channels == 1 and image.mode == "RGB" else image.mode, size)


def _from_16bit(values: np.ndarray, channels: int) -> Image.Image:
    """16-bit grey pixels (H, W) as an 8-bit image."""
    return _from_grey((values.astype(np.uint32) * 255 + 32767) // 65535, channels)


def _from_grey(values: np.ndarray, channels: int) -> Image.Image:
    """Grey pixels (H, W), 0 to 255, as an image."""
    return Image.fromarray(values.astype(np.uint8)).convert(MODES[channels])


def _from_float(values: np.ndarray, channels: int, scaling: str, name: AnyPath) -> Image.Image:
    """Numbers (H, W) or (H, W, 3) as an 8-bit image; ``scaling`` as in ``read_image``."""
    try:
        pixels, no_data = scale_to_8bit(values, scaling)
    except UserError as error:
        raise ImageError(f"{name}: {error}") from error
    image = Image.fromarray(pixels).convert(MODES[channels])
    if no_data:
        image.info["no_data"] = no_data
    return image


def _reason(error: Exception) -> str:
    """Why Pillow or astropy failed, in words for a user."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "is a folder"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, Image.DecompressionBombError):
        return f"over the limit of {MAX_PIXELS:,} pixels"
    detail = " ".join(str(error).split()) or type(error).__name__
    return f"damaged or truncated ({detail})"
