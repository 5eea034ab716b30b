"""Arrays of numbers in .npy, .npz and HDF5 files, as ``Stored``; nothing is unpickled.

A path that ends in ``#12`` is row 12 of arrays (N, H, W) or (N, C, H, W).
"""

import contextlib
import math
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from zoobot.data.bands.stored import Stored
from zoobot.system.errors import UserError

NPY_MAGIC = b"\x93NUMPY"
ZIP_MAGIC = b"PK\x03\x04"
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
NAMES_OF_PLANES = ("filters", "bands", "filter", "band")  # arrays of text beside a cube
MOST_ARRAYS = 1000  # of a file
MOST_NAMES = 1000  # of planes
MOST_NAMES_BYTES = 100_000


@contextlib.contextmanager
def open_arrays(file: BinaryIO, magic: bytes, row: int | None, most: int) -> Iterator[list[Stored]]:
    """The arrays of a file.

    Args:
        file: at its start.
        magic: how it begins: ``NPY_MAGIC``, ``ZIP_MAGIC`` or ``HDF5_MAGIC``.
        row: the row of this galaxy; None: the file is of one galaxy.
        most: the most numbers of an array that is read.

    Raises:
        ValueError: the file holds no arrays, or the row is not in it.
    """
    with contextlib.ExitStack() as stack:
        if magic == HDF5_MAGIC:
            yield _hdf5_arrays(file, row, most, stack)
        elif magic == NPY_MAGIC:
            yield [_npy_array(file, "", row, most)]
        else:
            yield _npz_arrays(stack.enter_context(zipfile.ZipFile(file)), row, most)


def _npz_arrays(archive: zipfile.ZipFile, row: int | None, most: int) -> list[Stored]:
    stored, texts = [], {}
    for member in archive.infolist()[:MOST_ARRAYS]:
        name, is_array, _ = member.filename.rpartition(".npy")
        if not is_array:
            continue
        with archive.open(member) as file:
            shape, _, dtype = _read_npy_header(file)
            if dtype.kind in "US" and member.file_size < MOST_NAMES_BYTES:
                file.seek(0)
                texts[name.casefold()] = _names(np.lib.format.read_array(file, allow_pickle=False))
        if dtype.kind in "iufb":

            def read(member=member, name=name) -> np.ndarray:
                with archive.open(member) as file:
                    return _npy_array(file, name, row, most).read()

            stored.append(Stored(name, None, _row_shape(shape, row), read))
    return _with_plane_names(stored, texts)


def _npy_array(file: Any, name: str, row: int | None, most: int) -> Stored:
    shape, fortran_order, dtype = _read_npy_header(file)
    start = file.tell()
    if dtype.kind not in "iufb":
        raise UserError(f"an array of {dtype}, not of numbers")

    def read() -> np.ndarray:
        part = _row_shape(shape, row)
        if math.prod(part) > most:
            raise UserError(f"an array {part} is over the limit of {most:,} numbers")
        if fortran_order and row is not None:
            raise UserError("rows of an array in Fortran order: save it in C order")
        skipped = 0 if row is None else _row(row, shape) * math.prod(part) * dtype.itemsize
        file.seek(start + skipped)
        content = file.read(math.prod(part) * dtype.itemsize)
        return np.frombuffer(content, dtype).reshape(part, order="F" if fortran_order else "C")

    return Stored(name, None, _row_shape(shape, row), read)


def _read_npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type of an .npy array."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0
    return (read if version == (1, 0) else np.lib.format.read_array_header_2_0)(file)


def _hdf5_arrays(
    file: BinaryIO, row: int | None, most: int, stack: contextlib.ExitStack
) -> list[Stored]:
    try:
        import h5py
    except ImportError as error:
        raise UserError("HDF5 needs h5py: pip install 'zoobot-torch[hdf5]'") from error
    stored, texts = [], {}

    def note(name: str, found: Any) -> bool | None:
        if not isinstance(found, h5py.Dataset):
            return None
        if found.dtype.kind in "USO" and found.ndim == 1 and found.size < MOST_NAMES:
            texts[name.rpartition("/")[2].casefold()] = _names(found.asstr()[:])
        if found.dtype.kind in "iufb":

            def read() -> np.ndarray:
                part = _row_shape(found.shape, row)
                if math.prod(part) > most:
                    raise UserError(f"an array {part} is over the limit of {most:,} numbers")
                return found[() if row is None else _row(row, found.shape)]

            stored.append(Stored(name, None, _row_shape(found.shape, row), read))
        return True if len(stored) >= MOST_ARRAYS else None

    stack.enter_context(h5py.File(file, "r")).visititems(note)
    return _with_plane_names(stored, texts)


def _names(values: np.ndarray) -> tuple[str, ...]:
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
