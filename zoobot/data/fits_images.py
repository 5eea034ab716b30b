"""The images in a FITS file; they may be packed, whole (gzip, bzip2) or in tiles (fpack)."""

import bz2
import contextlib
import functools
import gzip
import io
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from zoobot.data.bands.spec import MOST_BANDS
from zoobot.data.bands.stored import Stored
from zoobot.data.file_kinds import BZIP2_MAGIC, GZIP_MAGIC
from zoobot.limits.fits import (
    BLOCK,
    CARD,
    HCOMPRESS,
    check_fits_headers,
    check_tiles,
    number_in,
    pad_streams,
)
from zoobot.system.errors import UserError

READ_AT_ONCE = 2**20  # bytes
MOST_AXES = 9  # of an image in tiles
EMPTY_CARDS = {"SIMPLE": "T", "BITPIX": 8, "NAXIS": 0, "EXTEND": "T"}
EMPTY_HDU = "".join(f"{name:<8}= {value:>20}".ljust(CARD) for name, value in EMPTY_CARDS.items())
EMPTY_HDU = (EMPTY_HDU + "END").ljust(BLOCK).encode()
HCOMPRESS_LOCK = threading.Lock()  # its decoder is for one thread at a time
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
def open_fits(content: bytes) -> Iterator[list[Stored]]:
    """The images of a FITS file, by HDU; an HDU without pixels, and tables, are left out.

    Raises:
        ValueError: a header claims more than the file has; on reading, its tiles are over the
            limits of ``check_tiles``.
    """
    try:
        from astropy.io import fits
    except ImportError as error:
        raise UserError("FITS needs astropy: pip install 'zoobot-torch[astro]'") from error
    check_fits_headers(io.BytesIO(content))
    # uint=False: blank pixels of unsigned integers would otherwise become ordinary numbers.
    options = {"memmap": False, "uint": False}
    with contextlib.ExitStack() as stack:
        packed = {**options, "disable_image_compression": True}
        hdus = stack.enter_context(fits.open(io.BytesIO(content), **packed))

        def read(number: int) -> np.ndarray:
            if not hdus[number].header.get("ZIMAGE"):
                return _pixels_of(hdus[number])
            padded = _checked_tiles(content, hdus, number)
            if padded is None:
                with fits.open(io.BytesIO(content), **options) as unpacked:
                    return _pixels_of(unpacked[number])
            with HCOMPRESS_LOCK, fits.open(io.BytesIO(padded), **options) as unpacked:
                return _pixels_of(unpacked[1])

        yield [
            Stored(
                hdu.name,
                number,
                shape,
                functools.partial(read, number),
                _plane_names(hdu.header),
                hdu.header.get("ZBITPIX", hdu.header["BITPIX"]) == 8,
            )
            for number, hdu in enumerate(hdus)
            if (shape := _shape_of(hdu))
        ]


def _shape_of(hdu: Any) -> tuple[int, ...]:
    """Shape of an HDU's image, in NumPy's order; () if it has none."""
    if hdu.header.get("ZIMAGE"):
        sides = range(1, number_in(hdu.header, "ZNAXIS", 1, MOST_AXES) + 1)
        return tuple(number_in(hdu.header, f"ZNAXIS{i}", 1) for i in sides)[::-1]
    return tuple(hdu.shape) if hdu.is_image else ()


def _plane_names(header: Any) -> tuple[str, ...]:
    """What a header calls the planes of a cube: BANDS = 'grz', or BAND0 = 'g' and so on."""
    keys = {*header}  # looking for each of the keys in the header itself takes long
    single = [str(header[f"BAND{i}"]).strip() for i in range(MOST_BANDS) if f"BAND{i}" in keys]
    if single:
        return tuple(single)
    text = str(header.get("BANDS", "")).strip()
    return tuple(text.replace(",", " ").split()) if " " in text or "," in text else tuple(text)


def _pixels_of(hdu: Any) -> np.ndarray:
    """Pixels of an image HDU; blank ones are NaN."""
    blank = hdu.header.get("BLANK")
    is_float = hdu.header["BITPIX"] < 0
    data = hdu.data
    if is_float and isinstance(blank, int | float):  # astropy heeds it for integers only
        data = np.where(data == blank, data.dtype.type(np.nan), data)
    return data


def _checked_tiles(content: bytes, hdus: Any, number: int) -> bytes | None:
    """Check the table that holds the tiles of an image, before they are unpacked.

    Returns:
        None; for HCOMPRESS, a file of an empty HDU and this one, in which its decoder reads within
        bounds whatever the tiles hold.
    """
    header = hdus[number].header
    start = hdus.fileinfo(number)["datLoc"]
    row = hdus[number].columns.dtype.newbyteorder(">")
    if row.itemsize != header["NAXIS1"]:
        raise UserError(f"its columns take {row.itemsize} bytes, its NAXIS1 is {header['NAXIS1']}")
    rows = np.frombuffer(content, row, header["NAXIS2"], offset=start)
    heap_start = start + header.get("THEAP", rows.nbytes)
    heap = memoryview(content)[heap_start : start + rows.nbytes + header["PCOUNT"]]
    check_tiles(header, rows, heap)
    if str(header["ZCMPTYPE"]).strip() != HCOMPRESS:
        return None
    rows, zeros = pad_streams(header, rows, heap)
    header = header.copy()
    header["PCOUNT"], header["THEAP"] = len(heap) + zeros, rows.nbytes
    packed = (header.tostring().encode(), rows.tobytes(), heap, bytes(zeros + BLOCK))
    return b"".join((EMPTY_HDU, *packed))
