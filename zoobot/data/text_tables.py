"""Read tables that are text: CSV and its kin, whatever the separator, the encoding, the header.

What is no galaxy is read away: lines that are drawn, a count of rows, rows without any cell.
"""

import csv
import gzip
import io
import itertools
import re
import shlex
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from zoobot.data.columns import AS_TEXT, OpenTable, is_text, plain_names, with_numbers
from zoobot.limits.tables import ShortLines
from zoobot.system.errors import UserError
from zoobot.system.files import open_to_read

SEPARATORS = (",", ";", "\t", "|", None)  # None: spaces
DRAWN = r"(?=.*(--|==))[-+=|:;,\s]+"  # a line below the header, or of a box
COUNT_OF_ROWS = r"\(?\d+ rows?\b.*"  # as databases write it at the end


def open_text(
    path: Path, packed: bool, start: bytes, needed: set[str], num_rows: int | None
) -> OpenTable:
    """Open a file of text; see ``tables.open_table``.

    Args:
        packed: whether it is a gzip file.
        start: its first bytes, unpacked.

    Raises:
        ValueError: columns repeat; a row has more fields than the header, or, between spaces,
            fewer; and what pandas raises for damaged files.
    """
    encoding = _encoding(start)
    if encoding == "utf-8-sig" and b"\0" in start:
        raise UserError("it is no text, or a damaged one")

    def open_file() -> io.TextIOBase:
        opened = open_to_read(path)
        file = gzip.open(opened) if packed else opened
        return io.TextIOWrapper(ShortLines(file, opened), encoding=encoding, newline="")

    with open_file() as file:
        header = _find_header(file)
    names = _distinct(plain_names(header.names, needed))
    wanted = None if num_rows is None else needed
    return OpenTable(names, _TextRows(open_file, header, names, wanted).pieces(num_rows))


def _encoding(start: bytes) -> str:
    """UTF-8, 16 or 32, by the mark at the start of a file, or by a null in its first letter."""
    if start.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "utf-32"
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if len(start) > 3 and (start[0] == 0) != (start[1] == 0) and (start[2] == 0) == (start[0] == 0):
        return "utf-16-le" if start[0] else "utf-16-be"
    return "utf-8-sig"


class _Header(NamedTuple):
    lines: int  # up to the first row
    separator: str | None  # None: spaces
    is_spaced: bool  # whether spaces follow separators
    names: list[str]
    row_fields: int  # of the row after it


def _find_header(file: Iterable[str]) -> _Header:
    """Find the line with the names of columns, below comments (#), drawn and empty lines."""
    num_lines = 0

    def counted() -> Iterator[str]:
        nonlocal num_lines
        for line in file:
            num_lines += 1
            yield line

    lines = counted()
    for line in lines:
        is_comment = line.startswith("#")
        # "sep=;" as spreadsheets write it
        if not line.strip() or re.match(r"sep=.\s*$", line) or re.fullmatch(DRAWN, line):
            continue
        line = line.lstrip("#").removeprefix(" ") if is_comment else line
        found = [s for s in SEPARATORS if "id_str" in plain_names(_fields(line, s), ["id_str"])]
        if is_comment and not found:
            continue
        separator = found[0] if found else max(SEPARATORS[:4], key=line.count)
        names = _fields(line, separator)
        if separator:  # names in quotes may go on in the next lines
            names = next(_records(itertools.chain([line], lines), separator))
        end, rows = num_lines, (row for row in lines if row.strip())
        row = next(rows, "")
        is_drawn = bool(re.fullmatch(DRAWN, row))
        if not is_drawn and _has_no_id(_fields(row, separator), names):
            is_drawn = bool(re.fullmatch(DRAWN, next(rows, "")))  # below a row of units
        if is_drawn:
            end, row = num_lines, next(rows, "")
        is_spaced = f"{separator} " in line
        return _Header(end, separator, is_spaced, names, len(_fields(row, separator)))
    raise pd.errors.EmptyDataError


def _has_no_id(row: list[str], names: list[str]) -> bool:
    names = plain_names(names, ["id_str"])
    return "id_str" in names and not "".join(row[names.index("id_str") :][:1]).strip()


def _fields(line: str, separator: str | None) -> list[str]:
    if separator:
        return next(_records([line], separator), [])
    words = shlex.shlex(line, posix=True)
    words.whitespace_split, words.quotes, words.escape, words.commenters = True, '"', "", ""
    try:
        return list(words)
    except ValueError:  # a quote that does not end
        return line.split()


def _records(lines: Iterable[str], separator: str) -> Iterator[list[str]]:
    return csv.reader(lines, delimiter=separator, skipinitialspace=True)


def _distinct(names: list[str]) -> list[str]:
    """Names of columns that are all different: those that repeat, or are empty, get a number."""
    seen, distinct = set(), []
    for i, name in enumerate(names):
        name = name or f"column {i + 1}"
        others = (f"{name}.{n}" for n in itertools.count(1))
        distinct.append(name if name not in seen else next(o for o in others if o not in seen))
        seen.add(distinct[-1])
    return distinct


class _TextRows:
    """The rows below a header.

    Args:
        open_file: opens the file at its start.
        names: of all columns.
        wanted: the columns to read; None: all.
    """

    def __init__(
        self,
        open_file: Callable[[], io.TextIOBase],
        header: _Header,
        names: list[str],
        wanted: set[str] | None,
    ) -> None:
        self.open_file, self.header, self.names = open_file, header, names
        extra = max(0, header.row_fields - len(names))
        if header.separator is None and extra:
            raise self._uneven(lambda fields: len(fields) > len(names))
        # Fields of rows without a name: those that a separator at the end of each row makes.
        self.unnamed = [f"\0{i}" for i in range(extra)]
        # Between spaces, a row with too few fields has none in the last column.
        self.last = names[-1] if header.separator is None else None
        self.columns = [n for n in names if wanted is None or n in wanted]
        self.options = {
            "sep": header.separator or r"\s+",
            "header": None,
            "names": [*names, *self.unnamed],
            "index_col": False,
            "dtype": {name: str for name in (*AS_TEXT, "image") if name in names},
            "keep_default_na": False,
            "na_values": [""],
            "skipinitialspace": header.is_spaced,
        }

    def pieces(self, num_rows: int | None) -> Iterator[pd.DataFrame]:
        """Tables of this many rows, or one with all of them."""
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # fields that would get lost
            # Columns that are numbers in some parts of the file only are read again.
            warnings.simplefilter("ignore", pd.errors.DtypeWarning)
            try:
                if num_rows is None:
                    yield self._checked(self._whole())
                    return
                with self._open_rows() as file:
                    for table in pd.read_csv(file, **self.options, chunksize=num_rows):
                        yield self._checked(table)
            except pd.errors.ParserError as error:
                if "Expected" in str(error):
                    raise self._uneven(lambda fields: len(fields) > len(self.names)) from error
                if "EOF inside string" in str(error):
                    raise UserError('a quote (") is opened in it and never closed') from error
                raise

    def _open_rows(self) -> io.TextIOBase:
        file = self.open_file()
        for _ in range(self.header.lines):  # as a quoted name may have several lines
            next(file)
        return file

    def _whole(self) -> pd.DataFrame:
        with self._open_rows() as file:
            table = pd.read_csv(file, **self.options)
        for name, column in table.items():
            if not pd.api.types.is_object_dtype(column):
                continue
            if pd.api.types.infer_dtype(column, skipna=True).startswith("mixed"):
                again = {"usecols": [name], "dtype": str}
                with self._open_rows() as file:
                    table[name] = pd.read_csv(file, **self.options | again)[name]
        return table

    def _checked(self, table: pd.DataFrame) -> pd.DataFrame:
        """The table without what is no galaxy, and with numbers for what is no text."""
        if self.last and table[self.last].isna().any():
            raise self._uneven(lambda fields: len(fields) < len(self.names))
        for name in self.unnamed:
            if table[name].notna().any():
                raise self._uneven(lambda fields: any(fields[len(self.names) :]))
        table = _without_fillers(table)[self.columns].copy(deep=False)  # as in with_numbers
        if self.header.is_spaced:
            for name, column in table.items():
                if is_text(column):
                    table[name] = column.str.strip()
        table = with_numbers(table, comma_is_decimal=self.header.separator not in (",", None))
        for name, column in table.items():
            if pd.api.types.is_object_dtype(column) and column.map(type).eq(int).any():
                table[name] = column.astype(str)  # of more digits than any number here
        return table

    def _uneven(self, is_uneven: Callable[[list[str]], bool]) -> UserError:
        """What to tell of the first row whose fields are more or fewer than the header's."""
        with self.open_file() as file:
            start = sum(1 for _ in itertools.islice(file, self.header.lines))
            rows = _numbered(file, self.header.separator)
            line, fields = next(((n, f) for n, f in rows if f and is_uneven(f)), (0, []))
        between = "spaces" if self.header.separator is None else repr(self.header.separator)
        cure = f"put texts with {between} in quotes"
        if self.header.separator is None and len(fields) == len(self.names) + 1:
            cure += ", or give the first column a name (in R: row.names = FALSE)"
        if len(fields) < len(self.names):
            cure = "write NA in empty cells, or put commas between cells"
        return UserError(
            f"line {start + line} has {len(fields)} fields between {between}, the header "
            f"{len(self.names)}: {cure} (it begins {' '.join(fields)[:60]!r})"
        )


def _numbered(lines: Iterable[str], separator: str | None) -> Iterator[tuple[int, list[str]]]:
    """The fields of each row, and the number of the line in which it ends."""
    if separator is None:
        yield from ((i, _fields(line, None)) for i, line in enumerate(lines, 1))
        return
    records = _records(lines, separator)
    yield from ((records.line_num, fields) for fields in records)


def _without_fillers(table: pd.DataFrame) -> pd.DataFrame:
    """The table without rows of empty cells, and without a line or a count of rows at its end."""
    images = [name for name in ("file_loc", "image") if name in table]
    may_be = table[images].isna().all(axis=1).to_numpy(copy=True)
    may_be[-1:] = True
    rows = table[may_be]
    texts = [" ".join(str(x) for x in row if not pd.isna(x)) for row in rows.to_numpy(object)]
    is_filler = [
        not text or bool(re.fullmatch(f"{DRAWN}|{COUNT_OF_ROWS}", text.strip())) for text in texts
    ]
    return table.drop(index=rows.index[is_filler]) if any(is_filler) else table
