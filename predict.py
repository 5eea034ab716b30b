"""Predict a catalog, or a folder of images, with a trained model.

    python predict.py --checkpoint runs/evo/best.safetensors --catalog cat.parquet \\
        --save-loc predictions.parquet --summary
    python predict.py --checkpoint runs/rings/best.safetensors --images stamps/ --save-loc rings.csv
    python predict.py --checkpoint runs/a runs/b runs/c --catalog cat.parquet --save-loc p.parquet
    python predict.py --checkpoint runs/evo runs/rings --catalog cat.parquet \\
        --save-loc votes.parquet rings.parquet
    torchrun --nproc-per-node 8 --master-port 29500 predict.py --catalog cat.parquet \\
        --checkpoint runs/evo/best.safetensors --n-samples 10 --save-loc predictions.hdf5

A killed run goes on with the same command. Trees: a column of Dirichlet concentrations an answer;
classifiers: probabilities; regressors: the number. A model of bands knows them: --bands is for
files that have them elsewhere.
"""

import argparse

from zoobot import options


def make_parser() -> options.Parser:
    parser = options.Parser(__doc__)
    model = parser.add_argument_group("model")
    add = model.add_argument
    add(
        "--checkpoint",
        required=True,
        nargs="+",
        help=f"{options.CHECKPOINT_HELP}; several: those that predict the same are an ensemble, "
        "whose predictions are mixed in one file",
    )
    add(
        "--representations",
        action="store_true",
        help="predict the encoder's features; --checkpoint may then be a timm or hf_hub: name",
    )
    add(
        "--n-samples",
        type=options.positive_int,
        default=1,
        help="forward passes with the head's dropout on; 1: one pass without dropout",
    )
    add(
        "--n-views",
        type=options.positive_int,
        default=1,
        help="angles that each galaxy is turned through; of trees each gives a sample, other "
        "predictions are the mean",
    )
    data = parser.add_argument_group("data")
    source = data.add_mutually_exclusive_group(required=True)
    source.add_argument("--catalog", help="galaxies; demo: simulated on the spot")
    source.add_argument("--shards", metavar="DIR", help="galaxies in shards, of create_shards")
    source.add_argument(
        "--images",
        metavar="FOLDER",
        help="all images below it; or of a file a band a path such as 'FOLDER/{id}_{band}.fits'",
    )
    add = data.add_argument
    add(
        "--id-from",
        choices=["path", "stem"],
        help="ids of --images: path (default): that below the folder; stem: the file's name; both "
        "without suffix",
    )
    add(
        "--split",
        choices=["train", "val", "test"],
        default="",
        help="only these galaxies; of shards: test",
    )
    add("--image-size", type=options.positive_int, help="by default that of training")
    options.add_fits_scaling_option(data, "as in training")
    options.add_band_options(data)
    add("--batch-size", type=options.positive_int, default=128, help="galaxies a forward pass")
    add(
        "--on-bad-image",
        choices=["error", "record"],
        default="error",
        help="an image can't be read: stop, or give NaN and the reason",
    )
    options.add_hardware_options(parser)
    output = parser.add_argument_group("output")
    add = output.add_argument
    add(
        "--save-loc",
        required=True,
        nargs="+",
        help="OUT.parquet, OUT.csv, OUT.hdf5, or for TOPCAT OUT.fits, OUT.vot; of models that "
        "predict different things one each, in the order of their checkpoints",
    )
    add(
        "--summary",
        action="store_true",
        help="of trees: also write OUT_summary.parquet, or .fits or .vot as OUT",
    )
    add(
        "--temperatures",
        nargs="+",
        metavar="FILE.json",
        help="recalibrate the summary's intervals: the temperatures.json of an evaluation; of "
        "several trees one each",
    )
    add(
        "--carry",
        nargs="+",
        default=[],
        metavar="COLUMN",
        help="columns of the catalog, or labels of the shards, that the files get too: ra dec",
    )
    add("--seed", type=options.seed, default=42, help="of the dropout")
    return parser


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    return make_parser().parse(argv)


if __name__ == "__main__":
    options.answer_help(make_parser)  # before the imports that take seconds

from zoobot import from_options
from zoobot.data.demo.catalog import demo_catalog
from zoobot.data.shards.reader import open_shards
from zoobot.models.bands import spec_of, with_places
from zoobot.predictions.ensembles import group_models, same_view
from zoobot.predictions.joining import summary_path
from zoobot.predictions.models import load_predictor
from zoobot.predictions.predict import predict_to_file
from zoobot.script import run_script
from zoobot.system import distributed
from zoobot.system.errors import UserError


def main(opt: argparse.Namespace) -> None:
    if opt.id_from and not opt.images:
        raise UserError("--id-from is for --images: a catalog and shards have ids of their own")
    device = distributed.choose_device(opt.device)
    with distributed.process_group(device):
        spec = from_options.image_spec(opt) if options.check_brightness(opt) else None
        channels = 3 if spec is None else len(spec.bands)
        models = [load_predictor(path, opt.representations, channels) for path in opt.checkpoint]
        if opt.bands and not opt.image_spec:
            spec = with_places(models[0], spec)
        with distributed.main_first():
            catalog = opt.catalog
            if catalog == "demo":
                seen = spec or spec_of(models[0])
                catalog = demo_catalog(bands=seen and seen.bands)
        if opt.shards:
            catalog = open_shards(opt.shards, opt.split or "test")
        paths = predict_to_file(
            opt.images or catalog,
            models,
            opt.save_loc,
            transform=same_view(models, opt.image_size),
            num_samples=opt.n_samples,
            num_views=opt.n_views,
            batch_size=opt.batch_size,
            num_workers=opt.num_workers,
            device=opt.device,
            precision=opt.precision,
            compile_encoder=opt.compile,
            fits_scaling=opt.fits_scaling,
            spec=spec,
            on_bad_image=opt.on_bad_image,
            summary=opt.summary,
            carry=opt.carry,
            temperatures=opt.temperatures,
            split="" if opt.shards else opt.split,
            seed=opt.seed,
            id_from=(opt.id_from or "path") if opt.images else None,
            checkpoint=opt.checkpoint,
        )
        if distributed.is_main():
            for path, group in zip(paths, group_models(models), strict=True):
                print(f"predictions {path}")
                if opt.summary and group.described["schema"] is not None:
                    print(f"summary {summary_path(path)}")


if __name__ == "__main__":
    run_script(main, parse)
