"""Check the header of a safetensors file, before its reader makes something of each entry."""

import os
from pathlib import Path

from zoobot.limits.text import MAX_JSON_BYTES
from zoobot.system.errors import UserError

MAX_HEADER_BYTES = MAX_JSON_BYTES
MOST_TENSORS = 100_000
ENTRY = b'"dtype"'  # is in the entry of each tensor


def check_safetensors(path: str | Path) -> None:
    """ValueError if a file's header is longer than the file or the limit, or of too many tensors.

    Raises:
        OSError: the file can't be read.
        ValueError: see above.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if length > size - 8:
            raise UserError(f"its header claims {length:,} bytes of {size:,}")
        if length > MAX_HEADER_BYTES:
            raise UserError(f"its header has {length:,} bytes; the limit is {MAX_HEADER_BYTES:,}")
        count = file.read(length).count(ENTRY)
    if count > MOST_TENSORS:
        raise UserError(f"it holds {count:,} tensors; the limit is {MOST_TENSORS:,}")
