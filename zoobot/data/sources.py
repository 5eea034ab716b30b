"""Sources of galaxies: ids, images and labels by number, from a table or from shards."""

import hashlib
import os
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from zoobot.data.bands.locations import band_columns, join_band_columns
from zoobot.data.bands.spec import ImageSpec
from zoobot.data.catalog import image_paths, require_images
from zoobot.data.labels import label_array
from zoobot.system.errors import UserError


@runtime_checkable
class Galaxies(Protocol):
    """A source of galaxies: what ``CatalogDataset`` and predictions need. Numbers start at 0.

    Attributes:
        label_cols: names of the label columns.
        shard_sizes: number of galaxies in each shard, in order; None if galaxies are not in shards,
            so that any order of reading costs the same.
        raw_px: side in pixels of images that are stored as pixels (S, S, C); None if images are
            stored in a format such as JPEG.
        spec: of images that are stored as bands, scaled already; None for all others.
    """

    label_cols: list[str]
    shard_sizes: list[int] | None
    raw_px: int | None
    spec: ImageSpec | None

    def __len__(self) -> int: ...

    def id_str(self, i: int) -> str:
        """The id of galaxy ``i``."""

    def ids(self, rows: range) -> pa.ChunkedArray:
        """The ids of consecutive galaxies, as text."""

    def source(self, i: int) -> str | bytes | np.ndarray:
        """The image of galaxy ``i``: a path, encoded bytes, or pixels (H, W, C)."""

    def labels(self, indices: Sequence[int]) -> torch.Tensor:
        """(B, L) labels, int32 or float32."""

    def fingerprint(self) -> str:
        """A hash that identifies the galaxies and their images."""


class TableGalaxies:
    """Galaxies of a table.

    Ids and images are in Arrow buffers and labels in one tensor, so that worker processes share
    them without copies.

    Args:
        catalog: a table with ``id_str``, ``file_loc`` or ``image``, and the label columns; or, if
            there are no labels, an Arrow table from ``galaxy_table``.
        label_cols: names of the label columns; None for no labels.

    Raises:
        ValueError: a column is missing, a galaxy has no image, or a label is not a number.
    """

    shard_sizes = raw_px = spec = None

    def __init__(self, catalog: pd.DataFrame | pa.Table, label_cols: Sequence[str] | None = None):
        table = catalog if isinstance(catalog, pa.Table) else galaxy_table(catalog)
        self._ids, self._sources = table.columns
        self.label_cols = list(label_cols or [])
        self._labels = torch.from_numpy(label_array(catalog, self.label_cols, "in memory"))

    def __len__(self) -> int:
        return len(self._ids)

    def id_str(self, i: int) -> str:
        """The id of galaxy ``i``."""
        return self._ids[i].as_py()

    def ids(self, rows: range) -> pa.ChunkedArray:
        """The ids of consecutive galaxies, as text in Arrow buffers."""
        return self._ids[rows.start : rows.stop]

    def source(self, i: int) -> str | bytes:
        """The image of galaxy ``i``: a path or encoded bytes."""
        return self._sources[i].as_py()

    def labels(self, indices: Sequence[int]) -> torch.Tensor:
        """(B, L) labels, int32 or float32."""
        return self._labels[indices]

    def fingerprint(self) -> str:
        """A hash of the ids and images. Of images in files, the paths are hashed."""
        digest = hashlib.blake2b(digest_size=16)
        hash_galaxies(digest, pa.table({"id_str": self._ids, "source": self._sources}))
        return digest.hexdigest()


class RowsOf:
    """A range of consecutive galaxies of a source in shards, renumbered from 0."""

    def __init__(self, galaxies: Galaxies, rows: range):
        self._galaxies = galaxies
        self._rows = rows
        self.label_cols = galaxies.label_cols
        self.raw_px = galaxies.raw_px
        self.spec = galaxies.spec
        ends = np.clip(np.cumsum([0, *galaxies.shard_sizes]), rows.start, rows.stop)
        self.shard_sizes = [size for size in np.diff(ends).tolist() if size]

    def __len__(self) -> int:
        return len(self._rows)

    def id_str(self, i: int) -> str:
        """The id of galaxy ``i``."""
        return self._galaxies.id_str(self._rows[i])

    def ids(self, rows: range) -> pa.ChunkedArray:
        """The ids of consecutive galaxies, as text in Arrow buffers."""
        return self._galaxies.ids(self._rows[rows.start : rows.stop])

    def source(self, i: int) -> bytes | np.ndarray:
        """The image of galaxy ``i``: encoded bytes or pixels."""
        return self._galaxies.source(self._rows[i])

    def fingerprint(self) -> str:
        """Text that identifies the galaxies: the fingerprint of the shards, and the range."""
        return f"{self._galaxies.fingerprint()}[{self._rows.start}:{self._rows.stop}]"

    def labels(self, indices: Sequence[int]) -> torch.Tensor:
        """(B, L) labels, int32 or float32."""
        return self._galaxies.labels(np.asarray(indices, dtype=np.int64) + self._rows.start)


def hash_galaxies(digest: hashlib.blake2b, table: pa.Table) -> None:
    """Add to a hash the galaxies of a table with two columns: ids, and paths or encoded bytes."""
    for galaxy in zip(*(column.to_pylist() for column in table.columns), strict=True):
        for value in galaxy:
            digest.update(value.encode() if isinstance(value, str) else value)
            digest.update(b"\0")


def label_frame(galaxies: pd.DataFrame | Galaxies) -> pd.DataFrame:
    """``id_str`` and the label columns of all galaxies, for checks; a table as it is."""
    if isinstance(galaxies, pd.DataFrame):
        return galaxies
    every = range(len(galaxies))
    frame = pd.DataFrame(galaxies.labels(every).numpy(), columns=galaxies.label_cols)
    frame.insert(0, "id_str", pd.arrays.ArrowExtensionArray(galaxies.ids(every)))
    return frame


def image_frame(galaxies: Galaxies, indices: Sequence[int]) -> pd.DataFrame:
    """A table of these galaxies: ``id_str``, the label columns and ``image``.

    An image is what ``source`` gives. Pixels of shards are not copied: they stay in mapped files.
    """
    frame = pd.DataFrame(galaxies.labels(indices).numpy(), columns=galaxies.label_cols)
    frame.insert(0, "id_str", [galaxies.id_str(i) for i in indices])
    images = pd.Series([galaxies.source(i) for i in indices], dtype=object)
    return frame.assign(image=images)


def galaxy_table(catalog: pd.DataFrame) -> pa.Table:
    """An Arrow table of ids and images.

    Args:
        catalog: with ``id_str``, and ``file_loc`` or ``image`` (encoded bytes, dicts with the key
            'bytes', or paths: see ``catalog.image_paths``).

    Returns:
        ``id_str``, and ``file_loc`` if the catalog has paths, otherwise ``image`` as bytes.

    Raises:
        ValueError: a galaxy has neither a path nor bytes.
    """
    ids = _arrow(catalog["id_str"].astype(str), pa.large_string())
    column, sources = image_sources(catalog)
    kind = pa.large_string() if column == "file_loc" else pa.large_binary()
    for source, id_str in zip(sources, catalog["id_str"], strict=True):
        if not isinstance(source, str if column == "file_loc" else bytes):
            raise UserError(
                f"column {column!r} of id_str {id_str!r} holds no image: {source!r:.80}"
            )
    return pa.table({"id_str": ids, column: _arrow(sources, kind)})


def image_sources(catalog: pd.DataFrame) -> tuple[str, list[Any]]:
    """'file_loc' and the paths of a catalog's images, or 'image' and their bytes.

    What is neither a path nor bytes stays as it is. See ``galaxy_table``.
    """
    require_images(catalog, "in memory")
    if files := band_columns([*catalog.columns]):
        catalog = join_band_columns(catalog, {name: catalog[name] for name in files})
    column = "file_loc"
    paths = catalog[column] if column in catalog else image_paths(catalog["image"], "in memory")
    if paths is not None:
        sources = [os.fspath(x) if isinstance(x, os.PathLike) else x for x in paths]
    else:
        column = "image"
        sources = [x.get("bytes") if isinstance(x, dict) else x for x in catalog[column]]
    return column, sources


def _arrow(texts: Sequence[str | bytes], kind: pa.DataType) -> pa.Array:
    """Texts or bytes in Arrow buffers; ValueError for text that is not UTF-8."""
    try:
        return pa.array(texts, type=kind)
    except UnicodeEncodeError as error:
        raise UserError(
            f"{error.object!r:.200} is not UTF-8 text: rename the file or galaxy"
        ) from error
