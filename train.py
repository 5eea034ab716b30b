"""Train a decision-tree model from scratch on volunteers' vote counts.

    python train.py                                       # simulated galaxies, minutes on a laptop
    python train.py --catalog cat.parquet --schema gz_evo_v2_schema --save-dir runs/evo
    torchrun --nproc-per-node 8 train.py --catalog cat.parquet --schema tree.json
    torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
        train.py --catalog cat.parquet --schema tree.json

The catalog has id_str, file_loc (or image), one column of counts an answer, and optionally split.
Instead of one, --shards DIR takes galaxies from shards (python -m zoobot.create_shards).
"""

import argparse
import math
from pathlib import Path

import torch

from zoobot import (
    engine,
    evaluate,
    metrics,
    optim,
    options,
)
from zoobot.data.demo.catalog import DEMO_TREE, demo_catalog, true_probabilities
from zoobot.data.labels import votes as vote_counts
from zoobot.evaluation import run_figures
from zoobot.models.encoders import image_size_kwargs
from zoobot.models.tree import ZoobotTree
from zoobot.runs import checkpoint
from zoobot.runs.folder import Run, read_metrics
from zoobot.runs.resume import find_state
from zoobot.schemas import get_schema
from zoobot.system import distributed

DEMO = {
    "schema": str(DEMO_TREE),
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
        f"--{key.replace('_', '-')} {value}" for key, value in DEMO.items() if key != "schema"
    )
    data = options.add_data_options(parser, catalog="demo")
    data.add_argument("--schema", help="a named decision tree, or PATH.json")
    model = parser.add_argument_group("model")
    model.add_argument("--encoder", default="convnext_nano", help="any timm encoder")
    model.add_argument("--dropout", type=options.fraction, default=0.2, help="of the head")
    optimisation = options.add_optimisation_options(
        parser, batch_size=128, epochs=30, patience=8, grad_clip=0.3
    )
    add = optimisation.add_argument
    add("--lr", type=options.non_negative, default=1e-3, help="peak learning rate of AdamW")
    add("--weight-decay", type=options.non_negative, default=0.01, help="of encoder matrices")
    add("--betas", type=float, nargs=2, default=[0.9, 0.999], help="of AdamW")
    add("--scheduler", choices=optim.SCHEDULES, default="cosine", help="after the warm-up")
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
    return opt


def main(opt: argparse.Namespace) -> None:
    device = distributed.choose_device(opt.device)
    with distributed.process_group(device):
        train(opt, device)


def train(opt: argparse.Namespace, device: torch.device) -> None:
    if opt.schema is None:
        raise ValueError(
            "--schema is needed with a catalog of your own: a named tree, or PATH.json"
        )
    schema = get_schema(opt.schema)
    with distributed.main_first():
        path = demo_catalog() if opt.catalog == "demo" else opt.catalog
    splits = options.load_galaxies(opt, path, schema.label_cols)
    data = options.make_data(opt, splits, schema.label_cols)
    votes = {
        split: vote_counts(data.labels(split), schema.label_cols, f"{opt.shards or path} ({split})")
        for split in splits
    }
    torch.manual_seed(opt.seed)
    model = make_model(opt, schema)
    settings = engine.Settings(
        device=device,
        dtype=engine.choose_dtype(opt.precision, device),
        epochs=opt.epochs,
        patience=opt.patience,
        scheduler_kwargs=optim.warm_then(opt.scheduler, opt.epochs, opt.warmup_epochs, opt.lr),
        grad_clip=opt.grad_clip or None,
        seed=opt.seed,
        save_top_k=opt.save_top_k,
        save_every_minutes=opt.save_every or math.inf,
        max_skipped_steps=opt.max_skipped_steps,
    )
    config = vars(opt)
    resume_from = find_state(
        opt.save_dir, opt.resume, config, options.MAY_CHANGE_ON_RESUME, opt.allow_changes
    )
    train_galaxies, val_galaxies = data.galaxies("train"), data.galaxies("val")
    model.images_seen = val_galaxies.dataset.describe_images()
    description = {**model.describe(), **model.images_seen}
    run = Run(
        opt.save_dir,
        config,
        description,
        model.metric_key,
        resume_from,
        on_save_error=opt.on_save_error,
    )
    run.say(
        f"{len(splits['train'])} galaxies to train on, {len(splits['val'])} to validate; "
        f"{schema!r}; {opt.encoder} at {opt.image_size} px, {settings.dtype} on {device}"
    )
    optimizer = model.to(device).configure_optimizers()
    engine.fit(model, optimizer, train_galaxies, val_galaxies, settings, run, resume_from)
    report(opt, run, model, schema, votes, data, settings)
    if not opt.no_report:
        title = f"{opt.encoder}, {Path(opt.save_dir).name}"
        prediction = options.prediction_options(opt)
        page = evaluate.report_run(model, data, opt.save_dir, title, **prediction)
        run.say(f"report {page}")


def make_model(opt, schema) -> ZoobotTree:
    """The encoder and head that the options ask for, with fresh weights."""
    return ZoobotTree(
        schema=schema,
        architecture_name=opt.encoder,
        channels=opt.channels,
        timm_kwargs=image_size_kwargs(opt.encoder, opt.image_size),
        dropout_rate=opt.dropout,
        learning_rate=opt.lr,
        betas=opt.betas,
        weight_decay=opt.weight_decay,
        compile_encoder=opt.compile,
    )


def report(opt, run, model, schema, votes, data, settings) -> None:
    """Evaluate the best weights, print the tables, draw the figures."""
    distributed.barrier()
    weights, _ = checkpoint.load_weights(Path(opt.save_dir) / "best.safetensors")
    model.load_state_dict(weights)
    best = {}
    for split, name in (("val", "validation"), ("test", "test")):
        if len(votes[split]):
            best[name] = engine.evaluate(model, data.galaxies(split), settings)
            table = metrics.question_table(best[name], torch.from_numpy(votes[split]), schema)
            run.say(f"\n{name}, best weights\n{table}")
    if "test" in best:
        run.log(run.last_epoch, "test", best["test"])
    if not distributed.is_main():
        return
    marks = {}
    if opt.catalog == "demo":
        truth = torch.tensor(true_probabilities(data.catalogs["val"], schema.label_cols))
        train_votes, val_votes = (torch.from_numpy(votes[s]) for s in ("train", "val"))
        marks = metrics.vote_marks(train_votes, val_votes, truth, schema)
        loss = best["validation"]["supervised_loss"]
        closed = (marks["constant"] - loss) / (marks["constant"] - marks["truth"])
        run.say(
            f"\nvalidation loss {loss:.3f}: {closed:.0%} of the way from the best constant "
            f"prediction ({marks['constant']:.3f}) to the true probabilities ({marks['truth']:.3f})"
        )
    folder = Path(opt.save_dir)
    run_figures.plot_curves(read_metrics(folder), folder / "curves.png", marks)
    run_figures.plot_questions(best["validation"], schema, folder / "questions.png")
    run_figures.plot_galaxies(data.table("train", most=2000), schema, folder / "galaxies.png")
    run.say(f"\nweights {folder / 'best.safetensors'}; figures {folder / 'curves.png'}, ...")


if __name__ == "__main__":
    options.run(main, parse)
