"""Read catalogs (tables of galaxies) and check them.

A catalog has the column ``id_str`` (unique), the column ``file_loc`` (path of the image, absolute
or relative to the catalog's folder) or ``image`` (encoded bytes), label columns, and sometimes
``split``. An error in a catalog is a ValueError. It names the column, the row or galaxy, and the
value, where there is one.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from zoobot.data.bands.locations import (
    BAND,
    band_columns,
    files_of_bands,
    join_band_columns,
    split_row,
)
from zoobot.data.columns import AS_TEXT, is_text
from zoobot.data.tables import SPLIT_NAMES, open_table
from zoobot.limits.memory import TEXT_BYTES, check_memory
from zoobot.system.errors import UserError, did_you_mean

ADDRESS = "://"  # is in http://..., s3://..., hf://..., file://...
SPLITS = ("train", "val", "test")
RESERVED = ("id_str", "file_loc", "image", "split", "error")  # columns with a meaning of their own
# How spreadsheets and pandas write a number that they could not keep in full: 1.2E+18, and
# 587739505552785600.0, which is beyond the whole numbers of float64.
ROUNDED = r"^ *[+-]?([0-9]+([.,][0-9]*[eE][+]?|[eE][+])[0-9]+|(9[0-9]{15}|[0-9]{17,})[.]0*) *$"


def read_catalog(path: str | Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Read a catalog file whole. Check its columns, and that ids are unique.

    Args:
        path: a file, or a folder of Parquet files, that ``tables.open_table`` reads.
        columns: columns that the catalog must have besides ``id_str`` and ``file_loc`` or
            ``image``.

    Returns:
        The table. ``id_str`` is text. ``file_loc``, if it is there, has absolute paths; so have
        paths that were in the column ``image``. Lists and dicts of a Parquet file, but for images,
        are in columns of Arrow's types.

    Raises:
        ValueError: the file is missing, empty, damaged or of another format; a column is missing;
            an id or a path is missing; or an id is repeated or a number that was rounded.
    """
    catalog = next(read_galaxies(path, columns), None)
    if catalog is None:
        raise UserError(f"catalog {path} has no rows")
    check_ids(catalog, str(path))
    return catalog


def read_galaxies(
    path: str | Path,
    columns: Sequence[str] = (),
    num_rows: int | None = None,
    typed: Sequence[str] = (),
) -> Iterator[pd.DataFrame]:
    """Read a catalog file in pieces, with the checks of ``read_catalog`` except that of ids.

    Args:
        path: see ``read_catalog``.
        columns: columns that the catalog must have, see ``read_catalog``.
        num_rows: the most rows in a piece. The pieces of a text or Parquet file then have only
            ``id_str``, ``file_loc``, ``image``, ``split`` and ``columns``. A file of another format
            comes in one piece with all its columns. None: one piece with all columns.
        typed: of them, those that keep the types of the file: text stays text.

    Yields:
        Tables with at least one row.
    """
    path = Path(path).expanduser()
    needed = [*AS_TEXT, "image", *columns]
    table = open_table(path, needed, num_rows, typed)
    if files := band_columns(table.names):
        table = open_table(path, [*needed, *files], num_rows, typed)
    if num_rows is not None:
        _check_columns(pd.DataFrame(columns=table.names), columns, path)
    for piece in table.pieces:
        if len(piece):
            _check_columns(piece, columns, path)
            yield _cleaned(piece, path)


def _cleaned(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The table with ids, paths and splits as text, and absolute paths of images.

    Of these texts, spaces around them are left out, and an empty one is missing.
    """
    check_exact_ids(table["id_str"], f"catalog {path}")
    texts = set(AS_TEXT) & set(table.columns)
    if "image" in table and is_text(table["image"]):
        texts.add("image")
    table = table.copy(deep=False)  # pandas 2 warns of changes to a part of another table
    for column in texts:
        table[column] = _as_text(table[column], path)
    if (again := table["id_str"] == "id_str").any():
        raise UserError(
            f"catalog {path}: row {table.index[again.to_numpy(bool, na_value=False)][0]} has the "
            "id 'id_str': is the header there again, between two tables? delete it"
        )
    if "split" in table:
        table["split"] = table["split"].str.lower().replace(SPLIT_NAMES)
    if files := band_columns([*table.columns]):
        paths = {name: _absolute(_as_text(table[name], path), path) for name in files}
        return join_band_columns(table, paths)
    paths = None if "file_loc" in table else image_paths(table["image"], f"catalog {path}")
    if paths is not None:
        table = table.drop(columns="image").assign(file_loc=_absolute(paths, path))
    elif "file_loc" in table:
        table["file_loc"] = _absolute(table["file_loc"], path)
    return table


def _as_text(column: pd.Series, path: Path) -> pd.Series:
    missing = column.isna()
    if not is_text(column):
        check_memory(TEXT_BYTES * len(column), f"column {column.name!r} of catalog {path} as text")
    try:
        text = column.astype(str).str.strip()
    except (pa.ArrowException, UnicodeError, TypeError) as error:
        raise UserError(
            f"catalog {path}: column {column.name!r} can't be read as text: {error!s:.100}"
        ) from error
    missing |= text == ""
    return text.mask(missing) if missing.any() else text


def _check_columns(table: pd.DataFrame, columns: Sequence[str], path: Path) -> None:
    """Raise ValueError unless the table has ids, these columns and a column of images."""
    require_columns(table, ["id_str", *columns], str(path))
    require_images(table, str(path))


def image_paths(images: pd.Series, where: str) -> pd.Series | None:
    """The paths in a column ``image`` that has paths in place of images.

    They are texts, or dicts as Hugging Face's datasets have them, with ``path`` but without
    ``bytes``. None if the first galaxy has an image. ValueError if others then have none.
    """
    if not len(images) or not _is_path(images.iloc[0]):
        return None
    others = [i for i, image in enumerate(images) if not _is_path(image)]
    if others:
        raise UserError(
            f"{where}: column 'image' has a path in its first row, and no path in row "
            f"{images.index[others[0]]} ({len(others)} such rows): give paths, or images, to all"
        )
    return images.map(lambda image: image if isinstance(image, str) else image["path"])


def _is_path(image: object) -> bool:
    if isinstance(image, dict):
        return image.get("bytes") is None and isinstance(image.get("path"), str)
    return isinstance(image, str)


def check_no_address(path: str, where: str) -> None:
    """ValueError if a path of an image is an address: nothing is fetched from one."""
    if ADDRESS in path:
        raise UserError(
            f"{where} is the address {path!r:.200}, from which nothing is fetched: download the "
            "images, and give their paths"
        )


def _is_end(row: int, column: pd.Series) -> bool:
    return row in (column.index[0], column.index[-1])


def _absolute(file_locs: pd.Series, catalog_path: Path) -> pd.Series:
    """Absolute paths of images; raise ValueError if one is missing."""
    if file_locs.isna().any():
        row = file_locs.index[file_locs.isna()][0]
        units = (
            " (a row of units, or the end of a table? delete it)" if _is_end(row, file_locs) else ""
        )
        raise UserError(
            f"catalog {catalog_path}: column {file_locs.name!r} is empty in row {row}{units}"
        )
    if file_locs.str.startswith("/").all():
        return file_locs
    addresses = file_locs.str.contains(ADDRESS, regex=False)
    if addresses.any():
        row = file_locs.index[addresses][0]
        where = f"catalog {catalog_path}: column {file_locs.name!r} in row {row}"
        check_no_address(file_locs[row], where)
    folder = catalog_path.resolve()
    folder = str(folder if folder.is_dir() else folder.parent)
    home = os.path.expanduser("~/")

    def locate(loc: str) -> str:
        path = os.path.join(home, loc[2:]) if loc[:2] == "~/" else os.path.join(folder, loc)
        if "\\" in loc and not os.path.exists(path):  # of a catalog that was written on Windows
            return os.path.join(folder, loc.replace("\\", "/"))
        return path

    return file_locs.map(locate)


def require_columns(catalog: pd.DataFrame, columns: Sequence[str], where: str) -> None:
    """Raise ValueError if a column is missing. The message lists columns of a similar name."""
    missing = [column for column in columns if column not in catalog.columns]
    if missing:
        near = did_you_mean(missing[0], catalog.columns)
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"catalog {where} has no column {missing[0]!r}{more}{near}")


def require_images(catalog: pd.DataFrame, where: str) -> None:
    """Raise ValueError unless the table has a column of images, or columns of a file a band."""
    names = [*map(str, catalog.columns)]
    if "file_loc" not in names and "image" not in names and not band_columns(names):
        raise UserError(
            f"catalog {where} has neither a file_loc nor an image column; "
            f"columns: {', '.join(names[:10])}"
        )


def check_not_reserved(names: Sequence[str], what: str) -> None:
    """Raise ValueError if a column of labels or a class has a name that means something else.

    A file of predictions has a column for each, and columns of its own.

    Args:
        what: what the names are of, for the message.
    """
    for name in names:
        if name in RESERVED:
            raise UserError(
                f"{what} {name!r}: catalogs and predictions have a column of that name with "
                f"another meaning; rename it (reserved: {', '.join(RESERVED)})"
            )


def check_exact_ids(ids: pd.Series, where: str) -> None:
    """Raise ValueError if ids are, or were, floating-point numbers: long ids lose digits."""
    if isinstance(ids.dtype, pd.CategoricalDtype):
        ids = pd.Series(ids.cat.categories)
    if pd.api.types.is_object_dtype(ids):
        is_float = pd.api.types.infer_dtype(ids, skipna=True) in ("floating", "mixed-integer-float")
    else:
        is_float = pd.api.types.is_float_dtype(ids)
    rounded = ids.dropna() if is_float else ids[:0]
    if is_text(ids):
        rounded = ids[ids.str.match(ROUNDED, na=False)]
    if len(rounded):
        raise UserError(
            f"{where}: column 'id_str' holds {rounded.iloc[0]}, a rounded number: ids of many "
            "digits lose their last ones, and different galaxies get one id. Go back to where the "
            "ids are whole, and save them as text (pandas: dtype={'id_str': str}; spreadsheet: "
            "import the column as text)"
        )


def check_ids(catalog: pd.DataFrame, where: str) -> None:
    """Raise ValueError if an ``id_str`` is missing, repeated, or a number that was rounded."""
    ids = catalog["id_str"]
    check_exact_ids(ids, f"catalog {where}")
    if ids.isna().any():
        row = ids.index[ids.isna()][0]
        raise UserError(f"catalog {where}: column 'id_str' is empty in row {row}")
    duplicated = ids[ids.duplicated()]
    if len(duplicated):
        raise UserError(
            f"catalog {where}: id_str {duplicated.iloc[0]!r} appears more than once "
            f"({len(duplicated)} rows too many); ids must be unique"
        )


def check_image_files(catalog: pd.DataFrame, where: str) -> None:
    """Raise ValueError if image files are missing. The message names five and gives the total."""
    if "file_loc" not in catalog:
        return
    file_locs = catalog["file_loc"].tolist()
    if missing := [file_locs[i] for i in find_missing_files(file_locs)]:
        raise UserError(
            f"catalog {where}: {len(missing)} of {len(catalog)} image files are missing: "
            + ", ".join(missing[:5])
            + (", ..." if len(missing) > 5 else "")
        )


def find_missing_files(file_locs: Iterable[Any]) -> list[int]:
    """The places of files that are missing; what is no path is not missing.

    Each folder is listed only once, so a check of millions of files takes seconds.
    """
    listings: dict[str, set[str]] = {}

    def is_there(path: str) -> bool:
        folder, name = os.path.split(split_row(path)[0])
        if folder not in listings:
            place_of = folder or "."
            listings[folder] = set(os.listdir(place_of)) if os.path.isdir(place_of) else set()
        return name in listings[folder] or BAND in name

    return [
        place
        for place, file_loc in enumerate(file_locs)
        if isinstance(file_loc, str)
        and not all(map(is_there, (files_of_bands(file_loc) or {"": file_loc}).values()))
    ]
