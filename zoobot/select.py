"""Choose the galaxies to ask volunteers about next: those of which the model would learn most.

    python predict.py --checkpoint runs/evo --catalog pool.parquet --n-samples 10 \\
        --save-loc pool_predictions.parquet
    python -m zoobot.select --predictions pool_predictions.parquet --number 200 \\
        --already labelled.csv --catalog pool.parquet --save-loc next.csv

A galaxy's score is the mutual information between the next volunteer's answer and the model, in
nats. A question counts as often as it is expected to be asked. With --catalog there is also a page
with their pictures, OUT.html beside OUT.csv.

--diverse spreads the choice over galaxies that look different to the model: of 10 times as many
candidates, in as many groups of galaxies with similar features, the best of each group:

    python predict.py --checkpoint runs/evo --catalog pool.parquet --representations \\
        --save-loc features.parquet
    python -m zoobot.select --predictions pool_predictions.parquet --number 200 \\
        --diverse --representations features.parquet --save-loc next.csv
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from zoobot import from_options, options
from zoobot.data.catalog import check_exact_ids, require_columns
from zoobot.data.tables import open_table
from zoobot.evaluation.gallery import write_gallery
from zoobot.evaluation.pictures import Pictures
from zoobot.predictions.contents import Predictions
from zoobot.predictions.files import check_save_loc, read_in_pieces, write_predictions
from zoobot.predictions.informative import SCORE, Pool, most_informative
from zoobot.predictions.spread import features_of, one_of_each_group
from zoobot.schemas import get_schema
from zoobot.script import run_script
from zoobot.system.errors import UserError

CANDIDATES_EACH = 10  # among which a diverse galaxy is chosen


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = options.Parser(__doc__)
    add = parser.add_argument
    add(
        "--predictions",
        required=True,
        help="of galaxies to choose from: of predict.py with --n-samples, or of several models",
    )
    add("--number", type=options.positive_int, default=200, help="of galaxies to choose")
    add("--already", metavar="TABLE", help="galaxies not to choose: a table with id_str")
    add(
        "--question",
        nargs="+",
        default=[],
        help="of the tree, one or more: only their information counts; by default that of all",
    )
    add("--diverse", action="store_true", help="spread the choice; needs --representations")
    add("--representations", help="features of the same galaxies, of predict.py --representations")
    add("--schema", help="the tree, if the predictions don't tell it (CSV): its name or PATH.json")
    add("--save-loc", required=True, help="OUT.parquet, OUT.csv, OUT.fits, OUT.vot or OUT.hdf5")
    add("--catalog", help="with images, for a page with pictures, OUT.html; or demo")
    options.add_rgb_option(parser)
    options.add_band_options(parser)
    return parser.parse(argv)


def main(opt: argparse.Namespace) -> None:
    if opt.diverse != (opt.representations is not None):
        raise UserError(
            "--diverse and --representations go together: the features of the same galaxies, of "
            "predict.py --representations"
        )
    save_loc = check_save_loc(opt.save_loc)
    schema = get_schema(opt.schema) if opt.schema else None
    labelled = read_ids(opt.already) if opt.already else pd.Index([])
    shown = from_options.galaxies_to_show(opt, _first_piece(opt.predictions))
    number = opt.number * (CANDIDATES_EACH if opt.diverse else 1)
    pool = most_informative(opt.predictions, number, labelled, opt.question, schema)
    told = _tell(pool, opt, len(labelled))
    chosen = pool.best
    if opt.diverse:
        chosen = spread(chosen, opt.representations, opt.number)
    write_predictions(save_loc, chosen)
    print(f"table {save_loc}")
    if shown is not None:
        _write_page(save_loc.with_suffix(".html"), opt, chosen, told, *shown)


def read_ids(path: str | Path) -> pd.Index:
    """The different ids of a table; ValueError if it has none, or missing or rounded ones."""
    table = open_table(Path(path), ["id_str"], 2**16)
    require_columns(pd.DataFrame(columns=table.names), ["id_str"], str(path))
    ids = pd.concat([piece["id_str"] for piece in table.pieces] or [pd.Series(dtype=str)])
    check_exact_ids(ids, str(path))
    ids = ids.astype("string").str.strip()
    if (empty := ids.isna() | (ids == "")).any():
        raise UserError(f"{path}: column 'id_str' is empty in row {ids.index[empty][0]}")
    return pd.Index(ids.astype(str)).unique()


def spread(candidates: Predictions, representations: str | Path, number: int) -> Predictions:
    """Of candidates, the most informative first, a number that differ; see ``spread``.

    Raises:
        ValueError: too few of them have representations.
    """
    places, features = features_of(representations, candidates.ids)
    if len(places) < len(candidates.ids):
        print(
            f"warning: {len(candidates.ids) - len(places):,} of the {len(candidates.ids):,} most "
            f"informative galaxies have no features in {representations}: they are left out",
            file=sys.stderr,
        )
    if len(places) < number:
        raise UserError(
            f"--number {number:,}: only {len(places):,} of the {len(candidates.ids):,} most "
            f"informative galaxies have features in {representations}: predict the same catalog"
        )
    return candidates.take(places[one_of_each_group(features, number)])


def _first_piece(path: str) -> Predictions:
    """The first galaxies of the file, which says what they are."""
    first = next(read_in_pieces(path), None)
    if first is None:
        raise UserError(f"{path} has no predictions")
    samples = first.metadata.get("samples")
    if isinstance(samples, dict) and samples.get("models") == samples.get("passes") == 1:
        print(
            f"warning: the samples of {path} are views of one model and one pass: chosen are "
            "galaxies that look different to it when they are turned; --n-samples 10 tells more",
            file=sys.stderr,
        )
    return first


def _tell(pool: Pool, opt: argparse.Namespace, num_labelled: int) -> str:
    """Say what was left out, and return it; ValueError if too few galaxies are left."""
    told = f"{pool.num_galaxies:,} galaxies of {Path(opt.predictions).name}"
    if opt.already:
        told += f", {pool.num_labelled:,} of them in {Path(opt.already).name}"
    if pool.num_unreadable:
        told += f", {pool.num_unreadable:,} without predictions (unreadable images)"
    if opt.number > pool.num_left:
        raise UserError(f"--number {opt.number:,}: only {pool.num_left:,} are left of {told}")
    print(told)
    if len(pool.unknown):
        print(
            f"{len(pool.unknown):,} of the {num_labelled:,} galaxies of {opt.already} are not "
            f"among them, such as {pool.unknown[0]!r}"
        )
    if opt.already and not pool.num_labelled:
        print(
            f"warning: no galaxy of {opt.already} is in {opt.predictions}: have both the same ids?",
            file=sys.stderr,
        )
    return told


def _write_page(
    page: Path,
    opt: argparse.Namespace,
    chosen: Predictions,
    told: str,
    catalog: pd.DataFrame,
    pictures: Pictures,
) -> None:
    notes = [
        f"{len(chosen.ids):,} of {told}",
        "The most informative first: mutual information between the next volunteer's answer and "
        "the model, in nats, and the question that most of it is about.",
        f"Spread over groups of galaxies with similar {opt.representations}." * opt.diverse,
        f"Only of {', '.join(opt.question)}." if opt.question else "",
    ]
    write_gallery(
        page,
        "Galaxies to ask about next",
        notes,
        [*zip(chosen.ids, _lines(chosen), strict=True)],
        catalog,
        pictures,
        opt.catalog,
    )


def _lines(chosen: Predictions) -> list[str]:
    """The line under each picture: its information, and the question that it is mostly about."""
    lines = [f"{value:.3f}" for value in chosen.values[:, 0, 0]]
    if len(chosen.columns) > 1:
        names = [name.removesuffix(f"_{SCORE}") for name in chosen.columns[1:]]
        most = np.argmax(chosen.values[:, 1:, 0], axis=1)
        lines = [f"{line} {names[i]}" for line, i in zip(lines, most, strict=True)]
    return lines


if __name__ == "__main__":
    sys.exit(run_script(main, parse))
