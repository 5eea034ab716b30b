"""Map the file of one shard into memory, and check that it is one; see ``reader``."""

import math
import os
from pathlib import Path

import numpy as np
import pyarrow as pa

from zoobot.limits.text import MAX_JSON_BYTES, parse_json
from zoobot.system.errors import UserError
from zoobot.system.files import open_to_read

DTYPES = {"U8": "uint8", "F16": "float16", "I32": "int32", "I64": "int64", "F32": "float32"}
MAX_HEADER_BYTES = MAX_JSON_BYTES
CURE = ": rerun create_shards"
# What reading a damaged file can raise.
DAMAGED = (KeyError, TypeError, AttributeError, ValueError, RecursionError, OverflowError)


def read_shard(path: Path, description: dict, num_galaxies: int) -> dict[str, np.ndarray]:
    """Map a shard into memory, and return its tensors by name.

    Raises:
        ValueError: the file is missing or damaged, or has another description or other shapes.
    """
    try:
        tensors, found = _map_tensors(path)
        if found != description:
            raise UserError("index.json describes it differently")
        _check_tensors(tensors, description, num_galaxies)
    except OSError as error:
        raise UserError(f"shard {path} can't be read: {error.strerror}{CURE}") from error
    except DAMAGED as error:
        raise UserError(f"shard {path} is damaged ({error}){CURE}") from error
    return tensors


def _map_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Tensors of a safetensors file by name, and its description; raises ``DAMAGED`` errors."""
    with open_to_read(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(MAX_HEADER_BYTES, size - 8):
            raise UserError("no header")
        header = parse_json(file.read(length))
        data = np.memmap(file, np.uint8, "r").view(np.ndarray)[8 + length :]
    description = parse_json(header.pop("__metadata__")["zoobot"])
    tensors, last = {}, 0
    for name, entry in header.items():
        dtype, shape = np.dtype(DTYPES[entry["dtype"]]), entry["shape"]
        start, stop = entry["data_offsets"]
        if not 0 <= start <= stop <= len(data) or min(shape) < 0:
            raise UserError(f"{name} is not within the file")
        if stop - start != dtype.itemsize * math.prod(shape):
            raise UserError(f"{name} has the wrong length")
        tensors[name] = data[start:stop].view(dtype).reshape(shape)
        last = max(last, stop)
    if last != len(data):
        raise UserError("bytes are left over")
    return tensors, description


def _check_tensors(tensors: dict[str, np.ndarray], description: dict, num_galaxies: int) -> None:
    """Raise ValueError unless names, dtypes, shapes and offsets are those of a shard."""
    labels = (num_galaxies, len(description["label_cols"]))
    expected = {"labels": (description["label_dtype"], labels)}
    packed = {"ids": "id_offsets"}
    if description["encoding"] == "raw":
        side = description["img_size"]
        pixels = (num_galaxies, side, side, description["channels"])
        expected["images"] = (description.get("image_dtype", "uint8"), pixels)
    else:
        packed["bytes"] = "offsets"
    for name, offsets in packed.items():
        expected[offsets] = ("int64", (num_galaxies + 1,))
        expected[name] = ("uint8", tensors[name].shape[:1])
    found = {name: (str(tensor.dtype), tensor.shape) for name, tensor in tensors.items()}
    if found != expected:
        raise UserError(f"it holds {found}, not {expected}")
    for name, offsets in packed.items():
        offsets = tensors[offsets]
        if offsets[0] != 0 or offsets[-1] != len(tensors[name]) or (np.diff(offsets) < 0).any():
            raise UserError(f"the offsets of {name} are not in order")


def read_ids(tensors: dict[str, np.ndarray], start: int, stop: int) -> pa.LargeStringArray:
    """Ids of consecutive galaxies of a shard, copied into Arrow buffers.

    Raises:
        ValueError: an id is not UTF-8 text.
    """
    offsets = tensors["id_offsets"][start : stop + 1]
    texts = tensors["ids"][offsets[0] : offsets[-1]].tobytes()
    buffers = (pa.py_buffer(offsets - offsets[0]), pa.py_buffer(texts))
    ids = pa.LargeStringArray.from_buffers(stop - start, *buffers)
    try:
        ids.validate(full=True)
    except pa.ArrowInvalid as error:
        raise UserError(f"the ids of a shard are damaged ({error}){CURE}") from error
    return ids
