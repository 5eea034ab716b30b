"""Prediction files: parquet, CSV and HDF5, written a part at a time and read back whole.

Predictions are arrays (N, A, S): N galaxies, A columns, S forward passes. In parquet and CSV a cell
holds a number if S is 1, else a list of S numbers (JSON in CSV).
"""

import csv
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from zoobot.limits.tables import check_claims, check_parquet
from zoobot.limits.text import parse_json
from zoobot.system.errors import UserError

SUFFIXES = (".parquet", ".csv", ".hdf5", ".h5")
VALUES_A_ROW_GROUP = 2**24
METADATA_KEY = "zoobot"


@dataclasses.dataclass
class Predictions:
    """A prediction file's contents.

    Attributes:
        ids: (N,) text.
        values: (N, A, S) float32; NaN where an image could not be read.
        columns: the A columns' names.
        errors: (N,) why an image could not be read, None where it could; None if not recorded.
        metadata: ``task``, ``schema``, ... of the model; empty for CSV.
    """

    ids: np.ndarray
    values: np.ndarray
    columns: list[str]
    errors: np.ndarray | None = None
    metadata: dict = dataclasses.field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        """A table as the parquet file is: ``id_str``, the columns, ``error`` if recorded."""
        one = self.values.shape[2] == 1
        cells = [
            self.values[:, i, 0] if one else list(self.values[:, i])
            for i in range(len(self.columns))
        ]
        columns = dict(zip(self.columns, cells, strict=True))
        frame = pd.DataFrame({"id_str": self.ids, **columns})
        return frame if self.errors is None else frame.assign(error=self.errors)


def check_save_loc(path: str | Path) -> Path:
    """The path, if predictions can be written there; else ValueError."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise UserError(f"predictions {path}: end the name with one of {', '.join(SUFFIXES)}")
    if path.is_dir():
        raise UserError(f"predictions {path} is a folder: save elsewhere")
    if path.suffix in (".hdf5", ".h5"):
        _h5py()
    return path


def _h5py():
    try:
        import h5py
    except ImportError:
        raise UserError("HDF5 needs h5py: pip install 'zoobot-torch[hdf5]'") from None
    return h5py


def open_writer(path: Path, suffix: str, predictions: Predictions, num_galaxies: int):
    """A context with ``write(part)`` for parts of predictions, in order.

    Args:
        suffix: one of ``SUFFIXES``: the format, whatever the path's own suffix.
        predictions: with the columns, passes, metadata and recording of errors of all parts.
    """
    writer = {".parquet": _ParquetWriter, ".csv": _CsvWriter}.get(suffix, _Hdf5Writer)
    return writer(path, predictions, num_galaxies)


class _ParquetWriter:
    def __init__(self, path: Path, like: Predictions, num_galaxies: int):
        num_columns, num_samples = like.values.shape[1:]
        cell = pa.float32() if num_samples == 1 else pa.list_(pa.float32())
        fields = [("id_str", pa.string()), *((name, cell) for name in like.columns)]
        if like.errors is not None:
            fields.append(("error", pa.string()))
        metadata = {METADATA_KEY: json.dumps(like.metadata)}
        self._schema = pa.schema(fields, metadata)
        self._rows_a_group = max(1, VALUES_A_ROW_GROUP // max(1, num_columns * num_samples))
        self._file = pq.ParquetWriter(path, self._schema)
        self._waiting: list[pa.Table] = []

    def __enter__(self):
        return self

    def write(self, part: Predictions) -> None:
        num_galaxies, num_columns, num_samples = part.values.shape
        arrays = [pa.array(part.ids, pa.string())]
        offsets = np.arange(num_galaxies + 1, dtype=np.int32) * num_samples
        for i in range(num_columns):
            flat = pa.array(np.ascontiguousarray(part.values[:, i]).reshape(-1), pa.float32())
            arrays.append(flat if num_samples == 1 else pa.ListArray.from_arrays(offsets, flat))
        if part.errors is not None:
            arrays.append(pa.array(part.errors, pa.string()))
        self._waiting.append(pa.Table.from_arrays(arrays, schema=self._schema))
        if sum(map(len, self._waiting)) >= self._rows_a_group:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._file.write_table(pa.concat_tables(self._waiting))
        self._waiting = []

    def __exit__(self, *_):
        self._flush()
        self._file.close()


class _CsvWriter:
    def __init__(self, path: Path, like: Predictions, num_galaxies: int):
        self._file = open(path, "w", newline="")
        self._writer = csv.writer(self._file)
        errors = [] if like.errors is None else ["error"]
        self._writer.writerow(["id_str", *like.columns, *errors])

    def __enter__(self):
        return self

    def write(self, part: Predictions) -> None:
        for i, (id_str, values) in enumerate(zip(part.ids, part.values, strict=True)):
            texts = values.astype(str)  # the shortest text that reads back as the same float32
            texts[np.isnan(values)] = "" if values.shape[1] == 1 else "NaN"
            texts[np.isinf(values)] = np.where(values > 0, "Infinity", "-Infinity")[
                np.isinf(values)
            ]
            cells = texts.tolist()
            cells = [c[0] if len(c) == 1 else f"[{', '.join(c)}]" for c in cells]
            error = [] if part.errors is None else [part.errors[i] or ""]
            self._writer.writerow([id_str, *cells, *error])

    def __exit__(self, *_):
        self._file.close()


class _NeverFull(io.FileIO):
    """A file that keeps in memory what its disk does not take.

    HDF5 can't close a file that it can't write to, and goes astray where it does not read what it
    wrote. So it learns nothing, and whoever writes with it asks ``check`` after each part.
    """

    def __init__(self, path: Path):
        super().__init__(path, "w+")
        self._failure: OSError | None = None
        self._kept: list[tuple[int, bytes]] = []

    def write(self, data) -> int:
        """Write all, to the disk until it fails."""
        place, left = self.tell(), memoryview(data).cast("B")
        try:
            while len(left) and self._failure is None:
                left = left[super().write(left) :]
        except OSError as error:
            self._failure = error
        if self._failure is not None:
            self._kept.append((place, bytes(data)))
        return len(data)

    def readinto(self, buffer) -> int:
        """Read all that is asked for; what was never written is zero."""
        place, view = self.tell(), memoryview(buffer).cast("B")
        read = super().readinto(view)
        view[read:] = bytes(len(view) - read)
        for start, data in self._kept:
            first, last = max(start, place), min(start + len(data), place + len(view))
            if first < last:
                view[first - place : last - place] = data[first - start : last - start]
        return len(view)

    def read(self, size: int) -> bytes:
        """Read so many bytes, as ``readinto`` does."""
        buffer = bytearray(size)
        self.readinto(buffer)
        return bytes(buffer)

    def truncate(self, size: int) -> int:
        """Change the size, if the disk lets it."""
        try:
            return super().truncate(size)
        except OSError as error:
            self._failure = self._failure or error
            return size

    def check(self) -> None:
        """Raise what the disk said first, if it did not take all."""
        if self._failure is not None:
            raise self._failure


class _Hdf5Writer:
    def __init__(self, path: Path, like: Predictions, num_galaxies: int):
        h5py = _h5py()
        self._disk = _NeverFull(path)
        self._file = h5py.File(self._disk, "w")
        self._file.attrs[METADATA_KEY] = json.dumps(like.metadata)
        shape, text = (num_galaxies, *like.values.shape[1:]), h5py.string_dtype()
        self._file.create_dataset("predictions", shape, "float32")
        self._file.create_dataset("id_str", num_galaxies, text)
        self._file.create_dataset("label_cols", data=np.array(like.columns, object), dtype=text)
        if like.errors is not None:
            self._file.create_dataset("error", num_galaxies, text)
        self._next = 0

    def __enter__(self):
        return self

    def write(self, part: Predictions) -> None:
        place = slice(self._next, self._next + len(part.ids))
        try:
            self._file["predictions"][place] = part.values
            self._file["id_str"][place] = part.ids
            if part.errors is not None:
                self._file["error"][place] = [error or "" for error in part.errors]
        finally:
            self._disk.check()
        self._next = place.stop

    def __exit__(self, *_):
        try:
            self._file.close()
        finally:
            self._disk.close()
            self._disk.check()


def read_predictions(path: str | Path) -> Predictions:
    """Read a prediction file of any of the formats.

    Raises:
        ValueError: for a file that is none, or can't be read.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no predictions {path}")
    if path.suffix not in SUFFIXES:
        raise UserError(f"predictions {path}: unknown format {path.suffix!r}")
    read = {".parquet": _read_parquet, ".csv": _read_csv}.get(path.suffix, _read_hdf5)
    try:
        return read(path)
    except (OSError, KeyError, ValueError, TypeError, MemoryError, pa.ArrowException) as error:
        raise UserError(f"predictions {path} can't be read: {error}") from error


def _read_parquet(path: Path) -> Predictions:
    check_parquet(path)
    table = pq.read_table(path)
    metadata = (table.schema.metadata or {}).get(METADATA_KEY.encode(), b"{}")
    columns = [name for name in table.column_names if name not in ("id_str", "error")]
    values = [_cells(table[name].combine_chunks()) for name in columns]
    errors = table["error"].to_numpy() if "error" in table.column_names else None
    ids = table["id_str"].to_pandas().astype(str).to_numpy(dtype=object)
    return Predictions(ids, np.stack(values, axis=1), columns, errors, parse_json(metadata))


def _cells(column: pa.Array) -> np.ndarray:
    """(N, S) of a column of numbers or of lists of S numbers."""
    if pa.types.is_list(column.type):
        return column.flatten().to_numpy(False).reshape(len(column), -1).astype(np.float32)
    return column.to_numpy(zero_copy_only=False)[:, None].astype(np.float32)


def _read_csv(path: Path) -> Predictions:
    header = pd.read_csv(path, nrows=0).columns
    missing = {name: ["", "nan", "NaN"] for name in header if name not in ("id_str", "error")}
    text = {"id_str": str, "error": str}
    table = pd.read_csv(path, dtype=text, keep_default_na=False, na_values=missing)
    columns = [name for name in table.columns if name not in ("id_str", "error")]
    values = table[columns]
    if len(table) and not all(map(pd.api.types.is_numeric_dtype, values.dtypes)):
        cells = [[parse_json(cell) for cell in row] for row in values.to_numpy()]
        array = np.array(cells, dtype=np.float32)
    else:
        array = values.to_numpy(dtype=np.float32)[..., None]
    errors = None
    if "error" in table:
        errors = np.array([text or None for text in table["error"]], dtype=object)
    return Predictions(table["id_str"].to_numpy(dtype=object), array, columns, errors)


def _read_hdf5(path: Path) -> Predictions:
    with _h5py().File(path) as file:
        for name in file:
            _check_dataset(path, file, name)
        ids, columns = file["id_str"].asstr()[:], list(file["label_cols"].asstr()[:])
        errors = None
        if "error" in file:
            errors = np.array([text or None for text in file["error"].asstr()[:]], dtype=object)
        metadata = parse_json(file.attrs.get(METADATA_KEY, "{}"))
        return Predictions(ids, file["predictions"][:], columns, errors, metadata)


def _check_dataset(path: Path, file, name: str) -> None:
    """ValueError for a dataset that is kept in another file, or too large for this one."""
    h5py = _h5py()
    dataset = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise UserError(f"{name!r} is no dataset of this file itself")
    check_claims(path, dataset.size, dataset.nbytes)
