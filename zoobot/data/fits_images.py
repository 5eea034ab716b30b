"""The first image in a FITS file; it may be packed, whole (gzip, bzip2) or in tiles (fpack)."""

import bz2
import contextlib
import gzip
import io
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from zoobot.data.file_kinds import BZIP2_MAGIC, GZIP_MAGIC
from zoobot.limits.fits import check_fits_headers, check_tiles
from zoobot.system.errors import UserError

READ_AT_ONCE = 2**20  # bytes
UNPACK = {GZIP_MAGIC: gzip.GzipFile, BZIP2_MAGIC: bz2.BZ2File}


def unpack(file: BinaryIO, magic: bytes, most_bytes: int) -> bytes:
    """What is packed in a file.

    Args:
        file: a packed file, at its start.
        magic: how it begins, ``GZIP_MAGIC`` or ``BZIP2_MAGIC``.
        most_bytes: the limit of its size unpacked.

    Raises:
        ValueError: it is larger.
    """
    whole = io.BytesIO()
    with UNPACK[magic](file) if magic == BZIP2_MAGIC else UNPACK[magic](fileobj=file) as stream:
        while piece := stream.read(READ_AT_ONCE):
            whole.write(piece)
            if whole.tell() > most_bytes:
                raise UserError(f"unpacked over the limit of {most_bytes:,} bytes")
    return whole.getvalue()


@contextlib.contextmanager
def first_image(content: bytes) -> Iterator[Any]:
    """The first image of a FITS file as astropy's HDU, its pixels not yet read.

    Raises:
        ValueError: there is no image, a header claims more than the file has, the image has
            another shape than (H, W), (1, H, W) or (3, H, W), or its tiles are over the limits of
            ``check_tiles``.
    """
    try:
        from astropy.io import fits
    except ImportError as error:
        raise UserError("FITS needs astropy: pip install 'zoobot-torch[astro]'") from error
    check_fits_headers(io.BytesIO(content))
    # uint=False: blank pixels of unsigned integers would otherwise become ordinary numbers.
    options = {"memmap": False, "uint": False}
    with fits.open(io.BytesIO(content), disable_image_compression=True, **options) as hdus:
        number = _number_of_first(hdus)
        is_tiled = bool(hdus[number].header.get("ZIMAGE"))
        if not is_tiled:
            _check_shape(hdus[number].shape)
            yield hdus[number]
            return
        _check_tiled(content, hdus, number)
    with fits.open(io.BytesIO(content), **options) as hdus:
        _check_shape(hdus[number].shape)
        yield hdus[number]


def pixels_of(hdu: Any) -> np.ndarray:
    """Pixels of an image HDU: (H, W) or (H, W, 3); blank ones are NaN."""
    blank = hdu.header.get("BLANK")
    is_float = hdu.header["BITPIX"] < 0
    data = hdu.data
    if is_float and isinstance(blank, int | float):  # astropy heeds it for integers only
        data = np.where(data == blank, data.dtype.type(np.nan), data)
    if data.ndim == 3:
        data = data[0] if len(data) == 1 else np.moveaxis(data, 0, -1)
    return data


def _number_of_first(hdus: Any) -> int:
    """The number of the first HDU that holds an image."""
    for number, hdu in enumerate(hdus):
        if hdu.header.get("ZIMAGE") or (hdu.is_image and len(hdu.shape) > 0):
            return number
    raise UserError("no image in this FITS file")


def _check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] not in (1, 3)):
        raise UserError(f"shape {shape}: need (H, W), (1, H, W) or (3, H, W)")


def _check_tiled(content: bytes, hdus: Any, number: int) -> None:
    """Check the table that holds the tiles of an image, before they are unpacked."""
    header = hdus[number].header
    start = hdus.fileinfo(number)["datLoc"]
    rows = np.frombuffer(
        content, hdus[number].columns.dtype.newbyteorder(">"), header["NAXIS2"], offset=start
    )
    heap = start + header.get("THEAP", rows.nbytes)
    end = start + rows.nbytes + header["PCOUNT"]
    check_tiles(header, rows, memoryview(content)[heap:end])
