"""Read catalogs (tables of galaxies), check them, and split them into train, val and test.

A catalog has the column ``id_str`` (unique), the column ``file_loc`` (path of the image, absolute
or relative to the catalog's folder) or ``image`` (encoded bytes), label columns, and sometimes
``split``. An error in a catalog is a ValueError. It names the column, the row or galaxy, and the
value, where there is one.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from zoobot.limits.tables import check_astropy, check_parquet
from zoobot.system.errors import UserError, did_you_mean

SPLITS = ("train", "val", "test")
ASTROPY_FORMATS = {".fits": "fits", ".ecsv": "ascii.ecsv", ".vot": "votable"}
AS_TEXT = {"id_str": str, "file_loc": str, "split": str}  # columns that are read as text


def read_catalog(path: str | Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Read a catalog file whole. Check its columns, and that ids are unique.

    Args:
        path: a ``.csv``, ``.parquet`` or ``.pq`` file; with astropy also ``.fits``, ``.ecsv`` or
            ``.vot``.
        columns: columns that the catalog must have besides ``id_str`` and ``file_loc`` or
            ``image``.

    Returns:
        The table. ``id_str`` is text. ``file_loc``, if it is there, has absolute paths.

    Raises:
        ValueError: the file is missing, empty, damaged or of another format; a column is missing;
            or an id or a path is missing, or an id is repeated.
    """
    catalog = next(read_galaxies(path, columns), None)
    if catalog is None:
        raise UserError(f"catalog {path} has no rows")
    check_ids(catalog, str(path))
    return catalog


def read_galaxies(
    path: str | Path, columns: Sequence[str] = (), num_rows: int | None = None
) -> Iterator[pd.DataFrame]:
    """Read a catalog file in pieces, with the checks of ``read_catalog`` except that of ids.

    Args:
        path: see ``read_catalog``.
        columns: columns that the catalog must have, see ``read_catalog``.
        num_rows: the most rows in a piece. The pieces of a CSV or Parquet file then have only
            ``id_str``, ``file_loc``, ``image`` and ``columns``. A file of another format comes in
            one piece with all its columns. None: one piece with all columns, for any format.

    Yields:
        Tables with at least one row.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no catalog {path}")
    wanted = None
    if num_rows is not None:
        wanted = {"id_str", "file_loc", "image", *columns}
        header = next(_tables(path, None, 0), None)
        if header is not None:
            _check_columns(header, columns, path)
    for table in _tables(path, wanted, num_rows):
        if len(table) == 0:
            continue
        _check_columns(table, columns, path)
        for column in AS_TEXT.keys() & set(table.columns):
            missing = table[column].isna()
            try:
                table[column] = table[column].astype(str).mask(missing)
            except (pa.ArrowException, UnicodeError, TypeError) as error:
                raise UserError(
                    f"catalog {path}: column {column!r} can't be read as text: {error!s:.100}"
                ) from error
        if "file_loc" in table:
            table["file_loc"] = _absolute(table["file_loc"], path)
        yield table


def _check_columns(table: pd.DataFrame, columns: Sequence[str], path: Path) -> None:
    """Raise ValueError unless the table has ids, these columns and a column of images."""
    require_columns(table, ["id_str", *columns], str(path))
    if "file_loc" not in table and "image" not in table:
        raise UserError(
            f"catalog {path} has neither a file_loc nor an image column; "
            f"columns: {', '.join(map(str, table.columns[:10]))}"
        )


def _tables(path: Path, wanted: set[str] | None, num_rows: int | None) -> Iterator[pd.DataFrame]:
    """Unchecked tables of a file. With ``num_rows`` 0, a CSV or Parquet file gives no rows."""
    suffix = path.suffix.lower()
    try:
        if suffix == ".csv":
            usecols = None if wanted is None else wanted.__contains__
            if not num_rows:
                yield pd.read_csv(path, dtype=AS_TEXT, usecols=usecols, nrows=num_rows)
                return
            yield from pd.read_csv(path, dtype=AS_TEXT, usecols=usecols, chunksize=num_rows)
        elif suffix in (".parquet", ".pq"):
            yield from _read_parquet(path, wanted, num_rows)
        elif suffix in ASTROPY_FORMATS:
            yield _read_astropy(path, ASTROPY_FORMATS[suffix])
        else:
            raise UserError(
                f"catalog {path}: unknown format {suffix!r}; "
                "use .csv, .parquet, .fits, .ecsv or .vot"
            )
    except pd.errors.EmptyDataError:
        raise UserError(f"catalog {path} is empty") from None
    # The readers raise exceptions of many types for a damaged file.
    except Exception as error:
        if isinstance(error, UserError) and str(path) in str(error):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"catalog {path} can't be read: {reason:.300}") from error


def _read_parquet(
    path: Path, wanted: set[str] | None, num_rows: int | None
) -> Iterator[pd.DataFrame]:
    """Tables of a Parquet file, see ``read_galaxies``; ``wanted`` are the columns to read."""
    check_parquet(path)
    start = 0
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            raise UserError(f"catalog {path} has more than one column {repeated[0]!r}: rename one")
        if num_rows is None:
            whole = file.read()
            whole.validate(full=True)  # text that is not UTF-8 would cause errors only later
            yield whole.to_pandas()
            return
        if num_rows == 0:
            yield file.schema_arrow.empty_table().to_pandas()
            return
        columns = [name for name in names if name in wanted]
        for batch in file.iter_batches(num_rows, columns=columns):
            batch.validate(full=True)
            table = batch.to_pandas()
            table.index += start
            start += len(table)
            yield table


def _read_astropy(path: Path, table_format: str) -> pd.DataFrame:
    """A table that astropy reads, without its columns of arrays."""
    try:
        from astropy.table import Table
    except ImportError:
        raise UserError(
            f"catalog {path} needs astropy: pip install 'zoobot-torch[astro]'"
        ) from None
    check_astropy(path)
    table = Table.read(path, format=table_format)
    flat = [name for name in table.colnames if table[name].ndim == 1]
    catalog = table[flat].to_pandas()
    for name in catalog.columns:
        if catalog[name].dtype == object and isinstance(catalog[name].iloc[0], bytes):
            catalog[name] = catalog[name].str.decode("utf-8")
    return catalog


def _absolute(file_locs: pd.Series, catalog_path: Path) -> pd.Series:
    """Absolute paths of images; raise ValueError if one is missing."""
    if file_locs.isna().any():
        row = file_locs.index[file_locs.isna()][0]
        raise UserError(f"catalog {catalog_path}: column 'file_loc' is empty in row {row}")
    folder = str(catalog_path.resolve().parent)
    return file_locs.map(lambda loc: loc if os.path.isabs(loc) else os.path.join(folder, loc))


def require_columns(catalog: pd.DataFrame, columns: Sequence[str], where: str) -> None:
    """Raise ValueError if a column is missing. The message lists columns of a similar name."""
    missing = [column for column in columns if column not in catalog.columns]
    if missing:
        near = did_you_mean(missing[0], catalog.columns)
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"catalog {where} has no column {missing[0]!r}{more}{near}")


def check_ids(catalog: pd.DataFrame, where: str) -> None:
    """Raise ValueError if an ``id_str`` is missing or repeated."""
    ids = catalog["id_str"]
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
    missing = []
    for place, file_loc in enumerate(file_locs):
        if not isinstance(file_loc, str):
            continue
        folder, name = os.path.split(file_loc)
        if folder not in listings:
            listings[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if name not in listings[folder]:
            missing.append(place)
    return missing


def split_catalog(
    catalog: pd.DataFrame,
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    seed: int = 42,
    where: str = "",
) -> dict[str, pd.DataFrame]:
    """Split a catalog into train, val and test.

    If the catalog has a column ``split``, that column decides. Otherwise the galaxies are sorted
    by a hash of ``id_str`` and the seed, and divided in this order, so the order of the rows does
    not matter.

    Args:
        catalog: the table, with ``id_str``.
        fractions: of train, val and test galaxies; the numbers of galaxies are rounded.
        seed: of the hash.
        where: name of the catalog for error messages.

    Returns:
        Tables named 'train', 'val' and 'test'. Each keeps the order of the rows, renumbered from 0.

    Raises:
        ValueError: the column ``split`` has an empty or another value, or the fractions are
            negative or do not sum to 1.
    """
    if "split" in catalog:
        unknown = set(catalog["split"].dropna().unique()) - set(SPLITS)
        if unknown or catalog["split"].isna().any():
            value = sorted(unknown)[0] if unknown else None
            raise UserError(
                f"catalog {where}: column 'split' holds {value!r}; use {', '.join(SPLITS)}"
            )
        return {s: catalog[catalog["split"] == s].reset_index(drop=True) for s in SPLITS}
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise UserError(f"split fractions must be >= 0 and sum to 1, not {fractions}")
    order = np.argsort(hash_ids(catalog["id_str"], seed), kind="stable")
    ends = np.round(np.cumsum(fractions) * len(catalog)).astype(int)
    parts = np.split(order, ends[:2])
    return {
        s: catalog.iloc[np.sort(part)].reset_index(drop=True)
        for s, part in zip(SPLITS, parts, strict=True)
    }


def hash_ids(ids: pd.Series, seed: int) -> np.ndarray:
    """Hash ids: (N,) uint64. A hash depends on the id and the seed only."""
    key = f"{seed:016d}"[-16:]
    return pd.util.hash_array(ids.to_numpy(dtype=object), hash_key=key, categorize=False)


def load_splits(
    catalog: str | Path,
    val_catalog: str | Path | None,
    test_catalog: str | Path | None,
    label_cols: Sequence[str],
    seed: int,
) -> dict[str, pd.DataFrame]:
    """Read and check the catalogs of a run, and return the train, val and test galaxies.

    A separate validation or test catalog is used whole as that split. The main catalog is split by
    its column ``split``. Without this column it gives:

    - 70% train, 10% val and 20% test galaxies if there is no separate catalog;
    - 90% train and 10% val galaxies if there is a separate test catalog only;
    - train galaxies only if there is a separate validation catalog.

    Raises:
        ValueError: a fault of a catalog; a label column is missing; there are no train or no val
            galaxies; or a galaxy is both train and val.
    """
    separate = {"val": val_catalog, "test": test_catalog}
    main = read_catalog(catalog, label_cols)
    splits = dict.fromkeys(SPLITS, main.iloc[:0])
    if "split" in main or not (val_catalog or test_catalog):
        splits = split_catalog(main, seed=seed, where=str(catalog))
    elif val_catalog:
        splits["train"] = main
    else:
        splits = split_catalog(main, (0.9, 0.1, 0.0), seed, str(catalog))
    for split, path in separate.items():
        if path:
            splits[split] = read_catalog(path, label_cols)
    for split in ("train", "val"):
        if len(splits[split]) == 0:
            raise UserError(
                f"catalog {catalog} has no galaxies in split {split!r} "
                f"({len(main)} galaxies in all); mark some in the 'split' column"
                + (", or give --val-catalog" if split == "val" else "")
            )
    shared = set(splits["val"]["id_str"]) & set(splits["train"]["id_str"])
    if shared:
        raise UserError(
            f"{len(shared)} galaxies are in both train and val, for example {sorted(shared)[0]!r}"
        )
    return splits
