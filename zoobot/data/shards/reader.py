"""Read shards: a few large files with the galaxies of a catalog, faster to read than many files.

A folder of shards has ``index.json`` (written last: without it the folder is not finished),
``plan.json`` (galaxies and options, so that a killed run can continue), and for each split files
such as ``train/shard-00000.safetensors``. A file has N galaxies, a random sample of their split:

- ``labels`` (N, L) int32 or float32; ``ids`` uint8, UTF-8, with ``id_offsets`` (N + 1) int64;
- encoding 'jpeg': ``bytes`` uint8, the encoded images one after the other, and ``offsets`` (N + 1)
  int64; encoding 'raw': ``images`` (N, S, S, C), uint8, or float16 of bands.

Images of bands are scaled, but not yet standardised; ``bands`` of the index is their ``ImageSpec``.

The metadata of a file has its description, and a checksum with which the writer checks its own
files. Files are not trusted: headers have a size limit, and opening checks shapes and offsets.
"""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from zoobot.data.bands.spec import ImageSpec
from zoobot.data.catalog import SPLITS
from zoobot.data.images import FITS_SCALINGS, MODES
from zoobot.data.shards.mapped import CURE, DAMAGED, read_ids, read_shard
from zoobot.data.sources import RowsOf
from zoobot.limits.text import read_json
from zoobot.system.errors import UserError
from zoobot.system.files import hash_file

FORMAT_VERSION, FORMAT_OF_BANDS = 1, 2
ENCODINGS = ("jpeg", "raw")
DESCRIBED = "format_version encoding img_size channels fits_scaling label_cols label_dtype".split()
DESCRIBED_OF_BANDS = ("bands", "image_dtype")  # only there if images have bands
MIN_GALAXY_BYTES = 8  # a galaxy needs at least its entry in id_offsets
VAL_FRAC = 0.1  # of the training galaxies, if there is no split 'val'


def schema_hash(label_cols: Sequence[str]) -> str:
    """A hash of the names of label columns, in their order."""
    return hashlib.blake2b(json.dumps(list(label_cols)).encode(), digest_size=16).hexdigest()


def hash_all(values: Iterable[bytes]) -> str:
    """A hash of the values and their lengths."""
    digest = hashlib.blake2b(digest_size=16)
    for value in values:
        digest.update(len(value).to_bytes(8, "little"))
        digest.update(value)
    return digest.hexdigest()


def file_name(split: str, number: int) -> str:
    """Path of a shard, relative to the folder of shards."""
    return f"{split}/shard-{number:05d}.safetensors"


def open_shards(folder: str | Path, split: str) -> "Shards":
    """The galaxies of one split; see ``Shards``."""
    return Shards(folder, split)


class Shards:
    """The galaxies of one split, a ``Galaxies`` source: numbers go on from shard to shard.

    A shard is mapped into memory when it is first needed. A process that unpickles the object maps
    the shards again.

    Attributes:
        index: the contents of ``index.json``.
        split, encoding, img_size, channels, label_cols: as in ``index.json``.
        shard_sizes: number of galaxies in each shard.
        raw_px: side of the images in pixels if they are stored as pixels, otherwise None.
        spec: of images of bands, otherwise None.
        num_galaxies: of all shards.

    Raises:
        ValueError: the folder is not finished, the index is damaged or of another format, the split
            is not there, or a shard is missing or has a wrong size. Only ``verify`` checks the
            checksums.
    """

    def __init__(self, folder: str | Path, split: str):
        self.folder = Path(folder).absolute()
        self.index = read_index(folder)
        if split not in self.index["splits"]:
            raise UserError(
                f"{folder} has no split {split!r}; splits: {', '.join(self.index['splits'])}"
            )
        self.split = split
        self.encoding = self.index["encoding"]
        self.img_size = self.index["img_size"]
        self.channels = self.index["channels"]
        self.label_cols = self.index["label_cols"]
        self._entries = self.index["splits"][split]["shards"]
        self.raw_px = self.img_size if self.encoding == "raw" else None
        self.spec = ImageSpec.from_dict(self.index["bands"]) if "bands" in self.index else None
        self.shard_sizes = [entry["num_galaxies"] for entry in self._entries]
        self._starts = np.cumsum([0, *self.shard_sizes]).tolist()
        self.num_galaxies = self._starts[-1]
        self._open: dict[int, dict[str, np.ndarray]] = {}
        for entry in self._entries:
            _check_size(self.folder, entry)

    def __len__(self) -> int:
        return self.num_galaxies

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_open": {}}

    def id_str(self, i: int) -> str:
        """The id of galaxy ``i``."""
        shard, i = self._locate(i)
        start, stop = shard["id_offsets"][i : i + 2]
        return shard["ids"][start:stop].tobytes().decode()

    def ids(self, rows: range) -> pa.ChunkedArray:
        """The ids of consecutive galaxies, as text in Arrow buffers."""
        parts = []
        for number, (begin, end) in enumerate(pairwise(self._starts)):
            start, stop = max(rows.start, begin), min(rows.stop, end)
            if start < stop:
                parts.append(read_ids(self._shard(number), start - begin, stop - begin))
        return pa.chunked_array(parts, pa.large_string())

    def source(self, i: int) -> bytes | np.ndarray:
        """The image of galaxy ``i``: JPEG bytes; if raw, read-only pixels (S, S, C), mapped."""
        shard, i = self._locate(i)
        if self.raw_px is not None:
            return shard["images"][i]
        start, stop = shard["offsets"][i : i + 2]
        return shard["bytes"][start:stop].tobytes()

    def labels(self, indices: Sequence[int]) -> torch.Tensor:
        """(B, L) labels of these galaxies, in this order."""
        indices = np.asarray(indices, dtype=np.int64)
        labels = np.empty((len(indices), len(self.label_cols)), self.index["label_dtype"])
        if len(indices) and not 0 <= indices.min() <= indices.max() < self.num_galaxies:
            raise IndexError(f"galaxies are 0 to {self.num_galaxies - 1}")
        by_shard = np.argsort(indices, kind="stable")
        ends = np.searchsorted(indices[by_shard], self._starts)
        for number in np.flatnonzero(np.diff(ends)).tolist():
            places = by_shard[ends[number] : ends[number + 1]]
            rows = indices[places] - self._starts[number]
            labels[places] = self._shard(number)["labels"][rows]
        return torch.from_numpy(labels)

    def fingerprint(self) -> str:
        """A hash that identifies the galaxies, made from the checksums of the shards."""
        return hash_all([json.dumps(self._entries).encode()])

    def _locate(self, i: int) -> tuple[dict[str, np.ndarray], int]:
        """The tensors of the shard of galaxy ``i``, and the galaxy's number in this shard."""
        if not 0 <= i < self.num_galaxies:
            raise IndexError(f"galaxy {i}: galaxies are 0 to {self.num_galaxies - 1}")
        number = bisect_right(self._starts, i) - 1
        return self._shard(number), i - self._starts[number]

    def _shard(self, number: int) -> dict[str, np.ndarray]:
        if number not in self._open:
            path = self.folder / self._entries[number]["file"]
            self._open[number] = read_shard(path, _described(self.index), self.shard_sizes[number])
        return self._open[number]


def open_splits(folder: str | Path, label_cols: Sequence[str]) -> dict[str, Shards | RowsOf]:
    """The galaxies of a folder, for the names 'train', 'val' and 'test'.

    Without a split 'val', the last tenth of 'train' is used for it (galaxies in shards are in
    random order). Without a split 'test', 'test' has no galaxies.

    Raises:
        ValueError: other label columns, or too few training galaxies.
    """
    train = open_shards(folder, "train")
    if train.label_cols != list(label_cols):
        raise UserError(
            f"shards {folder} have labels {', '.join(train.label_cols[:5])}, ..., not "
            f"{', '.join(label_cols[:5])}, ...: write them anew, or give their own"
        )
    splits = {"train": train}
    if "val" in train.index["splits"]:
        splits["val"] = open_shards(folder, "val")
    else:
        held_out = max(1, round(VAL_FRAC * len(train)))
        if held_out >= len(train):
            raise UserError(f"shards {folder} have {len(train)} training galaxies: too few")
        kept = len(train) - held_out
        splits["train"] = RowsOf(train, range(kept))
        splits["val"] = RowsOf(train, range(kept, len(train)))
    if "test" in train.index["splits"]:
        splits["test"] = open_shards(folder, "test")
    else:
        splits["test"] = RowsOf(train, range(0))
    return splits


def verify(folder: str | Path) -> int:
    """Check the checksums of all shards, and return the number of galaxies.

    Raises:
        ValueError: files are missing, of a wrong size or altered. The message names all of them.
    """
    index, bad = read_index(folder), []
    for split in index["splits"].values():
        for entry in split["shards"]:
            path = Path(folder) / entry["file"]
            try:
                _check_size(Path(folder), entry)
                read_shard(path, _described(index), entry["num_galaxies"])
                if hash_file(path) != entry["blake2b"]:
                    raise UserError(f"shard {path} is altered")
            except ValueError as error:
                bad.append(str(error).removesuffix(CURE))
    if bad:
        raise UserError("; ".join(bad) + ": delete these files and rerun create_shards")
    return sum(split["num_galaxies"] for split in index["splits"].values())


def read_index(folder: str | Path) -> dict:
    """Read ``index.json``; raise ValueError if it is missing, damaged or of another format."""
    path = Path(folder) / "index.json"
    try:
        index = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder} has no index.json, so it holds no shards or unfinished ones{CURE}"
        ) from None
    except DAMAGED as error:
        raise UserError(f"{path} is damaged ({error}){CURE}") from error
    version = index.get("format_version") if isinstance(index, dict) else None
    if version not in (FORMAT_VERSION, FORMAT_OF_BANDS):
        raise UserError(
            f"{path} has format {version!r:.40}; this version reads {FORMAT_VERSION} and "
            f"{FORMAT_OF_BANDS}"
        )
    try:
        is_sound = _is_sound(index)
    except DAMAGED:
        is_sound = False
    if not is_sound:
        raise UserError(f"{path} is damaged: its entries contradict each other{CURE}")
    return index


def _is_sound(index: dict) -> bool:
    """Whether the entries of an index have allowed values and agree with each other."""
    sizes = [index["img_size"]]
    for name, split in index["splits"].items():
        shards = split["shards"]
        files = [file_name(name, i) for i in range(len(shards))]
        if name not in SPLITS or [entry["file"] for entry in shards] != files:
            return False
        if split["num_galaxies"] != sum(entry["num_galaxies"] for entry in shards):
            return False
        sizes += [entry[key] for entry in shards for key in ("num_galaxies", "bytes")]
        if not all(isinstance(entry["blake2b"], str) for entry in shards):
            return False
    return (
        all(isinstance(size, int) and size > 0 for size in sizes)
        and index["encoding"] in ENCODINGS
        and (_has_sound_bands(index) if "bands" in index else _is_8bit(index))
        and index["label_dtype"] in ("int32", "float32")
        and all(isinstance(column, str) for column in index["label_cols"])
        and index["schema_hash"] == schema_hash(index["label_cols"])
    )


def _is_8bit(index: dict) -> bool:
    return (
        index["format_version"] == FORMAT_VERSION
        and index["channels"] in MODES
        and index["fits_scaling"] in FITS_SCALINGS
        and "image_dtype" not in index
    )


def _has_sound_bands(index: dict) -> bool:
    return (
        index["format_version"] == FORMAT_OF_BANDS
        and index["encoding"] == "raw"
        and index["image_dtype"] in ("float16", "uint8")
        and index["channels"] == len(ImageSpec.from_dict(index["bands"]).bands)
    )


def _described(index: dict) -> dict:
    """The description that each shard of the index must have."""
    return {key: index[key] for key in (*DESCRIBED, *DESCRIBED_OF_BANDS) if key in index}


def _check_size(folder: Path, entry: dict) -> None:
    """Raise ValueError unless a shard has the size in its entry, and that is large enough."""
    path = folder / entry["file"]
    size = path.stat().st_size if path.is_file() else None
    if size is None:
        raise UserError(f"shard {path} is missing{CURE}")
    if size != entry["bytes"]:
        raise UserError(f"shard {path} is torn: {size} bytes, not {entry['bytes']}{CURE}")
    if size < MIN_GALAXY_BYTES * entry["num_galaxies"]:
        told = f"{size} bytes can't hold {entry['num_galaxies']} galaxies"
        raise UserError(f"shard {path} is damaged: {told}{CURE}")
