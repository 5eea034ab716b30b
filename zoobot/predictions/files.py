"""Write prediction files (parquet, CSV, HDF5, FITS, VOTable) part by part, and read them.

Predictions are arrays (N, A, S): N galaxies, A columns, S samples (forward passes). In parquet and
CSV, a cell holds one number if S is 1, else a list of S numbers (in CSV as JSON). In CSV, texts and
names of columns that a spreadsheet would take for a formula are marked (``system.spreadsheets``).
"""

import contextlib
import csv
import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from zoobot.data.catalog import check_exact_ids
from zoobot.limits.memory import TEXT_BYTES, check_memory, check_size
from zoobot.limits.parquet import check_parquet, open_parquet, read_schema
from zoobot.limits.text import parse_json
from zoobot.predictions.astropy_files import (
    check_fits_keeps,
    need_astropy,
    open_astropy_writer,
    read_astropy_file,
    without_missing_truths,
)
from zoobot.predictions.contents import (
    METADATA_KEY,
    OTHERS,
    Predictions,
    carried_in,
    errors_of,
    metadata_of,
    stack,
)
from zoobot.predictions.hdf5_files import (
    Hdf5Writer,
    hdf5_pieces,
    need_h5py,
    read_hdf5,
    with_nan,
)
from zoobot.system.errors import UserError, one_line
from zoobot.system.files import open_to_read, write_whole
from zoobot.system.spreadsheets import mark, unmark

SUFFIXES = (".parquet", ".csv", ".fits", ".vot", ".hdf5", ".h5")
OF_ASTROPY = (".fits", ".vot")
# What damaged files make readers raise; h5py RuntimeErrors, of one or more lines.
READING_ERRORS = (OSError, LookupError, ValueError, TypeError, MemoryError, RuntimeError)
VALUES_A_ROW_GROUP = 2**24
ROWS_A_PIECE = 2**12


def check_save_loc(path: str | Path) -> Path:
    """Return the path.

    Raises:
        ValueError: its format is unknown, it is a folder, or the format's package is missing.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise UserError(f"predictions {path}: end the name with one of {', '.join(SUFFIXES)}")
    if path.is_dir():
        raise UserError(f"predictions {path} is a folder: save elsewhere")
    if path.suffix in (".hdf5", ".h5"):
        need_h5py()
    if path.suffix in OF_ASTROPY:
        need_astropy(path.suffix)
    return path


def as_kept(suffix: str, template: Predictions, ids: Iterable[pa.ChunkedArray]) -> Predictions:
    """The template, with its carried columns such as the format can hold them.

    Args:
        template: whose carried columns are complete.
        ids: of all galaxies, piece by piece.

    Raises:
        ValueError: the format can't hold the columns or the texts.
    """
    if suffix == ".fits":
        check_fits_keeps(template, ids)
    convert = {".fits": without_missing_truths, ".hdf5": with_nan, ".h5": with_nan}.get(suffix)
    if convert is None or template.carried is None:
        return template
    return dataclasses.replace(template, carried=convert(template.carried))


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
    if suffix in OF_ASTROPY:
        return open_astropy_writer(path, suffix, template, num_galaxies)
    writer = {".parquet": _ParquetWriter, ".csv": _CsvWriter}.get(suffix, Hdf5Writer)
    return writer(path, template, num_galaxies)


class _ParquetWriter:
    """Writes parquet in row groups of limited size."""

    def __init__(self, path: Path, template: Predictions, num_galaxies: int):
        num_columns, num_samples = template.values.shape[1:]
        self._schema = template.arrow_schema()
        self._rows_a_group = max(1, VALUES_A_ROW_GROUP // max(1, num_columns * num_samples))
        self._file = pq.ParquetWriter(path, self._schema)
        self._waiting: list[pa.Table] = []

    def __enter__(self) -> Writer:
        return self

    def write(self, part: Predictions) -> None:
        self._waiting.append(part.to_arrow(self._schema))
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
        names = ["id_str", *template.carried_names, *template.columns, *errors]
        self._writer.writerow([mark(name) for name in names])

    def __enter__(self) -> Writer:
        return self

    def write(self, part: Predictions) -> None:
        carried = [_csv_cells(part.carried[name]) for name in part.carried_names]
        for i, (id_str, values) in enumerate(zip(part.ids, part.values, strict=True)):
            texts = values.astype(str)  # the shortest text that reads back as the same float32
            texts[np.isnan(values)] = "" if values.shape[1] == 1 else "NaN"
            texts[np.isinf(values)] = np.where(values > 0, "Infinity", "-Infinity")[
                np.isinf(values)
            ]
            cells = texts.tolist()
            cells = [c[0] if len(c) == 1 else f"[{', '.join(c)}]" for c in cells]
            error = [] if part.errors is None else [mark(part.errors[i] or "")]
            self._writer.writerow([mark(id_str), *(c[i] for c in carried), *cells, *error])

    def __exit__(self, *_: Any) -> None:
        self._file.close()


def _csv_cells(column: pa.ChunkedArray) -> list[str]:
    """The texts of a carried column; '' where a cell is missing."""
    if pa.types.is_floating(column.type):  # the shortest text that reads back as the same number
        numbers = column.to_numpy()
        return np.where(np.isnan(numbers), "", numbers.astype(str)).tolist()
    return ["" if cell is None else mark(str(cell)) for cell in column.to_pylist()]


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
    path, suffix = _known(path)
    readers = {".parquet": _read_parquet, ".csv": _read_csv, ".hdf5": read_hdf5, ".h5": read_hdf5}
    with _errors_of(path):
        return _checked(readers.get(suffix, read_astropy_file)(path))


def read_in_pieces(path: str | Path, num_rows: int = ROWS_A_PIECE) -> Iterator[Predictions]:
    """Read a prediction file as ``read_predictions`` does, in pieces of some rows, in order.

    Of Parquet and HDF5 a piece is in memory at a time; the other formats are read whole.
    """
    path, suffix = _known(path)
    with _errors_of(path):
        if suffix == ".parquet":
            pieces = _parquet_pieces(path, num_rows)
        elif suffix in (".hdf5", ".h5"):
            pieces = hdf5_pieces(path, num_rows)
        else:
            pieces = iter([read_predictions(path)])
        for piece in pieces:
            yield _checked(piece)


def _known(path: str | Path) -> tuple[Path, str]:
    """The path of a file of predictions and its format; ValueError if there is none."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no predictions {path}")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"predictions {path}: unknown format {path.suffix!r}")
    return path, suffix


def _checked(predictions: Predictions) -> Predictions:
    """The predictions; ValueError if ids were rounded, or values don't fit ids and columns."""
    check_exact_ids(pd.Series(predictions.ids), "its ids")
    shape, expected = predictions.values.shape, (len(predictions.ids), len(predictions.columns))
    if shape[:2] != expected or len(shape) != 3 or shape[2] < 1:
        raise ValueError(f"it has values {shape} for {expected} galaxies and columns")
    return predictions


@contextlib.contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Whatever a reader raises for a damaged file becomes a ValueError that names it."""
    try:
        yield
    except (*READING_ERRORS, pa.ArrowException) as error:
        if isinstance(error, UserError) and str(path) in str(error):
            raise
        reason = one_line(str(error)) or type(error).__name__
        raise UserError(f"predictions {path} can't be read: {reason}") from error


def _read_parquet(path: Path) -> Predictions:
    columns = _predicted_columns(path)
    check_parquet(path, columns=columns)
    with open_parquet(path) as file:
        return _of_table(file.read(columns))


def _parquet_pieces(path: Path, num_rows: int) -> Iterator[Predictions]:
    columns = _predicted_columns(path)
    check_parquet(path, num_rows, columns)
    with open_parquet(path) as file:
        for group in range(file.num_row_groups):  # of all at once the whole file would be kept
            for batch in file.iter_batches(num_rows, [group], columns):
                yield _of_table(pa.Table.from_batches([batch]))


def _predicted_columns(path: Path) -> list[str]:
    """Columns of numbers, of ids and errors, and those that were carried; others are not read."""
    schema = read_schema(path)
    metadata = metadata_of((schema.metadata or {}).get(METADATA_KEY.encode(), b"{}"))
    others = {"id_str", "error", *carried_in(metadata, schema.names)}
    return [field.name for field in schema if field.name in others or _is_number(field.type)]


def _of_table(table: pa.Table) -> Predictions:
    """Rows of a Parquet file as predictions."""
    metadata = metadata_of((table.schema.metadata or {}).get(METADATA_KEY.encode(), b"{}"))
    carried = carried_in(metadata, table.column_names)
    cells = {
        name: _cells(table[name].combine_chunks())
        for name in table.column_names
        if name not in carried
    }
    errors = table["error"].to_numpy() if "error" in table.column_names else None
    ids = plain_ids(table)
    carried = table.select(carried).replace_schema_metadata() if carried else None
    return Predictions(ids, *stack(cells), errors, metadata, carried)


def plain_ids(table: pa.Table) -> np.ndarray:
    """Ids of a Parquet file as text. ValueError if they are rounded numbers, or fill the memory."""
    check_memory(TEXT_BYTES * len(table), "its ids")
    ids = table["id_str"].to_pandas()
    check_exact_ids(ids, "its ids")
    return ids.astype(str).to_numpy(dtype=object)


def _cells(column: pa.Array) -> np.ndarray | None:
    """A column of numbers, or of lists of S numbers, as an array (N, S); None for other columns."""
    if not _is_number(column.type):
        return None
    if pa.types.is_list(column.type):
        return column.flatten().to_numpy(False).reshape(len(column), -1).astype(np.float32)
    return column.to_numpy(zero_copy_only=False)[:, None].astype(np.float32)


def _is_number(kind: pa.DataType) -> bool:
    """Whether a column has a number, or a list of numbers, of each galaxy."""
    kind = kind.value_type if pa.types.is_list(kind) else kind
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def _read_csv(path: Path) -> Predictions:
    check_size(path)
    with open_to_read(path) as file:
        header = pd.read_csv(file, nrows=0).columns
    missing = {name: ["", "nan", "NaN"] for name in header if name not in OTHERS}
    text, cells = dict.fromkeys(OTHERS, str), {}
    with open_to_read(path) as file:
        table = pd.read_csv(file, dtype=text, keep_default_na=False, na_values=missing)
    table.columns = [unmark(name) for name in table.columns]
    for name in table.columns.drop([*OTHERS], errors="ignore"):
        column = table[name]
        if pd.api.types.is_numeric_dtype(column):
            cells[name] = column.to_numpy(dtype=np.float32)[:, None]
        elif column.str.startswith("[", na=False).mean() > 0.5:
            cells[name] = np.array([parse_json(cell) for cell in column], dtype=np.float32)
        elif pd.to_numeric(column, errors="coerce").notna().mean() > 0.5:
            cells[name] = column.to_numpy().astype(np.float32)[:, None]  # which names the text
    ids = table["id_str"].map(unmark).to_numpy(dtype=object)
    errors = table["error"].map(unmark) if "error" in table else None
    return Predictions(ids, *stack(cells), errors_of(errors))
