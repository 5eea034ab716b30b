"""Check what a Parquet file unpacks to: few bytes in it may be many values.

A text that is stored once may be that of any number of rows (a dictionary), and so may a number
within lists. The values are counted, and texts are measured while they still are numbers of a
dictionary. So a file is refused before its table is made.
"""

from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from zoobot.limits.memory import check_memory
from zoobot.limits.tables import MAX_EXPANSION, check_claims
from zoobot.system.errors import UserError

COPIES = 3  # of texts while a table is made: Arrow's buffers grow by doubling; pandas copies them
WORD_BYTES = 8  # of a value, or of the place of a text
DICTIONARIES = {"RLE_DICTIONARY", "PLAIN_DICTIONARY"}
ROWS_AT_ONCE = 2**14
UNSEEN_BYTES = 2**26  # a group of rows whose texts can't have more is not measured


def check_parquet(
    path: Path, num_rows: int | None = None, columns: Collection[str] | None = None
) -> None:
    """ValueError if a file claims more than a file of its size can hold, or than memory is free.

    Args:
        num_rows: that are read at once; None: all.
        columns: that are read; None: all.
    """
    with pq.ParquetFile(path) as file:
        claimed = file.metadata
        groups = [claimed.row_group(i) for i in range(claimed.num_row_groups)]
    unpacked = sum(group.total_byte_size for group in groups)
    check_claims(path, claimed.num_rows * claimed.num_columns, unpacked)
    repeated: dict[str, list[int]] = {}
    total = 0
    for number, group in enumerate(groups):
        num_bytes = 0
        for i in range(group.num_columns):
            chunk = group.column(i)
            if columns is not None and chunk.path_in_schema.partition(".")[0] not in columns:
                continue
            num_bytes += max(chunk.total_uncompressed_size, WORD_BYTES * chunk.num_values)
            if _may_repeat(chunk, num_rows):
                repeated.setdefault(chunk.path_in_schema, []).append(number)
        total = num_bytes + (total if num_rows is None else 0)
        check_memory(total, "its table")
    for column, numbers in repeated.items():
        total += _measure(path, column, numbers, num_rows, total)


def _may_repeat(chunk: pq.ColumnChunkMetaData, num_rows: int | None) -> bool:
    """Whether texts of a column's chunk may take much more memory than they take in the file."""
    if chunk.physical_type not in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY"):
        return False
    rows = min(chunk.num_values, num_rows or chunk.num_values)
    most = rows * chunk.total_uncompressed_size
    return bool(DICTIONARIES & {*chunk.encodings}) and most > UNSEEN_BYTES


def _measure(path: Path, column: str, groups: list[int], num_rows: int | None, total: int) -> int:
    """The bytes of the texts of a column, or the most in so many rows."""
    sums, most = 0, 0
    size = min(ROWS_AT_ONCE, num_rows or ROWS_AT_ONCE)
    with pq.ParquetFile(path, read_dictionary=[column]) as file:
        for batch in file.iter_batches(size, groups, [column]):
            length = _text_bytes(batch.column(0))
            sums, most = sums + length, max(most, length)
            parts = 1 if num_rows is None else -(-num_rows // size)
            needed = total + COPIES * (sums if num_rows is None else most * parts)
            check_memory(needed, f"its column {column:.60}")
            if num_rows is None and sums > MAX_EXPANSION * path.stat().st_size:
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
