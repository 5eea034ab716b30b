"""What a file is: by its first bytes, and, before it is opened, by its name."""

import os
from typing import BinaryIO

from PIL import Image, TiffImagePlugin

FITS_MAGIC = b"SIMPLE  ="
GZIP_MAGIC = b"\x1f\x8b"
BZIP2_MAGIC = b"BZh"
HEAD_BYTES = 512  # that tell what a file is
FITS_SUFFIXES = (".fits", ".fit", ".fts")
PACKED_SUFFIXES = (".gz", ".bz2", ".fz")
PILLOW_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp")
ARRAY_SUFFIXES = (".npy", ".npz", ".h5", ".hdf5")  # read where bands are asked for
ARRAY_MAGICS = (b"\x93NUMPY", b"PK\x03\x04", b"\x89HDF")
READABLE = "png, jpg, tif, webp or FITS image"
JPEG_END, PNG_END = b"\xff\xd9", b"IEND\xaeB`\x82"
TAIL_BYTES = 1024  # in which a JPEG's end is looked for
TIFF_PLACES = ((273, 279), (324, 325))  # tags: where strips, or tiles, begin, and their bytes
TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
FOREIGN = {  # first bytes -> what a file is that is no image we read
    b"GIF8": "a GIF image",
    b"BM": "a BMP image",
    b"\0\0\0\x0cjP  ": "a JPEG 2000 image",
    b"\xff\x0a": "a JPEG XL image",
    b"%PDF": "a PDF",
    b"%!PS": "a PostScript file",
    b"PK\x03\x04": "a zip archive (of .npz, .docx, .xlsx too)",
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF": "an HDF5 file",
    b"PAR1": "a Parquet table",
    b"#ASDF": "an ASDF file",
    b"\x80\x04\x95": "a pickle of Python",
    b"\x80\x05\x95": "a pickle of Python",
    b"ARROW1": "an Arrow or Feather file",
    b"SQLite format 3\0": "an SQLite database",
    b"\xd0\xcf\x11\xe0": "an old Office file (.xls)",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"\xfd7zXZ": "packed with xz: unpack it",
    b"\x28\xb5\x2f\xfd": "packed with zstd: unpack it",
    b"version https://git-lfs": "a Git LFS pointer (git lfs pull fetches the file)",
    b"\x1f\x9d": "packed with compress: unpack it",
    GZIP_MAGIC: "packed twice: unpack it",
    BZIP2_MAGIC: "packed twice: unpack it",
}
TEXTS = {  # how a text begins, in lower case -> what it is
    "<!doctype html": "an HTML page (an error of the server?)",
    "<html": "an HTML page (an error of the server?)",
    "<head": "an HTML page (an error of the server?)",
    "<votable": "a VOTable",
    "<svg": "an SVG drawing",
    "<?xml": "an XML text",
    "{": "a JSON text",
    "[{": "a JSON text",
}


def is_image_name(name: str, arrays: bool = False) -> bool:
    """Whether a file name has the suffix of an image that ``read_image`` reads.

    Args:
        arrays: also of .npy, .npz and HDF5 files, which hold images of bands.
    """
    return image_stem(name, arrays) != name


def image_stem(name: str, arrays: bool = False) -> str:
    """A file's name or path without the suffix of an image: 'g0' of 'g0.png' and 'g0.fits.fz'."""
    stem, suffix = os.path.splitext(name)
    if suffix.lower() in PACKED_SUFFIXES:
        stem, suffix = os.path.splitext(stem)
        return stem if suffix.lower() in FITS_SUFFIXES else name
    suffixes = FITS_SUFFIXES + PILLOW_SUFFIXES + (ARRAY_SUFFIXES if arrays else ())
    return stem if suffix.lower() in suffixes else name


def is_image_content(head: bytes) -> bool:
    """Whether a file's first bytes are those of an image that ``read_image`` reads."""
    magics = (FITS_MAGIC, b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", *TIFF_MAGICS)
    return head.startswith(magics) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def ends_well(file: BinaryIO, image: Image.Image) -> bool:
    """Whether a file has the end that its format asks for; False also where that is in doubt.

    Args:
        file: the image's file.
        image: opened with Pillow, its pixels not yet decoded.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - TAIL_BYTES))
    tail = file.read()
    if image.format in ("JPEG", "MPO"):  # MPO: several JPEGs, one after the other
        return tail.rstrip(b"\0\r\n ").endswith(JPEG_END)
    if image.format == "PNG":
        return tail.endswith(PNG_END)
    if image.format == "WEBP":
        file.seek(4)
        return int.from_bytes(file.read(4), "little") + 8 <= size
    if image.format != "TIFF":
        return False
    for starts, lengths in TIFF_PLACES:
        places = zip(image.tag_v2.get(starts, ()), image.tag_v2.get(lengths, ()), strict=True)
        if ends := [start + length for start, length in places]:
            return max(ends) <= size
    return False


def what_it_is(file: BinaryIO, name: object) -> str:
    """Why Pillow knows no image in a file of this name, by what it is. Reads from its start."""
    file.seek(0)
    head = file.read(HEAD_BYTES)
    if head.startswith(TIFF_MAGICS):
        return _describe_tiff(file)
    if is_image_content(head):
        return f"damaged: it begins as a {READABLE}, but its header can't be read"
    if not head.strip(b"\0"):
        return f"zeros only, not a {READABLE}: a download or copy that failed?"
    if told := foreign_kind(head):
        cure = ". If it holds images: name their bands, --bands g r z"
        return f"{told}, not a {READABLE}{cure if head.startswith(ARRAY_MAGICS) else ''}"
    text = head.decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    if text and all(c.isprintable() or c in "\t\r\n" for c in text[:-1]):
        # A download that failed says why. Of other files, which a stranger's catalog may name,
        # nothing is told: the stranger may get the errors.
        shown = " ".join(text.split())[:40] if is_image_name(str(name)) else None
        return f"a text{f' that begins {shown!r}' if shown else ''}, not a {READABLE}"
    return f"not a {READABLE}, or damaged"


def foreign_kind(head: bytes) -> str | None:
    """What a file is that is neither an image that we read nor a table of text, if it is known."""
    for magic, told in FOREIGN.items():
        if head.startswith(magic):
            return told
    if head[4:8] == b"ftyp":
        return "a HEIC or AVIF image or a film"
    lower = head.decode("utf-8", "replace").lstrip("\ufeff \t\r\n").lower()
    for start, told in TEXTS.items():
        if lower.startswith(start):
            is_page = start == "<?xml" and ("<html" in lower or "<!doctype html" in lower)
            return TEXTS["<html"] if is_page else told
    return None


def _describe_tiff(file: BinaryIO) -> str:
    """What a TIFF holds that Pillow can't read."""
    file.seek(0)
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
        file.seek(tags.next)
        tags.load(file)
        bits, bands = tags.get(258, (1,))[0], tags.get(277, 1)
        numbers = {2: "signed integers", 3: "floats"}.get(tags.get(339, (1,))[0], "integers")
    # A damaged directory raises exceptions of many types.
    except Exception:
        return "a damaged TIFF"
    return (
        f"a TIFF of {bands} bands of {bits}-bit {numbers}, which can't be read: save it as .npy or "
        f"FITS of shape ({bands}, H, W) and name its bands, --bands g r z; or as 8-bit RGB"
    )
