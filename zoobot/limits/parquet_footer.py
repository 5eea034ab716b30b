"""What the end of a Parquet file says of its columns, read without pyarrow.

pyarrow ends the process if the description of a column contradicts itself, and makes large objects
of few bytes while it reads this end.
"""

import os
from typing import BinaryIO, NamedTuple

from zoobot.limits.memory import check_memory
from zoobot.limits.thrift import BINARY, INT_32, INT_64, NO_STRUCT, StructReader
from zoobot.system.errors import UserError

MARK = b"PAR1"
MAX_PATH_BYTES = 10_000  # of the names of a column and of what it is within
LEAF_BYTES = 8000  # of memory that pyarrow takes for a column, beside its names
# Numbers of fields, of the file, of an element of its schema, of a group of rows, and of a column.
SCHEMA, NUM_ROWS, GROUPS = 2, 3, 4
NAME, NUM_CHILDREN = 4, 5
COLUMNS, GROUP_BYTES, GROUP_ROWS = 1, 2, 3
DESCRIBED, ENCRYPTED = 3, 8
CODEC, VALUES, UNPACKED, PACKED, DATA_PAGE, DICTIONARY_PAGE = 4, 5, 6, 7, 9, 11
COLUMN = {
    DESCRIBED: {
        CODEC: INT_32,
        **dict.fromkeys((VALUES, UNPACKED, PACKED, DATA_PAGE, DICTIONARY_PAGE), INT_64),
    },
    ENCRYPTED: {},
}
FOOTER = {
    SCHEMA: [{NAME: BINARY, NUM_CHILDREN: INT_32}],
    NUM_ROWS: INT_64,
    GROUPS: [{COLUMNS: [COLUMN], GROUP_BYTES: INT_64, GROUP_ROWS: INT_64}],
}


class Chunk(NamedTuple):
    """A column within a group of rows.

    Attributes:
        start: where its first page begins, in bytes.
        values: how many, missing ones too.
        packed, unpacked: bytes, in the file and when read.
        codec: number of the way in which pages are packed.
    """

    start: int
    values: int
    packed: int
    unpacked: int
    codec: int


class Footer(NamedTuple):
    """What is in a file.

    Attributes:
        num_rows: of each group of rows.
        groups: of each, the bytes that it unpacks to and its columns.
    """

    num_rows: list[int]
    groups: list[tuple[int, list[Chunk]]]


def read_footer(file: BinaryIO) -> Footer:
    """Read the end of a Parquet file.

    Raises:
        ValueError: it is damaged or encrypted, claims a negative number, contradicts itself, or
            takes more memory than is free.
    """
    size = os.fstat(file.fileno()).st_size
    file.seek(max(0, size - 8))
    end = file.read(8)
    length = int.from_bytes(end[:4], "little")
    if end[4:] != MARK or length > size - 8:
        raise UserError("it is no Parquet file, or is cut short")
    check_memory(length, "its description of itself")
    file.seek(size - 8 - length)
    try:
        fields = StructReader(file.read(length)).struct(FOOTER)
        _check_names(fields[SCHEMA])
        groups = [
            (group[GROUP_BYTES], [_chunk(column) for column in group[COLUMNS]])
            for group in fields[GROUPS]
        ]
        claimed, num_rows = fields[NUM_ROWS], [group[GROUP_ROWS] for group in fields[GROUPS]]
    except (IndexError, KeyError):
        raise UserError(NO_STRUCT) from None
    columns = [chunk for _, chunks in groups for chunk in chunks]
    if min([claimed, *num_rows, *(n for n, _ in groups), *map(min, columns)]) < 0:
        raise UserError("it claims a negative number of rows, values or bytes")
    if sum(num_rows) != claimed:
        raise UserError(f"it claims {claimed:,} rows; its parts have {sum(num_rows):,}")
    packed = sum(chunk.packed for chunk in columns)
    if packed > size:
        raise UserError(f"it claims {packed:,} bytes of columns, in a file of {size:,} bytes")
    return Footer(num_rows, groups)


def _check_names(schema: list[dict]) -> None:
    """ValueError if paths to columns, which a few long names make, take more memory than is free.

    pyarrow keeps the path of each column, and those of all that it is within, by name.
    """
    num_bytes = 0
    within = [(schema[0].get(NUM_CHILDREN, 0), 0, 0)] if schema else []  # children left, lengths
    for element in schema[1:]:
        while within and not within[-1][0]:
            within.pop()
        if not within:
            raise UserError(NO_STRUCT)
        left, length, all_lengths = within[-1]
        within[-1] = (left - 1, length, all_lengths)
        length += element[NAME] + 1
        if length > MAX_PATH_BYTES:
            raise UserError(f"the names of a column have {length:,} bytes")
        all_lengths += length
        if element.get(NUM_CHILDREN, 0) > 0:
            within.append((element[NUM_CHILDREN], length, all_lengths))
        else:
            num_bytes += LEAF_BYTES + length + all_lengths
    check_memory(num_bytes, "its description of itself")


def _chunk(column: dict) -> Chunk:
    if ENCRYPTED in column:
        raise UserError("its columns are encrypted")
    told = column[DESCRIBED]
    start, dictionary = told[DATA_PAGE], told.get(DICTIONARY_PAGE, 0)
    start = dictionary if 0 < dictionary < start else start
    return Chunk(start, told[VALUES], told[PACKED], told[UNPACKED], told[CODEC])
