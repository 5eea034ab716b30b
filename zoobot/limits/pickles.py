"""Check a file of ``torch.save`` before torch reads it: its zip archive, and its pickle.

torch executes no code of such a file (``weights_only``), but calls a few classes of its own as the
file says. So the pickle is gone through first: only classes of ``GLOBALS`` are named, what they are
given was made for them, and there is not much of it. And there must be one list of members only,
where every reader of zip archives looks for it, and no member may be packed.
"""

import os
import pickletools
import struct
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO

from zoobot.system.errors import UserError

END = struct.Struct("<4s6xHIIH")  # the last record: members, bytes and place of their list, comment
END64 = struct.Struct("<4s28x3Q")  # the same of a large archive
END_MAGIC = b"PK\5\6"
LOCATOR_MAGIC = b"PK\6\7"
END64_MAGIC = b"PK\6\6"
LOCATOR_BYTES = 20  # between the two
FIRST_MAGIC = b"PK\3\4"
MAX_PICKLE_BYTES = 2**24
MAX_STEPS = 1_000_000  # a state of 1000 weights has 50,000
MOST_MEMBERS = 100_000
LARGE = 0xFFFFFFFF

DTYPES = (
    "bfloat16 bool complex128 complex64 float16 float32 float64 int16 int32 int64 int8 "
    "uint16 uint32 uint64 uint8"
)
STORAGES = "BFloat16 Bool ComplexDouble ComplexFloat Byte Char Double Float Half Int Long Short"
GLOBALS = {f"torch.{name}" for name in DTYPES.split()}
GLOBALS |= {f"torch.{name}Storage" for name in STORAGES.split()}
GLOBALS |= {"torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter", "torch.device"}
COPIERS = {"torch.Size", "builtins.set", "__builtin__.set", "collections.OrderedDict"}
GLOBALS |= COPIERS

ENDS = ("STOP", "PROTO", "MARK", "GLOBAL")
PUT = ("BINPUT", "LONG_BINPUT")
GET = ("BINGET", "LONG_BINGET")
VALUES = (
    "NONE NEWTRUE NEWFALSE EMPTY_LIST EMPTY_DICT EMPTY_SET EMPTY_TUPLE BININT BININT1 BININT2 "
    "BINFLOAT BINUNICODE SHORT_BINSTRING LONG1"
).split()
TAKEN = dict.fromkeys(("APPEND", "TUPLE1", "BINPERSID"), 1)  # values that a step takes
TAKEN |= dict.fromkeys(("SETITEM", "TUPLE2", "REDUCE", "NEWOBJ", "BUILD"), 2) | {"TUPLE3": 3}
TO_MARK = ("APPENDS", "SETITEMS", "TUPLE")
KEEPS = ("APPEND", "SETITEM", "APPENDS", "SETITEMS")  # change what is below, and leave it
_MARK, _NEW, _SHARED = "mark", "new", "shared"  # values, of which no more is known


def check_torch_file(file: BinaryIO, inert: tuple[str, ...] = ()) -> list[str]:
    """The classes of a file of ``torch.save`` that torch does not know, all of them ``inert``.

    Goes back to the file's start.

    Args:
        file: open to be read.
        inert: how the names of classes begin for which the reader has a substitute.

    Raises:
        ValueError: it is another file, packed, larger unpacked, or its pickle is not plain.
    """
    check_archive(file)
    with zipfile.ZipFile(file) as archive:
        pickles = [m for m in archive.infolist() if m.filename.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise UserError("it is not of torch.save: it has no data.pkl, or more than one")
        if pickles[0].file_size > MAX_PICKLE_BYTES:
            raise UserError(f"its pickle is over the limit of {MAX_PICKLE_BYTES:,} bytes")
        content = archive.read(pickles[0])
    file.seek(0)
    return check_pickle(content, inert)


def check_archive(file: BinaryIO) -> None:
    """ValueError unless a file is a zip archive as ``torch.save`` writes it.

    Raises:
        ValueError: it is none, readers may differ about its members, or these are packed or larger
            than the file.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(4) != FIRST_MAGIC:
        raise UserError("it is not of torch.save: no zip archive")
    _check_directory(file, size)
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, UnicodeError) as error:
        raise UserError(f"it is a damaged zip archive: {error}") from error
    claimed = sum(member.file_size for member in members)
    if any(member.compress_type != zipfile.ZIP_STORED for member in members) or claimed > size:
        raise UserError(f"its members have {claimed:,} bytes unpacked, the file {size:,}")
    if len({member.filename for member in members}) < len(members):
        raise UserError("two members of its zip archive have one name")


def _check_directory(file: BinaryIO, size: int) -> None:
    """ValueError unless the list of members is where the end says, and directly before it."""
    file.seek(max(0, size - END.size - LOCATOR_BYTES - END64.size))
    before, end = (tail := file.read())[: -END.size], tail[-END.size :]
    if len(end) < END.size or not end.startswith(END_MAGIC):
        raise UserError("its zip archive does not end as torch.save ends one: cut short?")
    _, *found, comment = END.unpack(end)
    place = size - END.size
    if before[END64.size :].startswith(LOCATOR_MAGIC):  # another end, of a large archive
        place -= LOCATOR_BYTES + END64.size
        magic, *large = END64.unpack_from(before)
        (told,) = struct.unpack_from("<Q", before, END64.size + 8)
        both = zip(found, large, (0xFFFF, LARGE, LARGE), strict=True)
        if magic != END64_MAGIC or told != place or any(a not in (b, most) for a, b, most in both):
            raise UserError("its zip archive has two ends that differ")
        found = large
    count, length, start = found
    if comment or start + length != place:
        raise UserError("its zip archive hides members")
    if count > MOST_MEMBERS:
        raise UserError(f"its zip archive has {count:,} members; the limit is {MOST_MEMBERS:,}")


def check_pickle(content: bytes, inert: tuple[str, ...] = ()) -> list[str]:
    """See ``check_torch_file``; of a pickle, in which nothing is executed here."""
    machine = _Machine(inert)
    try:
        for count, (step, argument, _) in enumerate(pickletools.genops(content)):
            if count > MAX_STEPS:
                raise UserError(f"its pickle has more than {MAX_STEPS:,} steps")
            machine.take(step.name, argument)
    except (IndexError, KeyError) as error:
        raise UserError("its pickle is damaged: a value is missing") from error
    except UserError:
        raise
    except ValueError as error:  # of pickletools
        raise UserError(f"its pickle is damaged: {error!s:.80}") from error
    return sorted(machine.inert_found)


class _Machine:
    """Goes through a pickle. On its stack are names of classes, and for other values where they are
    from: just made, or taken from the memory, from which they can be taken many times.
    """

    def __init__(self, inert: tuple[str, ...]) -> None:
        self.inert, self.inert_found = inert, set()
        self.stack, self.memory = [], {}

    def take(self, step: str, argument: Any) -> None:
        """The next step."""
        stack = self.stack
        if step == "GLOBAL":
            stack.append(self._class(argument.replace(" ", ".")))
        elif step == "MARK":
            stack.append(_MARK)
        elif step in VALUES:
            stack.append("()" if step == "EMPTY_TUPLE" else _NEW)
        elif step in PUT:
            self.memory[argument] = stack[-1]
        elif step in GET:
            value = self.memory[argument]
            stack.append(_SHARED if value == _NEW else value)
        elif step in TAKEN or step in TO_MARK:
            values = list(self._taken(step))
            if step in ("REDUCE", "NEWOBJ", "BUILD"):
                self._check_call(step, *values)
            if step not in KEEPS:
                shared = _SHARED in values and step not in ("REDUCE", "NEWOBJ", "BUILD")
                stack.append(_SHARED if shared else _NEW)
            elif stack[-1] not in (_NEW, _SHARED):
                raise UserError(f"its pickle adds to a {stack[-1]:.80}")
        elif step not in ENDS:
            raise UserError(f"its pickle has the step {step}, which torch.save does not write")

    def _class(self, name: str) -> str:
        if name.startswith(self.inert):
            self.inert_found.add(name)
        elif name.startswith("torch._utils._rebuild") and name not in GLOBALS:
            raise UserError("it holds a tensor that is not plain numbers (sparse, quantised ...)")
        elif name not in GLOBALS:
            raise UserError(f"it names {name:.80}, which is not read from files")
        return name

    def _taken(self, step: str) -> Iterator[str]:
        if step in TAKEN:
            for _ in range(TAKEN[step]):
                yield self.stack.pop()
            return
        while (value := self.stack.pop()) != _MARK:
            yield value

    def _check_call(self, step: str, given: str, called: str) -> None:
        """ValueError if a class is called that is none, or copies a shared value into another."""
        if step == "BUILD":
            called_is_sound = called in (_NEW, _SHARED)
        else:
            called_is_sound = called in GLOBALS or called in self.inert_found
        copies = step == "BUILD" or called in COPIERS
        if not called_is_sound or (copies and given == _SHARED):
            raise UserError(f"its pickle makes a {called:.80} of what it used before")
