"""Read tables that are text: CSV and its kin, whatever the separator, the encoding, the header.

A column is numbers if all its cells that are not missing are numbers, else text as it stands.
"""

import csv
import gzip
import io
import itertools
import re
import shlex
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from zoobot.data.columns import AS_TEXT, OpenTable, plain_names
from zoobot.system.errors import UserError

SEPARATORS = (",", ";", "\t", "|", None)  # None: spaces
# Cells that are a missing number in a column of numbers.
NO_NUMBER = frozenset(
    "NA N/A n/a <NA> NaN nan -NaN -nan NULL null None none #N/A #NA -- - 1.#QNAN -1.#IND".split()
)
# As spreadsheets write 0.5 in much of Europe; and what may also be 1,000 of them.
WITH_COMMA = r"\s*[+-]?\d*,?\d+([eE][+-]?\d+)?\s*"
THOUSANDS = r"\s*[+-]?[1-9]\d{0,2},\d{3}\s*"


def open_text(
    path: Path, packed: bool, start: bytes, needed: set[str], num_rows: int | None
) -> OpenTable:
    """Open a file of text; see ``tables.open_table``.

    Args:
        packed: whether it is a gzip file.
        start: its first bytes, unpacked.

    Raises:
        ValueError: columns repeat, or a row has more fields than the header; and what pandas
            raises for damaged files.
    """
    encoding = _encoding(start)

    def open_file() -> io.TextIOBase:
        return (gzip.open if packed else open)(path, "rt", encoding=encoding, newline="")

    with open_file() as file:
        header = _find_header(file)
    names, separator = _distinct(plain_names(header.names, needed)), header.separator
    # Fields of rows without a name: those that a separator at the end of each row makes.
    unnamed = [f"\0{i}" for i in range(header.row_fields - len(names))] if separator else []
    wanted = None
    if num_rows is not None:
        wanted = [*(name for name in names if name in needed), *unnamed]
    options = {
        "sep": separator or r"\s+",
        "header": None,
        "names": [*names, *unnamed],
        "usecols": wanted,
        "index_col": False,
        "dtype": {name: str for name in (*AS_TEXT, "image") if name in names},
        "keep_default_na": False,
        "na_values": [""],
        "skipinitialspace": header.is_spaced,
        "low_memory": False,
        "chunksize": num_rows,
    }
    return OpenTable(names, _text_pieces(open_file, header.lines, options, unnamed, separator))


def _encoding(start: bytes) -> str:
    """UTF-8 or UTF-16, by the mark at the start of a file, or by a null in its first letter."""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if len(start) > 3 and (start[0] == 0) != (start[1] == 0) and (start[2] == 0) == (start[0] == 0):
        return "utf-16-le" if start[0] else "utf-16-be"
    return "utf-8-sig"


class _Header(NamedTuple):
    lines: int  # up to its end
    separator: str | None  # None: spaces
    is_spaced: bool  # whether spaces follow separators
    names: list[str]
    row_fields: int  # of the row after it


def _find_header(file: io.TextIOBase) -> _Header:
    """Find the line with the names of columns, below comments (#) and empty lines."""
    lines = 0
    for line in file:
        lines += 1
        is_comment = line.startswith("#")
        if not line.strip() or re.match(r"sep=.\s*$", line):  # as spreadsheets write it
            continue
        line = line.lstrip("#").removeprefix(" ") if is_comment else line
        found = [s for s in SEPARATORS if "id_str" in plain_names(_fields(line, s), ["id_str"])]
        if is_comment and not found:
            continue
        separator = found[0] if found else max(SEPARATORS[:4], key=line.count)
        names, is_spaced = _fields(line, separator), f"{separator} " in line
        if separator:  # names in quotes may go on in the next lines
            rows = itertools.chain([line], file)
            reader = csv.reader(rows, delimiter=separator, skipinitialspace=True)
            names = next(reader)
            lines += reader.line_num - 1
        row = next((row for row in file if row.strip()), "")
        return _Header(lines, separator, is_spaced, names, len(_fields(row, separator)))
    raise pd.errors.EmptyDataError


def _fields(line: str, separator: str | None) -> list[str]:
    if separator is None:
        words = shlex.shlex(line, posix=True)
        words.whitespace_split, words.quotes, words.escape, words.commenters = True, '"', "", ""
        try:
            return list(words)
        except ValueError:  # a quote that does not end
            return line.split()
    return next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])


def _distinct(names: list[str]) -> list[str]:
    """Names of columns that are all different: those that repeat, or are empty, get a number."""
    seen, distinct = set(), []
    for i, name in enumerate(names):
        name = name or f"column {i + 1}"
        others = (f"{name}.{n}" for n in itertools.count(1))
        distinct.append(name if name not in seen else next(o for o in others if o not in seen))
        seen.add(distinct[-1])
    return distinct


def _text_pieces(
    open_file: Callable[[], io.TextIOBase],
    header_lines: int,
    options: dict,
    unnamed: list[str],
    separator: str | None,
) -> Iterator[pd.DataFrame]:
    with open_file() as file, warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # fields that would get lost
        for _ in range(header_lines):  # as a quoted name may have several lines
            next(file)
        for table in _read_rows(file, header_lines, options):
            for name in unnamed:
                filled = table[name].notna().to_numpy()
                if filled.any():
                    row = int(filled.argmax())
                    raise UserError(
                        f"row {table.index[row]} has more fields than the header, the last of them "
                        f"{table[name].iloc[row]!r}: put texts with a {separator!r} in quotes"
                    )
            table = table.drop(columns=unnamed)
            for name, column in table.items():
                if name in AS_TEXT or name == "image":
                    text = column.str.strip()
                    table[name] = text.mask(text == "")
                elif pd.api.types.is_string_dtype(column):
                    table[name] = _numbers_or_text(column, separator)
                elif pd.api.types.is_object_dtype(column) and column.map(type).eq(int).any():
                    table[name] = column.astype(str)  # of more digits than any number here
            yield table


def _read_rows(file: io.TextIOBase, header_lines: int, options: dict) -> Iterator[pd.DataFrame]:
    """What pandas reads of the rows below a header; its errors number the lines of the file."""
    try:
        tables = pd.read_csv(file, **options)
        yield from [tables] if isinstance(tables, pd.DataFrame) else tables
    except pd.errors.ParserError as error:
        told = re.sub(r"\bline (\d+)", lambda m: f"line {int(m[1]) + header_lines}", str(error))
        raise type(error)(told) from error


def _numbers_or_text(column: pd.Series, separator: str | None) -> pd.Series:
    """A column of a text file as numbers, if all that is not missing is a number; else as it is.

    So "None" or "NA" is a missing number among numbers, and a text like others among texts.
    """
    present = column[~(column.isna() | column.str.strip().isin(NO_NUMBER))]
    if not len(present):
        return column
    if separator not in (",", None) and re.fullmatch(WITH_COMMA, present.iloc[0]):
        if present.str.fullmatch(WITH_COMMA).all():
            with_comma = present[present.str.contains(",", regex=False)]
            if len(with_comma) and with_comma.str.fullmatch(THOUSANDS).all():
                raise UserError(
                    f"column {column.name!r} holds {with_comma.iloc[0].strip()}: whether its comma "
                    "is a decimal one or stands for thousands can't be known; write a point, or "
                    "no comma"
                )
            present = present.str.replace(",", ".", regex=False)
    if not len(pd.to_numeric(present.iloc[:1], errors="coerce").dropna()):
        return column
    numbers = pd.to_numeric(present, errors="coerce")
    return column if numbers.isna().any() else numbers.reindex(column.index)
