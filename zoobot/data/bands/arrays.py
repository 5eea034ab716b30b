"""Arrays of numbers in .npy, .npz and HDF5 files, as ``Stored``; nothing is unpickled.

A path that ends in ``#12`` is row 12 of arrays (N, H, W) or (N, C, H, W).
"""

import contextlib
import math
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np

from zoobot.data.bands.stored import Stored
from zoobot.limits.arrays import (
    NUMBERS,
    TEXTS,
    check_directory,
    check_hdf5_array,
    check_hdf5_chunks,
    check_member,
    is_short,
    read_npy_header,
    read_texts,
)
from zoobot.system.errors import UserError

NPY_MAGIC = b"\x93NUMPY"
ZIP_MAGIC = b"PK\x03\x04"
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
NAMES_OF_PLANES = ("filters", "bands", "filter", "band")  # arrays of text beside a cube
MOST_ARRAYS = 1000  # of a file


@contextlib.contextmanager
def open_arrays(file: BinaryIO, magic: bytes, row: int | None) -> Iterator[list[Stored]]:
    """The arrays of a file. Their shapes are known before they are read, and are for the caller
    to check.

    Args:
        file: at its start.
        magic: how it begins: ``NPY_MAGIC``, ``ZIP_MAGIC`` or ``HDF5_MAGIC``.
        row: the row of this galaxy; None: the file is of one galaxy.

    Raises:
        ValueError: the file holds no arrays, or the row is not in it.
    """
    with contextlib.ExitStack() as stack:
        if magic == HDF5_MAGIC:
            yield _hdf5_arrays(file, row, stack)
        elif magic == NPY_MAGIC:
            yield [_npy_array(file, "", row)]
        else:
            check_directory(file)
            yield _npz_arrays(stack.enter_context(zipfile.ZipFile(file)), row)


def _npz_arrays(archive: zipfile.ZipFile, row: int | None) -> list[Stored]:
    stored, texts = [], {}
    for member in archive.infolist()[:MOST_ARRAYS]:
        name, is_array, _ = member.filename.rpartition(".npy")
        if not is_array:
            continue
        check_member(member)
        with archive.open(member) as file:
            shape, _, dtype = read_npy_header(file)
            if dtype.kind in TEXTS and is_short(shape, dtype.itemsize):
                content = file.read(shape[0] * dtype.itemsize)
                texts[name.casefold()] = _names(np.frombuffer(content, dtype))
        if dtype.kind in NUMBERS:

            def read(member=member, name=name) -> np.ndarray:
                with archive.open(member) as file:
                    return _npy_array(file, name, row).read()

            stored.append(Stored(name, None, _row_shape(shape, row), read))
    return _with_plane_names(stored, texts)


def _npy_array(file: Any, name: str, row: int | None) -> Stored:
    shape, fortran_order, dtype = read_npy_header(file)
    start = file.tell()
    if dtype.kind not in NUMBERS:
        raise UserError(f"an array of {str(dtype):.60}, not of numbers")

    def read() -> np.ndarray:
        if fortran_order and row is not None:
            raise UserError("rows of an array in Fortran order: save it in C order")
        part = _row_shape(shape, row)
        num_bytes = math.prod(part) * dtype.itemsize
        file.seek(start + (0 if row is None else _row(row, shape) * num_bytes))
        content = file.read(num_bytes)
        if len(content) < num_bytes:
            raise UserError(f"an array of {num_bytes:,} bytes is cut short at {len(content):,}")
        return np.frombuffer(content, dtype).reshape(part, order="F" if fortran_order else "C")

    return Stored(name, None, _row_shape(shape, row), read)


def _hdf5_arrays(file: BinaryIO, row: int | None, stack: contextlib.ExitStack) -> list[Stored]:
    """The arrays that are in the file itself; links to others are not followed."""
    try:
        import h5py
    except ImportError as error:
        raise UserError("HDF5 needs h5py: pip install 'zoobot-torch[hdf5]'") from error
    stored, texts = [], {}

    def note(name: str, found: Any) -> bool | None:
        if not isinstance(found, h5py.Dataset) or found.shape is None:
            return None
        text = h5py.check_string_dtype(found.dtype)
        if text and is_short(found.shape, text.length or 1):
            texts[name.rpartition("/")[2].casefold()] = _names(read_texts(found))
        if found.dtype.kind in NUMBERS:

            def read() -> np.ndarray:
                check_hdf5_array(found)
                part = None if row is None else _row(row, found.shape)
                check_hdf5_chunks(found, part)
                return found[() if part is None else part]

            stored.append(Stored(name, None, _row_shape(found.shape, row), read))
        return True if len(stored) >= MOST_ARRAYS else None

    stack.enter_context(h5py.File(file, "r")).visititems(note)
    return _with_plane_names(stored, texts)


def _names(values: Iterable) -> tuple[str, ...]:
    return tuple(v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in values)


def _with_plane_names(stored: list[Stored], texts: dict[str, tuple]) -> list[Stored]:
    """With the names of planes that an array of text beside the cubes gives."""
    for names in filter(None, map(texts.get, NAMES_OF_PLANES)):
        return [
            Stored(a.name, a.number, a.stored_shape, a.read, names)
            if len(a.shape) == 3 and len(names) in a.shape[::2]
            else a
            for a in stored
        ]
    return stored


def _row_shape(shape: tuple[int, ...], row: int | None) -> tuple[int, ...]:
    return tuple(shape) if row is None else tuple(shape[1:])


def _row(row: int, shape: tuple[int, ...]) -> int:
    """The row, if it is there."""
    if not shape or row >= shape[0]:
        raise UserError(f"no row {row} in an array {tuple(shape)}; the first is 0")
    return row
