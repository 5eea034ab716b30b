"""What the pages of a Parquet column say that they hold: the end of the file may say less.

A reader takes the numbers of values and bytes from the headers of the pages.
"""

from typing import BinaryIO, NamedTuple

from zoobot.limits.memory import check_memory
from zoobot.limits.parquet_footer import Chunk
from zoobot.limits.parquet_lengths import NOT_PACKED, STREAMS, check_lengths, unpacked_page
from zoobot.limits.thrift import INT_32, TRUE, StructReader
from zoobot.system.errors import UserError

TYPE, UNPACKED, PACKED, VERSION_1, DICTIONARY, VERSION_2 = 1, 2, 3, 5, 7, 8  # numbers of fields
TYPES = {0: [VERSION_1], 1: [], 2: [DICTIONARY], 3: [VERSION_2]}  # 1 is an index, which is passed
NUM_VALUES = 1  # of the headers within: of data of both versions, and of dictionaries
ENCODING = {VERSION_1: 2, VERSION_2: 4, DICTIONARY: 2}
LEVELS, IS_PACKED = (5, 6), 7  # of data of version 2: bytes of levels; these are never packed
HEADER = {TYPE: INT_32, UNPACKED: INT_32, PACKED: INT_32} | {
    within: {NUM_VALUES: INT_32, encoding: INT_32} for within, encoding in ENCODING.items()
}
HEADER[VERSION_2] |= {IS_PACKED: TRUE, **dict.fromkeys(LEVELS, INT_32)}
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


def read_pages(file: BinaryIO, chunk: Chunk, num_levels: int) -> Pages:
    """Go through the headers of the pages.

    Args:
        num_levels: how many kinds of levels pages have: of what is missing, and of lists.

    Raises:
        ValueError: one is none, claims a negative number, or more values than bytes, or more
            lengths of texts than values.
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
            encoding = told.get(ENCODING[within[0]])
            encodings.add(encoding)
            if encoding in STREAMS and within != [DICTIONARY] and count:
                check_memory(packed, "a page of it")
                file.seek(place + length)
                content = _behind_levels(file.read(packed), header, chunk.codec, num_levels)
                check_lengths(content, encoding, count)
        num_bytes += max(packed, unpacked)  # of a page that is not packed only the first counts
        place += length + packed
    return Pages(values, num_bytes, frozenset(encodings), entries)


def _behind_levels(content: bytes, header: dict, codec: int, num_levels: int) -> bytes:
    """The values of a page of data, unpacked."""
    unpacked = header[UNPACKED]
    if VERSION_2 not in header:
        content = unpacked_page(content, codec, unpacked)
        for _ in range(num_levels):
            content = content[4 + int.from_bytes(content[:4], "little") :]
        return content
    told = header[VERSION_2]
    num_bytes = sum(told.get(number, 0) for number in LEVELS)
    if not 0 <= num_bytes <= min(len(content), unpacked):
        raise UserError("a page of it claims more bytes of levels than it has")
    codec = codec if told.get(IS_PACKED, True) else NOT_PACKED
    return unpacked_page(content[num_bytes:], codec, unpacked - num_bytes)


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
