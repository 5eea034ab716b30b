"""Write predictions as FITS and VOTable, which TOPCAT opens, part by part; read them with astropy.

Both formats want to know the widths of texts before the first row. So rows wait in a temporary file
until all are there. Then they are written as records of fixed width: a FITS table's own, and in a
VOTable (BINARY2, in base64) the same after some bytes that say which cells are missing. Columns
have their descriptions and units; TCOMM is TOPCAT's keyword for a description in FITS.
"""

import base64
import dataclasses
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from zoobot.data.astropy_tables import need_astropy, open_astropy
from zoobot.data.carried import description_of
from zoobot.limits.fits import BLOCK
from zoobot.limits.fits import MOST as MOST_COLUMNS
from zoobot.predictions.contents import (
    METADATA_KEY,
    Predictions,
    carried_in,
    errors_of,
    metadata_of,
    stack,
)
from zoobot.system.errors import UserError

KINDS = {".fits": "fits", ".vot": "votable"}  # astropy's names
ROWS_AT_ONCE = 2**14
ESCAPED = len(r"\U0001f30c")  # characters for one that is not ASCII
BASE64_BYTES = 57 * 2**14  # encoded at once: whole lines of 76 characters
# Of integers: those that hold them, and those that have room for a number that means "missing".
INTEGERS = {"int8": "i2", "uint8": "u1", "int16": "i2", "uint16": "i4", "int32": "i4"}
WIDER = {"u1": "i2", "i2": "i4", "i4": "i8", "i8": "i8"}
TFORMS = {"u1": "B", "i2": "I", "i4": "J", "i8": "K", "f4": "E", "f8": "D"}
DATATYPES = {"u1": "unsignedByte", "i2": "short", "i4": "int", "i8": "long"}
DATATYPES |= {"f4": "float", "f8": "double"}


@dataclasses.dataclass
class _Column:
    """How a column is stored.

    Attributes:
        kind: numpy's type without its byte order; '' for texts, 'bool' for truth values.
        size: numbers in a cell, or characters.
        is_ascii: of texts; others are stored in two bytes a character.
        null: the number that means "missing"; None if no cell is, or NaN tells.
    """

    field: pa.Field
    kind: str
    size: int = 1
    is_ascii: bool = True
    null: int | None = None

    def place(self, name: str) -> tuple:
        """Of the cells in a record of numpy, under this name."""
        if self.kind in ("", "bool"):
            return name, f"S{self.size if self.is_ascii else 2 * self.size}"
        return (name, f">{self.kind}", *([(self.size,)] if self.size > 1 else []))

    def cells(self, array: pa.Array) -> np.ndarray | list[bytes]:
        """The cells of some rows, as they are stored."""
        if self.kind == "":
            coding = ("ascii", "backslashreplace") if self.is_ascii else ("utf-16-be",)
            return [(text or "").encode(*coding) for text in array.to_pylist()]
        if self.kind == "bool":
            return [{True: b"T", False: b"F"}.get(cell, b"") for cell in array.to_pylist()]
        if pa.types.is_list(self.field.type):
            return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), self.size)
        if self.null is not None:
            array = array.cast(pa.from_numpy_dtype(self.kind)).fill_null(self.null)
        return array.to_numpy(zero_copy_only=False)


class _Texts:
    """The largest width of the texts of a column, and whether all are ASCII."""

    def __init__(self):
        self.width, self.is_ascii = 1, True

    def look_at(self, column: pa.ChunkedArray) -> None:
        if pc.all(pc.string_is_ascii(column)).as_py() is False:
            self.is_ascii = False
        lengths = (len((text or "").encode("utf-16-be")) // 2 for text in column.to_pylist())
        self.width = max(self.width, *lengths, 1)


class _AstropyWriter:
    """Collects the rows in a temporary file, and writes the table when all are there."""

    def __init__(self, path: Path, template: Predictions, num_galaxies: int):
        self._path, self._num_rows = path, num_galaxies
        self._schema = template.arrow_schema()
        self._num_samples = template.values.shape[2]
        is_text = pa.types.is_string
        self._texts = {f.name: _Texts() for f in self._schema if is_text(f.type)}
        self._has_nulls: set[str] = set()
        self._file = tempfile.TemporaryFile(dir=path.parent)
        self._rows = pa.ipc.new_file(self._file, self._schema)

    def __enter__(self) -> "_AstropyWriter":
        return self

    def write(self, part: Predictions) -> None:
        table = part.to_arrow(self._schema)
        for name, texts in self._texts.items():
            texts.look_at(table[name])
        self._has_nulls |= {name for name in table.column_names if table[name].null_count}
        self._rows.write_table(table, max_chunksize=ROWS_AT_ONCE)

    def __exit__(self, kind: type | None, *_: Any) -> None:
        self._rows.close()
        with self._file as waiting:
            if kind is None:
                waiting.seek(0)
                reader = pa.ipc.open_file(waiting)
                batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
                with open(self._path, "wb") as file:
                    self._write_table(file, batches)

    def _write_table(self, file: BinaryIO, batches: Iterable[pa.RecordBatch]) -> None:
        raise NotImplementedError

    def _columns(self) -> list[_Column]:
        return [self._column(field) for field in self._schema]

    def _column(self, field: pa.Field) -> _Column:
        if field.name in self._texts:
            texts = self._texts[field.name]
            return _Column(field, "", texts.width, texts.is_ascii)
        if pa.types.is_boolean(field.type):
            return _Column(field, "bool")
        if pa.types.is_list(field.type):
            return _Column(field, "f4", self._num_samples)
        if pa.types.is_floating(field.type):
            return _Column(field, "f8" if pa.types.is_float64(field.type) else "f4")
        kind = INTEGERS.get(str(field.type), "i8")
        if field.name not in self._has_nulls:
            return _Column(field, kind)
        return _Column(field, WIDER[kind], null=int(np.iinfo(WIDER[kind]).min))


def open_astropy_writer(
    path: Path, suffix: str, template: Predictions, num_galaxies: int
) -> _AstropyWriter:
    """Open a new file of predictions; see ``files.open_writer``."""
    need_astropy(suffix)
    return {".fits": _FitsWriter, ".vot": _VotableWriter}[suffix](path, template, num_galaxies)


class _FitsWriter(_AstropyWriter):
    def _write_table(self, file: BinaryIO, batches: Iterable[pa.RecordBatch]) -> None:
        from astropy.io import fits

        columns = self._columns()
        for column in columns:  # what is not ASCII can only be in errors: they were checked
            column.is_ascii = True
            if column.kind == "" and not self._texts[column.field.name].is_ascii:
                column.size *= ESCAPED
        described = [description_of(column.field) for column in columns]
        table = fits.BinTableHDU.from_columns(
            [
                fits.Column(c.field.name, _tform(c), unit or None, null=c.null)
                for c, (_, unit) in zip(columns, described, strict=True)
            ],
            nrows=0,
        )
        header = table.header
        header["NAXIS2"] = self._num_rows
        header["EXTNAME"] = "PREDICTIONS"
        for i, (told, _) in enumerate(described, 1):
            if told:
                header[f"TCOMM{i}"] = told.encode("ascii", "replace").decode()
        header[METADATA_KEY.upper()] = self._schema.metadata[METADATA_KEY.encode()].decode()
        file.write(fits.PrimaryHDU().header.tostring().encode("ascii"))
        file.write(header.tostring().encode("ascii"))
        num_bytes = 0
        for rows in _records(columns, batches):
            num_bytes += file.write(rows.tobytes())
        file.write(bytes(-num_bytes % BLOCK))


def _tform(column: _Column) -> str:
    if column.kind == "bool":
        return "L"
    letter = TFORMS.get(column.kind, "A")
    return letter if column.size == 1 and letter != "A" else f"{column.size}{letter}"


def _records(
    columns: list[_Column], batches: Iterable[pa.RecordBatch], flags: bool = False
) -> Iterator[np.ndarray]:
    """The rows as records of fixed width; with ``flags`` after bits that say what is missing."""
    places = [column.place(str(i)) for i, column in enumerate(columns)]
    if flags:
        places.insert(0, ("flags", "u1", (-(-len(columns) // 8),)))
    for batch in batches:
        rows = np.zeros(len(batch), places)
        missing = np.zeros((len(batch), len(columns)), bool)
        for i, column in enumerate(columns):
            rows[str(i)] = column.cells(batch.column(i))
            if column.null is not None or column.kind == "bool":
                missing[:, i] = batch.column(i).is_null().to_numpy(zero_copy_only=False)
        if flags:
            rows["flags"] = np.packbits(missing, axis=1)
        yield rows


class _VotableWriter(_AstropyWriter):
    def _write_table(self, file: BinaryIO, batches: Iterable[pa.RecordBatch]) -> None:
        columns = self._columns()
        metadata = self._schema.metadata[METADATA_KEY.encode()].decode()
        lines = [
            '<?xml version="1.0" encoding="UTF-8"?>',
            '<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">',
            '<RESOURCE type="results">',
            f'<TABLE name="predictions" nrows="{self._num_rows}">',
            f'<PARAM name="{METADATA_KEY}" datatype="char" arraysize="*" '
            f"value={quoteattr(metadata)}/>",
            *map(_votable_field, columns),
            '<DATA><BINARY2><STREAM encoding="base64">',
        ]
        file.write("\n".join([*lines, ""]).encode())
        rest = b""
        for rows in _records(columns, batches, flags=True):
            rest += rows.tobytes()
            whole = len(rest) - len(rest) % BASE64_BYTES
            file.write(base64.encodebytes(rest[:whole]))
            rest = rest[whole:]
        file.write(base64.encodebytes(rest))
        file.write(b"</STREAM></BINARY2></DATA>\n</TABLE>\n</RESOURCE>\n</VOTABLE>\n")


def _votable_field(column: _Column) -> str:
    told, unit = description_of(column.field)
    said = {"name": column.field.name}
    if column.kind == "":
        said["datatype"] = "char" if column.is_ascii else "unicodeChar"
        said["arraysize"] = str(column.size)
    else:
        said["datatype"] = DATATYPES.get(column.kind, "boolean")
    if column.size > 1:
        said["arraysize"] = str(column.size)
    if unit:
        said["unit"] = unit
    attributes = " ".join(f"{name}={quoteattr(text)}" for name, text in said.items())
    return f"<FIELD {attributes}><DESCRIPTION>{escape(told)}</DESCRIPTION></FIELD>"


def check_fits_keeps(template: Predictions, ids: Iterable[pa.ChunkedArray]) -> None:
    """ValueError if FITS can't hold the columns, or the texts of ids and carried columns."""
    names = ["id_str", *template.carried_names, *template.columns]
    if len(names) + (template.errors is not None) > MOST_COLUMNS:
        raise UserError(
            f"FITS tables have at most {MOST_COLUMNS} columns, these are {len(names)}: save as "
            ".vot or .parquet"
        )
    lower = [name.casefold() for name in names]
    texts = [("a column", pa.chunked_array([pa.array(names)])), *(("id_str", part) for part in ids)]
    for field in [] if template.carried is None else template.carried.schema:
        if pa.types.is_string(field.type):
            texts.append((f"--carry {field.name}", template.carried[field.name]))
    for what, column in texts:
        is_ascii = pc.string_is_ascii(column)
        if pc.all(is_ascii).as_py() is False:
            odd = column.filter(pc.invert(is_ascii))[0].as_py()
            raise UserError(
                f"FITS keeps ASCII texts only, not {odd!r:.60} ({what}): save as .vot or .parquet"
            )
    twice = [name for name in names if lower.count(name.casefold()) > 1]
    if twice:
        raise UserError(
            f"FITS does not tell capital letters in names of columns: {', '.join(twice[:2])}: save "
            "as .vot or .parquet"
        )


def without_missing_truths(carried: pa.Table) -> pa.Table:
    """Carried columns as FITS has them: truth values, some missing, become the numbers 0 and 1.

    FITS has a sign for missing ones, but astropy reads it as false.
    """
    for i, field in enumerate(carried.schema):
        if pa.types.is_boolean(field.type) and carried.column(i).null_count:
            numbers = carried.column(i).cast(pa.int8())
            carried = carried.set_column(i, field.with_type(pa.int8()), numbers)
    return carried


def read_astropy_file(path: Path) -> Predictions:
    """Read a whole file; see ``files.read_predictions``."""
    table = open_astropy(path, KINDS[path.suffix.lower()], [])
    told = {key.casefold(): value for key, value in table.meta.items()}
    metadata = metadata_of(str(told.get(METADATA_KEY, "{}")))
    names = carried_in(metadata, table.colnames)
    cells = {name: _numbers(table[name]) for name in table.colnames if name not in names}
    errors = errors_of(_strings(table["error"])) if "error" in table.colnames else None
    carried = pa.table({name: _carried(table[name]) for name in names}) if names else None
    ids = _strings(table["id_str"])
    return Predictions(ids, *stack(cells), errors, metadata, carried)


def _strings(column: Any) -> np.ndarray:
    """(N,) texts; those of TOPCAT may be numbers."""
    return np.array([str(text) for text in np.ma.filled(column, "")], dtype=object)


def _numbers(column: Any) -> np.ndarray | None:
    """(N, S) float32; None for a column of texts or truth values."""
    if column.dtype.kind not in "fiu":
        return None
    numbers = np.ma.filled(np.ma.asarray(column).astype(np.float32), np.nan)
    return numbers.reshape(len(numbers), -1)


def _carried(column: Any) -> pa.Array:
    values = np.ma.asarray(column)
    missing = np.ma.getmaskarray(values)
    plain = values.data.astype(values.dtype.newbyteorder("="))
    if plain.dtype.kind in "US":
        plain, missing = plain.astype(object), missing | (plain == "")
    return pa.array(plain, mask=missing)
