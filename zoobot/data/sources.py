"""Galaxies by number, wherever they are: ids, images and labels of a table or of shards.

``CatalogDataset`` reads any object with ``len``, ``label_cols``, ``id_str(i)``, ``source(i)`` (a
path, encoded bytes, or uint8 pixels (H, W, C)) and ``labels(indices)`` (a tensor (B, L)).
``zoobot.data.shards.Shards`` is one, and here are those of tables.
"""

import os
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from zoobot.data.labels import label_array


class TableGalaxies:
    """Galaxies of a table.

    Strings are kept in Arrow buffers and labels in one tensor, which workers share without copying.

    Args:
        catalog: with ``id_str``, ``file_loc`` or ``image``, and the label columns; or, without
            labels, what ``galaxy_table`` makes of it.

    Raises:
        ValueError: for a missing column, a galaxy without image, or a label that is no number.
    """

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

    def source(self, i: int) -> str | bytes:
        """Path or encoded bytes of its image."""
        return self._sources[i].as_py()

    def labels(self, indices: Sequence[int]) -> torch.Tensor:
        """(B, L) labels, int32 or float32."""
        return self._labels[indices]


class RowsOf:
    """Consecutive galaxies of some shards, renumbered from 0."""

    def __init__(self, galaxies, rows: range):
        self._galaxies = galaxies
        self._rows = rows
        self.label_cols = galaxies.label_cols
        self.encoding = galaxies.encoding
        self.img_size = galaxies.img_size
        ends = np.clip(np.cumsum([0, *galaxies.sizes]), rows.start, rows.stop)
        self.sizes = [size for size in np.diff(ends).tolist() if size]

    def __len__(self) -> int:
        return len(self._rows)

    def id_str(self, i: int) -> str:
        """The id of galaxy ``i``."""
        return self._galaxies.id_str(self._rows[i])

    def source(self, i: int) -> bytes | np.ndarray:
        """Encoded bytes or pixels of its image."""
        return self._galaxies.source(self._rows[i])

    def fingerprint(self) -> str:
        """What identifies these galaxies: that of the shards, and which rows."""
        return f"{self._galaxies.fingerprint()}[{self._rows.start}:{self._rows.stop}]"

    def labels(self, indices: Sequence[int]) -> torch.Tensor:
        """(B, L) labels."""
        return self._galaxies.labels(np.asarray(indices, dtype=np.int64) + self._rows.start)


def label_frame(galaxies) -> pd.DataFrame:
    """``id_str`` and the label columns of all galaxies, for checks before training."""
    indices = range(len(galaxies))
    frame = pd.DataFrame(galaxies.labels(indices).numpy(), columns=galaxies.label_cols)
    ids = pa.array((galaxies.id_str(i) for i in indices), pa.large_string())
    frame.insert(0, "id_str", pd.arrays.ArrowExtensionArray(ids))
    return frame


def image_frame(galaxies, indices: Sequence[int]) -> pd.DataFrame:
    """A catalog of these galaxies with their images: pixels of shards stay in their files."""
    frame = pd.DataFrame(galaxies.labels(indices).numpy(), columns=galaxies.label_cols)
    frame.insert(0, "id_str", [galaxies.id_str(i) for i in indices])
    images = pd.Series([galaxies.source(i) for i in indices], dtype=object)
    return frame.assign(image=images)


def galaxy_table(catalog: pd.DataFrame) -> pa.Table:
    """``id_str``, and ``file_loc`` or else ``image`` (encoded bytes), in Arrow buffers.

    Raises:
        ValueError: a galaxy has neither path nor bytes.
    """
    ids = pa.array(catalog["id_str"].astype(str), type=pa.large_string())
    column, kind = "file_loc", pa.large_string()
    if column in catalog:
        sources = [os.fspath(x) if isinstance(x, os.PathLike) else x for x in catalog[column]]
    else:
        column, kind = "image", pa.large_binary()
        sources = [x.get("bytes") if isinstance(x, dict) else x for x in catalog[column]]
    for source, id_str in zip(sources, catalog["id_str"], strict=True):
        if not isinstance(source, str if column == "file_loc" else bytes):
            raise ValueError(f"column {column!r} of id_str {id_str!r} holds no image: {source!r}")
    return pa.table({"id_str": ids, column: pa.array(sources, kind)})
