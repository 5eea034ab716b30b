"""Train a decision-tree model from scratch on volunteers' vote counts.

    python train.py                                       # simulated galaxies, minutes on a laptop
    python train.py --catalog cat.parquet --schema gz_evo_v2_schema --save-dir runs/evo
    torchrun --nproc-per-node 8 --master-port 29500 train.py --catalog cat.csv --schema tree.json
    torchrun --nnodes 4 --node-rank 0 --nproc-per-node 8 --master-addr HOST --master-port 29500 \\
        train.py --catalog cat.csv --schema tree.json    # on node 0; --node-rank 1 on node 1

The catalog has id_str, file_loc (or image), one column of counts an answer, and optionally split.
Instead of one, --shards DIR takes galaxies from shards (python -m zoobot.create_shards).
Images are 8-bit RGB or grey; with --bands, of any bands in floats.
"""

import argparse

from zoobot import options

DEMO = {
    "encoder": "resnet18",
    "image_size": 64,
    "shear": 0.0,
    "batch_size": 64,
    "dropout": 0.0,
    "epochs": 24,
    "save_dir": "runs/demo",
}


def make_parser() -> options.Parser:
    parser = options.Parser(__doc__)
    parser.epilog = "With the demo catalog other defaults hold: " + ", ".join(
        f"--{key.replace('_', '-')} {value}" for key, value in DEMO.items()
    )
    data = options.add_data_options(parser, catalog="demo")
    data.add_argument("--schema", help="a named decision tree, or PATH.json")
    model = parser.add_argument_group("model")
    model.add_argument("--encoder", default="convnext_nano", help="any timm encoder")
    model.add_argument("--head", choices=options.HEADS, default="sigmoid", help=options.HEAD_HELP)
    model.add_argument("--dropout", type=options.fraction, default=0.2, help="of the head")
    optimisation = options.add_optimisation_options(
        parser, batch_size=128, epochs=30, patience=8, grad_clip=0.3
    )
    add = optimisation.add_argument
    add("--lr", type=options.non_negative, default=1e-3, help="peak learning rate of AdamW")
    add("--weight-decay", type=options.non_negative, default=0.01, help="of encoder matrices")
    add("--betas", type=options.fraction, nargs=2, default=[0.9, 0.999], help="of AdamW")
    add("--scheduler", choices=["cosine", "constant"], default="cosine", help="after the warm-up")
    add("--warmup-epochs", type=options.non_negative, default=1.0, help="linear warm-up")
    options.add_hardware_options(parser)
    options.add_output_options(parser, save_dir="runs/train")
    return parser


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser()
    opt = parser.parse(argv)
    if opt.shards and opt.catalog == "demo":
        opt.catalog = None
    if opt.catalog == "demo":
        parser.set_defaults(**DEMO)
        opt = parser.parse(argv)
    options.settle_brightness(opt)
    return opt


if __name__ == "__main__":
    options.answer_help(make_parser)  # before the imports that take seconds

from pathlib import Path

import torch

from zoobot import evaluate, from_options, metrics, optim
from zoobot.data import CatalogDataModule, demo, overview
from zoobot.data.labels import votes
from zoobot.evaluation import run_figures
from zoobot.evaluation.pictures import Pictures
from zoobot.models import ZoobotTree
from zoobot.runs.folder import read_metrics
from zoobot.runs.save_dir import only_run_in
from zoobot.schemas import Schema, get_schema
from zoobot.script import run_script
from zoobot.system import distributed
from zoobot.system.errors import UserError
from zoobot.trainer import Trainer


def main(opt: argparse.Namespace) -> None:
    device = distributed.choose_device(opt.device)
    with distributed.process_group(device), only_run_in(opt.save_dir):
        train(opt)


def train(opt: argparse.Namespace) -> None:
    if opt.schema is None:
        if opt.catalog != "demo":
            raise UserError("--schema is needed with your own catalog: a named tree, or PATH.json")
        opt.schema = str(demo.DEMO_TREE)
    schema = get_schema(opt.schema)
    with distributed.main_first():
        catalog = opt.catalog
        if catalog == "demo":
            spec = from_options.image_spec(opt)
            catalog = demo.demo_catalog(bands=spec and spec.bands)
    splits = from_options.load_galaxies(opt, catalog, schema.label_cols, schema)
    from_options.tell(overview.vote_overview(splits, schema))
    resume_from = from_options.state_to_resume(opt)
    data = from_options.make_data(opt, splits, schema.label_cols, resume_from)
    pictures = Pictures(data.spec, opt.rgb_bands)
    torch.manual_seed(opt.seed)
    model = make_model(opt, schema, data.channels)

    trainer = from_options.make_trainer(opt)
    trainer.fit(model, data, config=vars(opt), resume_from=resume_from)
    best, predictions = evaluate.evaluate_run(trainer, model, data)
    if distributed.is_main():
        report(opt, schema, data, trainer, best, pictures)
        if not opt.no_report:
            title = f"{opt.encoder}, {Path(opt.save_dir).name}"
            page = evaluate.report_run(predictions, data, opt.save_dir, title, pictures)
            print(f"report {page}")


def make_model(opt: argparse.Namespace, schema: Schema, channels: int) -> ZoobotTree:
    """The encoder and head that the options ask for, with fresh weights."""
    return ZoobotTree(
        schema=schema,
        architecture_name=opt.encoder,
        channels=channels,
        timm_kwargs=from_options.image_size_kwargs(opt.encoder, opt.image_size),
        dropout_rate=opt.dropout,
        head_activation=opt.head,
        learning_rate=opt.lr,
        betas=opt.betas,
        weight_decay=opt.weight_decay,
        scheduler_kwargs=optim.warm_then(opt.scheduler, opt.epochs, opt.warmup_epochs, opt.lr),
        seed=opt.seed,
    )


def report(
    opt: argparse.Namespace,
    schema: Schema,
    data: CatalogDataModule,
    trainer: Trainer,
    best: dict[str, dict],
    pictures: Pictures,
) -> None:
    """Print the tables of the best weights' metrics, and draw the figures."""
    for split, named in best.items():
        best[split] = {name.partition("/")[2]: value for name, value in named.items()}
        counts = torch.from_numpy(votes(data.labels(split), schema.label_cols))
        name = {"val": "validation", "test": "test"}[split]
        constants = {k.partition("/")[2]: v for k, v in trainer.constants.get(name, {}).items()}
        table = metrics.question_table(best[split], counts, schema, constants)
        print(f"\n{name}, best weights (epoch {trainer.best_epoch})\n{table}")
    marks = {}
    if opt.catalog == "demo":
        train, val = (
            torch.from_numpy(votes(data.labels(s), schema.label_cols)) for s in ("train", "val")
        )
        truth = torch.tensor(demo.true_probabilities(data.labels("val"), schema.label_cols))
        marks = metrics.vote_marks(train, val, truth, schema)
        loss = best["val"]["supervised_loss"]
        closed = (marks["constant"] - loss) / (marks["constant"] - marks["truth"])
        print(
            f"\nvalidation loss {loss:.3f}: {closed:.0%} of the way from the best constant "
            f"prediction ({marks['constant']:.3f}) to the true probabilities ({marks['truth']:.3f})"
            f"\nwithout the head's bounds the constant's loss is {marks['constant (any)']:.3f}; "
            f"within them the truth's is {marks['truth (head)']:.3f}"
        )
    folder = Path(opt.save_dir)
    truth = {"truth": marks["truth"]} if marks else {}
    run_figures.plot_curves(read_metrics(folder), folder / "curves.png", truth)
    run_figures.plot_questions(best["val"], schema, folder / "questions.png")
    galaxies = data.table("train", most=2000)
    run_figures.plot_galaxies(galaxies, schema, folder / "galaxies.png", pictures=pictures)
    print(f"\nweights {folder / 'best.safetensors'}; figures {folder / 'curves.png'}, ...")


if __name__ == "__main__":
    run_script(main, parse)
