"""What the pages of a Parquet column say that they hold: the end of the file may say less.

A reader takes the numbers of values and bytes from the headers of the pages, which are written in
Thrift's compact protocol. Here only whole numbers of these headers are read.
"""

from typing import BinaryIO, NamedTuple

import pyarrow.parquet as pq

from zoobot.system.errors import UserError

UNPACKED, PACKED, VERSION_1, DICTIONARY, VERSION_2 = 2, 3, 5, 7, 8  # numbers of fields
NUM_VALUES = 1  # of the headers within: of data of both versions, and of dictionaries
ENCODING = {VERSION_1: 2, VERSION_2: 4, DICTIONARY: 2}
FIRST_BYTES = 2**10  # of a header that are read; more if it is longer
MAX_HEADER_BYTES = 2**24  # as pyarrow's
DEEPEST = 8
NO_HEADER = "the header of a page of it is none"
PADDING = 100  # bytes behind a column in which pyarrow reads on, for the sake of old files
TRUE, FALSE, BYTE, INT_64, DOUBLE, BINARY, LIST, SET, STRUCT = 1, 2, 3, 6, 7, 8, 9, 10, 12


class Pages(NamedTuple):
    """The pages of a column within a group of rows.

    Attributes:
        values: how many they say they have, missing ones too, those of dictionaries aside.
        num_bytes: that they say they unpack to.
        encodings: numbers of Parquet's encodings.
    """

    values: int
    num_bytes: int
    encodings: frozenset[int]


def read_pages(file: BinaryIO, chunk: pq.ColumnChunkMetaData) -> Pages:
    """Go through the headers of the pages.

    Raises:
        ValueError: one is none, or claims a negative number.
    """
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < start:
        start = chunk.dictionary_page_offset
    place, end = start, start + chunk.total_compressed_size
    values, num_bytes, encodings = 0, 0, set()
    while place < end or (values < chunk.num_values and place < end + PADDING):
        try:
            header, length = _read_header(file, place)
        except UserError:
            if 0 < chunk.num_values <= values:
                break  # behind the last page, where pyarrow does not read
            raise
        within = next((n for n in ENCODING if n in header), None)
        told = header[within] if within else {NUM_VALUES: 0}
        if not isinstance(told, dict):
            raise UserError(NO_HEADER)
        packed, unpacked, count = (
            fields.get(number) if isinstance(fields.get(number), int) else -1
            for fields, number in ((header, PACKED), (header, UNPACKED), (told, NUM_VALUES))
        )
        if min(packed, unpacked, count) < 0:
            raise UserError("a page of it claims no number of values or bytes, or a negative one")
        if within:
            encodings.add(told.get(ENCODING[within]))
        values += count if within != DICTIONARY else 0
        num_bytes += unpacked
        place += length + packed
    return Pages(values, num_bytes, frozenset(encodings))


def _read_header(file: BinaryIO, place: int) -> tuple[dict, int]:
    """The numbers of a page's header, by the numbers of their fields, and its length in bytes."""
    most = FIRST_BYTES
    while True:
        file.seek(place)
        content = file.read(most)
        try:
            return _struct(content, 0)
        except IndexError:
            if len(content) < most or most >= MAX_HEADER_BYTES:
                raise UserError("the header of a page of it is cut short") from None
            most *= 4


def _struct(content: bytes, place: int, depth: int = 0) -> tuple[dict, int]:
    """Fields that are whole numbers or structs, and where the struct ends.

    IndexError if the content ends before.
    """
    fields, number = {}, 0
    if depth > DEEPEST:
        raise UserError("the header of a page of it is nested too deeply")
    while head := content[place]:
        place += 1
        kind, step = head & 15, head >> 4
        if step:
            number += step
        else:
            number, place = _number(content, place)
        if kind not in (TRUE, FALSE):  # whose value is the kind
            value, place = _value(content, place, kind, depth)
            fields[number] = value
    return fields, place + 1


def _value(content: bytes, place: int, kind: int, depth: int) -> tuple[int | dict | None, int]:
    if kind == STRUCT:
        return _struct(content, place, depth + 1)
    if kind == BYTE:
        return content[place], place + 1
    if BYTE < kind <= INT_64:
        return _number(content, place)
    if kind == DOUBLE:
        place += 8
    elif kind == BINARY:
        length, place = _unsigned(content, place)
        place += length
    elif kind in (LIST, SET):
        count, inner = content[place] >> 4, content[place] & 15
        place += 1
        if count == 15:
            count, place = _unsigned(content, place)
        for _ in range(count):
            _, place = _value(content, place, BYTE if inner in (TRUE, FALSE) else inner, depth + 1)
    else:
        raise UserError(NO_HEADER)
    content[place - 1]  # IndexError if it is beyond the end
    return None, place


def _number(content: bytes, place: int) -> tuple[int, int]:
    """A number with a sign, which is its lowest bit."""
    value, place = _unsigned(content, place)
    return value >> 1 ^ -(value & 1), place


def _unsigned(content: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[place]
        place += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, place
        if shift > 63:
            raise UserError(NO_HEADER)
