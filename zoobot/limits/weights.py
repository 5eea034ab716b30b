"""Check the header of a safetensors file, before its reader makes something of each entry."""

import os
from pathlib import Path
from typing import Any, BinaryIO

from zoobot.limits.memory import check_memory
from zoobot.limits.text import MAX_JSON_BYTES, parse_json
from zoobot.system.errors import UserError
from zoobot.system.files import open_to_read

MAX_HEADER_BYTES = MAX_JSON_BYTES
MOST_TENSORS = 100_000
COPIES = 2  # of the file: its bytes, and those of its tensors
ENTRY = b'"dtype"'  # is in the entry of each tensor


def check_safetensors(path: str | Path) -> None:
    """ValueError if a file's header is longer than the file or the limit, or of too many tensors.

    Raises:
        OSError: the file can't be read.
        ValueError: see above.
    """
    with open_to_read(path) as file:
        _check_header(file)


def read_safetensors(path: str | Path) -> bytes:
    """All bytes of a file, whose header ``check_safetensors`` accepts.

    The package safetensors opens files by their names only. What is read here is what was checked.

    Raises:
        OSError: the file can't be read.
        ValueError: see above; or it takes more memory than is free, also for its tensors.
    """
    with open_to_read(path) as file:
        size = _check_header(file)
        check_memory(COPIES * size, "the file, with its tensors,")
        file.seek(0)
        return file.read()


def metadata_in(content: bytes) -> dict[str, Any]:
    """The metadata in a file's bytes, which the package safetensors accepts."""
    length = int.from_bytes(content[:8], "little")
    return parse_json(content[8 : 8 + length]).get("__metadata__") or {}


def _check_header(file: BinaryIO) -> int:
    """The file's size; see ``check_safetensors``."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if length > size - 8:
        raise UserError(f"its header claims {length:,} bytes of {size:,}")
    if length > MAX_HEADER_BYTES:
        raise UserError(f"its header has {length:,} bytes; the limit is {MAX_HEADER_BYTES:,}")
    count = file.read(length).count(ENTRY)
    if count > MOST_TENSORS:
        raise UserError(f"it holds {count:,} tensors; the limit is {MOST_TENSORS:,}")
    return size
