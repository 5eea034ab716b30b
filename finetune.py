"""Finetune a pretrained encoder to classes, a number, or vote counts of your own.

    python finetune.py --catalog rings.csv --label-col ring \\
        --encoder hf_hub:mwalmsley/zoobot-encoder-convnext_nano --save-dir runs/rings
    python finetune.py --catalog bars.csv --task regression --label-col bar_length bar_width \\
        --encoder runs/evo/best.safetensors
    torchrun --nproc-per-node 8 --master-port 29500 finetune.py --catalog cat.parquet --task tree \\
        --schema tree.json --encoder convnext_nano

The catalog has id_str, file_loc (or image), the label columns, and optionally split. Class labels
are numbers from 0, or names.
"""

import argparse

from zoobot import options

ENCODER = "hf_hub:mwalmsley/zoobot-encoder-convnext_nano"
FROM_SCRATCH = {"learning_rate": 1e-3, "layer_decay": 1.0}  # fresh weights have nothing to lose


def make_parser() -> options.Parser:
    parser = options.Parser(__doc__)
    task = parser.add_argument_group("task")
    add = task.add_argument
    add("--task", choices=["classification", "regression", "tree"], default="classification")
    add(
        "--label-col",
        nargs="+",
        default="label",
        metavar="COLUMN",
        help="column of the catalog to learn; for --task regression one or several; a tree has "
        "columns of its own",
    )
    add("--num-classes", type=int, help="by default as many as the catalog has")
    add(
        "--class-names",
        nargs="+",
        metavar="NAME",
        help="what class 0, class 1, ... are called, where the catalog has only their numbers",
    )
    add("--class-weights", help="balanced, or a weight a class as a JSON list")
    add("--label-smoothing", type=options.fraction, default=0.0, help="of classification")
    add(
        "--loss",
        choices=["mse", "mean_squared_error", "mae", "mean_absolute_error", "l1", "l1_loss"],
        default="mse",
        help="of regression",
    )
    add("--unit-interval", action="store_true", help="regression labels lie within 0-1")
    add(
        "--label-scale",
        choices=["auto", "linear", "log"],
        default="auto",
        help="regression labels are standardised as they are, or as logarithms; auto: as "
        "logarithms if positive, over more than a decade and skewed",
    )
    add("--schema", help="of a tree: a named decision tree, or PATH.json")
    options.add_data_options(parser, catalog=None)
    model = parser.add_argument_group("model")
    add = model.add_argument
    add(
        "--encoder",
        help="NAME of timm, hf_hub:OWNER/NAME, local-dir:FOLDER, a run's folder, PATH.ckpt, "
        "PATH.safetensors, or simulated: the small one that comes along, trained on simulated "
        f"galaxies; by default {ENCODER}, or where that can't be had, simulated",
    )
    add(
        "--from-scratch",
        action="store_true",
        help="fresh weights for a NAME of timm; other defaults then hold: "
        + ", ".join(f"--{k.replace('_', '-')} {v:g}" for k, v in FROM_SCRATCH.items()),
    )
    add(
        "--training-mode",
        choices=["full", "head_only"],
        default="full",
        help="head_only: the encoder is frozen",
    )
    add(
        "--unfreeze-after",
        type=options.non_negative_int,
        default=0,
        metavar="EPOCHS",
        help="freeze the encoder for the first epochs; patience counts from there",
    )
    add(
        "--fresh-stem",
        action="store_true",
        help="start the encoder's first convolution afresh, for other bands than it was trained "
        "on; by default it is adapted to their number",
    )
    add("--head", choices=options.HEADS, default="sigmoid", help=options.HEAD_HELP)
    add("--head-dropout-prob", type=options.fraction, default=0.5, help="dropout before the head")
    optimisation = options.add_optimisation_options(
        parser, batch_size=64, epochs=100, patience=10, grad_clip=0.0
    )
    add = optimisation.add_argument
    add("--learning-rate", type=options.non_negative, default=1e-4, help="of the head")
    add(
        "--layer-decay", type=options.non_negative, default=0.75, help="of the rate, block by block"
    )
    add(
        "--layer-groups",
        choices=["blocks", "fine"],
        default="blocks",
        help="what --layer-decay goes by: blocks, such as the 4 stages of a ConvNeXt, or fine: "
        "every layer, as the optimiser of Zoobot 2.9 does",
    )
    add(
        "--stem-learning-rate",
        type=options.non_negative,
        help="of the encoder's first convolution; by default that of its lowest block",
    )
    add("--weight-decay", type=options.non_negative, default=0.05, help="of encoder matrices")
    add("--scheduler-kwargs", metavar="JSON", help="of timm.scheduler.create_scheduler_v2")
    options.add_hardware_options(parser)
    options.add_output_options(parser, save_dir="runs/finetune")
    return parser


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser()
    opt = parser.parse(argv)
    if opt.from_scratch:
        parser.set_defaults(**FROM_SCRATCH)
        opt = parser.parse(argv)
    if opt.class_names and opt.task != "classification":
        parser.error(f"--class-names are of --task classification, not {opt.task}")
    if opt.head != "sigmoid" and opt.task != "tree":
        parser.error(f"--head is of --task tree, not {opt.task}")
    if isinstance(opt.label_col, list) and len(opt.label_col) == 1:
        (opt.label_col,) = opt.label_col
    if isinstance(opt.label_col, list) and opt.task != "regression":
        parser.error(f"--label-col takes one column for --task {opt.task}")
    options.settle_brightness(opt)
    return opt


if __name__ == "__main__":
    options.answer_help(make_parser)  # before the imports that take seconds

import json
from pathlib import Path

import torch
from torch import nn

from zoobot import evaluate, from_options
from zoobot.data import overview
from zoobot.data.classes import number_classes
from zoobot.data.labels import check_varied
from zoobot.data.sources import label_frame
from zoobot.evaluation import run_figures
from zoobot.evaluation.join import MAX_CLASSES
from zoobot.evaluation.pictures import Pictures
from zoobot.models import finetune
from zoobot.models.architectures import SIMULATED, NoWeights, is_outside, outside_config, placed
from zoobot.models.hub import is_model
from zoobot.runs.folder import read_metrics
from zoobot.runs.log import told_metrics
from zoobot.runs.save_dir import only_run_in
from zoobot.schemas import Schema, get_schema
from zoobot.script import run_script
from zoobot.system import distributed
from zoobot.system.errors import UserError
from zoobot.trainer import Trainer


def main(opt: argparse.Namespace) -> None:
    device = distributed.choose_device(opt.device)
    with distributed.process_group(device), only_run_in(opt.save_dir):
        run(opt)


def run(opt: argparse.Namespace) -> None:
    if opt.from_scratch and opt.encoder is None:
        raise UserError("--from-scratch needs --encoder, a timm name")
    schema = get_schema(opt.schema) if opt.task == "tree" and opt.schema else None
    if opt.task == "tree" and schema is None:
        raise UserError("--task tree needs --schema: a named tree, or PATH.json")
    label_cols = schema.label_cols if schema else number_cols(opt)
    splits = from_options.load_galaxies(opt, opt.catalog, label_cols, schema)
    class_names = class_names_of(opt, splits) if opt.task == "classification" else None
    from_options.tell(overview_of(opt, splits, schema, class_names))
    num_classes = max(opt.num_classes or 0, len(class_names or []))
    if num_classes > MAX_CLASSES and not opt.no_report:
        raise UserError(
            f"{num_classes} classes, but a report has at most {MAX_CLASSES}: give --no-report"
        )
    if opt.task == "regression":
        for column in label_cols:
            check_varied(label_frame(splits["train"]), column, opt.shards or opt.catalog)
    if opt.from_scratch:
        rates = f"--learning-rate {opt.learning_rate:g}, --layer-decay {opt.layer_decay:g}"
        from_options.tell(f"from scratch: fresh weights, {rates}")
    opt.encoder = opt.encoder or distributed.from_main(default_encoder())
    resume_from = from_options.state_to_resume(opt)
    data = from_options.make_data(opt, splits, label_cols, resume_from)
    pictures = Pictures(data.spec, opt.rgb_bands)
    source = encoder_arguments(opt, resume_from)
    if data.spec is not None:
        source["channels"] = data.channels
    try:
        model = make_model(opt, source, schema, class_names)
    except NoWeights as error:
        raise UserError(error.told_with("--from-scratch")) from error

    trainer = from_options.make_trainer(opt, unfreeze_after=opt.unfreeze_after)
    trainer.fit(model, data, config=vars(opt), resume_from=resume_from)
    best, predictions = evaluate.evaluate_run(trainer, model, data)
    if distributed.is_main():
        report(opt, trainer, best)
        if not opt.no_report:
            title = f"{opt.task} by {opt.encoder}, {Path(opt.save_dir).name}"
            page = evaluate.report_run(predictions, data, opt.save_dir, title, pictures)
            print(f"report {page}")


def default_encoder() -> str:
    """The published encoder, or where it can't be had, the one that this package carries."""
    try:
        if distributed.is_main():
            outside_config(ENCODER)
    except NoWeights as error:
        print(f"{error.told}\ninstead: --encoder {SIMULATED}, small, of simulated galaxies")
        return SIMULATED
    return ENCODER


def number_cols(opt: argparse.Namespace) -> list[str]:
    """``--label-col`` as a list."""
    return opt.label_col if isinstance(opt.label_col, list) else [opt.label_col]


def class_names_of(opt: argparse.Namespace, splits: dict) -> list[str]:
    """Names of the classes; a catalog's text labels become their numbers, in place."""
    source = opt.shards or opt.catalog
    numbered = {"train": label_frame(splits["train"])} if opt.shards else splits
    found = number_classes(numbered, opt.label_col, source)
    if opt.class_names is None:
        return found
    if found != [str(number) for number in range(len(found))]:
        raise UserError(
            f"--class-names are for numbered classes, but column {opt.label_col!r} of {source} has "
            f"the names {', '.join(found[:10])}: leave --class-names out"
        )
    least = max(len(found), opt.num_classes or 0)
    if len(opt.class_names) < least:
        raise UserError(f"{len(opt.class_names)} --class-names for {least} classes: name them all")
    return opt.class_names


def overview_of(
    opt: argparse.Namespace, splits: dict, schema: Schema | None, class_names: list[str] | None
) -> str:
    """A table of the galaxies, by split."""
    if schema is not None:
        return overview.vote_overview(splits, schema)
    if class_names is None:
        return "\n\n".join(overview.number_overview(splits, c) for c in number_cols(opt))
    numbered = [str(i) for i in range(min(opt.num_classes or 0, finetune.MOST_CLASSES))]
    more = class_names if len(class_names) >= len(numbered) else numbered
    return overview.class_overview(splits, opt.label_col, more)


def make_model(
    opt: argparse.Namespace, source: dict, schema: Schema | None, class_names: list[str] | None
) -> nn.Module:
    """The encoder from its source, under a head for the task.

    Args:
        source: the arguments that say where the encoder is from, and its channels.
    """
    arguments = {
        **source,
        "training_mode": opt.training_mode,
        "layer_decay": opt.layer_decay,
        "layer_groups": opt.layer_groups,
        "weight_decay": opt.weight_decay,
        "learning_rate": opt.learning_rate,
        "head_dropout_prob": opt.head_dropout_prob,
        "scheduler_kwargs": from_json("--scheduler-kwargs", opt.scheduler_kwargs),
        "greyscale": opt.channels == 1,
        "stem_learning_rate": opt.stem_learning_rate,
        "seed": opt.seed,
    }
    if opt.task == "tree":
        return finetune.FinetuneableZoobotTree(schema, opt.head, **arguments)
    if opt.task == "regression":
        return finetune.FinetuneableZoobotRegressor(
            opt.label_col,
            opt.loss,
            opt.unit_interval,
            label_scale=None if opt.unit_interval else opt.label_scale,
            **arguments,
        )
    weights = opt.class_weights
    return finetune.FinetuneableZoobotClassifier(
        opt.num_classes or len(class_names),
        opt.label_col,
        opt.label_smoothing,
        weights if weights == "balanced" else from_json("--class-weights", weights),
        class_names=class_names if opt.num_classes in (None, len(class_names)) else None,
        **arguments,
    )


def encoder_arguments(opt: argparse.Namespace, resume_from: dict | None = None) -> dict:
    """Which of the three sources of an encoder ``--encoder`` is; nothing is loaded to resume."""
    if resume_from is not None:
        described = resume_from["description"]["encoder"]
        kwargs = described["timm_kwargs"] | {"pretrained": False}
        return {"name": described["architecture"], "timm_kwargs": kwargs}
    if opt.from_scratch and (is_outside(placed(opt.encoder)) or is_model(opt.encoder)):
        raise UserError(f"--from-scratch needs a timm name, not {opt.encoder}")
    if is_model(opt.encoder):
        return {"zoobot_checkpoint_loc": opt.encoder, "fresh_stem": opt.fresh_stem}
    if opt.fresh_stem and opt.from_scratch:
        raise UserError("--fresh-stem is for pretrained weights: with --from-scratch all are fresh")
    kwargs = from_options.image_size_kwargs(opt.encoder, opt.image_size)
    if opt.from_scratch:
        torch.manual_seed(opt.seed)
        kwargs["pretrained"] = False
    return {"name": opt.encoder, "timm_kwargs": kwargs, "fresh_stem": opt.fresh_stem}


def from_json(option: str, text: str | None):
    """The value of an option that is JSON."""
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{option} {text!r} is not JSON: {error}") from error


def report(opt: argparse.Namespace, trainer: Trainer, best: dict[str, dict]) -> None:
    """Print the best weights' metrics beside a constant's, and draw how they came about."""
    names = {"val": "validation", "test": "test"}
    told = [
        f"{names[s]}: {told_metrics(best[s], trainer.constants.get(names[s], {}))}" for s in best
    ]
    print(f"\nbest weights (epoch {trainer.best_epoch})\n" + "\n".join(told))
    folder = Path(opt.save_dir)
    run_figures.plot_curves(read_metrics(folder), folder / "curves.png")
    print(f"\nweights {folder / 'best.safetensors'}; figure {folder / 'curves.png'}")


if __name__ == "__main__":
    run_script(main, parse)
