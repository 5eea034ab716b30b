"""Check what a FITS file claims, before astropy allocates or unpacks it.

The headers are checked against the file's size, and an image compressed in tiles tile by tile.
"""

import itertools
import math
import os
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from zoobot.limits.hcompress import check_stream
from zoobot.system.errors import UserError

BLOCK = 2880  # bytes; headers and data are padded to whole blocks
CARD = 80  # bytes of one header entry
SIZES = tuple("BITPIX NAXIS PCOUNT GCOUNT TFIELDS".split())
MOST = 999  # axes or fields that the standard allows
MAX_HDUS = 2000
MAX_HEADER_BYTES = 5_000_000  # of a file's headers, for which astropy takes 3 s
MAX_TILES = 100_000  # of an image; each takes its time, however small it is
MAX_TILED_BYTES = 1_000_000_000  # of an image compressed in tiles, unpacked
HCOMPRESS = "HCOMPRESS_1"
# PLIO's decoder reads out of bounds.
TILE_CODECS = ("RICE_1", "RICE_ONE", "GZIP_1", "GZIP_2", "NOCOMPRESS", HCOMPRESS)
RICE_SETTINGS = {"BLOCKSIZE": (16, 32), "BYTEPIX": (1, 2, 4)}
TILE_COLUMNS = ("COMPRESSED_DATA", "GZIP_COMPRESSED_DATA", "UNCOMPRESSED_DATA")
GZIP_WINDOW = 31  # zlib's number for data with gzip's own header
VALUE_BYTES = {"B": 1, "I": 2, "J": 4, "E": 4, "D": 8}  # by the letter of a column's format


def check_fits_headers(file: BinaryIO) -> None:
    """ValueError if a header claims more data than the file has, or there are too many of them.

    Goes back to the file's start.
    """
    size = file.seek(0, os.SEEK_END)
    place = num_hdus = num_bytes = 0
    while place < size:
        file.seek(place)
        start = place
        cards, place = _read_cards(file, place, MAX_HEADER_BYTES - num_bytes)
        if place is None:
            break  # the rest of the file is not a header
        num_hdus, num_bytes = num_hdus + 1, num_bytes + place - start
        if num_hdus > MAX_HDUS:
            raise UserError(f"it has over {MAX_HDUS:,} HDUs")
        place += -(-_data_bytes(cards) // BLOCK) * BLOCK
        if place - size >= BLOCK:  # the padding of the last block may be missing
            raise UserError(f"its header claims {place:,} bytes of {size:,}")
    file.seek(0)


def _read_cards(file: BinaryIO, place: int, most_bytes: int) -> tuple[dict[str, str], int | None]:
    """The size entries of a header (name -> value), and where its data begin.

    The place is None if the header has no end.
    """
    cards: dict[str, str] = {}
    most = place + most_bytes
    while len(block := file.read(BLOCK)) >= CARD:
        place += BLOCK
        if place > most:
            raise UserError(f"its headers are over the limit of {MAX_HEADER_BYTES:,} bytes")
        for start in range(0, len(block), CARD):
            card = block[start : start + CARD].decode("latin-1")
            name = card[:8].strip().upper()
            if name == "END":
                return cards, place
            if name.startswith(SIZES):
                cards.setdefault(name, card[10:].partition("/")[0].strip())
    return cards, None


def _data_bytes(cards: dict[str, str]) -> int:
    """Number of bytes of the data that a header describes."""
    for name in ("NAXIS", "TFIELDS"):
        if _whole(cards, name, 0, 0) > MOST:
            raise UserError(f"its header's {name} is {cards[name]}; it can be {MOST} at most")
    num_axes = _whole(cards, "NAXIS", 0, 0)
    if num_axes == 0:
        return 0
    sides = [_whole(cards, f"NAXIS{i + 1}", 0, 0) for i in range(num_axes)]
    if sides[0] == 0:  # the "random groups" format, which sets NAXIS1 = 0
        sides = sides[1:]
    values = _whole(cards, "PCOUNT", 0, 0) + math.prod(sides)
    return abs(_whole(cards, "BITPIX", 8, -64)) // 8 * _whole(cards, "GCOUNT", 1, 0) * values


def _whole(cards: dict[str, str], name: str, default: int, least: int) -> int:
    """An entry as a whole number; ValueError if it is none, or below ``least``."""
    text = cards.get(name, str(default))
    if len(text) > 20 or not text.lstrip("+-").isdecimal() or int(text) < least:
        raise UserError(f"its header's {name} is {text!r:.40}, not a whole number >= {least}")
    return int(text)


def check_tiles(header: Mapping[str, Any], rows: np.ndarray, heap: bytes | memoryview) -> None:
    """Check an image that is compressed in tiles.

    Args:
        header: of the table that holds the tiles.
        rows: (T,) the table's rows, a tile each: a structured array, with (length, place in the
            heap) in the columns of compressed data.
        heap: the bytes behind the table.

    Raises:
        ValueError: it is unpacked over ``MAX_TILED_BYTES``, has over ``MAX_TILES`` tiles or not as
            many as its size asks for, tiles share bytes or end beyond the file, a tile is unpacked
            larger than it should be, or the compression is none of ``TILE_CODECS``.
    """
    codec = str(header.get("ZCMPTYPE")).strip()
    if codec not in TILE_CODECS:
        raise UserError(f"compressed in tiles with {codec:.20}: run funpack on it first")
    sides, tile = _tile_sides(header)
    value_bytes = abs(number_in(header, "ZBITPIX", -64, 64)) // 8
    if math.prod(sides) * value_bytes > MAX_TILED_BYTES:
        raise UserError(f"{sides} pixels in tiles are over the limit of {MAX_TILED_BYTES:,} bytes")
    num_tiles = math.prod(-(-side // part) for side, part in zip(sides, tile, strict=True))
    if num_tiles != len(rows) or num_tiles > MAX_TILES:
        raise UserError(
            f"{len(rows):,} tiles, where its size asks for {num_tiles:,}; at most {MAX_TILES:,}"
        )
    if codec.startswith("RICE"):
        _check_rice(header)
    _check_tile_data(header, rows, heap, codec, most_bytes=math.prod(tile) * 8)


def _tile_sides(header: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Sides of an image, and of its tiles, in the header's order."""
    sides = [
        number_in(header, f"ZNAXIS{i + 1}", 1) for i in range(number_in(header, "ZNAXIS", 1, 3))
    ]
    tile = [
        number_in(header, f"ZTILE{i + 1}", 1, side, default=1 if i else side)
        for i, side in enumerate(sides)
    ]
    return sides, tile


def pad_streams(
    header: Mapping[str, Any], rows: np.ndarray, heap: bytes | memoryview
) -> tuple[np.ndarray, int]:
    """Make HCOMPRESS tiles, which ``check_tiles`` accepts, safe to decode.

    Returns:
        The table's rows, in which each stream is as long as a decoder may read, and the number of
        zeros to put behind the heap for that.

    Raises:
        ValueError: a stream is not of its tile's shape.
    """
    column = "COMPRESSED_DATA"
    sides, tile = (each[::-1] for each in _tile_sides(header))
    parts = [range(0, side, step) for side, step in zip(sides, tile, strict=True)]
    rows, end = rows.copy(), len(heap)
    for places, corner in zip(rows[column], itertools.product(*parts), strict=True):
        length, start = map(int, places)
        if length:
            ends = zip(sides, tile, corner, strict=True)
            shape = tuple(min(step, side - low) for side, step, low in ends)
            length = max(length, check_stream(heap[start : start + length], shape))
            places[0], end = length, max(end, start + length)
    return rows, end - len(heap)


def _check_rice(header: Mapping[str, Any]) -> None:
    for i in range(1, MOST + 1):
        name = str(header.get(f"ZNAME{i}", "")).upper()
        value = header.get(f"ZVAL{i}")
        if name in RICE_SETTINGS and value not in RICE_SETTINGS[name]:
            raise UserError(f"its {name} is {value!r:.20}, none of {RICE_SETTINGS[name]}")


def _check_tile_data(
    header: Mapping[str, Any], rows: np.ndarray, heap: bytes | memoryview, codec: str, most_bytes
) -> None:
    """Check where the tiles' bytes lie, and how large those are that gzip unpacks."""
    names = {header.get(f"TTYPE{i + 1}"): header.get(f"TFORM{i + 1}", "") for i in range(MOST)}
    total = 0
    for column in set(TILE_COLUMNS) & names.keys():
        letter = names[column].lstrip("1")[1:2]
        if names[column].lstrip("1")[:1] not in ("P", "Q") or letter not in VALUE_BYTES:
            raise UserError(f"its column {column} has the format {names[column]!r:.20}")
        if codec == HCOMPRESS and column == "COMPRESSED_DATA" and letter != "B":
            raise UserError(f"its column {column} has the format {names[column]!r:.20}, not of B")
        places = rows[column].astype(np.int64)
        lengths, starts = places[:, 0] * VALUE_BYTES[letter], places[:, 1]
        if (places < 0).any() or (places > len(heap)).any():
            raise UserError("its tiles lie beyond the end of the file")
        if (starts + lengths)[lengths > 0].max(initial=0) > len(heap):
            raise UserError("its tiles lie beyond the end of the file")
        total += lengths.sum()
        if total > len(heap):
            raise UserError("its tiles share bytes, so that it is unpacked without a limit")
        is_gzip = codec.startswith("GZIP") and column == "COMPRESSED_DATA"
        if is_gzip or column == "GZIP_COMPRESSED_DATA":
            for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
                if length:
                    _check_gzip(heap[start : start + length], most_bytes)


def _check_gzip(packed: bytes | memoryview, most_bytes: int) -> None:
    try:
        unpacked = zlib.decompressobj(GZIP_WINDOW).decompress(packed, most_bytes + 1)
    except zlib.error as error:
        raise UserError(f"a tile is damaged: {error}") from error
    if len(unpacked) > most_bytes:
        raise UserError(f"a tile is unpacked over the {most_bytes:,} bytes that it can have")


def number_in(
    header: Mapping[str, Any], name: str, least: int, most: int = 2**31, default: int | None = None
) -> int:
    """A whole number of a header that is within limits."""
    value = header.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise UserError(f"its header's {name} is {value!r:.40}, not from {least} to {most:,}")
    return value
