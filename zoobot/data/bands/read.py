"""Read the bands of one galaxy, each as an array (H, W) of the file's own numbers."""

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from zoobot.data.bands.arrays import HDF5_MAGIC, NPY_MAGIC, ZIP_MAGIC, open_arrays
from zoobot.data.bands.locations import BAND, files_of_bands, split_row
from zoobot.data.bands.spec import ImageSpec, Place
from zoobot.data.bands.stored import Band, Stored, find_band
from zoobot.data.fits_images import open_fits
from zoobot.data.images import (
    MAX_PIXELS,
    AnyPath,
    ImageError,
    check_pillow_size,
    open_with_pillow,
    opened_image,
    resolve,
    unpacked,
)
from zoobot.system.errors import UserError

MOST_PAGES = 1000  # of a picture

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
        ImageError: a file or a band is missing, in several places, damaged, or over a limit; all
            bands together have at most ``MAX_PIXELS``.
    """
    return _in_files(source, spec, name, _read_all)


def check_bands(source: BandSource, spec: ImageSpec, name: str | None = None) -> None:
    """Raise ImageError unless each band is found; pixels are not read. See ``read_bands``."""
    _in_files(source, spec, name, lambda found: found)


def _in_files(
    source: BandSource,
    spec: ImageSpec,
    name: str | None,
    use: Callable[[Sequence[Band]], list[Any]],
) -> list[Any]:
    """What ``use`` makes of the bands, which are found in one file or a file a band."""
    places = [spec.places.get(band, Place()) for band in spec.bands]
    files = _files(source, spec.bands, name)
    if files is None:
        return _in_file(source, spec.bands, places, name, use, MAX_PIXELS)
    used: list[Any] = []
    for path, band, place in zip(files, spec.bands, places, strict=True):
        most = MAX_PIXELS - sum(pixels.size for pixels in used if isinstance(pixels, np.ndarray))
        used += _in_file(path, (band,), [place], name, use, most)
    return used


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


def _in_file(
    source: Any,
    bands: Sequence[str],
    places: Sequence[Place],
    name: AnyPath | None,
    use: Callable[[Sequence[Band]], list[Any]],
    most: int,
) -> list[Any]:
    """What ``use`` makes of some bands of one file, of ``most`` pixels, while it is open."""
    row = None
    if isinstance(source, str | os.PathLike):
        source, row = split_row(os.fspath(source))
    file, name = resolve(source, name, is_one=row is None)
    with opened_image(file, name) as content, stored_arrays(content, row, name) as stored:
        found = [
            find_band(stored, band, place, i, len(bands))
            for i, (band, place) in enumerate(zip(bands, places, strict=True))
        ]
        arrays = {id(band.array): band.array for band in found}
        _check_sizes([array.shape for array in arrays.values()], most)
        return use(found)


def _read_all(found: Sequence[Band]) -> list[np.ndarray]:
    """The pixels (H, W) of bands; an array of several planes is read once."""
    read = {id(array): array.read() for array in {id(b.array): b.array for b in found}.values()}
    return [band.cut(read[id(band.array)]) for band in found]


def _check_sizes(shapes: Sequence[tuple[int, ...]], most: int) -> None:
    """ValueError unless there are pixels, ``most`` in all."""
    if not all(map(math.prod, shapes)):
        raise UserError("no pixels")
    if sum(map(math.prod, shapes)) > most:
        told = ", ".join(map(str, shapes[:3]))
        raise UserError(f"bands of {told:.100} are over the limit of {MAX_PIXELS:,} pixels")


@contextlib.contextmanager
def stored_arrays(file: Any, row: int | None, name: AnyPath) -> Iterator[list[Stored]]:
    """What an open file holds: FITS, NumPy, HDF5, or a picture that Pillow reads."""
    head = file.read(len(HDF5_MAGIC))
    file.seek(0)
    for magic in (HDF5_MAGIC, NPY_MAGIC, ZIP_MAGIC):
        if head.startswith(magic):
            with open_arrays(file, magic, row) as stored:
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
    for number in range(MOST_PAGES):
        try:
            image.seek(number)
        except EOFError:
            break
        check_pillow_size(image, name)
        letters = image.getbands()
        is_cube = len(letters) > 1
        shape = (image.height, image.width, *([len(letters)] if is_cube else []))

        def read(number=number) -> np.ndarray:
            image.seek(number)
            return np.asarray(image)

        pages.append(Stored("", number, shape, read, tuple(letters) if is_cube else ()))
    return pages
