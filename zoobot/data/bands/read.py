"""Read the bands of one galaxy, each as an array (H, W) of the file's own numbers."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from zoobot.data.bands.arrays import HDF5_MAGIC, NPY_MAGIC, ZIP_MAGIC, open_arrays
from zoobot.data.bands.locations import BAND, files_of_bands, split_row
from zoobot.data.bands.spec import ImageSpec, Place
from zoobot.data.bands.stored import Stored, find_band
from zoobot.data.fits_images import open_fits
from zoobot.data.images import (
    MAX_PIXELS,
    AnyPath,
    ImageError,
    check_size,
    open_with_pillow,
    opened_image,
    resolve,
    unpacked,
)

BandSource = AnyPath | bytes | dict[str, Any]


def read_bands(source: BandSource, spec: ImageSpec, name: str | None = None) -> list[np.ndarray]:
    """Read a galaxy's bands, in the order of ``spec.bands``.

    Args:
        source: where they are, see ``bands.locations``; or encoded bytes; or a dict as Hugging Face
            has it.
        spec: the bands and where they are.
        name: of the galaxy in error messages; by default the path.

    Returns:
        An array (H, W) a band, as astropy or NumPy reads it. Missing pixels are NaN.

    Raises:
        ImageError: a file or a band is missing, in several places, damaged, or over a limit.
    """
    places = [spec.places.get(band, Place()) for band in spec.bands]
    files = _files(source, spec.bands, name)
    if files is None:
        return _read_file(source, spec.bands, places, name)
    one_each = zip(files, spec.bands, places, strict=True)
    return [_read_file(path, (band,), [place], name)[0] for path, band, place in one_each]


def _files(source: Any, bands: Sequence[str], name: AnyPath | None) -> list[str] | None:
    """A path a band; None if all bands are in one file."""
    if not isinstance(source, str | os.PathLike):
        return None
    text = os.fspath(source)
    if (files := files_of_bands(text)) is not None:
        for band in bands:
            if band not in files:
                given = " ".join(files)
                raise ImageError(f"{name or text}: no file of band {band}; there are {given}")
        return [files[band] for band in bands]
    return [text.replace(BAND, band) for band in bands] if BAND in text else None


def _read_file(
    source: Any, bands: Sequence[str], places: Sequence[Place], name: AnyPath | None
) -> list[np.ndarray]:
    """Some bands of one file; an array of several planes is read once."""
    row = None
    if isinstance(source, str | os.PathLike):
        source, row = split_row(os.fspath(source))
    file, name = resolve(source, name, is_of_many=row is not None)
    with opened_image(file, name) as content, stored_arrays(content, row, name) as stored:
        found = [
            find_band(stored, band, place, i, len(bands))
            for i, (band, place) in enumerate(zip(bands, places, strict=True))
        ]
        for band in found:
            check_size(_size(band.array.shape), name)
        read = {id(array): array.read() for array in {id(b.array): b.array for b in found}.values()}
        return [band.cut(read[id(band.array)]) for band in found]


def _size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Two numbers whose product is the number of pixels."""
    return shape[0], int(np.prod(shape[1:], dtype=object))


@contextlib.contextmanager
def stored_arrays(file: Any, row: int | None, name: AnyPath) -> Iterator[list[Stored]]:
    """What an open file holds: FITS, NumPy, HDF5, or a picture that Pillow reads."""
    head = file.read(len(HDF5_MAGIC))
    file.seek(0)
    for magic in (HDF5_MAGIC, NPY_MAGIC, ZIP_MAGIC):
        if head.startswith(magic):
            with open_arrays(file, magic, row, MAX_PIXELS) as stored:
                yield stored
            return
    if row is not None:
        raise ImageError(f"{name}: rows (#{row}) are for .npy, .npz and HDF5 files")
    content, is_fits = unpacked(file, name)
    if is_fits:
        with open_fits(content.read()) as stored:
            yield stored
        return
    yield _pages(open_with_pillow(content, name), name)


def _pages(image: Image.Image, name: AnyPath) -> list[Stored]:
    """The pages of a picture; the planes of a page are called by their letters, such as R G B."""
    pages = []
    for number in range(getattr(image, "n_frames", 1)):
        image.seek(number)
        letters = image.getbands()
        is_cube = len(letters) > 1
        shape = (image.height, image.width, *([len(letters)] if is_cube else []))

        def read(number=number) -> np.ndarray:
            image.seek(number)
            return np.asarray(image)

        pages.append(Stored("", number, shape, read, tuple(letters) if is_cube else ()))
    return pages
