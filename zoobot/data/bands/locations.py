"""Where a galaxy's bands are, in the one text of ``file_loc``.

a.fits              one file
a.h5#12             row 12 of its arrays
a_{band}.fits       a file a band
{"g": "a.fits", "r": "b.fits"}    a file a band, of a catalog's columns file_loc_g, file_loc_r
"""

import json
import os
import re

import pandas as pd

PREFIX = "file_loc_"  # of columns with a file a band
BAND = "{band}"
ROW = re.compile(r"(.+)#(\d{1,18})")


def band_columns(names: list[str]) -> list[str]:
    """Columns that give a file a band; none if there is a column of whole images."""
    if "file_loc" in names or "image" in names:
        return []
    return [name for name in names if name.startswith(PREFIX) and name != PREFIX]


def join_band_columns(table: pd.DataFrame, paths: dict[str, pd.Series]) -> pd.DataFrame:
    """A catalog whose columns ``file_loc_BAND`` have become one column ``file_loc``.

    Args:
        paths: of each such column.
    """
    bands = [name.removeprefix(PREFIX) for name in paths]
    joined = [
        json.dumps(dict(zip(bands, row, strict=True)), ensure_ascii=False)
        for row in zip(*paths.values(), strict=True)
    ]
    return table.drop(columns=[*paths]).assign(file_loc=joined)


def files_of_bands(file_loc: str) -> dict[str, str] | None:
    """Band -> path, where a text gives a file a band in full; else None."""
    if not file_loc.startswith('{"'):
        return None
    try:
        files = json.loads(file_loc)
    except ValueError:
        return None
    is_sound = isinstance(files, dict) and all(isinstance(path, str) for path in files.values())
    return files if is_sound else None


def split_row(path: str) -> tuple[str, int | None]:
    """A path without ``#row``, and the row; a path that is there is taken as it stands."""
    found = ROW.fullmatch(path)
    if found and not os.path.exists(path):
        return found[1], int(found[2])
    return path, None
