"""Write prediction files (parquet, CSV, HDF5) part by part, and read them.

Predictions are arrays (N, A, S): N galaxies, A columns, S samples (forward passes). In parquet and
CSV, a cell holds one number if S is 1, else a list of S numbers (in CSV as JSON).
"""

import csv
import dataclasses
import io
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from zoobot.data.catalog import check_exact_ids
from zoobot.limits.tables import check_claims, check_parquet
from zoobot.limits.text import parse_json
from zoobot.system.errors import UserError
from zoobot.system.files import reserve_space, write_whole

SUFFIXES = (".parquet", ".csv", ".hdf5", ".h5")
VALUES_A_ROW_GROUP = 2**24
METADATA_KEY = "zoobot"
OTHERS = ("id_str", "error")  # columns besides the predictions
INDEX_NAME = re.compile(r"Unnamed: \d+|__index_level_\d+__")  # of an index that pandas wrote
HDF5_ROWS = 256  # galaxies that are written to HDF5 at a time
# More than HDF5 uses for these galaxies besides values and texts. It stores texts in blocks of 4 to
# 64 KiB and keeps up to 16 of them partly empty; each text needs at most one new block of 4 KiB.
HDF5_SPARE_BYTES = 2**22


@dataclasses.dataclass
class Predictions:
    """Predictions for N galaxies: the contents of a prediction file.

    Attributes:
        ids: (N,) ``id_str`` of each galaxy.
        values: (N, A, S) float32. NaN if the galaxy's image could not be read.
        columns: names of the A columns.
        errors: (N,) why the galaxy's image could not be read, or None if it could. The attribute
            itself is None if errors are not recorded.
        metadata: ``task``, ``schema`` and more about the model. Empty for CSV files.
    """

    ids: np.ndarray
    values: np.ndarray
    columns: list[str]
    errors: np.ndarray | None = None
    metadata: dict = dataclasses.field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        """A table like the parquet file: ``id_str``, the columns, and ``error`` if recorded."""
        columns = {name: list(self.values[:, i]) for i, name in enumerate(self.columns)}
        if self.values.shape[2] == 1:
            columns = {name: self.values[:, i, 0] for i, name in enumerate(self.columns)}
        frame = pd.DataFrame({"id_str": self.ids, **columns})
        return frame if self.errors is None else frame.assign(error=self.errors)


def check_save_loc(path: str | Path) -> Path:
    """Return the path. ValueError if its format is unknown, it is a folder, or h5py is missing."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise UserError(f"predictions {path}: end the name with one of {', '.join(SUFFIXES)}")
    if path.is_dir():
        raise UserError(f"predictions {path} is a folder: save elsewhere")
    if path.suffix in (".hdf5", ".h5"):
        _h5py()
    return path


def _h5py() -> ModuleType:
    """The h5py package, which is optional."""
    try:
        import h5py
    except ImportError:
        raise UserError("HDF5 needs h5py: pip install 'zoobot-torch[hdf5]'") from None
    return h5py


class Writer(Protocol):
    """Writes a prediction file, used in a ``with`` block."""

    def __enter__(self) -> "Writer":
        """Start writing."""

    def write(self, part: Predictions) -> None:
        """Write the next galaxies. The parts must come in the order of the galaxies."""

    def __exit__(self, *exception: Any) -> None:
        """Complete and close the file."""


def open_writer(path: Path, suffix: str, template: Predictions, num_galaxies: int) -> Writer:
    """Open a new prediction file for writing in parts.

    Args:
        suffix: the format, one of ``SUFFIXES``. The path's own suffix is not looked at.
        template: ``Predictions`` with the columns, number of samples and metadata of all parts,
            and with ``errors`` if the parts have them. Its galaxies are not looked at.
        num_galaxies: the number of galaxies in all parts together.
    """
    writer = {".parquet": _ParquetWriter, ".csv": _CsvWriter}.get(suffix, _Hdf5Writer)
    return writer(path, template, num_galaxies)


class _ParquetWriter:
    """Writes parquet in row groups of limited size."""

    def __init__(self, path: Path, template: Predictions, num_galaxies: int):
        num_columns, num_samples = template.values.shape[1:]
        cell = pa.float32() if num_samples == 1 else pa.list_(pa.float32())
        fields = [("id_str", pa.string()), *((name, cell) for name in template.columns)]
        if template.errors is not None:
            fields.append(("error", pa.string()))
        metadata = {METADATA_KEY: json.dumps(template.metadata)}
        self._schema = pa.schema(fields, metadata)
        self._rows_a_group = max(1, VALUES_A_ROW_GROUP // max(1, num_columns * num_samples))
        self._file = pq.ParquetWriter(path, self._schema)
        self._waiting: list[pa.Table] = []

    def __enter__(self) -> Writer:
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

    def __exit__(self, *_: Any) -> None:
        self._flush()
        self._file.close()


class _CsvWriter:
    """Writes CSV row by row."""

    def __init__(self, path: Path, template: Predictions, num_galaxies: int):
        self._file = open(path, "w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file)
        errors = [] if template.errors is None else ["error"]
        self._writer.writerow(["id_str", *template.columns, *errors])

    def __enter__(self) -> Writer:
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

    def __exit__(self, *_: Any) -> None:
        self._file.close()


class _Hdf5Writer:
    """Writes HDF5 into disk space that is reserved first, so that a full disk is an OSError.

    The HDF5 library can crash the process if one of its own writes fails. While writing, the disk
    needs 4 MiB more than the file. A file system that can't reserve space, such as ZFS, only checks
    that there is enough: a crash is still possible if other programs fill the disk meanwhile.
    """

    def __init__(self, path: Path, template: Predictions, num_galaxies: int):
        h5py = _h5py()
        shape, text = (num_galaxies, *template.values.shape[1:]), h5py.string_dtype()
        start = io.BytesIO()  # the file without galaxies is made in memory
        with h5py.File(start, "w") as file:
            file.attrs[METADATA_KEY] = json.dumps(template.metadata)
            arrays = [file.create_dataset("predictions", shape, "float32")]
            arrays.append(file.create_dataset("id_str", num_galaxies, text))
            file.create_dataset("label_cols", data=np.array(template.columns, object), dtype=text)
            if template.errors is not None:
                arrays.append(file.create_dataset("error", num_galaxies, text))
            num_bytes = sum(array.nbytes for array in arrays)
        path.write_bytes(start.getvalue())
        self._path = path
        self._reserved = path.stat().st_size
        self._arrays_end = self._reserved + num_bytes  # HDF5 adds the arrays at the first write
        self._file = h5py.File(path, "r+")
        self._next = 0

    def __enter__(self) -> Writer:
        return self

    def write(self, part: Predictions) -> None:
        for start in range(0, len(part.ids), HDF5_ROWS):
            rows = slice(start, start + HDF5_ROWS)
            texts = {"id_str": part.ids[rows]}
            if part.errors is not None:
                texts["error"] = [error or "" for error in part.errors[rows]]
            self._reserve(sum(len(text.encode()) for column in texts.values() for text in column))
            place = slice(self._next, self._next + len(part.ids[rows]))
            self._file["predictions"][place] = part.values[rows]
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


def write_predictions(path: str | Path, predictions: Predictions) -> None:
    """Write a complete prediction file. The path's suffix sets the format."""
    path = check_save_loc(path)

    def write(aside: Path) -> None:
        with open_writer(aside, path.suffix, predictions, len(predictions.ids)) as writer:
            writer.write(predictions)

    write_whole(path, write)


def read_predictions(path: str | Path) -> Predictions:
    """Read a prediction file of any of the formats, also one that pandas has saved again.

    Other columns of text, and an index without a name, are left out.

    Raises:
        ValueError: if there is no such file, it can't be read, or its ids were rounded.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no predictions {path}")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"predictions {path}: unknown format {path.suffix!r}")
    read = {".parquet": _read_parquet, ".csv": _read_csv}.get(suffix, _read_hdf5)
    try:
        predictions = read(path)
        check_exact_ids(pd.Series(predictions.ids), "its ids")
        shape, expected = predictions.values.shape, (len(predictions.ids), len(predictions.columns))
        if shape[:2] != expected or len(shape) != 3 or shape[2] < 1:
            raise ValueError(f"it has values {shape} for {expected} galaxies and columns")
        return predictions
    except (OSError, KeyError, ValueError, TypeError, MemoryError, pa.ArrowException) as error:
        raise UserError(f"predictions {path} can't be read: {error}") from error


def _read_parquet(path: Path) -> Predictions:
    check_parquet(path)
    table = pq.read_table(path)
    metadata = (table.schema.metadata or {}).get(METADATA_KEY.encode(), b"{}")
    cells = {name: _cells(table[name].combine_chunks()) for name in table.column_names}
    errors = table["error"].to_numpy() if "error" in table.column_names else None
    ids = table["id_str"].to_pandas()
    check_exact_ids(ids, "its ids")
    ids = ids.astype(str).to_numpy(dtype=object)
    return Predictions(ids, *_stack(cells), errors, parse_json(metadata))


def _cells(column: pa.Array) -> np.ndarray | None:
    """A column of numbers, or of lists of S numbers, as an array (N, S); None for other columns."""
    kind = column.type.value_type if pa.types.is_list(column.type) else column.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        return None
    if pa.types.is_list(column.type):
        return column.flatten().to_numpy(False).reshape(len(column), -1).astype(np.float32)
    return column.to_numpy(zero_copy_only=False)[:, None].astype(np.float32)


def _stack(cells: dict[str, np.ndarray | None]) -> tuple[np.ndarray, list[str]]:
    """Values (N, A, S) and names of the columns with most samples, without pandas's index."""
    named = {n: a for n, a in cells.items() if n not in OTHERS and not INDEX_NAME.fullmatch(n)}
    most = max((array.shape[1] for array in named.values() if array is not None), default=0)
    named = {n: a for n, a in named.items() if a is not None and a.shape[1] == most}
    if not named:
        raise UserError("it has no column of numbers")
    return np.stack([*named.values()], axis=1), [*named]


def _read_csv(path: Path) -> Predictions:
    header = pd.read_csv(path, nrows=0).columns
    missing = {name: ["", "nan", "NaN"] for name in header if name not in OTHERS}
    text, cells = dict.fromkeys(OTHERS, str), {}
    table = pd.read_csv(path, dtype=text, keep_default_na=False, na_values=missing)
    for name in table.columns.drop([*OTHERS], errors="ignore"):
        column = table[name]
        if pd.api.types.is_numeric_dtype(column):
            cells[name] = column.to_numpy(dtype=np.float32)[:, None]
        elif column.str.startswith("[").any():
            cells[name] = np.array([parse_json(cell) for cell in column], dtype=np.float32)
        elif pd.to_numeric(column, errors="coerce").notna().any():
            cells[name] = column.to_numpy().astype(np.float32)[:, None]  # which names the text
    ids, errors = table["id_str"].to_numpy(dtype=object), table.get("error")
    return Predictions(ids, *_stack(cells), _errors(errors))


def _errors(texts: Iterable[str] | None) -> np.ndarray | None:
    return None if texts is None else np.array([text or None for text in texts], dtype=object)


def _read_hdf5(path: Path) -> Predictions:
    with _h5py().File(path) as file:
        for name in file:
            _check_dataset(path, file, name)
        ids, columns = file["id_str"].asstr()[:], list(file["label_cols"].asstr()[:])
        errors = _errors(file["error"].asstr()[:] if "error" in file else None)
        metadata = parse_json(file.attrs.get(METADATA_KEY, "{}"))
        return Predictions(ids, file["predictions"][:], columns, errors, metadata)


def _check_dataset(path: Path, file: Any, name: str) -> None:
    """ValueError if the dataset is stored in another file, or claims more than this file holds."""
    h5py = _h5py()
    dataset = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise UserError(f"{name!r} is no dataset of this file itself")
    check_claims(path, dataset.size, dataset.nbytes)
