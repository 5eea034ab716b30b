"""Write the file of one shard, with a checksum. A complete file that is there is kept."""

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from zoobot.data.images import ImageError
from zoobot.data.shards.images import encoder_of
from zoobot.data.shards.mapped import DTYPES, read_shard
from zoobot.system.errors import UserError
from zoobot.system.files import READ_AT_ONCE, hash_file, write_whole

CHECKSUM = "blake2b"


class _Unreadable(Exception):
    """At least one image of a shard can't be read."""


def write_shard(
    file: str,
    folder: Path,
    galaxies: dict[str, list],
    labels: np.ndarray,
    description: dict,
    plan_text: str,
) -> tuple[dict, list[tuple]]:
    """Write a shard, unless it is there already and its checksum is right.

    The file appears whole or not at all.

    Args:
        file: path of the shard, relative to ``folder``.
        folder: folder of all shards.
        galaxies: ids and images: two lists, in this order.
        labels: (N, L).
        description: metadata of the shard.
        plan_text: contents of ``plan.json``; part of what the checksum covers.

    Returns:
        The shard's entry in ``index.json``, and an empty list. If images can't be read: an empty
        dict, and ``id_str``, path or bytes, and reason of each such image.
    """
    path = folder / file
    plan = json.loads(plan_text)
    encode = encoder_of(description, plan["quality"], plan["keep_metadata"])
    ids, sources = galaxies.values()
    checksum = hashlib.blake2b((plan_text + file).encode(), digest_size=16)
    errors = []

    def encoded() -> Iterator[bytes]:
        for id_str, source in zip(ids, sources, strict=True):
            name = source if isinstance(source, str) else f"id_str {id_str!r}"
            try:
                yield encode(source, name)
            except ImageError as error:
                errors.append((id_str, source, str(error).removeprefix(f"{name}: ")))

    def write(aside: Path) -> None:
        tensors = {"labels": (labels.dtype, labels.shape, [labels.tobytes()])}
        tensors |= _packed("ids", "id_offsets", [id_str.encode() for id_str in ids])
        if description["encoding"] == "raw":
            side = description["img_size"]
            shape = (len(ids), side, side, description["channels"])
            dtype = np.dtype(description.get("image_dtype", "uint8"))
            tensors["images"] = (dtype, shape, encoded())
        else:
            tensors |= _packed("bytes", "offsets", list(encoded()))
        _write_tensors(aside, tensors, description, checksum)
        if errors:
            raise _Unreadable

    try:
        read_shard(path, description, len(ids))
        _check_data(path, checksum.copy())
    except ValueError:
        try:
            write_whole(path, write)
        except _Unreadable:
            return {}, errors
    size = path.stat().st_size
    return {"num_galaxies": len(ids), "bytes": size, "blake2b": hash_file(path)}, []


def _packed(name: str, offsets_name: str, values: list[bytes]) -> dict[str, tuple]:
    """Two tensors for ``_write_tensors``: the values one after the other, and their offsets."""
    offsets = np.cumsum([0, *map(len, values)], dtype=np.int64)
    return {
        offsets_name: (offsets.dtype, offsets.shape, [offsets.tobytes()]),
        name: (np.dtype("uint8"), (int(offsets[-1]),), values),
    }


def _write_tensors(path: Path, tensors: dict[str, tuple], description: dict, checksum) -> None:
    """Write a safetensors file piece by piece, so that a shard of pixels is never whole in memory.

    Args:
        path: of the file.
        tensors: name -> (dtype, shape, pieces of its bytes). Tensors of the widest dtypes come
            first in the file, so that all are aligned.
        description: goes into the metadata.
        checksum: a ``hashlib`` hash. The bytes of all tensors are added to it. It goes into the
            metadata.
    """
    names = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
    metadata = {"zoobot": json.dumps(description), CHECKSUM: "0" * 2 * checksum.digest_size}
    header, end = {"__metadata__": metadata}, 0
    ordered = sorted(tensors.items(), key=lambda item: -item[1][0].itemsize)
    for name, (dtype, shape, _) in ordered:
        start, end = end, end + dtype.itemsize * math.prod(shape)
        header[name] = {"dtype": names[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, (_, _, pieces) in ordered:
            for piece in pieces:
                checksum.update(piece)
                file.write(piece)
        file.seek(8 + text.rindex(metadata[CHECKSUM].encode()))
        file.write(checksum.hexdigest().encode())


def _check_data(path: Path, checksum) -> None:
    """Raise ValueError if the checksum in a shard's metadata is wrong for its tensors.

    Args:
        path: of a shard that ``read_shard`` accepts.
        checksum: the hash to add the bytes of the tensors to.
    """
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        while piece := file.read(READ_AT_ONCE):
            checksum.update(piece)
    if header["__metadata__"].get(CHECKSUM) != checksum.hexdigest():
        raise UserError(f"shard {path} is altered, or of another plan")
