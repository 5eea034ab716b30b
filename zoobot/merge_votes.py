"""Add volunteers' new answers to a catalog.

    python -m zoobot.merge_votes --catalog cat.parquet --votes new.csv --schema tree.json \\
        --pool pool.parquet --save-loc cat-2.parquet

The votes are a table with id_str and a column of counts an answer, a row a galaxy. They are added
to the catalog's counts, by id_str. Galaxies that the catalog does not have come from --pool, which
has their images, and are to train on. Votes of galaxies to validate or test on are refused: these
must stay what models are compared by.

The new catalog is another file than the old one, so that the same command can be given again and
adds nothing twice. It has the format, the columns and the types of the old one.
"""

import argparse
import csv
import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from zoobot import options
from zoobot.data.bands.locations import band_columns
from zoobot.data.catalog import check_ids, require_columns, require_images
from zoobot.data.labels import MAX_VOTES, votes
from zoobot.data.tables import SPLIT_NAMES, open_table
from zoobot.limits.memory import check_size
from zoobot.limits.parquet import check_parquet, open_parquet
from zoobot.schemas import Schema, get_schema
from zoobot.script import run_script
from zoobot.system.errors import UserError, did_you_mean
from zoobot.system.files import write_whole

FORMATS = (".parquet", ".csv")
IMAGES = ("file_loc", "image")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = options.Parser(__doc__)
    add = parser.add_argument
    add("--catalog", required=True, help="galaxies and their votes so far: .parquet or .csv")
    add("--votes", required=True, help="new votes: a table with id_str and a column an answer")
    add("--schema", required=True, help="the decision tree: its name, or PATH.json")
    add("--pool", help="a catalog like --catalog, with the images of galaxies that are new to it")
    add("--save-loc", required=True, help="the new catalog, in the same format and folder")
    return parser.parse(argv)


def main(opt: argparse.Namespace) -> None:
    schema = get_schema(opt.schema)
    path, save_loc = Path(opt.catalog), Path(opt.save_loc)
    if path.suffix not in FORMATS or save_loc.suffix != path.suffix:
        raise UserError(
            f"--catalog {path} and --save-loc {save_loc} must both be .parquet or both be .csv"
        )
    if save_loc.exists() and path.exists() and save_loc.samefile(path):
        raise UserError(
            f"--save-loc {save_loc} is the catalog itself: the same command, given again, would "
            "add the votes twice; save under another name"
        )
    catalog, new = read_table(path), read_votes(opt.votes, schema)
    pool = read_table(Path(opt.pool)) if opt.pool else None
    merged, added = merge(catalog, new, schema, pool, (opt.catalog, opt.votes, opt.pool))
    _check_paths(catalog, path, save_loc)
    if pool is not None and added:
        _check_paths(merged.slice(len(catalog)), Path(opt.pool), save_loc)
    write_whole(save_loc, lambda aside: write_table(merged, aside, path.suffix))
    if "split" not in merged.column_names:
        print(
            f"warning: {path} has no column 'split', so each training splits its galaxies anew, "
            "and models are compared on others: add the column",
            file=sys.stderr,
        )
    total = int(new[schema.label_cols].to_numpy().sum())
    told = f"{total:,} votes of {len(new):,} galaxies"
    print(f"{told}, {added:,} of them new: catalog {save_loc} of {len(merged):,}")


def read_table(path: Path) -> pa.Table:
    """A catalog with the types that its file has; of CSV all columns are text.

    Raises:
        ValueError: it is missing, damaged or of another format, or its ids are not unique.
    """
    if path.suffix not in FORMATS:
        raise UserError(f"catalog {path} is neither .parquet nor .csv: save it as one of them")
    if not path.is_file():
        raise UserError(f"no catalog {path}")
    try:
        if path.suffix == ".parquet":
            check_parquet(path)
            with open_parquet(path) as file:
                table = file.read()
        else:
            table = _read_text(path)
    except (OSError, ValueError, TypeError, pa.ArrowException) as error:
        raise UserError(f"catalog {path} can't be read: {error!s:.200}") from error
    twice = [name for name, count in Counter(table.column_names).items() if count > 1]
    if twice:
        raise UserError(f"catalog {path} has more than one column {twice[0]!r}: rename one")
    require_columns(pd.DataFrame(columns=table.column_names), ["id_str"], str(path))
    check_ids(pd.DataFrame({"id_str": _ids(table, path)}), str(path))
    return table


def _read_text(path: Path) -> pa.Table:
    """A CSV file, all as text. ValueError if a row has more or fewer fields than the header."""
    check_size(path)
    with open(path, encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader(file), [])
    types = arrow_csv.ConvertOptions(
        column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=False
    )
    parsing = arrow_csv.ParseOptions(newlines_in_values=True)
    return arrow_csv.read_csv(path, parse_options=parsing, convert_options=types)


def write_table(table: pa.Table, path: Path, suffix: str) -> None:
    """Write a table of ``read_table``."""
    if suffix == ".parquet":
        pq.write_table(table, path)
    else:
        table.to_pandas(ignore_metadata=True).to_csv(path, index=False)


def read_votes(path: str | Path, schema: Schema) -> pd.DataFrame:
    """A table of votes: ``id_str`` and the tree's columns, whole numbers; a row a galaxy.

    Raises:
        ValueError: the file can't be read; a column is missing; a number is no count of votes; an
            id is missing, rounded or there twice.
    """
    needed = ["id_str", *schema.label_cols]
    table = open_table(Path(path), needed, 2**16)
    require_columns(pd.DataFrame(columns=table.names), needed, str(path))
    pieces = [piece[needed] for piece in table.pieces]
    if not pieces:
        raise UserError(f"{path} has no votes")
    read = pd.concat(pieces, ignore_index=True)
    read["id_str"] = read["id_str"].astype("string").str.strip().replace("", pd.NA)
    ids = read["id_str"]
    if ids.duplicated().any():
        twice = ids[ids.duplicated()].iloc[0]
        raise UserError(
            f"{path} has galaxy {twice!r} in {int((ids == twice).sum())} rows: add them up first "
            "(pandas: table.groupby('id_str', as_index=False).sum())"
        )
    check_ids(read, str(path))
    read["id_str"] = read["id_str"].astype(str)
    read[schema.label_cols] = votes(read, schema.label_cols, str(path)).astype(np.int64)
    return read


def merge(
    catalog: pa.Table,
    new: pd.DataFrame,
    schema: Schema,
    pool: pa.Table | None = None,
    names: tuple = ("the catalog", "the votes", "the pool"),
) -> tuple[pa.Table, int]:
    """The catalog with the new votes added, and how many galaxies are new.

    Args:
        catalog, pool: of ``read_table``.
        new: of ``read_votes``.
        names: of the three, for messages.

    Raises:
        ValueError: a column of the tree is missing in the catalog, or holds no counts; a galaxy is
            in neither table, or is one to validate or test on; the pool's columns don't fit.
    """
    where, where_votes, where_pool = map(str, names)
    require_columns(pd.DataFrame(columns=catalog.column_names), schema.label_cols, where)
    rows = pd.Index(_ids(catalog, where)).get_indexer(new["id_str"])
    known = rows >= 0
    _check_splits(catalog, rows[known], where, where_votes)
    merged = _with_votes(catalog, rows[known], new[known], schema.label_cols, where)
    unknown = new[~known]
    if not len(unknown):
        return merged, 0
    if pool is None:
        some = unknown["id_str"].iloc[0]
        near = did_you_mean(some, _ids(catalog, where)[:10_000])
        raise UserError(
            f"{where_votes} has {len(unknown):,} galaxies that are not in {where}, such as "
            f"{some!r}{near}; if they are new, give --pool, a catalog with their images"
        )
    places = pd.Index(_ids(pool, where_pool)).get_indexer(unknown["id_str"])
    if (places < 0).any():
        some = unknown["id_str"].iloc[int(np.argmax(places < 0))]
        raise UserError(
            f"{where_votes} has {int((places < 0).sum()):,} galaxies that are neither in {where} "
            f"nor in {where_pool}, such as {some!r}"
        )
    _check_splits(pool, places, where_pool, where_votes)
    # A filter, not ``take``, which would copy all images of the pool into one array.
    chosen = pool.filter(pa.array(np.isin(np.arange(len(pool)), places)))
    unknown = unknown.iloc[np.argsort(places)]
    added = _new_rows(chosen, merged.schema, unknown, schema, where_pool)
    return pa.concat_tables([merged, added]), len(unknown)


def _ids(table: pa.Table, where: str | Path) -> pd.Series:
    """The ids as text, without spaces around them; ValueError for rounded numbers."""
    column = table["id_str"]
    if pa.types.is_floating(column.type):
        return column.to_pandas()  # which ``check_ids`` refuses
    try:
        ids = column.cast(pa.string()).to_pandas().str.strip()
    except pa.ArrowException as error:
        raise UserError(f"{where}: column 'id_str' is no text: {error!s:.100}") from error
    return ids.mask(ids == "")


def _check_splits(table: pa.Table, rows: np.ndarray, where: str, where_votes: str) -> None:
    """ValueError if galaxies in these rows are to validate or test on."""
    if "split" not in table.column_names:
        return
    galaxies = table.select(["id_str", "split"]).take(rows)
    splits = galaxies["split"].cast(pa.string()).to_pandas().str.strip().str.lower()
    kept = splits.replace(SPLIT_NAMES).isin(["val", "test"]).to_numpy()
    if kept.any():
        row = int(np.argmax(kept))
        raise UserError(
            f"{where_votes} has votes of {int(kept.sum()):,} galaxies of the splits val and test "
            f"of {where}, such as {_ids(galaxies, where)[row]!r} ({splits[row]}): models are "
            "compared by these, so they must stay as they are; leave them out of the votes"
        )


def _with_votes(
    catalog: pa.Table, rows: np.ndarray, new: pd.DataFrame, label_cols: list[str], where: str
) -> pa.Table:
    """The catalog with new votes added to these rows; other cells stay as they are."""
    frame = catalog.select(["id_str", *label_cols]).to_pandas(ignore_metadata=True)
    counts = votes(frame, label_cols, where).astype(np.int64)
    counts[rows] += new[label_cols].to_numpy()
    if counts.max(initial=0) > MAX_VOTES:
        raise UserError(f"{where}: with the new votes a count is {counts.max():,}, too many")
    for i, name in enumerate(label_cols):
        field, place = catalog.schema.field(name), catalog.column_names.index(name)
        if pa.types.is_string(field.type):  # of CSV: "7", or "7.0"
            texts = frame[name].to_numpy(object)
            ends = [".0" if "." in text else "" for text in texts[rows]]
            texts[rows] = [f"{counts[r, i]}{end}" for r, end in zip(rows, ends, strict=True)]
            column = pa.array(texts, pa.string())
        else:
            column = _cast(pa.array(counts[:, i]), field, where)
        catalog = catalog.set_column(place, field, column)
    return catalog


def _new_rows(
    chosen: pa.Table, fields: pa.Schema, new: pd.DataFrame, schema: Schema, where: str
) -> pa.Table:
    """Rows of new galaxies in the order of the pool, with its images and other columns.

    Args:
        chosen: their rows of the pool.
        fields: of the catalog.
        new: their votes, in the same order.
        where: what the pool is called.
    """
    require_images(pd.DataFrame(columns=chosen.column_names), where)
    columns, empty = [], []
    for field in fields:
        if field.name in schema.label_cols:
            column = pa.array(new[field.name].to_numpy())
        elif field.name == "split":
            column = pa.array(["train"] * len(new))
        elif field.name in chosen.column_names:
            column = chosen[field.name]
        elif field.name in IMAGES or field.name in band_columns(fields.names):
            raise UserError(
                f"{where} has no column {field.name!r}, in which the catalog has its images"
            )
        else:
            empty.append(field.name)
            column = pa.array([None] * len(new), field.type)
        columns.append(_cast(column, field, where))
    if empty:
        print(
            f"warning: {where} has no {', '.join(map(repr, empty)):.200}: empty for the "
            f"{len(new):,} new galaxies",
            file=sys.stderr,
        )
    return pa.table(columns, fields)


def _cast(column: pa.Array | pa.ChunkedArray, field: pa.Field, where: str) -> pa.ChunkedArray:
    """A column with the type that the catalog's has; ValueError if a value does not fit."""
    try:
        return column.cast(field.type)
    except pa.ArrowException as error:
        raise UserError(
            f"{where}: column {field.name!r} can't become {field.type}, as it is in the catalog: "
            f"{error!s:.120}"
        ) from error


def _check_paths(galaxies: pa.Table, path: Path, save_loc: Path) -> None:
    """ValueError if relative paths of images would lead elsewhere in the new catalog's folder."""
    if path.resolve().parent == save_loc.resolve().parent:
        return
    names = [*IMAGES, *band_columns(galaxies.column_names)]
    for name in set(names) & {*galaxies.column_names}:
        if not pa.types.is_string(galaxies[name].type):
            continue
        for file in galaxies[name].to_pylist():
            if file and not (os.path.isabs(file) or file.startswith("~/")):
                raise UserError(
                    f"{path} has images relative to its folder, such as {file!r:.80}, and "
                    f"--save-loc {save_loc} is in another: keep them in one folder, or give "
                    "absolute paths"
                )


if __name__ == "__main__":
    sys.exit(run_script(main, parse))
