"""Check what a Parquet file unpacks to: few bytes in it may be many values.

A text that is stored once may be that of any number of rows (a dictionary, or the part that texts
share with the text before), and so may a number within lists. The values are counted, and texts are
measured while they still are numbers of a dictionary, or few at a time. So a file is refused before
its table is made. What the end of the file says of a column is not believed where its pages say
more.
"""

import contextlib
import itertools
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from zoobot.limits.memory import check_memory
from zoobot.limits.parquet_footer import Chunk, read_footer
from zoobot.limits.parquet_lengths import SHARED_STARTS
from zoobot.limits.parquet_pages import read_pages
from zoobot.limits.tables import MAX_EXPANSION, check_claims
from zoobot.system.errors import UserError
from zoobot.system.files import open_to_read
from zoobot.system.memory import free_bytes

COPIES = 3  # of texts while a table is made: Arrow's buffers grow by doubling; pandas copies them
WORD_BYTES = 8  # of a value, or of the place of a text
LIST_BYTES = 24  # of a number in a list, with its levels, while it becomes NumPy's
DICT_BYTES, KEY_BYTES = 200, 40  # of a dict in a table of pandas with one key, and of another key
NUMBER_BYTES = 120  # of a decimal, a day or a time, which are objects there too
OBJECTS = ("DECIMAL", "DATE", "TIME")
ENTRY_BYTES = 24  # of an entry of a dictionary, beside its text
DICTIONARIES = {2, 8}  # numbers of encodings: a dictionary, in two versions
ROWS_AT_ONCE = 2**14
FEWEST_ROWS = 8  # to measure at once; fewer take very long
UNSEEN_BYTES = 2**26  # a group of rows whose texts can't have more is not measured


class _Texts(NamedTuple):
    """A column whose texts may take much more memory than they take in the file."""

    groups: list[int]  # of rows
    at_once: int  # the most rows to read; fewer than ``ROWS_AT_ONCE`` if texts share starts


def read_schema(path: Path) -> pa.Schema:
    """A file's columns. ValueError if its end is damaged, see ``read_footer``."""
    with open_to_read(path) as opened:
        read_footer(opened)
        return pq.read_schema(opened)


@contextlib.contextmanager
def open_parquet(path: Path, read_dictionary: Collection[str] = ()) -> Iterator[pq.ParquetFile]:
    """A ``with`` block's reader of a file that ``check_parquet`` accepts."""
    with (
        open_to_read(path) as opened,
        pq.ParquetFile(opened, read_dictionary=read_dictionary) as file,
    ):
        yield file


def check_parquet(
    path: Path, num_rows: int | None = None, columns: Collection[str] | None = None
) -> None:
    """ValueError if a file claims more than a file of its size can hold, or than memory is free.

    Args:
        num_rows: that are read at once; None: all.
        columns: that are read; None: all.
    """
    with open_to_read(path) as opened:
        footer = read_footer(opened)
        with pq.ParquetFile(opened) as file:
            leaves = [file.schema.column(i) for i in range(len(file.schema))]
        if any(len(chunks) != len(leaves) for _, chunks in footer.groups):
            raise UserError(f"it has {len(leaves)} columns, and parts with more or fewer")
        unpacked = sum(max(n, sum(c.unpacked for c in chunks)) for n, chunks in footer.groups)
        size = os.fstat(opened.fileno()).st_size
        check_claims(size, sum(footer.num_rows) * len(leaves), unpacked)
        wanted = [columns is None or _is_of(leaf, columns) for leaf in leaves]
        repeated: dict[str, _Texts] = {}
        largest = 0
        for run in groups_together(footer.num_rows, num_rows):
            total = 0
            for number in run:
                found = zip(leaves, footer.groups[number][1], strict=True)
                chunks = itertools.compress(found, wanted)
                total += _group_bytes(opened, number, chunks, num_rows, repeated)
                check_memory(total, "its table")
            largest = max(largest, total)
    for column, texts in repeated.items():
        largest += _measure(path, column, texts, num_rows, largest)


def _group_bytes(
    file: BinaryIO,
    number: int,
    chunks: Iterable[tuple[pq.ColumnSchema, Chunk]],
    num_rows: int | None,
    repeated: dict[str, _Texts],
) -> int:
    """The memory that a group of rows takes, but for ``repeated`` texts, to which it adds its own.

    Args:
        number: of the group.
        chunks: its columns.
    """
    total, dicts = 0, set()
    for leaf, chunk in chunks:
        num_levels = (leaf.max_definition_level > 0) + (leaf.max_repetition_level > 0)
        pages = read_pages(file, chunk, num_levels)
        values, most = max(chunk.values, pages.values), max(chunk.unpacked, pages.num_bytes)
        total += max(most, _width(leaf) * values) + ENTRY_BYTES * pages.entries
        name, _, is_nested = leaf.path.partition(".")
        if is_nested and not leaf.max_repetition_level:
            total += (KEY_BYTES if name in dicts else DICT_BYTES) * values
            dicts.add(name)
        at_once = _rows_at_once(leaf, pages.encodings, values, most, num_rows)
        if at_once:
            texts = repeated.get(leaf.path, _Texts([], ROWS_AT_ONCE))
            repeated[leaf.path] = _Texts([*texts.groups, number], min(at_once, texts.at_once))
    return total


def groups_together(num_rows: Sequence[int], most: int | None) -> list[list[int]]:
    """The numbers of groups of rows that are read together, so that they have so many rows at most.

    Args:
        num_rows: of each group; one of more rows is read alone.
        most: None: all groups together.
    """
    runs, together = [], 0
    for number, count in enumerate(num_rows):
        if not runs or (most is not None and together + count > most):
            runs.append([])
            together = 0
        runs[-1].append(number)
        together += count
    return runs


def _width(leaf: pq.ColumnSchema) -> int:
    """The bytes of a value in memory, beside those of a text."""
    if leaf.logical_type.type in OBJECTS:
        return NUMBER_BYTES
    if leaf.max_repetition_level:
        return max(LIST_BYTES, COPIES * leaf.length)  # the length is -1 of other types
    copies = {"BYTE_ARRAY": COPIES, "INT64": 2, "DOUBLE": 2}.get(leaf.physical_type, 1)
    return max(copies * WORD_BYTES, COPIES * leaf.length)


def _is_of(leaf: pq.ColumnSchema, columns: Collection[str]) -> bool:
    """Whether a column within lists and structs is part of one of these; names may have points."""
    path = leaf.path
    points = [i for i, letter in enumerate(path) if letter == "."]
    return any(path[:place] in columns for place in (*points, len(path)))


def _rows_at_once(
    column: pq.ColumnSchema,
    encodings: Collection[int],
    values: int,
    num_bytes: int,
    num_rows: int | None,
) -> int:
    """How many rows to measure at once of a chunk of texts; 0 if they need not be measured.

    Raises:
        ValueError: they share starts, and are within lists, so that one row may be of any size; or
            are so large that few can be read at once.
    """
    if column.physical_type not in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY"):
        return 0
    if min(values, num_rows or values) * num_bytes <= UNSEEN_BYTES:
        return 0
    if SHARED_STARTS in encodings:
        if column.max_repetition_level:
            raise UserError(
                f"its column {column.path:.60} has texts within lists in the encoding "
                "DELTA_BYTE_ARRAY: save it with another"
            )
        most = max(UNSEEN_BYTES, (free_bytes() or 0) // (2 * COPIES))
        if most < FEWEST_ROWS * num_bytes:
            raise UserError(
                f"its column {column.path:.60} has {num_bytes:,} bytes in the encoding "
                "DELTA_BYTE_ARRAY, too many to measure with the memory that is free: save it with "
                "another"
            )
        return min(ROWS_AT_ONCE - 1, most // num_bytes)
    return ROWS_AT_ONCE if DICTIONARIES & {*encodings} else 0


def _measure(path: Path, column: str, texts: _Texts, num_rows: int | None, total: int) -> int:
    """The bytes of the texts of a column, or the most in so many rows."""
    sums, most, checked, largest = 0, 0, 0, MAX_EXPANSION * path.stat().st_size
    size = min(texts.at_once, num_rows or texts.at_once)
    as_numbers = [column] if texts.at_once == ROWS_AT_ONCE else []
    with open_parquet(path, as_numbers) as file:
        for batch in file.iter_batches(size, texts.groups, [column]):
            length = _text_bytes(batch.column(0))
            sums, most = sums + length, max(most, length)
            parts = 1 if num_rows is None else -(-num_rows // size)
            needed = total + COPIES * (sums if num_rows is None else most * parts)
            if needed > checked:
                check_memory(needed, f"its column {column:.60}")
                checked = needed + UNSEEN_BYTES  # there may be very many batches
            if num_rows is None and sums > largest:
                raise UserError(f"its column {column:.60} unpacks to over {sums:,} bytes")
    return sums if num_rows is None else most


def _text_bytes(array: pa.Array) -> int:
    """The bytes that texts take that are numbers of a dictionary, also within lists and dicts."""
    if pa.types.is_dictionary(array.type):
        lengths = pc.binary_length(array.dictionary)
        return pc.sum(pc.take(lengths, array.indices).cast(pa.int64())).as_py() or 0
    if pa.types.is_struct(array.type):
        return sum(map(_text_bytes, array.flatten()))
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        return _text_bytes(array.flatten())
    return array.nbytes
