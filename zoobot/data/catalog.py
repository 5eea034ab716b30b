"""Catalogs: reading tables of galaxies, checking them, and splitting them.

A catalog has ``id_str`` (unique), an image in ``file_loc`` (absolute, or relative to the catalog's
folder) or in ``image`` (encoded bytes), label columns, and optionally ``split``. Every fault of a
catalog is a ValueError that names the column, the galaxy and the value.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from zoobot.limits.tables import check_astropy, check_parquet
from zoobot.system.errors import UserError, did_you_mean

SPLITS = ("train", "val", "test")
ASTROPY_FORMATS = {".fits": "fits", ".ecsv": "ascii.ecsv", ".vot": "votable"}
AS_TEXT = {"id_str": str, "file_loc": str, "split": str}


def read_catalog(path: str | Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Read a catalog file and check what every galaxy needs: a unique id and an image.

    Args:
        path: ``.csv``, ``.parquet``, or with astropy ``.fits``, ``.ecsv``, ``.vot``.
        columns: further columns that must be there.

    Returns:
        The table, ``id_str`` as text and ``file_loc``, if there, as absolute paths.
    """
    catalog = next(read_galaxies(path, columns), None)
    if catalog is None:
        raise UserError(f"catalog {path} has no rows")
    check_ids(catalog, str(path))
    return catalog


def read_galaxies(
    path: str | Path, columns: Sequence[str] = (), num_rows: int | None = None
) -> Iterator[pd.DataFrame]:
    """As ``read_catalog``, in tables of ``num_rows``, with no more columns than these.

    None: one table with all columns. Tables of astropy's formats come whole in any case. Whether
    ids are unique is not checked.
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
    require_columns(table, ["id_str", *columns], str(path))
    if "file_loc" not in table and "image" not in table:
        raise UserError(
            f"catalog {path} has neither a file_loc nor an image column; "
            f"columns: {', '.join(map(str, table.columns[:10]))}"
        )


def _tables(path: Path, wanted: set[str] | None, num_rows: int | None) -> Iterator[pd.DataFrame]:
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
    # A damaged file can raise nearly anything from within a reader.
    except Exception as error:
        if isinstance(error, UserError) and str(path) in str(error):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"catalog {path} can't be read: {reason:.300}") from error


def _read_parquet(path, wanted, num_rows) -> Iterator[pd.DataFrame]:
    check_parquet(path)
    start = 0
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            raise UserError(f"catalog {path} has more than one column {repeated[0]!r}: rename one")
        if num_rows is None:
            whole = file.read()
            whole.validate(full=True)  # else text may be none, which shows up anywhere later
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
    if file_locs.isna().any():
        row = file_locs.index[file_locs.isna()][0]
        raise UserError(f"catalog {catalog_path}: column 'file_loc' is empty in row {row}")
    folder = str(catalog_path.resolve().parent)
    return file_locs.map(lambda loc: loc if os.path.isabs(loc) else os.path.join(folder, loc))


def require_columns(catalog: pd.DataFrame, columns: Sequence[str], where: str) -> None:
    """ValueError unless all columns are there; near matches are listed."""
    missing = [column for column in columns if column not in catalog.columns]
    if missing:
        near = did_you_mean(missing[0], catalog.columns)
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"catalog {where} has no column {missing[0]!r}{more}{near}")


def check_ids(catalog: pd.DataFrame, where: str) -> None:
    """ValueError unless every id_str is there and unique."""
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
    """ValueError if any image file is missing: names the first five and the total.

    Each folder is listed once, so that millions of files cost seconds.
    """
    if "file_loc" not in catalog:
        return
    listings: dict[str, set[str]] = {}
    missing = []
    for file_loc in catalog["file_loc"]:
        folder, name = os.path.split(file_loc)
        if folder not in listings:
            listings[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if name not in listings[folder]:
            missing.append(file_loc)
    if missing:
        raise UserError(
            f"catalog {where}: {len(missing)} of {len(catalog)} image files are missing: "
            + ", ".join(missing[:5])
            + (", ..." if len(missing) > 5 else "")
        )


def split_catalog(
    catalog: pd.DataFrame,
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    seed: int = 42,
    where: str = "",
) -> dict[str, pd.DataFrame]:
    """Divide a catalog into train, val and test.

    By its ``split`` column if it has one; otherwise by a seeded hash of ``id_str``, so that a
    galaxy's place does not depend on the order of the rows. Sizes are the fractions, rounded.

    Raises:
        ValueError: for another value in ``split``, or fractions that don't sum to 1.
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
    """(N,) uint64 hashes that depend on the id and the seed only."""
    key = f"{seed:016d}"[-16:]
    return pd.util.hash_array(ids.to_numpy(dtype=object), hash_key=key, categorize=False)


def load_splits(
    catalog: str | Path,
    val_catalog: str | Path | None,
    test_catalog: str | Path | None,
    label_cols: Sequence[str],
    seed: int,
) -> dict[str, pd.DataFrame]:
    """Read and check the catalogs of a run: train, val and test galaxies.

    Without a separate validation (test) catalog the main one is split. Galaxies for training and
    validation, all label columns and all image files must be there.
    """
    separate = {"val": val_catalog, "test": test_catalog}
    main = read_catalog(catalog, label_cols)
    check_image_files(main, str(catalog))
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
            check_image_files(splits[split], str(path))
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
