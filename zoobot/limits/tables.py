"""Check what a table file claims to hold against its size, before a reader allocates it.

So the memory needed is at most a multiple of the file's size: a small file can't claim a billion
galaxies.
"""

import gzip
import io
import math
import os
import re
import zlib
from pathlib import Path
from typing import Any, BinaryIO
from xml.parsers import expat

from zoobot.limits.fits import check_fits_headers
from zoobot.limits.headers import check_unit
from zoobot.limits.memory import check_memory, check_size
from zoobot.system.errors import UserError
from zoobot.system.files import open_to_read

MAX_CELLS_A_BYTE = 1000
MAX_EXPANSION = 1000  # unpacked bytes for each byte of the file
MAX_GZIP_EXPANSION = 200  # the same of gzip: tables of vote counts have 4 to 40
MAX_LINE_BYTES = 2**26  # of a table of text
COMPRESSED = (b"\x1f\x8b", b"\x1f\x9d", b"BZh", b"\xfd7zXZ", b"PK\x03\x04")  # first bytes


def check_claims(size: int, num_cells: int, num_bytes: int = 0) -> None:
    """ValueError if a file of ``size`` bytes is too small for what it claims to hold."""
    if num_cells > MAX_CELLS_A_BYTE * size or num_bytes > MAX_EXPANSION * size:
        raise UserError(
            f"it claims {num_cells:,} cells, {num_bytes:,} bytes unpacked, in a file of {size:,} "
            f"bytes; the limits are {MAX_CELLS_A_BYTE} cells and {MAX_EXPANSION} bytes a byte"
        )


def check_gzip(path: Path) -> int:
    """The bytes to which a gzip file unpacks. It is unpacked once, and nothing of it is kept.

    Raises:
        ValueError: they are more than a file of its size should have.
    """
    most, num_bytes = MAX_GZIP_EXPANSION * path.stat().st_size, 0
    try:
        with open_to_read(path) as packed, gzip.open(packed) as file:
            while piece := file.read(2**18):
                num_bytes += len(piece)
                if num_bytes > most:
                    raise UserError(
                        f"it unpacks to more than {most:,} bytes; the limit is "
                        f"{MAX_GZIP_EXPANSION} bytes a byte"
                    )
    except (EOFError, zlib.error) as error:
        raise UserError(f"it is a damaged gzip file: {error}") from error
    return num_bytes


class ShortLines(io.RawIOBase):
    """A binary file of text, whose reading raises ValueError where a line is too long.

    A reader keeps a whole line in memory; a file with a hole in it may be one of any length.
    """

    def __init__(self, file: BinaryIO, *others: BinaryIO) -> None:
        """``others``: files that are closed with it."""
        self._file, self._others, self._length = file, others, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer)
        content = bytes(memoryview(buffer)[:count])
        end = max(content.rfind(b"\n"), content.rfind(b"\r"))
        self._length = self._length + count if end < 0 else count - end - 1
        if self._length > MAX_LINE_BYTES:
            raise UserError(f"a line of it is over the limit of {MAX_LINE_BYTES:,} bytes")
        return count

    def close(self) -> None:
        for file in (self._file, *self._others):
            file.close()
        super().close()


def check_astropy(path: Path, kind: str) -> None:
    """ValueError if astropy would unpack, fetch or allocate data without a limit.

    Args:
        kind: astropy's name of the format, ``fits``, ``ascii.ecsv`` or ``votable``.
    """
    with open_to_read(path) as file:
        if file.read(8).startswith(COMPRESSED):
            raise UserError("it is compressed: unpack it first")
    check_size(path)
    checks = {"fits": _check_fits, "votable": _check_votable}  # an ECSV file claims nothing
    if kind in checks:
        checks[kind](path)


def _check_fits(path: Path) -> None:
    from astropy.io import fits

    with open_to_read(path) as file:
        check_fits_headers(file)
        hdus = fits.open(file, memmap=True, disable_image_compression=True)
        for hdu in hdus:
            for card in hdu.header["TFORM*"].cards:
                if re.match(r"\s*\d*[PQ]", str(card.value)):
                    raise UserError(f"{card.keyword} = {card.value}: leave such columns out")
            for unit in hdu.header["TUNIT*"].values():
                check_unit(str(unit))
            if isinstance(hdu, fits.BinTableHDU):
                width, told = hdu.columns.dtype.itemsize, hdu.header["NAXIS1"]
                if width != told:
                    raise UserError(f"its columns take {width} bytes a row, its header says {told}")


def _check_votable(path: Path) -> None:
    """Also ValueError if the data are not in the file: astropy would fetch any address."""
    widths, rows = [], [1]

    def start(name: str, attributes: dict[str, str]) -> None:
        name = name.rpartition(":")[2].upper()
        if name == "STREAM" and "href" in attributes:
            raise UserError(f"its data are at {attributes['href']!r}; they must be in the file")
        check_unit(attributes.get("unit", ""))
        if name in ("FIELD", "PARAM"):
            widths.append(math.prod(_numbers(attributes.get("arraysize", ""))))
        rows.extend(_numbers(attributes.get("nrows", "")))

    def declare(*_: Any) -> None:
        raise UserError("it declares entities, which no VOTable needs")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EntityDeclHandler = start, declare
    with open_to_read(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            parser.ParseFile(file)
        except expat.ExpatError as error:
            raise UserError(f"it is no XML: {error}") from error
    if sum(widths) > size:
        raise UserError(f"its fields claim {sum(widths):,} values a row in {size:,} bytes")
    check_claims(size, max(rows) * len(widths), max(rows) * sum(widths))
    check_memory(max(rows) * sum(widths), "its table")


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]
