"""Image files and folders as people have them: small, seeded, our own."""

import bz2
import gzip
import io
import os
import struct
from pathlib import Path

import numpy as np
from PIL import Image

SIDE_PX = 48
SKY_SIGMA = 1.0
HTML = b"<!DOCTYPE html>\n<html><head><title>504 Gateway Time-out</title></head></html>\n"
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def galaxy(seed: int = 0, side_px: int = SIDE_PX, sky: float = 0.0) -> np.ndarray:
    """Flux (H, W) float32 of a galaxy on noisy sky."""
    y, x = np.mgrid[-1 : 1 : side_px * 1j, -1 : 1 : side_px * 1j]
    noise = np.random.default_rng(seed).normal(sky, SKY_SIGMA, (side_px, side_px))
    return (noise + 60 * np.exp(-(x**2 + 2 * y**2) / 0.05)).astype(np.float32)


def colours(seed: int = 0, side_px: int = SIDE_PX) -> np.ndarray:
    """The same as uint8 pixels (H, W, 3)."""
    bands = [galaxy(seed, side_px) * factor + 10 for factor in (3, 2, 1)]
    return np.clip(np.stack(bands, axis=-1), 0, 255).astype(np.uint8)


def encoded(form: str, pixels: np.ndarray | None = None, **options) -> bytes:
    """An image file's bytes in one of Pillow's formats."""
    file = io.BytesIO()
    Image.fromarray(colours() if pixels is None else pixels).save(file, form, **options)
    return file.getvalue()


def fits_bytes(pixels: np.ndarray | None = None, **cards) -> bytes:
    """A FITS file's bytes; ``cards`` are added to its header as they are."""
    from astropy.io import fits

    file = io.BytesIO()
    fits.PrimaryHDU(galaxy() if pixels is None else pixels).writeto(file)
    content = file.getvalue()
    for name, value in cards.items():
        card = f"{name:<8}= {value:>20}".ljust(80).encode()
        end = content.index(b"END".ljust(80))
        content = content[:end] + card + content[end : end + 80] + content[end + 160 :]
    return content


def tiled_bytes(pixels: np.ndarray | None = None, codec: str = "RICE_1", **options) -> bytes:
    """A FITS file compressed in tiles, as fpack writes it."""
    from astropy.io import fits

    file = io.BytesIO()
    tiles = fits.CompImageHDU(
        galaxy() if pixels is None else pixels, compression_type=codec, **options
    )
    fits.HDUList([fits.PrimaryHDU(), tiles]).writeto(file)
    return file.getvalue()


def float_tiff(num_bands: int = 3) -> bytes:
    """An uncompressed TIFF of float32 pixels (H, W, bands), which Pillow does not write."""
    pixels = np.stack([galaxy(band) for band in range(num_bands)], axis=-1)
    shorts = {256: SIDE_PX, 257: SIDE_PX, 259: 1, 262: 2 if num_bands >= 3 else 1, 277: num_bands}
    entries = {tag: struct.pack("<HHII", tag, 3, 1, value) for tag, value in shorts.items()}
    directory_bytes = 2 + 12 * 11 + 4
    bits, formats, start = (8 + directory_bytes + 2 * num_bands * i for i in range(3))
    entries[258] = struct.pack("<HHII", 258, 3, num_bands, bits)
    entries[339] = struct.pack("<HHII", 339, 3, num_bands, formats)
    entries[273] = struct.pack("<HHII", 273, 4, 1, start)
    entries[278] = struct.pack("<HHII", 278, 3, 1, SIDE_PX)
    entries[279] = struct.pack("<HHII", 279, 4, 1, pixels.nbytes)
    entries[284] = struct.pack("<HHII", 284, 3, 1, 1)
    directory = b"".join(entries[tag] for tag in sorted(entries))
    lists = struct.pack(f"<{num_bands}H", *[32] * num_bands)
    lists += struct.pack(f"<{num_bands}H", *[3] * num_bands)
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    return head + directory + bytes(4) + lists + pixels.astype("<f4").tobytes()


def misnamed() -> dict[str, tuple[bytes, bytes]]:
    """Name -> (content of an image under the wrong suffix, the same as the suffix says)."""
    return {
        "fits.jpg": (fits_bytes(), fits_bytes()),
        "no_suffix": (fits_bytes(), fits_bytes()),
        "J012345.6-054321.0": (fits_bytes(), fits_bytes()),
        "png.fits": (encoded("PNG"), encoded("PNG")),
        "jpeg.fits.gz": (encoded("JPEG"), encoded("JPEG")),
        "tiff.png": (encoded("TIFF"), encoded("TIFF")),
        "packed.fits": (gzip.compress(fits_bytes()), fits_bytes()),
        "plain.fits.gz": (fits_bytes(), fits_bytes()),
        "tiled.jpg": (tiled_bytes(codec="GZIP_1", quantize_level=0), fits_bytes()),
    }


def no_images() -> dict[str, tuple[bytes, str]]:
    """Name -> (content that is no image we read, what the error calls it)."""
    return {
        "page.jpg": (HTML, "an HTML page"),
        "late.png": (b"\r\n  <html><body>404</body></html>", "an HTML page"),
        "xhtml.jpg": (b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "x">', "an HTML page"),
        "error.fits": (b'{"error": "no such object"}', "a JSON text"),
        "service.jpg": (b'<?xml version="1.0"?><Error>Denied</Error>', "an XML text"),
        "told.jpg": (b"Object is outside the footprint\n", "'Object is outside the footprint'"),
        "pointer.jpg": (LFS_POINTER, "a Git LFS pointer"),
        "zeros.fits": (bytes(5760), "zeros only"),
        "empty.png": (b"", "empty file"),
        "animation.png": (encoded("GIF"), "a GIF image"),
        "bitmap.jpg": (encoded("BMP"), "a BMP image"),
        "cube.fits": (b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'}", "a NumPy array"),
        "float.tif": (float_tiff(3), "a TIFF of 3 bands of 32-bit floats"),
        "five.tif": (float_tiff(5), "a TIFF of 5 bands of 32-bit floats"),
        "packed.fits": (b"\xfd7zXZ\x00\x00", "packed with xz"),
    }


def bad_downloads() -> dict[str, bytes]:
    """Name -> content of a file that is no whole image."""
    jpeg, png, fits = encoded("JPEG"), encoded("PNG"), fits_bytes()
    return {
        "page.jpg": HTML,
        "empty.jpg": b"",
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "cut.png": png[: len(png) // 2],
        "cut.fits": fits[: len(fits) // 2],
        "cut.fits.gz": gzip.compress(fits)[:-500],
    }


def with_no_data() -> dict[str, tuple[bytes, np.ndarray, np.ndarray]]:
    """Name -> (FITS file with pixels that are no flux, where they are, the flux elsewhere)."""
    corner = np.zeros((SIDE_PX, SIDE_PX), dtype=bool)
    corner[:20, :20] = True
    one = np.zeros_like(corner)
    one[3, 4] = True
    edge = ~np.pad(np.ones((SIDE_PX - 30, SIDE_PX - 30), dtype=bool), 15)
    flux, biased = galaxy(), galaxy(sky=1000.0)
    counts = np.round(galaxy(sky=200.0)).astype(np.int16)
    files = {}

    def add(name, pixels, where, value, **cards):
        content = fits_bytes(np.where(where, np.asarray(value, pixels.dtype), pixels), **cards)
        files[name] = (content, where, pixels.astype(np.float32))

    for value in (-9999, -99, -1e30, -3.4e38, np.nan):
        add(f"one {value}", flux, one, value)
        add(f"corner {value}", flux, corner, value)
    add("two values", flux, corner, np.where(one, -99, -9999))
    add("corner 1e20", flux, corner, 1e20)
    add("corner 9999", flux, corner, 9999)
    add("zeros around a bias", biased, edge, 0)
    add("zeros around counts", counts, edge, 0)
    add("-32768", counts, corner, -32768)
    add("BLANK", counts, corner, -32768, BLANK=-32768)
    add("BLANK within the range", counts, corner, 250, BLANK=250)
    add("BLANK of floats", flux, corner, 12.5, BLANK=12.5)
    shifted = (counts.astype(np.int32) - 32768).astype(np.int16)
    content = np.where(corner, np.int16(-32768), shifted)
    files["BZERO with BLANK"] = (
        fits_bytes(content, BZERO=32768, BSCALE=1, BLANK=-32768), corner, counts.astype(np.float32)
    )  # fmt: skip
    return files


def packed() -> dict[str, bytes]:
    """Name -> a packed FITS file, of ``galaxy()`` without loss unless it is said."""
    return {
        "a.fits.gz": gzip.compress(fits_bytes()),
        "a.fits.bz2": bz2.compress(fits_bytes()),
        "gzip1.fits.fz": tiled_bytes(codec="GZIP_1", quantize_level=0),
        "gzip2.fits.fz": tiled_bytes(codec="GZIP_2", quantize_level=0, tile_shape=(20, 20)),
        "lossy.fits.fz": tiled_bytes(codec="RICE_1", quantize_level=64, quantize_method=1),
        "twice.fits.fz.gz": gzip.compress(tiled_bytes(codec="GZIP_1", quantize_level=0)),
    }


def messy_folder(folder: Path) -> dict[str, str]:
    """Fill a folder as people do.

    Returns:
        id_str -> path below the folder, of every image that is to be found.
    """
    png, elsewhere = encoded("PNG"), folder.with_name(folder.name + "_elsewhere")
    contents = {
        "g0.png": png,
        "deep/er/g1.jpg": encoded("JPEG"),
        "g2.fits.fz": tiled_bytes(),
        "g3.fits.bz2": bz2.compress(fits_bytes()),
        "J012345.6-054321.0": fits_bytes(),
        "._g0.png": b"\0\5\x16\7 of macOS",
        ".hidden/g9.png": png,
        "__MACOSX/g0.png": png,
        "notes.txt": b"good seeing",
        "catalog.csv": b"id_str\n",
        "Thumbs.db": b"\xd0\xcf",
        "g4.png.part": png,
        "b.ini": b"",
        "c.log": b"",
        "README": b"galaxies",
    }
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (elsewhere / "more").mkdir(parents=True)
    (elsewhere / "more" / "g5.png").write_bytes(png)
    (elsewhere / "g6.png").write_bytes(png)
    (folder / "linked").symlink_to(elsewhere)
    (folder / "again").symlink_to(folder / "deep")
    (folder / "loop").symlink_to(folder)
    (elsewhere / "back").symlink_to(folder)
    (folder / "g7.png").symlink_to(elsewhere / "g6.png")
    (folder / "gone").symlink_to(folder / "nowhere")
    return {
        "J012345.6-054321.0": "J012345.6-054321.0",
        "deep/er/g1": "deep/er/g1.jpg",
        "g0": "g0.png",
        "g2": "g2.fits.fz",
        "g3": "g3.fits.bz2",
        "g7": "g7.png",
        "linked/g6": "linked/g6.png",
        "linked/more/g5": "linked/more/g5.png",
    }


def latin_1_name(folder: Path) -> bytes:
    """Write an image whose name, returned, is no UTF-8."""
    name = "galaxia_ñ.png".encode("latin-1")
    with open(os.path.join(os.fsencode(folder), name), "wb") as file:
        file.write(encoded("PNG"))
    return name
