"""Write the listing of the galaxies to predict: ids, images, carried columns, in one Arrow file.

The galaxies are those of a catalog or of a folder of images. A CSV or Parquet catalog is read piece
by piece, so it can have 10^8 galaxies. Every process maps the listing into memory: this needs
little memory, and a galaxy is found by its number.
"""

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from zoobot.data.bands.template import files_by_template, is_template
from zoobot.data.carried import carried_array, common_fields
from zoobot.data.catalog import (
    check_exact_ids,
    check_ids,
    read_galaxies,
    require_columns,
    require_images,
)
from zoobot.data.folder import ImageFolder
from zoobot.data.sources import galaxy_table, hash_galaxies
from zoobot.system import windows
from zoobot.system.errors import UserError, one_line
from zoobot.system.files import write_whole

ROWS_AT_ONCE = 4096


def write_listing(
    source: pd.DataFrame | str | Path,
    path: str | Path,
    split: str = "",
    id_from: str | None = "path",
    bands: Sequence[str] | None = None,
    carry: Sequence[str] = (),
) -> str:
    """Write a listing. What is passed over in a folder of images is told on stderr.

    Args:
        source: a catalog (a table, or the path of a file), or a folder; or, of bands, the path of
            a file a band, see ``bands.template``.
        path: of the listing.
        split: take only the galaxies with this value in the column ``split``; '' takes all.
        id_from: a folder holds images, all of those in it and in the folders below it, and their
            ids are made so (see ``ImageFolder.ids``). None: it is a catalog of Parquet files.
        bands: names of the bands that images have; None: they are 8-bit images.
        carry: other columns of the catalog, which are listed too; see ``data.carried``. The catalog
            is then read twice: their types are found first.

    Returns:
        A hash of the ids and the images. Of images in files, the paths are hashed, not the pixels.

    Raises:
        ValueError: there are no galaxies, an id is missing, repeated or a number that was rounded,
            the catalog can't be read, or columns to carry are missing or of no plain type.
    """
    at_once, fields = ROWS_AT_ONCE, []
    if carry:
        fields = common_fields(_pieces(source, split, id_from, bands, carry, at_once), carry)
    if fields is None:  # columns of text, of which some pieces look like numbers
        at_once = None
        fields = common_fields(_pieces(source, split, id_from, bands, carry, at_once), carry)
    digest, hashes = hashlib.blake2b(digest_size=16), []

    def write(aside: Path) -> None:
        writer = None
        for table in _pieces(source, split, id_from, bands, carry, at_once):
            galaxies = listed = galaxy_table(table)
            for field in fields:
                listed = listed.append_column(field, carried_array(table[field.name], field.type))
            if writer is None:
                writer = pa.ipc.new_file(str(aside), listed.schema)
            writer.write_table(listed)
            hashes.append(pd.util.hash_array(table["id_str"].to_numpy(dtype=object)))
            hash_galaxies(digest, galaxies)
        if writer is None:
            among = f" with split {split!r}" if split else ""
            raise UserError(f"{_name(source)} has no galaxies{among}")
        writer.close()

    write_whole(path, write)
    _check_unique(path, np.concatenate(hashes), _name(source))
    return digest.hexdigest()


def open_listing(path: str | Path) -> pa.Table:
    """Map a listing: the columns ``id_str``, and ``file_loc`` or ``image``, of all galaxies.

    On Windows it is read into memory: a mapped file can't be deleted.
    """
    return _map(path).select([0, 1])


def open_carried(path: str | Path) -> pa.Table | None:
    """Map the other columns of a listing; None if there are none."""
    table = _map(path)
    return table.select(range(2, table.num_columns)) if table.num_columns > 2 else None


def _map(path: str | Path) -> pa.Table:
    open_it = pa.OSFile if windows.HERE else pa.memory_map
    return pa.ipc.open_file(open_it(str(path))).read_all()


def _name(source: pd.DataFrame | str | Path) -> str:
    """Name of the source in error messages."""
    return "the catalog" if isinstance(source, pd.DataFrame) else str(source)


def _pieces(
    source: pd.DataFrame | str | Path,
    split: str,
    id_from: str | None,
    bands: Sequence[str] | None,
    carry: Sequence[str],
    at_once: int | None,
) -> Iterator[pd.DataFrame]:
    """Tables of the galaxies of a source, checked for missing ids, none of them empty.

    ``at_once``: the most rows of a table; None: all are in one.
    """
    if isinstance(source, pd.DataFrame):
        require_columns(source, ["id_str", *carry], "in memory")
        require_images(source, "in memory")
        check_exact_ids(source["id_str"], "catalog in memory")
        pieces = _cut(source, at_once or len(source))
    elif carry and id_from is not None and (is_template(str(source)) or Path(source).is_dir()):
        raise UserError(f"--carry {carry[0]}: only catalogs have such columns, images have none")
    elif id_from is not None and is_template(str(source)):
        pieces = _cut(files_by_template(str(source), bands), ROWS_AT_ONCE)
    elif id_from is not None and Path(source).is_dir():
        pieces = _images_below(Path(source), id_from, bands is not None)
    else:
        columns = [*(["split"] if split else []), *carry]
        pieces = read_galaxies(source, columns, at_once, carry)
    for piece in pieces:
        if split:
            require_columns(piece, ["split"], _name(source))
            piece = piece[piece["split"] == split]
        if len(piece):
            if piece["id_str"].isna().any():
                check_ids(piece, _name(source))
            yield piece


def _cut(table: pd.DataFrame, num_rows: int) -> Iterator[pd.DataFrame]:
    """A table in pieces."""
    return (table.iloc[i : i + num_rows] for i in range(0, len(table), num_rows))


def _images_below(folder: Path, id_from: str, of_bands: bool) -> Iterator[pd.DataFrame]:
    """All images in a folder and in the folders below it, sorted by path."""
    found = ImageFolder(folder, of_bands)
    if note := found.note():
        print(one_line(note), file=sys.stderr)
    if not found.files:
        raise UserError(f"no images below {folder}")
    paths = [os.path.join(found.folder, below) for below in found.files]
    table = pd.DataFrame({"id_str": found.ids(id_from), "file_loc": paths})
    yield from _cut(table, ROWS_AT_ONCE)


def _check_unique(path: Path, hashes: np.ndarray, where: str) -> None:
    """Raise ValueError, and delete the listing, if an id is repeated.

    To save memory only hashes of ids are compared, 8 bytes per galaxy. Ids with equal hashes are
    then read from the listing and compared themselves.
    """
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
