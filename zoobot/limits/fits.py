"""Check the headers of a FITS file against its size, before astropy allocates what they claim."""

import math
import os
from typing import BinaryIO

from zoobot.system.errors import UserError

BLOCK = 2880  # bytes; headers and data are padded to whole blocks
CARD = 80  # bytes of one header entry
SIZES = tuple("BITPIX NAXIS PCOUNT GCOUNT TFIELDS".split())
MOST = 999  # axes or fields that the standard allows


def check_fits_headers(file: BinaryIO) -> None:
    """ValueError if a header claims more data than the file has. Goes back to the file's start."""
    size = file.seek(0, os.SEEK_END)
    place = 0
    while place < size:
        file.seek(place)
        cards, place = _read_cards(file, place)
        if place is None:
            break  # the rest of the file is not a header
        place += -(-_data_bytes(cards) // BLOCK) * BLOCK
        if place - size >= BLOCK:  # the padding of the last block may be missing
            raise UserError(f"its header claims {place:,} bytes of {size:,}")
    file.seek(0)


def _read_cards(file: BinaryIO, place: int) -> tuple[dict[str, str], int | None]:
    """The size entries of a header (name -> value), and where its data begin.

    The place is None if the header has no end.
    """
    cards: dict[str, str] = {}
    while len(block := file.read(BLOCK)) >= CARD:
        place += BLOCK
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
