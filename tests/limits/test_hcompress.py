"""A tile of HCOMPRESS is read only if its decoder can't leave its buffers."""

import io
import struct

import numpy as np
import pytest

from zoobot.data.bands.read import read_bands
from zoobot.data.bands.spec import parse_bands
from zoobot.data.images import ImageError
from zoobot.limits.hcompress import HEAD, check_stream

fits = pytest.importorskip("astropy.io.fits")
RNG = np.random.default_rng(0)
TILE = (8, 12)


def packed(pixels: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    beside = fits.ImageHDU(np.ones((3, 3)), name="PSF")
    tiles = fits.CompImageHDU(pixels, compression_type="HCOMPRESS_1", **options)
    fits.HDUList([fits.PrimaryHDU(), beside, tiles, beside]).writeto(file)
    return file.getvalue()


def read(content: bytes) -> np.ndarray:
    return read_bands(content, parse_bands(["r"]))[0]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32"])
@pytest.mark.parametrize(
    "options", [{}, {"tile_shape": TILE}, {"hcomp_scale": 2, "hcomp_smooth": 1}]
)
def test_tiles_are_read_as_astropy_reads_them(dtype, options):
    content = packed((RNG.normal(size=(36, 45)) * 40 + 100).astype(dtype), **options)
    with fits.open(io.BytesIO(content)) as hdus:
        wanted = hdus[2].data
    found = read(content)
    np.testing.assert_array_equal(found, wanted)
    assert found.dtype == wanted.dtype.newbyteorder("=")


def stream(magic=b"\xdd\x99", shape=TILE, planes=(9, 9, 9)) -> bytes:
    return struct.pack(">2s2i4x8x3B", magic, *shape, *planes) + bytes(10)


@pytest.mark.parametrize(
    ("content", "shape", "reason"),
    [
        (stream(shape=(12, 8)), TILE, "HCOMPRESS packed as"),
        (stream(shape=(10**6, 10**6)), TILE, "HCOMPRESS packed as"),
        (stream(shape=(-8, -12)), TILE, "HCOMPRESS packed as"),
        (stream(shape=(8, 0)), TILE, "HCOMPRESS packed as"),
        (stream(magic=b"\0\0"), TILE, "damaged"),
        (stream(planes=(1, 255, 1)), TILE, "255 bit planes"),
        (stream()[:20], TILE, "20 bytes, too few"),
        (stream(shape=(3, 12)), (3, 12), "two sides from 4"),
        (stream(), (2, *TILE), "two sides from 4"),
        (stream(shape=(10_000, 10_000)), (10_000, 10_000), "10,000,000 pixels"),
    ],
)
def test_a_stream_that_is_not_of_its_tile_is_refused(content, shape, reason):
    with pytest.raises(ValueError, match=reason):
        check_stream(content, shape)


def longest_read(shape: tuple[int, int], planes: int) -> int:
    """Bytes that a decoder reads where each code is the longest."""
    bits = 0
    halves = [[-(-side // 2), side // 2] for side in shape]
    for height in halves[0]:
        for width in halves[1]:
            levels, sides = 0, [height, width]
            while max(sides) > 1:
                sides = [-(-side // 2) for side in sides]
                levels += sides[0] * sides[1]
            bits += planes * (4 + 6 * max(levels, 1))
    return HEAD.size + -(-(bits + 4) // 8) + -(-(shape[0] * shape[1]) // 8)


@pytest.mark.parametrize("shape", [(4, 4), (4, 999), (999, 5), (64, 64), (17, 33), (300, 300)])
@pytest.mark.parametrize("planes", [0, 1, 16, 64])
def test_the_buffer_holds_all_that_a_decoder_may_read(shape, planes):
    told = check_stream(stream(shape=shape, planes=(planes, 0, planes)), shape)
    assert longest_read(shape, planes) <= told < longest_read(shape, planes) * 2 + 8000


def test_damaged_tiles_are_read_or_refused():
    content = packed((RNG.normal(size=(36, 45)) * 40).astype("int16"), tile_shape=TILE)
    start = content.index(b"\xdd\x99")
    assert content.count(b"\xdd\x99") >= 20
    for damage in range(30):
        damaged = bytearray(content)
        place = start + int(RNG.integers(25, 1000))
        damaged[place : place + 4] = RNG.bytes(4) if damage % 2 else b"\xff" * 4
        try:
            assert read(bytes(damaged)).shape == (36, 45)
        except ImageError:
            continue
    for first in (b"\0\0\x40\0", b"\xff\xff\xff\xff", b"\0\0\0\0"):
        damaged = content[: start + 2] + first + content[start + 6 :]
        with pytest.raises(ImageError, match="HCOMPRESS packed as"):
            read(damaged)
