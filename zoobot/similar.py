"""Find galaxies like a given one, or those unlike all others, by the features of an encoder.

    python predict.py --checkpoint runs/evo/best.safetensors --catalog cat.parquet \\
        --representations --save-loc features.parquet
    python -m zoobot.similar --representations features.parquet --to J1234 --save-loc like.fits
    python -m zoobot.similar --representations features.parquet --odd --catalog cat.parquet \\
        --save-loc odd.parquet

With --catalog there is also a page with their pictures, OUT.html beside OUT.parquet.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from zoobot import from_options, options
from zoobot.evaluation.gallery import write_gallery
from zoobot.predictions import neighbours
from zoobot.predictions.files import Predictions, check_save_loc, write_predictions
from zoobot.script import run_script
from zoobot.system.errors import UserError


def find_similar(features: Predictions, to: str, number: int = 50) -> Predictions:
    """The galaxies whose features are nearest to those of one, nearest first.

    Args:
        features: of ``neighbours.read_features``; their values are scaled in their place.
        to: ``id_str`` of the one, which is not among the result.

    Returns:
        Their ids, ``distance`` and carried columns. A typical galaxy is at distance 1 from the mean
        of all.

    Raises:
        ValueError: there is no such galaxy, or its image could not be read.
    """
    row, values = neighbours.find_galaxy(features.ids, to), features.values[..., 0]
    rows = neighbours.usable_rows(values)
    if row not in rows:
        raise UserError(f"galaxy {to!r} has no features: its image could not be read")
    values = _scaled(values, rows)
    found, distances = neighbours.most_similar(values, int(np.searchsorted(rows, row)), number)
    metadata = {"task": "similar", "to": to}
    return neighbours.table_of(features, rows[found], "distance", distances, metadata)


def find_odd(features: Predictions, number: int = 50) -> Predictions:
    """The galaxies that are least like the others, the oddest first.

    Args:
        features: of ``neighbours.read_features``; their values are scaled in their place.

    Returns:
        Their ids, ``oddness`` (see ``neighbours.oddness``) and carried columns.
    """
    values = features.values[..., 0]
    rows = neighbours.usable_rows(values)
    if len(rows) < 2:
        raise UserError(f"{len(rows)} galaxies with features: there must be 2 or more")
    scores = neighbours.oddness(_scaled(values, rows))
    oddest = np.argsort(-scores, kind="stable")[:number]
    scores = scores[oddest]
    return neighbours.table_of(features, rows[oddest], "oddness", scores, {"task": "odd"})


def _scaled(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The features of these rows, scaled: in their place, if they are all."""
    values = np.ascontiguousarray(values if len(rows) == len(values) else values[rows])
    neighbours.scale(values)
    return values


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = options.Parser(__doc__)
    add = parser.add_argument
    add("--representations", required=True, help="features, of predict.py --representations")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--to", metavar="ID", help="id_str of the galaxy that others are to be like")
    what.add_argument(
        "--odd",
        action="store_true",
        help="those least like the others: farthest from their 5th neighbour among 20,000",
    )
    add("--number", type=options.positive_int, default=50, help="of galaxies to find")
    add("--save-loc", required=True, help="OUT.parquet, OUT.csv, OUT.fits, OUT.vot or OUT.hdf5")
    add("--catalog", help="with images, for a page with pictures, OUT.html; or demo")
    options.add_rgb_option(parser)
    options.add_band_options(parser)
    return parser.parse(argv)


def main(opt: argparse.Namespace) -> None:
    if opt.odd:
        neighbours.need_sklearn()
    save_loc = check_save_loc(opt.save_loc)
    features = neighbours.read_features(opt.representations)
    shown = from_options.galaxies_to_show(opt, features)
    if opt.to is not None:
        found = find_similar(features, opt.to, opt.number)
    else:
        found = find_odd(features, opt.number)
    write_predictions(save_loc, found)
    print(f"table {save_loc}")
    if shown is not None:
        _write_page(save_loc.with_suffix(".html"), opt, found, len(features.ids), *shown)


def _write_page(page, opt, found, num_galaxies, catalog, pictures) -> None:
    values = found.values[:, 0, 0]
    told = [f"{found.columns[0]} {value:.3f}" for value in values]
    galaxies = [*zip(found.ids, told, strict=True)]
    notes = [
        f"{len(galaxies)} of {num_galaxies:,} galaxies of {Path(opt.representations).name}",
    ]
    if opt.to is not None:
        title = f"Galaxies like {opt.to}"
        galaxies = [(opt.to, "this one"), *galaxies]
        notes.insert(1, "Nearest first; a typical galaxy is at distance 1 from the mean of all.")
    else:
        title = "Galaxies least like the others"
        notes.insert(1, "The oddest first: oddness is the distance to the 5th neighbour.")
    is_first_the_query = opt.to is not None
    write_gallery(
        *(page, title, notes, galaxies, catalog, pictures, opt.catalog),
        is_first_the_query=is_first_the_query,
    )


if __name__ == "__main__":
    sys.exit(run_script(main, parse))
