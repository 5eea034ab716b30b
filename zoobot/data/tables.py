"""Open tables of galaxies: text, Parquet, FITS, ECSV and VOTable, as people have them.

What is layout is read away: spaces around names of columns, the case of names that are asked for,
comments above the header, the separator, the encoding, gzip, an index that pandas wrote. What could
be read in two ways is a ValueError.
"""

import contextlib
import gzip
import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from zoobot.data.columns import AS_TEXT, OpenTable, plain_names
from zoobot.data.text_tables import open_text
from zoobot.limits.tables import COMPRESSED, GZIP, check_astropy, check_gzip, check_parquet
from zoobot.system.errors import UserError

TEXT_SUFFIXES = (".csv", ".tsv", ".tab", ".txt", ".dat")
PARQUET_SUFFIXES = (".parquet", ".pq", ".parq")
ASTROPY_FORMATS = {
    **dict.fromkeys((".fits", ".fit", ".fts"), "fits"),
    ".ecsv": "ascii.ecsv",
    **dict.fromkeys((".vot", ".votable", ".xml"), "votable"),
}
READ = "use .csv, .tsv, .txt, .parquet, .fits, .ecsv, .vot or .xml (all but .parquet also .gz)"
SPLIT_NAMES = dict.fromkeys(("val", "valid", "validation", "dev"), "val")
SPLIT_NAMES |= {"train": "train", "test": "test"}


def open_table(path: Path, needed: Iterable[str], num_rows: int | None = None) -> OpenTable:
    """Open a file, or a folder of Parquet files whose rows follow each other.

    Files of a folder that are all called like ``train-00000-of-00005.parquet``, ``validation-...``
    and ``test-...`` give a column ``split``.

    Args:
        path: its suffix says what it is.
        needed: columns that must be named without doubt.
        num_rows: the most rows in a piece, which then has the columns ``needed`` only. FITS, ECSV
            and VOTable come in one piece with all columns. None: one piece with all columns.

    Raises:
        ValueError: the file is missing, empty, damaged or of another format, or names of columns
            repeat.
    """
    if not path.exists():
        raise UserError(f"no catalog {path}")
    needed = set(needed)
    with _errors_of(path):
        table = _open(path, needed, num_rows)
    return OpenTable(table.names, _with_errors(path, table.pieces))


def _open(path: Path, needed: set[str], num_rows: int | None) -> OpenTable:
    if path.is_dir():
        return _open_folder(path, needed, num_rows)
    suffix = path.suffix.lower()
    if suffix in PARQUET_SUFFIXES:
        return _open_parquet(path, needed, num_rows)
    suffix = suffix if suffix != ".gz" else Path(path.stem).suffix.lower()
    if suffix not in (*TEXT_SUFFIXES, *ASTROPY_FORMATS):
        raise UserError(f"catalog {path}: unknown format {path.suffix!r}; {READ}")
    with open(path, "rb") as file:
        start = file.read(64)
    packed = path.suffix.lower() == ".gz" and start.startswith(GZIP)
    if packed:
        check_gzip(path)
        with gzip.open(path) as file:
            start = file.read(64)
    elif suffix in TEXT_SUFFIXES and start.startswith(COMPRESSED):
        raise UserError(
            "it is compressed: unpack it first, or end the name of a gzip file with .gz"
        )
    if suffix in TEXT_SUFFIXES and not start.startswith(b"# %ECSV"):
        return open_text(path, packed, start, needed, num_rows)
    kind = ASTROPY_FORMATS.get(suffix, "ascii.ecsv")
    table = _read_unpacked(path, kind) if packed else _read_astropy(path, kind)
    table.columns = plain_names(table.columns, needed)
    return OpenTable(list(table.columns), iter([table]))


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


def _open_parquet(path: Path, needed: set[str], num_rows: int | None) -> OpenTable:
    check_parquet(path)
    with pq.ParquetFile(path) as file:
        stored = file.schema_arrow.names
    repeated = [name for name, count in Counter(stored).items() if count > 1]
    if repeated:
        raise UserError(f"catalog {path} has more than one column {repeated[0]!r}: rename one")
    names = plain_names(stored, needed)
    renamed = dict(zip(stored, names, strict=True))
    return OpenTable(names, _parquet_pieces(path, renamed, needed, num_rows))


def _parquet_pieces(
    path: Path, renamed: dict[str, str], needed: set[str], num_rows: int | None
) -> Iterator[pd.DataFrame]:
    start = 0
    with pq.ParquetFile(path) as file:
        if num_rows is None:
            batches = iter([file.read()])
        else:
            columns = [stored for stored, name in renamed.items() if name in needed]
            batches = file.iter_batches(num_rows, columns=columns)
        for batch in batches:
            batch.validate(full=True)  # text that is not UTF-8 would cause errors only later
            table = _to_pandas(batch, renamed)
            table.index += start
            start += len(table)
            yield table


def _to_pandas(batch: pa.Table | pa.RecordBatch, renamed: dict[str, str]) -> pd.DataFrame:
    """A table of pandas, an index that it was saved with as columns, and whole ids as text."""
    table = batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch])
    for i, field in enumerate(table.schema):
        if renamed[field.name] == "id_str" and pa.types.is_integer(field.type):
            table = table.set_column(i, field.name, table.column(i).cast(pa.string()))
            table = table.replace_schema_metadata(_without_type(table.schema, field.name))
    table = table.to_pandas()
    if not isinstance(table.index, pd.RangeIndex):
        levels = [name for name in table.index.names if name not in (None, *table.columns)]
        table = table.reset_index(levels).reset_index(drop=True)
    elif table.index.start or table.index.step != 1:
        table = table.reset_index(drop=True)
    return table.rename(columns=renamed)


def _without_type(schema: pa.Schema, name: str) -> dict[bytes, bytes]:
    """What pandas noted of a table, but for the type of one column."""
    metadata = dict(schema.metadata or {})
    if b"pandas" in metadata:
        noted = json.loads(metadata[b"pandas"])
        columns = noted.get("columns", [])
        noted["columns"] = [column for column in columns if column.get("field_name") != name]
        metadata[b"pandas"] = json.dumps(noted).encode()
    return metadata


def _open_folder(folder: Path, needed: set[str], num_rows: int | None) -> OpenTable:
    files = parquet_files(folder)
    if not files:
        raise UserError(f"no catalog {folder}: a folder with no .parquet files in it; {READ}")
    tables = [_open_parquet(path, needed, num_rows) for path in files]
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


# FITS, ECSV, VOTable


def _read_unpacked(path: Path, kind: str) -> pd.DataFrame:
    """A gzip file's table. It is unpacked into a temporary file."""
    with tempfile.NamedTemporaryFile(suffix=Path(path.stem).suffix) as unpacked:
        with gzip.open(path) as file:
            while piece := file.read(2**20):
                unpacked.write(piece)
        unpacked.flush()
        return _read_astropy(Path(unpacked.name), kind)


def _read_astropy(path: Path, kind: str) -> pd.DataFrame:
    """A table that astropy reads, without its columns of arrays."""
    try:
        from astropy.table import Table
    except ImportError:
        raise UserError(f"{kind} needs astropy: pip install 'zoobot-torch[astro]'") from None
    check_astropy(path, kind)
    table = Table.read(path, format=kind)
    flat = table[[name for name in table.colnames if table[name].ndim == 1]]
    flat.convert_bytestring_to_unicode()
    catalog = flat.to_pandas()
    for name in AS_TEXT:
        for column in catalog.columns[catalog.columns.str.strip().str.casefold() == name]:
            if flat[column].dtype.kind in "OU":
                catalog[column] = catalog[column].astype(str).mask(catalog[column].isna())
                catalog[column] = catalog[column].str.strip()
    return catalog
