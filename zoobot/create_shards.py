"""Write the galaxies of a catalog into shards: a few large files, which are much faster to read.

python -m zoobot.create_shards --labelled-catalog cat.csv --shard-dir shards --schema desi_schema
"""

import argparse
import sys

import pandas as pd

from zoobot import options
from zoobot.data.catalog import read_catalog, require_columns
from zoobot.data.image_check import check_images
from zoobot.data.labels import round_votes, votes
from zoobot.data.shards.reader import ENCODINGS, verify
from zoobot.data.shards.webdataset import is_webdataset, webdataset_catalog
from zoobot.data.shards.writer import write_shards
from zoobot.from_options import image_spec
from zoobot.schemas import get_schema
from zoobot.script import run_script
from zoobot.system import distributed
from zoobot.system.errors import UserError

DEFAULT_EVAL_SIZE = 5000


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line: ``argv``, or that of the process."""
    parser = options.Parser(__doc__)
    add = parser.add_argument
    add("--shard-dir", required=True, help="folder of the shards")
    add(
        "--labelled-catalog",
        help="catalog of galaxies with labels; or a .tar of webdataset or a folder of them, whose "
        "images must all fit in memory",
    )
    labels = parser.add_mutually_exclusive_group()
    labels.add_argument("--schema", help="decision tree; its vote counts are the labels")
    labels.add_argument(
        "--label-cols", nargs="+", metavar="COLUMN", help="columns of labels (numbers)"
    )
    add("--round-votes", action="store_true", help=options.ROUND_VOTES_HELP)
    add(
        "--img-size",
        type=options.positive_int,
        default=300,
        help="side of the stored images, pixels",
    )
    add(
        "--eval-size",
        type=options.non_negative_int,
        help=f"number of galaxies for the test split; by default {DEFAULT_EVAL_SIZE}, or 0 if the "
        "catalog has a column 'split'",
    )
    add(
        "--encoding",
        choices=ENCODINGS,
        help="raw: pixels as they are, fast to read but large; by default jpeg, and raw for bands",
    )
    options.add_brightness_options(parser)
    add(
        "--galaxies-a-shard",
        type=options.positive_int,
        default=4096,
        help="most galaxies in a shard",
    )
    add(
        "--num-workers",
        type=options.non_negative_int,
        default=2,
        help="processes that read images; 0: this one reads",
    )
    options.add_image_check_options(parser)
    add("--seed", type=options.seed, default=42, help="of the random split and order")
    add("--quality", type=int, default=95, help="JPEG quality, 1 to 100")
    add(
        "--keep-metadata",
        action="store_true",
        help="copy JPEGs no larger than --img-size whole, with EXIF (places, times), colour "
        "profiles and comments; by default shards have pixels only",
    )
    add(
        "--verify",
        action="store_true",
        help="write nothing: compare finished shards with their checksums",
    )
    return parser.parse(argv)


def main(opt: argparse.Namespace) -> None:
    """Write or verify shards."""
    if opt.verify:
        print(f"{verify(opt.shard_dir)} galaxies in {opt.shard_dir}: all checksums match")
        return
    if distributed.world_size() > 1:
        raise UserError("one process and its --num-workers write shards: leave torchrun out")
    spec = image_spec(opt) if options.check_brightness(opt) else None
    options.settle_brightness(opt)
    catalog, label_cols = _read_labelled(opt)
    looked_at = check_images(
        {"labelled": catalog},
        opt.check_images,
        opt.on_bad_image,
        opt.shard_dir,
        channels=opt.channels,
        fits_scaling=opt.fits_scaling,
        spec=spec,
        seed=opt.seed,
    )
    catalog = looked_at["labelled"]
    eval_size = opt.eval_size
    if eval_size is None:
        eval_size = 0 if "split" in catalog else DEFAULT_EVAL_SIZE
    index = write_shards(
        catalog,
        label_cols,
        opt.shard_dir,
        encoding=opt.encoding or ("jpeg" if spec is None else "raw"),
        img_size=opt.img_size,
        channels=opt.channels,
        fits_scaling=opt.fits_scaling,
        spec=spec,
        galaxies_a_shard=opt.galaxies_a_shard,
        num_workers=opt.num_workers,
        eval_size=eval_size,
        seed=opt.seed,
        quality=opt.quality,
        keep_metadata=opt.keep_metadata,
    )
    shards = [shard for split in index["splits"].values() for shard in split["shards"]]
    num_galaxies = sum(shard["num_galaxies"] for shard in shards)
    megabytes = sum(shard["bytes"] for shard in shards) / 1e6
    print(f"{len(shards)} shards, {num_galaxies} galaxies, {megabytes:.1f} MB in {opt.shard_dir}")


def _read_labelled(opt: argparse.Namespace) -> tuple[pd.DataFrame, list[str]]:
    """The catalog and the names of its label columns."""
    path = opt.labelled_catalog
    if not path:
        raise UserError("give --labelled-catalog, or --verify for a folder of shards")
    if not opt.schema and not opt.label_cols:
        raise UserError("which columns are labels can't be guessed: give --schema or --label-cols")
    schema = get_schema(opt.schema) if opt.schema else None
    label_cols = schema.label_cols if schema else opt.label_cols
    if is_webdataset(path):
        catalog = webdataset_catalog(path)
        require_columns(catalog, label_cols, path)
    else:
        catalog = read_catalog(path, label_cols)
    if opt.round_votes:
        if schema is None:
            raise UserError("--round-votes needs --schema: it is for vote counts of a tree")
        catalog = round_votes(catalog, label_cols, path)
    if schema:
        counts = votes(catalog, label_cols, path)
        catalog = catalog.assign(**dict(zip(label_cols, counts.T, strict=True)))
    return catalog, label_cols


if __name__ == "__main__":
    sys.exit(run_script(main, parse))
