"""What the pages of a Parquet column say that they hold: the end of the file may say less.

A reader takes the numbers of values and bytes from the headers of the pages.
"""

from typing import BinaryIO, NamedTuple

from zoobot.limits.parquet_footer import Chunk
from zoobot.limits.thrift import INT_32, StructReader
from zoobot.system.errors import UserError

TYPE, UNPACKED, PACKED, VERSION_1, DICTIONARY, VERSION_2 = 1, 2, 3, 5, 7, 8  # numbers of fields
TYPES = {0: [VERSION_1], 1: [], 2: [DICTIONARY], 3: [VERSION_2]}  # 1 is an index, which is passed
NUM_VALUES = 1  # of the headers within: of data of both versions, and of dictionaries
ENCODING = {VERSION_1: 2, VERSION_2: 4, DICTIONARY: 2}
HEADER = {TYPE: INT_32, UNPACKED: INT_32, PACKED: INT_32} | {
    within: {NUM_VALUES: INT_32, encoding: INT_32} for within, encoding in ENCODING.items()
}
FIRST_BYTES = 2**10  # of a header that are read; more if it is longer
MAX_HEADER_BYTES = 2**24  # as pyarrow's
PADDING = 100  # bytes behind a column in which pyarrow reads on, for the sake of old files


class Pages(NamedTuple):
    """The pages of a column within a group of rows.

    Attributes:
        values: how many they say they have, missing ones too, those of dictionaries aside.
        num_bytes: that they say they unpack to.
        encodings: numbers of Parquet's encodings.
        entries: of dictionaries.
    """

    values: int
    num_bytes: int
    encodings: frozenset[int]
    entries: int = 0


def read_pages(file: BinaryIO, chunk: Chunk) -> Pages:
    """Go through the headers of the pages.

    Raises:
        ValueError: one is none, claims a negative number, or more values than bytes.
    """
    if not chunk.values:  # no page is read
        return Pages(0, 0, frozenset())
    place, end = chunk.start, chunk.start + chunk.packed
    values, num_bytes, encodings, entries = 0, 0, set(), 0
    while place < end or (values < chunk.values and place < end + PADDING):
        try:
            header, length = _read_header(file, place)
        except UserError:
            if chunk.values <= values:
                break  # behind the last page, where pyarrow does not read
            raise
        within = [number for number in ENCODING if number in header]
        told = header[within[0]] if within else {NUM_VALUES: 0}
        packed, unpacked = header.get(PACKED, -1), header.get(UNPACKED, -1)
        count = told.get(NUM_VALUES, -1)
        if min(packed, unpacked, count) < 0:
            raise UserError("a page of it claims no number of values or bytes, or a negative one")
        if within != TYPES.get(header.get(TYPE)):
            raise UserError("a page of it is of another type than its header")
        if within == [DICTIONARY]:
            if count > unpacked:
                raise UserError(f"a page of it claims {count:,} values in {unpacked:,} bytes")
            entries += count
        else:
            values += count
        if within:
            encodings.add(told.get(ENCODING[within[0]]))
        num_bytes += max(packed, unpacked)  # of a page that is not packed only the first counts
        place += length + packed
    return Pages(values, num_bytes, frozenset(encodings), entries)


def _read_header(file: BinaryIO, place: int) -> tuple[dict, int]:
    """The numbers of a page's header, by the numbers of their fields, and its length in bytes."""
    most = FIRST_BYTES
    while True:
        file.seek(place)
        content = file.read(most)
        reader = StructReader(content)
        try:
            return reader.struct(HEADER), reader.place
        except IndexError:
            if len(content) < most or most >= MAX_HEADER_BYTES:
                raise UserError("the header of a page of it is cut short") from None
            most *= 4
