"""Check what .npy, .npz and HDF5 files claim, before memory is spent on their arrays."""

import io
import itertools
import math
import os
import re
import struct
import zipfile
import zlib
from typing import Any, BinaryIO

import numpy as np

from zoobot.limits.memory import check_memory
from zoobot.system.errors import UserError

NUMBERS = "iufb"  # NumPy's letters of integers, floats and booleans
TEXTS = "US"
MAX_HEADER_BYTES = 10_000  # of an array's description
MOST_AXES = 32
MAX_BYTES = 1_000_000_000  # of a member of an .npz, unpacked
MAX_CHUNK_BYTES = 2**28  # of an HDF5 array, unpacked
CHUNK_UNPACKED_UNSEEN = 900_000  # packed bytes; zlib unpacks them to 930 MB at most
# HDF5's numbers of what chunks go through.
GZIP, SHUFFLE, CHECKSUM, SZIP, N_BIT, SCALE, LZF = 1, 2, 3, 4, 5, 6, 32000
PACKERS = (GZIP, SZIP, N_BIT, SCALE, LZF)
TOLD_SIZES = {N_BIT: (2, 4), SCALE: (2, 4), LZF: (2,)}  # settings whose product is a chunk's bytes
MAX_LZF_EXPANSION = 88  # 264 bytes of 3
MAX_DIRECTORY_BYTES = 2**20  # of an .npz: some 10,000 members
ZIP_END = struct.Struct("<4s8xII")  # of the last record: size of the directory, and its place
ZIP_END_MAGIC = b"PK\5\6"
ZIP64_MAGIC = b"PK\6\7"  # of a record that may stand before the last one
ZIP64_BYTES = 20
ZIP_END_BYTES = 22 + 2**16  # the last record with its comment
ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
READ_AT_ONCE = 2**20
MOST_NAMES = 1000  # of planes
MAX_NAMES_BYTES = 100_000


def read_npy_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran order, and type, of an .npy array. Nothing is unpickled.

    Raises:
        ValueError: they are none, or over ``MAX_HEADER_BYTES`` or ``MOST_AXES``.
    """
    version = np.lib.format.read_magic(file)
    length = file.read(2 if version == (1, 0) else 4)
    num_bytes = int.from_bytes(length, "little")
    if num_bytes > MAX_HEADER_BYTES:
        raise UserError(f"its header claims {num_bytes:,} bytes; the limit is {MAX_HEADER_BYTES:,}")
    header = file.read(num_bytes)
    if _depth(header) > MOST_AXES:
        raise UserError("its header is nested too deeply")
    read = np.lib.format.read_array_header_1_0
    read = read if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(io.BytesIO(length + header))
    if len(shape) > MOST_AXES or not all(side >= 0 for side in shape):
        raise UserError(
            f"an array of shape {str(shape):.60}; there can be {MOST_AXES} sides, of 0 or more"
        )
    return shape, fortran_order, dtype


def _depth(text: bytes) -> int:
    """How deeply brackets are nested in a text."""
    steps = [(c in b"([{") - (c in b")]}") for c in text]
    return max(itertools.accumulate(steps), default=0)


def check_directory(file: BinaryIO) -> None:
    """ValueError if a zip archive's list of members is over the limit. Goes back to its start."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - ZIP_END_BYTES))
    tail = file.read()
    file.seek(0)
    places = [found.start() for found in re.finditer(re.escape(ZIP_END_MAGIC), tail)]
    places = [place for place in places if place + ZIP_END.size <= len(tail)]
    if not places:
        raise UserError("an .npz file without its end: cut short?")
    for place in places:  # a comment may hold further ones
        num_bytes = ZIP_END.unpack_from(tail, place)[1]
        if num_bytes > MAX_DIRECTORY_BYTES:
            raise UserError(f"its list of arrays has {num_bytes:,} bytes: leave arrays out")
        if tail.startswith(ZIP64_MAGIC, max(0, place - ZIP64_BYTES)):
            raise UserError("a zip archive of the kind for over 4 GB: use .npy or HDF5")


def check_member(member: zipfile.ZipInfo) -> None:
    """ValueError if a member of an .npz is packed as NumPy doesn't, or claims too many bytes."""
    if member.compress_type not in ZIP_METHODS:
        raise UserError(f"{member.filename:.60} is packed as NumPy does not pack arrays")
    if member.file_size > MAX_BYTES:
        raise UserError(
            f"{member.filename:.60} claims {member.file_size:,} bytes; the limit is {MAX_BYTES:,} "
            "(large arrays are for .npy and HDF5 files)"
        )


def check_hdf5_array(array: Any) -> None:
    """ValueError if an HDF5 array takes its numbers from other files, or has huge chunks.

    Args:
        array: an ``h5py.Dataset``.
    """
    if array.external or array.is_virtual:
        raise UserError(f"array {array.name:.60} takes its numbers from other files")
    chunk = math.prod(array.chunks or ()) * array.dtype.itemsize if array.chunks else 0
    if chunk > MAX_CHUNK_BYTES:
        raise UserError(
            f"array {array.name:.60} has chunks of {chunk:,} bytes; the limit is "
            f"{MAX_CHUNK_BYTES:,}: save it with chunks of a galaxy"
        )
    for i, (code, values) in enumerate(filters := _filters(array)):
        told = [values[p] for p in TOLD_SIZES.get(code, ()) if p < len(values)]
        packed_before = any(c in PACKERS for c, _ in filters[:i]) and code != CHECKSUM
        if code not in (*PACKERS, SHUFFLE, CHECKSUM) or packed_before:
            raise UserError(
                f"array {array.name:.60} is packed in an unusual way: save it with gzip"
            )
        if math.prod(told) > MAX_CHUNK_BYTES:
            raise UserError(f"array {array.name:.60} claims {math.prod(told):,} bytes a chunk")


def _filters(array: Any) -> list[tuple[int, tuple[int, ...]]]:
    """Numbers and settings of what chunks went through when they were written, in order."""
    made = array.id.get_create_plist()
    found = [made.get_filter(i) for i in range(made.get_nfilters())]
    return [(code, values) for code, _, values, _ in found]


def check_hdf5_chunks(array: Any, row: int | None) -> None:
    """ValueError if a chunk is packed so that it unpacks over ``MAX_CHUNK_BYTES``, or may fill the
    memory.

    Args:
        array: as for ``check_hdf5_array``, which accepts it.
        row: of which the chunks are checked; None: all.
    """
    packers = [code for code, _ in _filters(array) if code in (GZIP, LZF, SZIP)]
    if not packers:
        return
    part = np.s_[:] if row is None else np.s_[row : row + 1]
    for place in array.iter_chunks((part, *[np.s_[:]] * (array.ndim - 1))):
        corner = tuple(p.start // c * c for p, c in zip(place, array.chunks, strict=True))
        info = array.id.get_chunk_info_by_coord(corner)
        if packers == [LZF]:
            check_memory(MAX_LZF_EXPANSION * info.size, "a chunk of it")
        elif info.size and (packers == [SZIP] or info.size > CHUNK_UNPACKED_UNSEEN):
            packed = array.id.read_direct_chunk(corner)[1]
            (_check_zlib if packers == [GZIP] else _check_szip)(packed)


def _check_szip(packed: bytes) -> None:
    if int.from_bytes(packed[:4], "little") > MAX_CHUNK_BYTES:
        raise UserError(f"a chunk is unpacked over the limit of {MAX_CHUNK_BYTES:,} bytes")


def _check_zlib(packed: bytes) -> None:
    unpack, total = zlib.decompressobj(), 0
    while packed and not unpack.eof:
        try:
            total += len(unpack.decompress(packed, READ_AT_ONCE))
        except zlib.error as error:
            raise UserError(f"a chunk is damaged: {error}") from error
        packed = unpack.unconsumed_tail
        if total > MAX_CHUNK_BYTES:
            raise UserError(f"a chunk is unpacked over the limit of {MAX_CHUNK_BYTES:,} bytes")


def is_short(shape: tuple[int, ...], text_bytes: int) -> bool:
    """Whether an array of texts may be the names of planes."""
    if len(shape) != 1 or not 0 < shape[0] <= MOST_NAMES:
        return False
    return 0 < shape[0] * text_bytes <= MAX_NAMES_BYTES


def read_texts(array: Any) -> list[bytes]:
    """The texts of a short HDF5 array, one by one; those beyond ``MAX_NAMES_BYTES`` are left out.

    Each may be any part of the file, and all of them the same one.
    """
    found, total = [], 0
    if array.external or array.is_virtual:
        return found
    for i in range(array.size):
        found.append(array[i])
        total += len(found[-1])
        if total > MAX_NAMES_BYTES:
            return []
    return found
