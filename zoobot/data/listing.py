"""The galaxies to predict, of a catalog of any size or a folder, as a memory-mapped file.

A catalog of 10^8 galaxies is read once, a piece at a time, and what prediction needs of it, ids and
where the images are, is written to one Arrow file. Every process then maps that file: it costs no
memory, and any galaxy is found by its number.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from zoobot.data.catalog import check_ids, read_galaxies, require_columns
from zoobot.data.images import is_image_name
from zoobot.data.sources import GalaxyDigest, galaxy_table
from zoobot.system.errors import UserError
from zoobot.system.files import write_whole

ROWS_AT_ONCE = 4096


def write_listing(source: pd.DataFrame | str | Path, path: str | Path, split: str = "") -> str:
    """Write the listing of a catalog (a table or a file) or of all images below a folder.

    Args:
        split: take only the galaxies with this value in the column ``split``.

    Returns:
        A hash of ids and images (of the names of images in files).

    Raises:
        ValueError: no galaxies, an id that is missing or repeats, or an unreadable catalog.
    """
    digest, hashes = GalaxyDigest(), []

    def write(aside: Path) -> None:
        writer = None
        for table in _pieces(source, split):
            galaxies = galaxy_table(table)
            if writer is None:
                writer = pa.ipc.new_file(str(aside), galaxies.schema)
            writer.write_table(galaxies)
            hashes.append(pd.util.hash_array(table["id_str"].to_numpy(dtype=object)))
            digest.update(galaxies)
        if writer is None:
            among = f" with split {split!r}" if split else ""
            raise UserError(f"{_name(source)} has no galaxies{among}")
        writer.close()

    write_whole(path, write)
    _check_unique(path, np.concatenate(hashes), _name(source))
    return digest.hexdigest()


def open_listing(path: str | Path) -> pa.Table:
    """``id_str`` and ``file_loc`` or ``image`` of all galaxies, mapped from the file."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _name(source) -> str:
    return "the catalog" if isinstance(source, pd.DataFrame) else str(source)


def _pieces(source, split: str) -> Iterator[pd.DataFrame]:
    if isinstance(source, pd.DataFrame):
        require_columns(source, ["id_str"], "in memory")
        if "file_loc" not in source and "image" not in source:
            raise UserError("the catalog has neither a file_loc nor an image column")
        pieces = (source.iloc[i : i + ROWS_AT_ONCE] for i in range(0, len(source), ROWS_AT_ONCE))
    elif Path(source).is_dir():
        pieces = _images_below(Path(source))
    else:
        pieces = read_galaxies(source, ["split"] if split else [], ROWS_AT_ONCE)
    for piece in pieces:
        if split:
            require_columns(piece, ["split"], _name(source))
            piece = piece[piece["split"] == split]
        if len(piece):
            if piece["id_str"].isna().any():
                check_ids(piece, _name(source))
            yield piece


def _images_below(folder: Path) -> Iterator[pd.DataFrame]:
    """All images below a folder, sorted by path.

    An image's id is its path below the folder without suffix; two that differ in suffix only keep
    theirs.
    """
    paths = []
    for parent, folders, names in os.walk(folder.resolve()):
        folders.sort()
        paths += [Path(parent, name) for name in names if is_image_name(name)]
    by_id = defaultdict(list)
    for path in sorted(paths):
        below = path.relative_to(folder.resolve())
        by_id[below.with_suffix("").as_posix()].append((path, below.as_posix()))
    rows = [
        (name if len(found) == 1 else below, str(path))
        for name, found in by_id.items()
        for path, below in found
    ]
    if not rows:
        raise UserError(f"no images below {folder}")
    table = pd.DataFrame(rows, columns=["id_str", "file_loc"])
    yield from (table.iloc[i : i + ROWS_AT_ONCE] for i in range(0, len(table), ROWS_AT_ONCE))


def _check_unique(path: Path, hashes: np.ndarray, where: str) -> None:
    """ValueError if an id repeats; 8 bytes a galaxy, and only suspects are compared in full."""
    values, counts = np.unique(hashes, return_counts=True)
    if len(values) == len(hashes):
        return
    suspects = np.flatnonzero(np.isin(hashes, values[counts > 1]))
    ids = open_listing(path)["id_str"].take(suspects).to_pandas()
    try:
        check_ids(pd.DataFrame({"id_str": ids}), where)
    except ValueError:
        Path(path).unlink()
        raise
