"""Train a decision-tree model from scratch on volunteers' vote counts.

    python train.py                                       # simulated galaxies, minutes on a laptop
    python train.py --catalog cat.parquet --schema gz_evo_v2_schema --save-dir runs/evo
    torchrun --nproc-per-node 8 train.py --catalog cat.parquet --schema tree.json
    torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
        train.py --catalog cat.parquet --schema tree.json

The catalog has id_str, file_loc (or image), one column of counts an answer, and optionally split.
"""

import argparse
from pathlib import Path

import torch

from zoobot import checkpoint, distributed, engine, logs, metrics, options, plots
from zoobot.data import catalog, demo, loaders
from zoobot.data.views import GalaxyView, default_view_config, minimal_view_config
from zoobot.models import ZoobotTree, image_size_kwargs
from zoobot.schemas import get_schema

DEMO = {
    "schema": str(demo.DEMO_TREE),
    "encoder": "resnet18",
    "image_size": 64,
    "shear": 0.0,
    "batch_size": 64,
    "dropout": 0.0,
    "epochs": 24,
    "save_dir": "runs/demo",
}
MAY_CHANGE_ON_RESUME = set(
    "config debug resume save_dir epochs patience num_workers device compile".split()
)


def make_parser() -> options.Parser:
    parser = options.Parser(__doc__)
    parser.epilog = "With the demo catalog other defaults hold: " + ", ".join(
        f"--{key.replace('_', '-')} {value}" for key, value in DEMO.items() if key != "schema"
    )
    data = parser.add_argument_group("data")
    data.add_argument("--catalog", default="demo", help="galaxies; demo: simulated on the spot")
    data.add_argument("--val-catalog", help="validation galaxies, if not split off")
    data.add_argument("--test-catalog", help="test galaxies, if not split off")
    data.add_argument("--schema", help="a named decision tree, or PATH.json")
    data.add_argument("--fits-scaling", default="asinh", help="brightness of FITS images")
    data.add_argument(
        "--shear",
        type=options.non_negative,
        default=20.0,
        help="largest shear of training views, degrees; it blurs how round a galaxy is",
    )
    model = parser.add_argument_group("model")
    model.add_argument("--encoder", default="convnext_nano", help="any timm encoder")
    model.add_argument("--channels", type=int, choices=[1, 3], default=3, help="of the images")
    model.add_argument("--image-size", type=options.positive_int, default=224, help="side, pixels")
    model.add_argument("--dropout", type=options.fraction, default=0.2, help="of the head")
    options.add_optimisation_options(
        parser, batch_size=128, lr=1e-3, weight_decay=0.01, grad_clip=0.3
    )
    options.add_hardware_options(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--save-dir", default="runs/train", help="folder of the run")
    output.add_argument("--save-top-k", type=int, default=1, help="best checkpoints to keep")
    output.add_argument(
        "--resume", default="auto", help="auto: go on if --save-dir holds a run; never; or PATH"
    )
    return parser


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser()
    opt = parser.parse(argv)
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
        path = demo.demo_catalog() if opt.catalog == "demo" else opt.catalog
    splits = catalog.load_splits(
        path, opt.val_catalog, opt.test_catalog, schema.label_cols, opt.seed
    )
    votes = {s: catalog.votes(t, schema.label_cols, f"{path} ({s})") for s, t in splits.items()}

    datasets = make_datasets(opt, splits, votes)
    pin = device.type == "cuda"
    train_batches = loaders.train_loader(
        datasets["train"], opt.batch_size, opt.grad_accumulation, opt.num_workers, pin
    )
    val_batches = loaders.eval_loader(datasets["val"], opt.batch_size, opt.num_workers, pin)

    torch.manual_seed(opt.seed)
    model = make_model(opt, schema)
    settings = engine.Settings(
        device=device,
        dtype=engine.choose_dtype(opt.precision, device),
        epochs=opt.epochs,
        patience=opt.patience,
        schedule=opt.scheduler,
        warmup_epochs=opt.warmup_epochs,
        grad_clip=opt.grad_clip or None,
        seed=opt.seed,
        save_top_k=opt.save_top_k,
    )
    config = vars(opt)
    resume_from = logs.find_state(opt.save_dir, opt.resume, config, MAY_CHANGE_ON_RESUME)
    description = {**model.describe(), "image_size": opt.image_size}
    run = logs.Run(opt.save_dir, config, description, model.metric_key, resume_from)
    run.say(
        f"{len(splits['train'])} galaxies to train on, {len(splits['val'])} to validate; "
        f"{schema!r}; {opt.encoder} at {opt.image_size} px, {settings.dtype} on {device}"
    )
    engine.fit(
        model, model.configure_optimizers(), train_batches, val_batches, settings, run, resume_from
    )
    report(opt, run, model, schema, splits, votes, datasets, settings)


def make_datasets(opt, splits, votes) -> dict[str, loaders.CatalogDataset]:
    """Training galaxies in random views, validation and test galaxies in the fixed one."""
    views = {"train": default_view_config(), "val": minimal_view_config()}
    views["train"].random_affine["shear"] = (0, opt.shear, 0, opt.shear)
    for view in views.values():
        view.output_size = opt.image_size
    return {
        split: loaders.CatalogDataset(
            table,
            GalaxyView(views["train" if split == "train" else "val"]),
            votes[split],
            channels=opt.channels,
            fits_scaling=opt.fits_scaling,
            seed=opt.seed,
        )
        for split, table in splits.items()
    }


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


def report(opt, run, model, schema, splits, votes, datasets, settings) -> None:
    """Evaluate the best weights, print the tables, draw the figures."""
    distributed.barrier()
    weights, _ = checkpoint.load_weights(Path(opt.save_dir) / "best.safetensors")
    model.load_state_dict(weights)
    best = {}
    for split, name in (("val", "validation"), ("test", "test")):
        if len(datasets[split]):
            batches = loaders.eval_loader(datasets[split], opt.batch_size, opt.num_workers)
            best[name] = engine.evaluate(model, batches, settings)
            table = metrics.question_table(best[name], torch.from_numpy(votes[split]), schema)
            run.say(f"\n{name}, best weights\n{table}")
    if not distributed.is_main():
        return
    if "test" in best:
        run.log(run.last_epoch, "test", best["test"])
    marks = {}
    if opt.catalog == "demo":
        truth = torch.tensor(demo.true_probabilities(splits["val"], schema.label_cols))
        train_votes, val_votes = (torch.from_numpy(votes[s]) for s in ("train", "val"))
        marks = metrics.vote_marks(train_votes, val_votes, truth, schema)
        loss = best["validation"]["supervised_loss"]
        closed = (marks["constant"] - loss) / (marks["constant"] - marks["truth"])
        run.say(
            f"\nvalidation loss {loss:.3f}: {closed:.0%} of the way from the best constant "
            f"prediction ({marks['constant']:.3f}) to the true probabilities ({marks['truth']:.3f})"
        )
    folder = Path(opt.save_dir)
    plots.plot_curves(logs.read_metrics(folder), folder / "curves.png", marks)
    plots.plot_questions(best["validation"], schema, folder / "questions.png")
    plots.plot_galaxies(splits["train"], schema, folder / "galaxies.png")
    run.say(f"\nweights {folder / 'best.safetensors'}; figures {folder / 'curves.png'}, ...")


if __name__ == "__main__":
    options.run(main, parse)
