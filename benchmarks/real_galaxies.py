"""Train on real galaxies and write what came out, with how long it took.

    python benchmarks/real_galaxies.py sdss4 --data DATA          # 4 classes, the fixed recipe
    python benchmarks/real_galaxies.py sdss4-recipe --data DATA   # 4 classes, our recipe
    python benchmarks/real_galaxies.py rings --data DATA          # ring or not, from scratch
    python benchmarks/real_galaxies.py transfer --data DATA       # the same from an SDSS encoder

DATA holds gz1_sdss/ and decals_rings/: catalog.csv and images/ each, split train and val. Results
are JSON lines in --out, one a seed; --table prints them as the table in docs/results.md.
"""

import argparse
import json
import os
import time
from pathlib import Path

import timm
import torch

from zoobot import logs
from zoobot.data import (
    CatalogDataModule,
    default_view_config,
    get_galaxy_transform,
    minimal_view_config,
)
from zoobot.data.catalog import read_catalog
from zoobot.finetune import FinetuneableZoobotClassifier, get_trainer

REPO = Path(__file__).parent.parent
SDSS_TREE = {
    "smooth-or-featured": {"answers": ["_smooth", "_featured-or-disk"], "asked_after": None},
    "disk-edge-on": {
        "answers": ["_yes", "_no"],
        "asked_after": "smooth-or-featured_featured-or-disk",
    },
    "merging": {"answers": ["_merger", "_none"], "asked_after": None},
}


def data_module(opt, name: str, label: str, seed: int, train_view=None, val_view=None, size=96):
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
        batch_size=64,
        num_workers=opt.num_workers,
        seed=seed,
    )


def fresh_encoder(name: str, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return timm.create_model(name, num_classes=0)


def train(opt, case: str, seed: int, model, data, epochs: int, patience: int) -> dict:
    """Fit, and validate the best weights: a line of results."""
    folder = Path(opt.out) / "runs" / f"{case}-{seed}"
    trainer = get_trainer(folder, max_epochs=epochs, patience=patience, precision=opt.precision)
    start = time.perf_counter()
    trainer.fit(model, data)
    seconds = time.perf_counter() - start
    metrics = trainer.validate(model, data)[0]
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
    """The fixed work: resnet18, 96 px, default view, 10 epochs of 64, one rate, dropout 0.2."""
    model = FinetuneableZoobotClassifier(
        encoder=fresh_encoder("resnet18", seed),
        num_classes=4,
        learning_rate=1e-3,
        layer_decay=1,
        head_dropout_prob=0.2,
        scheduler_kwargs={"sched": "cosine", "warmup_epochs": 1},
        seed=seed,
    )
    data = data_module(opt, "gz1_sdss", "label", seed)
    return train(opt, "sdss4", seed, model, data, epochs=10, patience=10)


CASES = {"sdss4": sdss4}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--data", default=os.environ.get("ZOOBOT_TEST_DATA", "data"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--out", default="runs/real_galaxies")
    opt = parser.parse_args()
    for seed in opt.seeds:
        line = CASES[opt.case](opt, seed) | {"environment": logs.environment()}
        with open(Path(opt.out) / "results.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps({k: v for k, v in line.items() if k != "environment"}), flush=True)


if __name__ == "__main__":
    main()
