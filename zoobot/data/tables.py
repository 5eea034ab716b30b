"""Open tables of galaxies: text, Parquet, FITS, ECSV and VOTable, as people have them.

A file's content says what it is; its suffix does not matter. What is layout is read away: spaces
around names of columns, the case of names that are asked for, comments above the header, the
separator, the encoding, gzip, an index that pandas wrote. What could be read in two ways is a
ValueError.
"""

import codecs
import contextlib
import gzip
import json
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from itertools import chain
from pathlib import Path

import pandas as pd
import pyarrow as pa

from zoobot.data.astropy_tables import read_astropy
from zoobot.data.columns import AS_TEXT, OpenTable, plain_names, with_numbers
from zoobot.data.file_kinds import (
    BZIP2_MAGIC,
    FITS_MAGIC,
    GZIP_MAGIC,
    HEAD_BYTES,
    foreign_kind,
    is_image_content,
)
from zoobot.data.text_tables import open_text
from zoobot.limits.memory import TEXT_BYTES, check_memory, check_size
from zoobot.limits.parquet import check_parquet, groups_together, open_parquet, read_schema
from zoobot.limits.tables import check_gzip
from zoobot.system.errors import UserError
from zoobot.system.files import open_to_read

PARQUET_SUFFIXES = (".parquet", ".pq", ".parq")
KINDS = {b"PAR1": "parquet", FITS_MAGIC: "fits", b"# %ECSV": "ascii.ecsv"}  # by first bytes
READ = "save it as CSV (with id_str as text), Parquet, FITS, ECSV or VOTable"
SPLIT_NAMES = dict.fromkeys(("val", "valid", "validation", "dev"), "val")
SPLIT_NAMES |= {"train": "train", "test": "test"}


def open_table(
    path: Path, needed: Iterable[str], num_rows: int | None = None, typed: Collection[str] = ()
) -> OpenTable:
    """Open a file, or a folder of Parquet files whose rows follow each other.

    Files of a folder that are all called like ``train-00000-of-00005.parquet``, ``validation-...``
    and ``test-...`` give a column ``split``.

    Args:
        path: of any suffix.
        needed: columns that must be named without doubt.
        num_rows: the most rows in a piece, which then has the columns ``needed`` only. FITS, ECSV
            and VOTable come in one piece with all columns. None: one piece with all columns.
        typed: columns that keep the types that the file has, if it has types.

    Raises:
        ValueError: the file is missing, empty, damaged or of another format, names of columns
            repeat, or more than one table in it may be the catalog.
    """
    if not path.exists():
        raise UserError(f"no catalog {path}")
    if not path.is_dir() and not path.is_file():
        raise UserError(f"catalog {path} is no file")
    needed = set(needed)
    with _errors_of(path):
        table = _open(path, needed, num_rows, typed)
    return OpenTable(table.names, _with_errors(path, table.pieces))


def _open(path: Path, needed: set[str], num_rows: int | None, typed: Collection[str]) -> OpenTable:
    if path.is_dir():
        return _open_folder(path, needed, num_rows, typed)
    with open_to_read(path) as file:
        start = file.read(HEAD_BYTES)
    packed = start.startswith(GZIP_MAGIC)
    if packed:
        unpacked = check_gzip(path)
        if num_rows is None:
            check_memory(unpacked, "the file, unpacked,")
        with open_to_read(path) as opened, gzip.open(opened) as file:
            start = file.read(HEAD_BYTES)
    kind = _kind(start)
    if kind == "text":
        if num_rows is None:
            check_size(path)
        return open_text(path, packed, start, needed, num_rows)
    if kind == "parquet":
        if packed:
            raise UserError("it is a Parquet file packed with gzip: unpack it")
        return _open_parquet(path, needed, num_rows, typed)
    table = (_read_unpacked if packed else read_astropy)(path, kind, needed)
    table.columns = plain_names(table.columns, needed)
    return OpenTable(list(table.columns), iter([with_numbers(table, typed=typed)]))


def _kind(start: bytes) -> str:
    """What a table is by its first bytes: ``text``, ``parquet``, or astropy's name of the format.

    Raises:
        ValueError: it is something else that is known.
    """
    for magic, kind in KINDS.items():
        if start.startswith(magic):
            return kind
    lower = start.lower().removeprefix(codecs.BOM_UTF8).lstrip()
    if lower.startswith(b"<votable") or (lower.startswith(b"<?xml") and b"<html" not in lower):
        return "votable"
    if b"id_str" in lower and b"\0" not in start and lower[:1] not in (b"{", b"[", b"<"):
        return "text"
    told = "an image" if is_image_content(start) else foreign_kind(start)
    if start.startswith(BZIP2_MAGIC):
        told = "packed with bzip2: unpack it"
    if told:
        raise UserError(f"unknown format: it is {told}; {READ}")
    return "text"


def _read_unpacked(path: Path, kind: str, needed: set[str]) -> pd.DataFrame:
    """A gzip file's table. It is unpacked into a temporary file."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        unpacked = Path(folder) / "table"
        with (
            open_to_read(path) as opened,
            gzip.open(opened) as file,
            open(unpacked, "wb") as written,
        ):
            shutil.copyfileobj(file, written)
        return read_astropy(unpacked, kind, needed)


@contextlib.contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Whatever a reader raises for a damaged file becomes a ValueError that names it."""
    try:
        yield
    except pd.errors.EmptyDataError:
        raise UserError(f"catalog {path} is empty") from None
    except UnicodeError as error:
        raise UserError(
            f"catalog {path} can't be read: it is no UTF-8 text ({error!s:.100}); save it as UTF-8"
        ) from error
    # The readers raise exceptions of many types for a damaged file.
    except Exception as error:
        if isinstance(error, UserError) and str(path) in str(error):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"catalog {path} can't be read: {reason:.300}") from error


def _with_errors(path: Path, pieces: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    with _errors_of(path):
        yield from pieces


# Parquet


def _open_parquet(
    path: Path, needed: set[str], num_rows: int | None, typed: Collection[str]
) -> OpenTable:
    schema = read_schema(path)
    saved = _saved_range(schema, needed)
    stored = [*schema.names, *saved]
    repeated = [name for name, count in Counter(stored).items() if count > 1]
    if repeated:
        raise UserError(f"catalog {path} has more than one column {repeated[0]!r}: rename one")
    names = plain_names(stored, needed)
    renamed = dict(zip(stored, names, strict=True))
    read = [old for old, new in renamed.items() if num_rows is None or new in needed]
    check_parquet(path, num_rows, read)
    return OpenTable(names, _parquet_pieces(path, renamed, needed, saved, num_rows, typed))


def _saved_range(schema: pa.Schema, needed: set[str]) -> dict[str, range]:
    """A needed column that pandas kept as a range of numbers in the file's metadata, by name."""
    index = (schema.pandas_metadata or {}).get("index_columns", [])
    saved = {}
    for column in index:
        if isinstance(column, dict) and set(plain_names([column["name"]], needed)) & needed:
            saved[column["name"]] = range(column["start"], column["stop"], column["step"])
    return saved


def _parquet_pieces(
    path: Path,
    renamed: dict[str, str],
    needed: set[str],
    saved: dict[str, range],
    num_rows: int | None,
    typed: Collection[str],
) -> Iterator[pd.DataFrame]:
    start = 0
    with open_parquet(path) as file:
        if num_rows is None:
            batches = iter([file.read()])
        else:
            columns = [
                stored for stored, name in renamed.items() if name in needed and stored not in saved
            ]
            counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            batches = chain.from_iterable(  # of all groups at once all would be in memory
                file.iter_batches(num_rows, groups, columns)
                for groups in groups_together(counts, num_rows)
            )
        for batch in batches:
            batch.validate(full=True)  # text that is not UTF-8 would cause errors only later
            table = _to_pandas(batch, renamed, needed, typed)
            table.index += start
            for name, numbers in saved.items():
                table[renamed[name]] = numbers[start : start + len(table)]
            start += len(table)
            yield with_numbers(table, typed=typed)


def _to_pandas(
    batch: pa.Table | pa.RecordBatch,
    renamed: dict[str, str],
    needed: set[str],
    typed: Collection[str],
) -> pd.DataFrame:
    """A table of pandas, an index that it was saved with as columns, and whole ids as text.

    Labels that are decimals become floats, and labels that are bytes text. Whole numbers of
    ``typed`` columns stay whole beside missing ones. Lists and dicts, but for images, stay Arrow's:
    objects of Python would take many times the memory.
    """
    table = batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch])
    for i, field in enumerate(table.schema):
        name = renamed[field.name]
        if name == "id_str" and pa.types.is_integer(field.type):
            check_memory(TEXT_BYTES * len(table), f"column {name!r} as text")
            table = table.set_column(i, field.name, table.column(i).cast(pa.string()))
        elif name in needed - {*AS_TEXT, "image"}:
            kinds = {pa.types.is_decimal: pa.float64(), pa.types.is_binary: pa.string()}
            for is_kind, plain in kinds.items():
                if is_kind(field.type):
                    table = table.set_column(i, field.name, table.column(i).cast(plain))
    kept = {}
    for i, field in enumerate(table.schema):
        new, is_nested = renamed[field.name], pa.types.is_nested(field.type)
        if is_nested and new in needed - {"image", *typed}:
            raise UserError(f"column {new!r} holds {field.type!s:.60}, not one value a galaxy")
        is_nested = is_nested and not (new == "image" and _is_flat(field))
        if is_nested or new in typed and pa.types.is_integer(field.type):
            kept[field.name] = pd.arrays.ArrowExtensionArray(table[field.name])
        if is_nested:
            table = table.set_column(i, field.name, pa.nulls(len(table)))
    table = table.replace_schema_metadata(_without_types_of_texts(table.schema)).to_pandas()
    for name in kept.keys() & {*table.columns}:
        table[name] = kept[name]
    if not isinstance(table.index, pd.RangeIndex):
        levels = [name for name in table.index.names if name not in (None, *table.columns)]
        table = table.reset_index(levels).reset_index(drop=True)
    elif table.index.start or table.index.step != 1:
        table = table.reset_index(drop=True)
    return table.rename(columns=renamed)


def _is_flat(field: pa.Field) -> bool:
    """Whether a column has dicts of plain values."""
    kind = field.type
    return pa.types.is_struct(kind) and not any(pa.types.is_nested(part.type) for part in kind)


def _without_types_of_texts(schema: pa.Schema) -> dict[bytes, bytes]:
    """What pandas noted of a table, but for types of texts, and of lists that null stands for.

    Texts of these types would take many times their memory. What names of columns mean, which
    pandas has a parser read, is left out too.
    """
    metadata = dict(schema.metadata or {})
    if b"pandas" in metadata:
        noted = json.loads(metadata[b"pandas"])
        texts = {f.name for f in schema if "string" in str(f.type) or pa.types.is_null(f.type)}
        plain = {"numpy_type": "object", "pandas_type": "unicode"}
        noted["columns"] = [
            column | plain if column.get("field_name") in texts else column
            for column in noted.get("columns", [])
        ]
        noted["column_indexes"] = []
        metadata[b"pandas"] = json.dumps(noted).encode()
    return metadata


def _open_folder(
    folder: Path, needed: set[str], num_rows: int | None, typed: Collection[str]
) -> OpenTable:
    files = parquet_files(folder)
    if not files:
        raise UserError(
            f"no catalog {folder}: a folder with no .parquet files in it (predict.py takes a "
            "folder of images as --images)"
        )
    tables = [_open_parquet(path, needed, num_rows, typed) for path in files]
    for path, table in zip(files, tables, strict=True):
        missing = needed & set(tables[0].names) ^ needed & set(table.names)
        if missing:
            raise UserError(f"{path.name} and {files[0].name} differ in column {min(missing)!r}")
    splits = _splits_of(files)
    names = tables[0].names
    if splits and "split" not in names:
        names = [*names, "split"]
    else:
        splits = None
    pieces = _folder_pieces(tables, splits)
    if num_rows is None:
        pieces = (pd.concat([*whole], ignore_index=True) for whole in [pieces])
    return OpenTable(names, pieces)


def _folder_pieces(tables: list[OpenTable], splits: list[str] | None) -> Iterator[pd.DataFrame]:
    start = 0
    for i, table in enumerate(tables):
        num_rows = 0
        for piece in table.pieces:
            num_rows += len(piece)
            piece.index += start
            yield piece.assign(split=splits[i]) if splits else piece
        start += num_rows


def parquet_files(folder: Path) -> list[Path]:
    """The Parquet files of a folder, or of the folder ``data`` in it, by name."""
    for place in (folder, folder / "data"):
        found = (f for f in place.glob("*") if not f.name.startswith("."))
        files = sorted(f for f in found if f.suffix.lower() in PARQUET_SUFFIXES)
        if files:
            return files
    return []


def _splits_of(files: list[Path]) -> list[str] | None:
    """The split that the name of each file begins with; None if none has one.

    Raises:
        ValueError: some names tell a split and others do not.
    """
    starts = [re.match(r"[a-z]+(?=[-_.])", path.name.lower()) for path in files]
    splits = [SPLIT_NAMES.get(start[0]) if start else None for start in starts]
    if None in splits and any(splits):
        odd = files[splits.index(None)].name
        raise UserError(
            f"the names of some Parquet files tell a split, that of {odd} does not: call it "
            "train-..., val-... or test-..., move it away, or give the tables a column 'split'"
        )
    return None if None in splits else splits
