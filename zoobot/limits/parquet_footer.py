"""What the end of a Parquet file says of its columns, read without pyarrow.

pyarrow ends the process if the description of a column contradicts itself, and makes large objects
of few bytes while it reads this end.
"""

import os
from typing import BinaryIO, NamedTuple

from zoobot.limits.memory import check_memory
from zoobot.limits.thrift import INT_64, NO_STRUCT, StructReader
from zoobot.system.errors import UserError

MARK = b"PAR1"
# Numbers of fields, of the file, of a group of rows, and of a column within it.
NUM_ROWS, GROUPS = 3, 4
COLUMNS, GROUP_BYTES = 1, 2
DESCRIBED, ENCRYPTED = 3, 8
VALUES, UNPACKED, PACKED, DATA_PAGE, DICTIONARY_PAGE = 5, 6, 7, 9, 11
COLUMN = {
    DESCRIBED: dict.fromkeys((VALUES, UNPACKED, PACKED, DATA_PAGE, DICTIONARY_PAGE), INT_64),
    ENCRYPTED: {},
}
FOOTER = {NUM_ROWS: INT_64, GROUPS: [{COLUMNS: [COLUMN], GROUP_BYTES: INT_64}]}


class Chunk(NamedTuple):
    """A column within a group of rows.

    Attributes:
        start: where its first page begins, in bytes.
        values: how many, missing ones too.
        packed, unpacked: bytes, in the file and when read.
    """

    start: int
    values: int
    packed: int
    unpacked: int


class Footer(NamedTuple):
    """What is in a file.

    Attributes:
        num_rows: of all groups.
        groups: of each group of rows, the bytes that it unpacks to and its columns.
    """

    num_rows: int
    groups: list[tuple[int, list[Chunk]]]


def read_footer(file: BinaryIO) -> Footer:
    """Read the end of a Parquet file.

    Raises:
        ValueError: it is damaged or encrypted, claims a negative number, or takes more memory than
            is free.
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
        groups = [
            (group[GROUP_BYTES], [_chunk(column) for column in group[COLUMNS]])
            for group in fields[GROUPS]
        ]
        footer = Footer(fields[NUM_ROWS], groups)
    except (IndexError, KeyError):
        raise UserError(NO_STRUCT) from None
    least = [min(chunk, default=0) for _, chunks in groups for chunk in chunks]
    if min([footer.num_rows, *(num_bytes for num_bytes, _ in groups), *least]) < 0:
        raise UserError("it claims a negative number of rows, values or bytes")
    return footer


def _chunk(column: dict) -> Chunk:
    if ENCRYPTED in column:
        raise UserError("its columns are encrypted")
    told = column[DESCRIBED]
    start, dictionary = told[DATA_PAGE], told.get(DICTIONARY_PAGE, 0)
    start = dictionary if 0 < dictionary < start else start
    return Chunk(start, told[VALUES], told[PACKED], told[UNPACKED])
