"""Train on real galaxies and write what came out, with how long it took.

    python benchmarks/real_galaxies.py sdss4 --data DATA       # 4 classes, the fixed work
    python benchmarks/real_galaxies.py recipe --data DATA      # 4 classes, as well as in 15 minutes
    python benchmarks/real_galaxies.py rings --data DATA       # ring or not, from scratch
    python benchmarks/real_galaxies.py transfer --data DATA    # the same, encoder of SDSS votes
    python benchmarks/real_galaxies.py table                   # what all of them gave, rings.png

DATA holds gz1_sdss/ and decals_rings/, each with catalog.csv (split train and val) and images/.
Rings are trained on some of train, the rest of which choose the epoch; val is looked at once, at
the end. Of the four classes, val does both. Results are JSON lines in OUT/results.jsonl, one a
seed; each run leaves a report in its folder, OUT/runs/CASE-EPOCHS-SEED/report.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import timm
import torch
from matplotlib.figure import Figure

from zoobot import evaluate
from zoobot.data import (
    CatalogDataModule,
    default_view_config,
    get_galaxy_transform,
    minimal_view_config,
    zoomed_view_configs,
)
from zoobot.data.catalog import read_catalog
from zoobot.models.finetune import FinetuneableZoobotClassifier
from zoobot.pytorch.predictions.predict_on_catalog import predict
from zoobot.pytorch.training.trainer import get_trainer
from zoobot.runs.environment import environment

REPO = Path(__file__).parent.parent
RINGS_PX = 64
FEW_LABELS = 120  # more epochs, of few steps each
RECIPE_PX = 96
RECIPE_EPOCHS = 8
RECIPE_VIEWS = 6
SDSS_TREE = {
    "smooth-or-featured": {"answers": ["_smooth", "_featured-or-disk"], "asked_after": None},
    "disk-edge-on": {
        "answers": ["_yes", "_no"],
        "asked_after": "smooth-or-featured_featured-or-disk",
    },
    "merging": {"answers": ["_merger", "_none"], "asked_after": None},
}


def read_splits(opt, name: str, label: str) -> dict:
    """Galaxies to train on and to validate with, of one of the data sets."""
    table = read_catalog(Path(opt.data) / name / "catalog.csv", [label])
    return {s: table[table["split"] == s].reset_index(drop=True) for s in ("train", "val")}


def data_module(
    opt, splits: dict, label: str, seed: int, train_view=None, val_view=None, size=96, batch_size=64
):
    """Galaxies of these splits; by default views are the default ones, at ``size``."""
    train_view = train_view or default_view_config()
    val_view = val_view or minimal_view_config()
    train_view.output_size = val_view.output_size = size
    return CatalogDataModule(
        [label],
        get_galaxy_transform(train_view),
        get_galaxy_transform(val_view),
        **{f"{split}_catalog": table for split, table in splits.items()},
        batch_size=batch_size,
        num_workers=opt.num_workers,
        seed=seed,
        cache=opt.cache,
    )


def zoomed_views(low: float, high: float):
    """Views zoomed until galaxies fill them, whose shapes and pixels are left as they are."""
    train_view, val_view = zoomed_view_configs(low, high)
    train_view.random_affine["shear"] = None
    train_view.erase_iterations = 0
    return train_view, val_view


def fresh_encoder(name: str, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return timm.create_model(name, num_classes=0)


def train(opt, case: str, seed: int, model, data, epochs: int, split="val", num_views=1) -> dict:
    """Fit, and look at galaxies of a split with the best weights: a line of results.

    With several views, ``accuracy`` is that of the mean of predictions over them.
    """
    folder = Path(opt.out) / "runs" / f"{case}-{epochs}-{seed}"
    trainer = get_trainer(folder, max_epochs=epochs, patience=epochs, precision=opt.precision)
    start = time.perf_counter()
    trainer.fit(model, data)
    seconds = time.perf_counter() - start
    metrics = (trainer.test if split == "test" else trainer.validate)(model, data)[0]
    accuracy = one_view = metrics[f"finetuning/{split}_acc"]
    if num_views > 1:
        start = time.perf_counter()
        predicted = predict(data.table(split), model, folder / "views.csv", n_views=num_views)
        correct = predicted.iloc[:, 1:].to_numpy().argmax(1) == data.labels(split)[model.label_col]
        accuracy = float(correct.mean())
        seconds += time.perf_counter() - start
    _, predictions = evaluate.evaluate_run(trainer, model, data)
    evaluate.report_run(predictions, data, folder, f"{case}, seed {seed}")
    return {
        "case": case,
        "seed": seed,
        "accuracy": accuracy,
        "accuracy_of_one_view": one_view,
        "loss": metrics[f"finetuning/{split}_loss"],
        "epochs": epochs,
        "seconds": round(seconds, 1),
    }


def sdss4(opt, seed: int) -> dict:
    """The fixed work: resnet18, 96 px, default view, 10 epochs of 64, dropout 0.2, a schedule."""
    model = FinetuneableZoobotClassifier(
        encoder=fresh_encoder("resnet18", seed),
        num_classes=4,
        learning_rate=1e-3,
        layer_decay=1,
        head_dropout_prob=0.2,
        scheduler_kwargs={"sched": "wsd", "warmup_epochs": 0.5, "decay_epochs": 0.4},
        seed=seed,
    )
    data = data_module(opt, read_splits(opt, "gz1_sdss", "label"), "label", seed)
    return train(opt, "sdss4", seed, model, data, epochs=10)


def recipe(opt, seed: int) -> dict:
    """The same galaxies: from ImageNet, zoomed in, the mean of several views."""
    model = FinetuneableZoobotClassifier(
        name=opt.encoder,
        num_classes=4,
        learning_rate=1e-3,
        layer_decay=0.9,
        label_smoothing=0.1,
        head_dropout_prob=0.2,
        scheduler_kwargs={"sched": "cosine", "warmup_epochs": 0.5},
        seed=seed,
    )
    splits = read_splits(opt, "gz1_sdss", "label")
    views, size = zoomed_views(2.0, 2.6), {"size": RECIPE_PX, "batch_size": 32}
    data = data_module(opt, splits, "label", seed, *views, **size)
    return train(opt, "recipe", seed, model, data, RECIPE_EPOCHS, num_views=RECIPE_VIEWS)


def rings(opt, seed: int) -> dict:
    """Ring or not, from fresh weights."""
    encoder = fresh_encoder("resnet18", seed)
    return train_on_rings(opt, "rings", seed, encoder=encoder, learning_rate=1e-3, layer_decay=1)


def transfer(opt, seed: int) -> dict:
    """The same from the encoder that train.py makes of SDSS votes."""
    weights = pretrained_encoder(opt)
    return train_on_rings(opt, "transfer", seed, zoobot_checkpoint_loc=weights, learning_rate=1e-4)


def train_on_rings(opt, case: str, seed: int, **how) -> dict:
    model = FinetuneableZoobotClassifier(
        num_classes=2,
        label_col="ring",
        label_smoothing=0.1,
        scheduler_kwargs={"sched": "cosine", "warmup_epochs": 1},
        seed=seed,
        **how,
    )
    splits = read_splits(opt, "decals_rings", "ring")
    shuffled = splits["train"].sample(frac=1, random_state=seed, ignore_index=True)
    splits = {
        "train": shuffled[: opt.labels],
        "val": shuffled[opt.labels :].reset_index(drop=True),
        "test": splits["val"],
    }
    views = zoomed_views(1.7, 2.3)
    data = data_module(opt, splits, "ring", seed, *views, size=RINGS_PX, batch_size=32)
    epochs = opt.epochs or (15 if opt.labels > FEW_LABELS else 30)
    return train(opt, f"{case}-{opt.labels}", seed, model, data, epochs, split="test")


def pretrained_encoder(opt) -> Path:
    """Train once on the votes of gz1_sdss."""
    folder = Path(opt.out) / "runs" / "pretrain"
    tree = Path(opt.out) / "sdss_tree.json"
    tree.parent.mkdir(parents=True, exist_ok=True)
    tree.write_text(json.dumps(SDSS_TREE))
    if not (folder / "best.safetensors").exists():
        words = "--encoder resnet18 --epochs 8 --batch-size 64 --image-size"
        command = [sys.executable, str(REPO / "train.py"), *words.split(), str(RINGS_PX)]
        command += ["--catalog", str(Path(opt.data) / "gz1_sdss" / "catalog.csv")]
        subprocess.run([*command, "--schema", str(tree), "--save-dir", str(folder)], check=True)
    return folder / "best.safetensors"


def table(lines: list[dict]) -> str:
    """Mean and standard deviation over seeds, a row a case."""
    rows = [
        "| case | seeds | accuracy | loss | seconds |",
        "|---|---|---|---|---|",
    ]
    keys = ("accuracy", "loss", "seconds")
    names = [f"{line['case']}, {line['epochs']} epochs" for line in lines]
    for case in dict.fromkeys(names):
        seeds = [line for name, line in zip(names, lines, strict=True) if name == case]
        values = {key: [line[key] for line in seeds] for key in keys}
        cells = [
            f"{np.mean(v):.3f} ± {np.std(v, ddof=1) if len(v) > 1 else 0:.3f}"
            for v in (values[key] for key in keys[:2])
        ]
        seconds = " / ".join(f"{x:.0f}" for x in values["seconds"])
        rows.append(f"| {case} | {len(values['seconds'])} | {' | '.join(cells)} | {seconds} |")
    return "\n".join(rows)


def plot_rings(lines: list[dict], out: Path) -> Path:
    """Accuracy against the number of galaxies trained on: all seeds and their mean."""
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axis = figure.subplots()
    shown = {"rings": ("from scratch", "#777777"), "transfer": ("from SDSS votes", "#2a6fbb")}
    named = [(x["case"].split("-"), x["accuracy"]) for x in lines]
    for case, (label, colour) in shown.items():
        points = np.array([(int(name[1]), y) for name, y in named if name[0] == case])
        if not len(points):
            continue
        numbers = np.unique(points[:, 0])
        means = [points[points[:, 0] == number, 1].mean() for number in numbers]
        axis.plot(*points.T, "o", color=colour, mfc="white", ms=6, zorder=3)
        axis.plot(numbers, means, color=colour, lw=2.5, label=f"{label}: seeds, and their mean")
    axis.axhline(0.5, color="0.6", ls="--", lw=1)
    axis.annotate("guessing", (numbers[0], 0.5), xytext=(0, 3), textcoords="offset points")
    axis.set_xscale("log")
    axis.set_xticks(numbers, [f"{number:.0f}" for number in numbers], minor=False)
    axis.set_xticks([], minor=True)
    axis.set_xlabel("galaxies trained on")
    axis.set_ylabel("ring or not: accuracy, 132 galaxies")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="center")
    figure.savefig(out / "rings.png", dpi=130)
    return out / "rings.png"


CASES = {
    "sdss4": sdss4,
    "recipe": recipe,
    "rings": rings,
    "transfer": transfer,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("case", choices=[*CASES, "table"])
    parser.add_argument("--data", default=os.environ.get("ZOOBOT_TEST_DATA", "data"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="of rings, transfer; by default 15 or 30")
    parser.add_argument("--labels", type=int, default=254, help="of rings, transfer: galaxies")
    parser.add_argument("--encoder", default="tf_efficientnet_lite0.in1k", help="of recipe")
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--cache", default="auto", help="where decoded images are kept")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--out", default="runs/real_galaxies")
    opt = parser.parse_args()
    results = Path(opt.out) / "results.jsonl"
    if opt.case == "table":
        if not results.exists():
            parser.error(f"there is no {results}: run other cases first")
        lines = [json.loads(line) for line in results.read_text().splitlines()]
        if any(line["case"].startswith(("rings-", "transfer-")) for line in lines):
            print(plot_rings(lines, Path(opt.out)))
        print(table(lines))
        return
    for seed in opt.seeds:
        line = CASES[opt.case](opt, seed) | {"environment": environment()}
        with open(results, "a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps({k: v for k, v in line.items() if k != "environment"}), flush=True)


if __name__ == "__main__":
    main()
