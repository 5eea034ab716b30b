"""Galaxies with a file a band in a folder, by what their paths have in common.

``stamps/{id}_{band}.fits`` stands for ``stamps/g0_r.fits``, ``stamps/g0_z.fits`` and so on.
"""

import glob
import os
import re
from collections.abc import Sequence

import pandas as pd

from zoobot.data.bands.locations import BAND
from zoobot.system.errors import UserError

ID = "{id}"


def is_template(path: str) -> bool:
    """Whether a path has a place for ids."""
    return ID in path


def files_by_template(path: str, bands: Sequence[str] | None) -> pd.DataFrame:
    """The galaxies that have a file of at least one band, sorted by id.

    Args:
        path: with one ``{id}``, and ``{band}`` at least once.
        bands: names of the bands; None: images are 8-bit images.

    Returns:
        ``id_str``, and ``file_loc`` with ``{band}`` in it.

    Raises:
        ValueError: for another path, or without bands, or if there are no such files.
    """
    if bands is None or path.count(ID) != 1 or BAND not in path:
        raise UserError(
            f"{path}: one {ID} and {BAND} are for models of bands, with a file a band; of others "
            "give the folder"
        )
    path = os.path.abspath(path)
    before, after = path.split(ID)
    ids = set()
    for band in bands:
        start, end = (part.replace(BAND, band) for part in (before, after))
        whole = re.compile(f"{re.escape(start)}([^/]+){re.escape(end)}")
        for found in glob.iglob(f"{glob.escape(start)}*{glob.escape(end)}"):
            if match := whole.fullmatch(found):
                ids.add(match[1])
    if not ids:
        raise UserError(f"no files {path}, for any of the bands {' '.join(bands)}")
    ordered = sorted(ids)
    return pd.DataFrame(
        {"id_str": ordered, "file_loc": [f"{before}{id_str}{after}" for id_str in ordered]}
    )
