"""Read whole numbers from structs in Thrift's compact protocol, in which Parquet describes itself.

A reader made by Thrift drops what it can't place: fields of another type, the first of two fields
with one number, the upper half of a number that is too long. Such structs could mean one thing
here, and another there. So they are refused.
"""

from zoobot.limits.memory import check_memory
from zoobot.system.errors import UserError

TRUE, FALSE, BYTE, INT_16, INT_32, INT_64, DOUBLE, BINARY, LIST, SET, _, STRUCT = range(1, 13)
SIZES = {INT_16: 16, INT_32: 32, INT_64: 64}  # of numbers, in bits, when read
WIDTHS = {TRUE: 1, FALSE: 1, BYTE: 1, DOUBLE: 8}  # of others in a list, in bytes
DEEPEST = 16  # structs within structs; Parquet's own have 7
LARGEST_FIELD = 2**15 - 1
STRUCT_BYTES = 1000  # of memory: the largest that pyarrow makes of a struct, which may be one byte
CHECKED_EVERY = 2**16  # structs
NO_STRUCT = "its description of itself is damaged"


class StructReader:
    """Reads one struct after another from bytes.

    Args:
        content: the bytes.

    Attributes:
        place: where the next struct begins.
    """

    def __init__(self, content: bytes):
        self.place = 0
        self._num_structs = 0
        self._content = content

    def struct(self, wanted: dict, depth: int = 0) -> dict:
        """The wanted fields of a struct, by their numbers, as far as it has them.

        Args:
            wanted: for each field's number ``INT_32`` or ``INT_64``; ``TRUE``, for true or false;
                ``BINARY``, for the length of bytes; or the fields that are wanted of a struct; or a
                list of one dict, those of every struct in a list.

        Raises:
            IndexError: the bytes end before the struct does.
            ValueError: a field is not as wanted, is there twice, or is nested too deeply; or there
                are more structs than there is memory for.
        """
        if depth > DEEPEST:
            raise UserError(NO_STRUCT)
        self._num_structs += 1
        if self._num_structs % CHECKED_EVERY == 0:
            check_memory(STRUCT_BYTES * self._num_structs, "its description of itself")
        fields, number = {}, 0
        while head := self._byte():
            kind, step = head & 15, head >> 4
            number = number + step if step else self._number(INT_16)
            if number in wanted and number not in fields:
                fields[number] = self._value(kind, wanted[number], depth + 1)
            elif number in fields or not 0 <= number <= LARGEST_FIELD:
                raise UserError(NO_STRUCT)
            elif kind not in (TRUE, FALSE):  # which say all by themselves
                self._skip(kind, depth)
        return fields

    def _value(self, kind: int, shape: int | dict | list, depth: int) -> int | dict | list:
        if shape == TRUE and kind in (TRUE, FALSE):
            return kind == TRUE
        if kind == shape == BINARY:
            length = self.unsigned()  # moves the place
            self.place += length
            return length
        if kind == shape:
            return self._number(kind)
        if kind == STRUCT and isinstance(shape, dict):
            return self.struct(shape, depth)
        if kind == LIST and isinstance(shape, list):
            count, inner = self._list_head()
            if inner == STRUCT or not count:  # of an empty list any kind is told
                return [self.struct(shape[0], depth) for _ in range(count)]
        raise UserError(NO_STRUCT)

    def _skip(self, kind: int, depth: int, count: int = 1) -> None:
        """Go beyond so many values of a kind."""
        if not count:
            return
        if kind in SIZES:
            for _ in range(count):
                self.unsigned()
        elif kind == BINARY:
            for _ in range(count):
                length = self.unsigned()  # moves the place
                self.place += length
        elif kind in WIDTHS:
            self.place += count * WIDTHS[kind]
        elif kind in (LIST, SET) and depth <= DEEPEST:
            for _ in range(count):
                number, inner = self._list_head()
                self._skip(inner, depth + 1, number)
        elif kind == STRUCT:
            for _ in range(count):
                self.struct({}, depth + 1)
        else:
            raise UserError(NO_STRUCT)

    def take(self, count: int) -> bytes:
        """So many bytes; IndexError if there are fewer."""
        start, self.place = self.place, self.place + count
        if self.place > len(self._content):
            raise IndexError
        return self._content[start : self.place]

    def _list_head(self) -> tuple[int, int]:
        head = self._byte()
        return (head >> 4 if head >> 4 != 15 else self.unsigned()), head & 15

    def _number(self, kind: int) -> int:
        """A number with a sign, which is its lowest bit."""
        value = self.unsigned()
        if value >> SIZES[kind]:
            raise UserError(NO_STRUCT)
        return value >> 1 ^ -(value & 1)

    def unsigned(self) -> int:
        """A number without a sign, seven bits a byte."""
        byte = self._content[self.place]
        self.place += 1
        value, shift = byte & 127, 7
        while byte > 127:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if shift > 70:
                raise UserError(NO_STRUCT)
        return value

    def _byte(self) -> int:
        self.place += 1
        return self._content[self.place - 1]
