"""Tiles that HCOMPRESS packed: what their streams claim, and how far a decoder can read.

The decoder that astropy has trusts a stream: it writes as many pixels as the stream says, and reads
until it has all bits. So a stream is given to it only if its size is that of the tile, and with so
many zeros behind it that no stream of this size can be read beyond them.
"""

import math
import struct

from zoobot.system.errors import UserError

HEAD = struct.Struct(">2s2i4x8x3B")  # magic, sides, scale, sum of the pixels, bit planes
MAGIC = b"\xdd\x99"
SHORTEST_SIDE = 4  # of a tile
MAX_TILE_PIXELS = 10_000_000
MAX_BIT_PLANES = 64
LONGEST_CODE = 6  # bits


def check_stream(stream: bytes | memoryview, shape: tuple[int, ...]) -> int:
    """How many bytes from a stream's start a decoder may read.

    Args:
        stream: of a tile.
        shape: of the tile.

    Raises:
        ValueError: it is no stream, is of another shape, or of a tile that HCOMPRESS can't pack.
    """
    sides = tuple(side for side in shape if side != 1)
    if len(sides) != 2 or min(sides) < SHORTEST_SIDE or math.prod(sides) > MAX_TILE_PIXELS:
        raise UserError(
            f"a tile of {shape} with HCOMPRESS; it can have two sides from {SHORTEST_SIDE} and "
            f"{MAX_TILE_PIXELS:,} pixels"
        )
    if len(stream) < HEAD.size:
        raise UserError(f"a tile of {len(stream)} bytes, too few for HCOMPRESS")
    magic, *claimed, planes_0, planes_1, planes_2 = HEAD.unpack_from(stream)
    if magic != MAGIC or tuple(claimed) != sides:
        raise UserError(f"a tile of {shape} that HCOMPRESS packed as {tuple(claimed)}, or damaged")
    planes = max(planes_0, planes_1, planes_2)
    if planes > MAX_BIT_PLANES:
        raise UserError(f"a tile of {planes} bit planes; it can have {MAX_BIT_PLANES} at most")
    return HEAD.size + _most_bytes(sides, planes)


def _most_bytes(sides: tuple[int, ...], planes: int) -> int:
    """Bytes of the longest code of bit planes of a tile, and of its pixels' signs.

    A bit plane of each quarter of the tile is a tree of codes, one for 2 x 2 pixels in its lowest
    level and fewer than twice as many in all.
    """
    lowest = math.prod(-(-side // 4) for side in sides)
    bits = LONGEST_CODE * (2 * lowest + 32)  # and 4 for how the plane is coded
    return 4 * planes * -(-bits // 8) + math.prod(sides) // 8 + 16
