"""Train on real galaxies and write what came out, with how long it took.

    python benchmarks/real_galaxies.py sdss4 --data DATA       # 4 classes, the fixed work
    python benchmarks/real_galaxies.py recipe --data DATA      # 4 classes, as well as in 15 minutes
    python benchmarks/real_galaxies.py rings --data DATA       # ring or not, from scratch
    python benchmarks/real_galaxies.py transfer --data DATA    # the same, encoder of SDSS votes
    python benchmarks/real_galaxies.py lite-rings --data DATA  # the recipe's encoder from scratch
    python benchmarks/real_galaxies.py lite-imagenet --data DATA  # from ImageNet
    python benchmarks/real_galaxies.py lite-transfer --data DATA  # from ImageNet, then the recipe
    python benchmarks/real_galaxies.py table                   # what all of them gave, rings.png

DATA holds gz1_sdss/ and decals_rings/, each with catalog.csv (split train and val) and images/.
Results are JSON lines in OUT/results.jsonl, one a seed; each run leaves a report of the validation
galaxies in its folder, OUT/runs/CASE-EPOCHS-SEED/report.
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

from zoobot import encoders, evaluate, logs
from zoobot.data import (
    CatalogDataModule,
    default_view_config,
    get_galaxy_transform,
    minimal_view_config,
)
from zoobot.data.catalog import read_catalog
from zoobot.finetune import FinetuneableZoobotClassifier, get_trainer

REPO = Path(__file__).parent.parent
RINGS_PX = 64
RECIPE_PX = 112
RECIPE_EPOCHS = 6
SDSS_TREE = {
    "smooth-or-featured": {"answers": ["_smooth", "_featured-or-disk"], "asked_after": None},
    "disk-edge-on": {
        "answers": ["_yes", "_no"],
        "asked_after": "smooth-or-featured_featured-or-disk",
    },
    "merging": {"answers": ["_merger", "_none"], "asked_after": None},
}


def data_module(
    opt, name: str, label: str, seed: int, train_view=None, val_view=None, size=96, batch_size=64
):
    """Train and val galaxies of one of the data sets; views are the default ones at ``size``."""
    table = read_catalog(Path(opt.data) / name / "catalog.csv", [label])
    split = {s: table[table["split"] == s].reset_index(drop=True) for s in ("train", "val")}
    train_view = train_view or default_view_config()
    val_view = val_view or minimal_view_config()
    train_view.output_size = val_view.output_size = size
    return CatalogDataModule(
        [label],
        get_galaxy_transform(train_view),
        get_galaxy_transform(val_view),
        train_catalog=split["train"],
        val_catalog=split["val"],
        batch_size=batch_size,
        num_workers=opt.num_workers,
        seed=seed,
    )


def zoomed_views(low: float, high: float):
    """Views zoomed until galaxies fill them, whose shapes and pixels are left as they are."""
    train_view, val_view = default_view_config(), minimal_view_config()
    train_view.random_affine.update(scale=(low, high), shear=None)
    train_view.erase_iterations = 0
    val_view.random_affine["scale"] = ((low + high) / 2,) * 2
    return train_view, val_view


def fresh_encoder(name: str, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return timm.create_model(name, num_classes=0)


def train(opt, case: str, seed: int, model, data, epochs: int, patience: int) -> dict:
    """Fit, and validate the best weights: a line of results."""
    folder = Path(opt.out) / "runs" / f"{case}-{epochs}-{seed}"
    trainer = get_trainer(folder, max_epochs=epochs, patience=patience, precision=opt.precision)
    start = time.perf_counter()
    trainer.fit(model, data)
    seconds = time.perf_counter() - start
    metrics = trainer.validate(model, data)[0]
    evaluate.report_run(model, data, folder, f"{case}, seed {seed}", show_progress=False)
    last = [line for line in logs.read_metrics(folder) if line["split"] == "validation"][-1]
    return {
        "case": case,
        "seed": seed,
        "val_accuracy": metrics["finetuning/val_acc"],
        "val_accuracy_last_epoch": last["finetuning/val_acc"],
        "val_loss": metrics["finetuning/val_loss"],
        "epochs": last["epoch"],
        "fit_s": round(seconds, 1),
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
    data = data_module(opt, "gz1_sdss", "label", seed)
    return train(opt, "sdss4", seed, model, data, epochs=10, patience=10)


def recipe(opt, seed: int) -> dict:
    """The same galaxies: an ImageNet encoder, zoomed views, smoothed labels, a cosine."""
    model = FinetuneableZoobotClassifier(
        name=opt.encoder,
        num_classes=4,
        learning_rate=1e-3,
        label_smoothing=0.1,
        head_dropout_prob=0.2,
        scheduler_kwargs={"sched": "cosine", "warmup_epochs": 0.5},
        seed=seed,
    )
    views = zoomed_views(2.0, 2.6)
    data = data_module(opt, "gz1_sdss", "label", seed, *views, size=RECIPE_PX)
    return train(opt, "recipe", seed, model, data, epochs=RECIPE_EPOCHS, patience=RECIPE_EPOCHS)


def rings(opt, seed: int) -> dict:
    """Ring or not from 338 galaxies, from fresh weights."""
    model = FinetuneableZoobotClassifier(
        encoder=fresh_encoder("resnet18", seed),
        num_classes=2,
        label_col="ring",
        learning_rate=1e-3,
        layer_decay=1,
        seed=seed,
    )
    return train_on_rings(opt, "rings", seed, model)


def transfer(opt, seed: int) -> dict:
    """Ring or not, from the encoder that train.py makes of SDSS votes."""
    model = FinetuneableZoobotClassifier(
        zoobot_checkpoint_loc=pretrained_encoder(opt),
        num_classes=2,
        label_col="ring",
        learning_rate=3e-4,
        layer_decay=0.75,
        seed=seed,
    )
    return train_on_rings(opt, "transfer", seed, model)


def lite_rings(opt, seed: int) -> dict:
    """Ring or not, the recipe's encoder from fresh weights."""
    return train_lite_on_rings(
        opt,
        "lite-rings",
        seed,
        encoder=fresh_encoder(encoders.architecture_of(opt.encoder), seed),
        learning_rate=1e-3,
        layer_decay=1,
    )


def lite_imagenet(opt, seed: int) -> dict:
    """The same from ImageNet."""
    return train_lite_on_rings(opt, "lite-imagenet", seed, name=opt.encoder, learning_rate=3e-4)


def lite_transfer(opt, seed: int) -> dict:
    """The same from ImageNet and then SDSS: what ``recipe`` has made with seed 0."""
    weights = Path(opt.out) / "runs" / f"recipe-{RECIPE_EPOCHS}-0" / "best.safetensors"
    return train_lite_on_rings(
        opt, "lite-transfer", seed, zoobot_checkpoint_loc=weights, learning_rate=3e-4
    )


def train_lite_on_rings(opt, case: str, seed: int, **how) -> dict:
    model = FinetuneableZoobotClassifier(
        num_classes=2,
        label_col="ring",
        scheduler_kwargs={"sched": "cosine", "warmup_epochs": 1},
        seed=seed,
        **how,
    )
    return train_on_rings(opt, case, seed, model, *zoomed_views(1.4, 1.9))


def train_on_rings(opt, case: str, seed: int, model, *views) -> dict:
    data = data_module(opt, "decals_rings", "ring", seed, *views, size=RINGS_PX, batch_size=32)
    return train(opt, case, seed, model, data, epochs=opt.epochs, patience=opt.epochs)


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
    for line in lines:
        line["case"] += f", {line['epochs']} epochs"
    rows = [
        "| case | seeds | accuracy | last epoch's | loss | fit, s |",
        "|---|---|---|---|---|---|",
    ]
    keys = ("val_accuracy", "val_accuracy_last_epoch", "val_loss", "fit_s")
    for case in dict.fromkeys(line["case"] for line in lines):
        values = {key: [x[key] for x in lines if x["case"] == case] for key in keys}
        cells = [
            f"{np.mean(v):.3f} ± {np.std(v, ddof=1) if len(v) > 1 else 0:.3f}"
            for v in (values[key] for key in keys[:3])
        ]
        seconds = " / ".join(f"{x:.0f}" for x in values["fit_s"])
        rows.append(f"| {case} | {len(values['fit_s'])} | {' | '.join(cells)} | {seconds} |")
    return "\n".join(rows)


def plot_rings(out: Path) -> Path:
    """Validation accuracy by epoch of the runs on rings, from scratch and transferred."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes = figure.subplots(1, len(RINGS_PANELS), sharey=True)
    for axis, (title, cases) in zip(axes, RINGS_PANELS.items(), strict=True):
        for (case, label), colour in zip(cases.items(), COLOURS, strict=False):
            curves = []
            for folder in sorted((out / "runs").glob(f"{case}-30-*")):
                lines = [x for x in logs.read_metrics(folder) if x["split"] == "validation"]
                curves.append([x["finetuning/val_acc"] for x in lines])
                axis.plot(range(1, len(lines) + 1), curves[-1], color=colour, alpha=0.35, lw=1)
            mean = np.mean(curves, axis=0)
            axis.plot(range(1, len(mean) + 1), mean, color=colour, lw=2.5, label=label)
        axis.axhline(0.5, color="0.6", ls="--", lw=1)
        axis.annotate("guessing", (1, 0.5), xytext=(0, 3), textcoords="offset points", color="0.5")
        axis.set_title(title, fontsize=11)
        axis.set_xlabel("epoch")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, loc="lower right")
    axes[0].set_ylabel("ring or not: validation accuracy, 132 galaxies")
    figure.savefig(out / "rings.png", dpi=130)
    return out / "rings.png"


COLOURS = ("#777777", "#2a6fbb", "#c8553d")
RINGS_PANELS = {
    "resnet18, 64 px": {"rings": "from scratch", "transfer": "from SDSS votes"},
    "EfficientNet-Lite0, 64 px": {
        "lite-rings": "from scratch",
        "lite-imagenet": "from ImageNet",
        "lite-transfer": "from ImageNet, then SDSS",
    },
}


CASES = {
    "sdss4": sdss4,
    "recipe": recipe,
    "rings": rings,
    "transfer": transfer,
    "lite-rings": lite_rings,
    "lite-imagenet": lite_imagenet,
    "lite-transfer": lite_transfer,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("case", choices=[*CASES, "table"])
    parser.add_argument("--data", default=os.environ.get("ZOOBOT_TEST_DATA", "data"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=30, help="of all on rings")
    parser.add_argument("--encoder", default="tf_efficientnet_lite0.in1k", help="of recipe, lite")
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--out", default="runs/real_galaxies")
    opt = parser.parse_args()
    results = Path(opt.out) / "results.jsonl"
    if opt.case == "table":
        print(table([json.loads(line) for line in results.read_text().splitlines()]))
        print(plot_rings(Path(opt.out)))
        return
    for seed in opt.seeds:
        line = CASES[opt.case](opt, seed) | {"environment": logs.environment()}
        with open(results, "a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps({k: v for k, v in line.items() if k != "environment"}), flush=True)


if __name__ == "__main__":
    main()
