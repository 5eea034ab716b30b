"""Write prediction files of HDF5 part by part, into disk space that is reserved, and read them."""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from zoobot.limits.arrays import check_hdf5_array, check_hdf5_chunks
from zoobot.limits.memory import check_memory
from zoobot.limits.tables import check_claims
from zoobot.predictions.contents import (
    METADATA_KEY,
    Predictions,
    carried_in,
    errors_of,
    metadata_of,
)
from zoobot.system.errors import UserError
from zoobot.system.files import open_to_read, reserve_space

TEXT_BYTES_AT_ONCE = 2**28
HDF5_ROWS = 256  # galaxies that are written to HDF5 at a time
# More than HDF5 uses for these galaxies besides values and texts. It stores texts in blocks of 4 to
# 64 KiB and keeps up to 16 of them partly empty; each text needs at most one new block of 4 KiB.
HDF5_SPARE_BYTES = 2**22


def need_h5py() -> ModuleType:
    """The h5py package, which is optional."""
    try:
        import h5py
    except ImportError:
        raise UserError("HDF5 needs h5py: pip install 'zoobot-torch[hdf5]'") from None
    return h5py


class Hdf5Writer:
    """Writes HDF5 into disk space that is reserved first, so that a full disk is an OSError.

    The HDF5 library can crash the process if one of its own writes fails. While writing, the disk
    needs 4 MiB more than the file. A file system that can't reserve space, such as ZFS, only checks
    that there is enough: a crash is still possible if other programs fill the disk meanwhile.
    """

    def __init__(self, path: Path, template: Predictions, num_galaxies: int):
        h5py = need_h5py()
        shape, text = (num_galaxies, *template.values.shape[1:]), h5py.string_dtype()
        start = io.BytesIO()  # the file without galaxies is made in memory
        with h5py.File(start, "w") as file:
            file.attrs[METADATA_KEY] = template.metadata_text()
            arrays = [file.create_dataset("predictions", shape, "float32")]
            arrays.append(file.create_dataset("id_str", num_galaxies, text))
            file.create_dataset("label_cols", data=np.array(template.columns, object), dtype=text)
            if template.errors is not None:
                arrays.append(file.create_dataset("error", num_galaxies, text))
            for field in [] if template.carried is None else template.carried.schema:
                kind = text if pa.types.is_string(field.type) else field.type.to_pandas_dtype()
                arrays.append(file.create_dataset(field.name, num_galaxies, kind))
            num_bytes = sum(array.nbytes for array in arrays)
        path.write_bytes(start.getvalue())
        self._path = path
        self._reserved = path.stat().st_size
        self._arrays_end = self._reserved + num_bytes  # HDF5 adds the arrays at the first write
        self._file = h5py.File(path, "r+")
        self._next = 0

    def __enter__(self) -> "Hdf5Writer":
        return self

    def write(self, part: Predictions) -> None:
        for start in range(0, len(part.ids), HDF5_ROWS):
            rows = slice(start, start + HDF5_ROWS)
            texts = {"id_str": part.ids[rows]}
            if part.errors is not None:
                texts["error"] = [error or "" for error in part.errors[rows]]
            numbers = {"predictions": part.values[rows]}
            for name in part.carried_names:
                column = part.carried[name].slice(start, HDF5_ROWS)
                if pa.types.is_string(column.type):
                    texts[name] = [text or "" for text in column.to_pylist()]
                else:
                    numbers[name] = column.to_numpy()
            self._reserve(sum(len(text.encode()) for column in texts.values() for text in column))
            place = slice(self._next, self._next + len(part.ids[rows]))
            for name, array in numbers.items():
                self._file[name][place] = array
            for name, column in texts.items():
                if any("\0" in text for text in column):
                    raise UserError(f"HDF5 keeps no {name} with a null in it: save as parquet")
                self._file[name][place] = column
            self._next = place.stop

    def _reserve(self, text_bytes: int) -> None:
        """Reserve disk space for the arrays and for the next texts. OSError if the disk is full."""
        end = max(self._file.id.get_filesize(), self._arrays_end) + text_bytes + HDF5_SPARE_BYTES
        if end > self._reserved:
            reserve_space(self._path, self._reserved, end)
            self._reserved = end

    def __exit__(self, *_: Any) -> None:
        self._file.flush()
        size = self._file.id.get_filesize()
        self._file.close()
        os.truncate(self._path, size)  # removes the reserved space that was not used


def read_hdf5(path: Path) -> Predictions:
    """Read a whole file; see ``files.read_predictions``."""
    return next(hdf5_pieces(path))


def hdf5_pieces(path: Path, num_rows: int | None = None) -> Iterator[Predictions]:
    """Read a file in pieces of at most so many rows, at least one piece; None: one piece."""
    with open_to_read(path) as opened, need_h5py().File(opened, "r") as file:
        for name in file:
            _check_dataset(file, name, num_rows if name == "predictions" else None)
        ids, columns = _texts(file["id_str"]), list(_texts(file["label_cols"]))
        errors = errors_of(_texts(file["error"]) if "error" in file else None)
        metadata = metadata_of(file.attrs.get(METADATA_KEY, "{}"))
        carried = {name: _array(file[name]) for name in carried_in(metadata, file)}
        carried = pa.table(carried) if carried else None
        if num_rows is None or not len(ids):
            yield Predictions(ids, file["predictions"][:], columns, errors, metadata, carried)
            return
        for start in range(0, len(ids), num_rows):
            rows = slice(start, start + num_rows)
            yield Predictions(
                ids[rows],
                file["predictions"][rows],
                columns,
                None if errors is None else errors[rows],
                metadata,
                None if carried is None else carried.slice(start, num_rows),
            )


def _array(dataset: Any) -> pa.Array:
    is_text = need_h5py().check_string_dtype(dataset.dtype)
    return pa.array(errors_of(_texts(dataset)) if is_text else dataset[:])


def _texts(dataset: Any) -> np.ndarray:
    """The texts of a dataset.

    Raises:
        ValueError: they have more bytes than the file. Each is any place of it, also all the same.
    """
    size = dataset.file.id.get_filesize()
    rows = min(HDF5_ROWS, max(1, TEXT_BYTES_AT_ONCE // max(1, size)))
    texts, total = np.empty(len(dataset), object), 0
    for start in range(0, len(dataset), rows):
        found = dataset.asstr()[start : start + rows]
        total += sum(map(len, found))
        if total > size and dataset.dtype.kind == "O":
            raise UserError(f"{dataset.name!r} has more texts than the file has bytes")
        texts[start : start + rows] = found
    return texts


def with_nan(carried: pa.Table) -> pa.Table:
    """Carried columns as HDF5 has them: numbers and truth values, some missing, become float64.

    Raises:
        ValueError: float64 would round them.
    """
    for i, field in enumerate(carried.schema):
        column = carried.column(i)
        is_float = pa.types.is_floating(field.type)
        if column.null_count and not pa.types.is_string(field.type) and not is_float:
            try:
                column = pc.cast(column, pa.float64())
            except pa.ArrowInvalid as error:
                raise UserError(
                    f"--carry {field.name}: HDF5 has no missing whole numbers, and {error!s:.100}: "
                    "save as .parquet"
                ) from None
            carried = carried.set_column(i, field.with_type(pa.float64()), column)
    return carried


def _check_dataset(file: Any, name: str, num_rows: int | None = None) -> None:
    """ValueError if the dataset is stored in another file, or claims more than this file holds.

    ``num_rows``: that are read at once; None: all.
    """
    h5py = need_h5py()
    dataset = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise UserError(f"{name!r} is no dataset of this file itself")
    check_claims(file.id.get_filesize(), dataset.size, dataset.nbytes)
    at_once = dataset.nbytes
    if num_rows is not None and dataset.ndim:
        at_once = at_once * min(num_rows, len(dataset)) // max(1, len(dataset))
    check_memory(at_once, f"dataset {name!r}")
    check_hdf5_array(dataset)
    if dataset.ndim:
        check_hdf5_chunks(dataset, None)
