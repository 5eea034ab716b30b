"""What a run knows of its galaxies, to notice on resuming that they have changed.

A galaxy is known by three 8-byte hashes: of its id, its labels, and its image. The image's is that
of the last part of its path, or of its bytes in the catalog; pixels in files are not read. Galaxies
in shards have no hashes of images: the checksums of the shards stand for all of them. Hashes do not
depend on the catalog's folder, its format, or the order of its rows.

A state tells a summary of each split, with its SHA-256. The hashes themselves, 24 bytes a galaxy,
are in the run's ``checkpoints/data.safetensors``, from which the changes are counted.
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors
import safetensors.numpy

from zoobot.data.catalog import SPLITS
from zoobot.data.datamodule import CatalogDataModule
from zoobot.data.labels import label_array
from zoobot.data.loaders import own_loader
from zoobot.data.sources import Galaxies, label_frame
from zoobot.data.splits import hash_ids
from zoobot.data.streams import GalaxyStream
from zoobot.limits.weights import read_safetensors
from zoobot.system.files import write_whole

ROWS = 2**16  # galaxies whose labels are hashed at a time
IMAGES = 2**10  # galaxies whose images are
ID, LABELS, IMAGE = range(3)
DIGEST_FILE = Path("checkpoints", "data.safetensors")  # in a run's folder


@dataclasses.dataclass
class DataDigest:
    """Hashes of a run's galaxies.

    Attributes:
        hashes: split -> (N, 3) uint64 of id, labels and image, sorted by id.
        summary: split -> plain types, of which a state holds a copy: ``num_galaxies``,
            ``label_cols``, ``source`` (of galaxies in shards, else None), ``order``, a hash of the
            order of the rows, and ``sha256``, of all but the order.
    """

    hashes: dict[str, np.ndarray]
    summary: dict[str, dict]

    def save(self, path: Path) -> None:
        """Write the hashes to a file, whole or not at all."""
        contents = safetensors.numpy.save(self.hashes)
        write_whole(path, lambda aside: aside.write_bytes(contents))

    def changes_since(self, before: Mapping[str, dict], path: Path) -> list[str]:
        """What differs from earlier galaxies, in words; empty if nothing but the order of rows.

        Splits that only one of the two knows are not compared.

        Args:
            before: the summary of a state.
            path: its run's hashes; without them, or if they are of other galaxies, less is told.
        """
        splits = [s for s in SPLITS if s in before and s in self.summary]
        if all(before[s]["sha256"] == self.summary[s]["sha256"] for s in splits):
            return []
        told = []
        columns = {s: (before[s]["label_cols"], self.summary[s]["label_cols"]) for s in splits}
        if other := [pair for pair in columns.values() if pair[0] != pair[1]]:
            told.append(f"the label columns were {', '.join(other[0][0])}")
        if any(before[s]["source"] != self.summary[s]["source"] for s in splits):
            told.append("the shards are others")
        hashes = _read_hashes(path, {s: before[s] for s in splits})
        if hashes is not None:
            told += _count_changes(hashes, {s: self.hashes[s] for s in splits}, bool(other))
        if hashes is not None and told:
            return told
        sizes = [(s, before[s]["num_galaxies"], self.summary[s]["num_galaxies"]) for s in splits]
        sums = ", ".join(f"{split} {was}, now {now}" for split, was, now in sizes)
        return [*told, f"the galaxies have another checksum ({sums}; {path} tells no more)"]

    def is_reordered(self, before: Mapping[str, dict]) -> bool:
        """Whether the rows of the training galaxies have another order than in the summary."""
        if not ("train" in before and "train" in self.summary):
            return False
        return before["train"]["order"] != self.summary["train"]["order"]


@dataclasses.dataclass(frozen=True)
class Known:
    """Galaxies by split: tables (see ``read_catalog``) with these label columns, or sources.

    Of ``streams`` nothing is known beforehand.
    """

    splits: dict[str, pd.DataFrame | Galaxies]
    label_cols: list[str]
    streams: dict[str, GalaxyStream] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def _tables(self) -> dict[str, pd.DataFrame]:
        """Split -> ``id_str`` and at least the labels; those of sources are read once."""
        return {split: label_frame(galaxies) for split, galaxies in self.splits.items()}

    def checked_labels(self, check: Callable[[pd.DataFrame, str], None]) -> dict[str, pd.DataFrame]:
        """Split -> ``id_str`` and labels, of the splits that have galaxies.

        Args:
            check: called with each of them, and its split, before; with the galaxies of streams as
                they come.
        """
        for split, stream in self.streams.items():
            stream.check = functools.partial(check, where=f"{split} stream")
        tables = {split: table for split, table in self._tables.items() if len(table)}
        for split, table in tables.items():
            check(table, split)
        return tables

    def introduce(self) -> str:
        """How many galaxies there are, in a line; empty if that is not known."""
        if self.streams:
            return f"galaxies of a stream: {', '.join(self.streams)}\n"
        if not ("train" in self.splits and "val" in self.splits):
            return ""
        train, val = len(self.splits["train"]), len(self.splits["val"])
        test = f", {len(self.splits['test'])} to test" if len(self.splits.get("test", ())) else ""
        return f"{train} galaxies to train on, {val} to validate{test}\n"

    def digest(self) -> DataDigest | None:
        """Hashes of the galaxies; None without any.

        Raises:
            ValueError: a label of a table is no number.
        """
        if not self.splits:
            return None
        hashes, summary = {}, {}
        for split, galaxies in self.splits.items():
            is_table = isinstance(galaxies, pd.DataFrame)
            columns = list(self.label_cols if is_table else galaxies.label_cols)
            is_in_shards = not is_table and galaxies.shard_sizes is not None
            images = None if is_in_shards else galaxies
            rows = _hash_rows(self._tables[split], columns, images)
            about = {
                "num_galaxies": len(rows),
                "label_cols": columns,
                "source": galaxies.fingerprint() if is_in_shards else None,
            }
            hashes[split] = rows[np.argsort(rows[:, ID], kind="stable")]
            order = hashlib.sha256(np.ascontiguousarray(rows[:, ID])).hexdigest()
            sha256 = _checksum(hashes[split], about)
            summary[split] = {**about, "order": order, "sha256": sha256}
        return DataDigest(hashes, summary)


def known_galaxies(datamodule: object, loaders: Mapping[str, Iterable[dict]]) -> Known:
    """All galaxies of a data module of ours, else those of loaders of ours."""
    if isinstance(datamodule, CatalogDataModule):
        catalogs, label_cols = datamodule.catalogs, datamodule.label_cols
        galaxies = {split: catalogs[split] for split in SPLITS if catalogs[split] is not None}
    else:
        ours, label_cols = {split: own_loader(loader) for split, loader in loaders.items()}, []
        galaxies = {split: own.dataset.galaxies for split, own in ours.items() if own is not None}
    streams = {s: stream for s, stream in galaxies.items() if isinstance(stream, GalaxyStream)}
    return Known({s: galaxies[s] for s in galaxies if s not in streams}, label_cols, streams)


def _images_of(galaxies: pd.DataFrame | Galaxies, rows: range) -> list[str | bytes]:
    """The last part of each image's path, or its bytes."""
    if not isinstance(galaxies, pd.DataFrame):
        images = [galaxies.source(i) for i in rows]
    elif "file_loc" in galaxies:
        images = [os.fspath(loc) for loc in galaxies["file_loc"].iloc[rows]]
    else:
        images = galaxies["image"].iloc[rows]
        images = [x.get("bytes") if isinstance(x, dict) else x for x in images]
    return [x[x.rfind("/") + 1 :] if isinstance(x, str) else x for x in images]


def _hash_rows(
    table: pd.DataFrame, label_cols: list[str], galaxies: pd.DataFrame | Galaxies | None
) -> np.ndarray:
    """(N, 3) uint64 hashes; those of images are 0 without ``galaxies``, which have them."""
    rows = np.zeros((len(table), 3), dtype=np.uint64)
    labels = label_array(table, label_cols, "in memory")
    for start in range(0, len(table), ROWS):
        part = slice(start, start + ROWS)
        rows[part, ID] = hash_ids(table["id_str"].iloc[part].astype(str), 0)
        rows[part, LABELS] = _hash_numbers(labels[part])
    for start in range(0, len(table) if galaxies is not None else 0, IMAGES):
        part = range(len(table))[start : start + IMAGES]
        images = pd.Series(_images_of(galaxies, part), dtype=object)
        rows[start : start + IMAGES, IMAGE] = hash_ids(images, 0)
    return rows


def _hash_numbers(values: np.ndarray) -> np.ndarray:
    """(N,) hashes of rows (N, L) of numbers, the same for equal numbers of any type."""
    numbers = np.ascontiguousarray(values, dtype=np.float64) + 0.0  # -0.0 is 0.0
    hashed = pd.util.hash_array(numbers.ravel()).reshape(numbers.shape)
    weights = pd.util.hash_array(np.arange(numbers.shape[1])) | np.uint64(1)
    return (hashed * weights).sum(axis=1, dtype=np.uint64)


def _checksum(hashes: np.ndarray, about: dict) -> str:
    names = [about["label_cols"], about["source"]]
    return hashlib.sha256(repr(names).encode() + hashes.tobytes()).hexdigest()


def splits_of(ids: pd.Series, path: Path) -> np.ndarray | None:
    """In which split of a run galaxies were, by their ids: (N,), '' for galaxies of none.

    None if the run's hashes, ``path``, can't be read.
    """
    try:
        found = safetensors.numpy.load(read_safetensors(path))
    except (OSError, ValueError, safetensors.SafetensorError):
        return None
    splits, hashes = np.full(len(ids), "", dtype=object), hash_ids(ids.astype(str), 0)
    for split, known in found.items():
        splits[np.isin(hashes, known[:, ID])] = split
    return splits


def _read_hashes(path: Path, summary: dict[str, dict]) -> dict[str, np.ndarray] | None:
    """The hashes of a file, if it has those of the summary."""
    try:
        found = safetensors.numpy.load(read_safetensors(path))
        if all(_checksum(found[s], about) == about["sha256"] for s, about in summary.items()):
            return found
    except (OSError, KeyError, ValueError, safetensors.SafetensorError):
        pass
    return None


def _count_changes(
    before: dict[str, np.ndarray], now: dict[str, np.ndarray], other_columns: bool
) -> list[str]:
    (old, old_split), (new, new_split) = _joined(before), _joined(now)
    _, i, j = np.intersect1d(old[:, ID], new[:, ID], return_indices=True)
    images = (old[i, IMAGE] != new[j, IMAGE]) & (old[i, IMAGE] != 0) & (new[j, IMAGE] != 0)
    counts = {
        "new": len(new) - len(i),
        "gone": len(old) - len(i),
        "relabelled": 0 if other_columns else (old[i, LABELS] != new[j, LABELS]).sum(),
        "moved to another split": (old_split[i] != new_split[j]).sum(),
        "with another image": images.sum(),
    }
    told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return [f"galaxies: {told}"] if told else []


def _joined(hashes: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of all splits (N, 3), and the number of each one's split (N,)."""
    splits = [split for split in SPLITS if split in hashes]
    numbers = np.repeat([SPLITS.index(s) for s in splits], [len(hashes[s]) for s in splits])
    return np.concatenate([hashes[split] for split in splits]), numbers
