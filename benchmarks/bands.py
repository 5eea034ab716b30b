"""What do bands and floats buy? Train on simulated galaxies, whose true probabilities are known.

    python benchmarks/bands.py                 # three seeds; docs/results.md has smaller runs
    python benchmarks/bands.py --smoke         # the same in seconds, to see that it runs

The same galaxies, votes and pixels are shown as pictures of g, r and z in 8 bits, as floats of
these bands, and as floats of g, r, i, z and y. All are trained alike. A seed draws galaxies,
weights, order and views. What is told is how much of the way from the best constant prediction to
the true probabilities the validation loss went. Results are JSON lines in OUT/results.jsonl.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from zoobot import metrics, optim
from zoobot.data import (
    CatalogDataModule,
    ImageSpec,
    default_view_config,
    get_galaxy_transform,
    minimal_view_config,
)
from zoobot.data.bands.spec import Place
from zoobot.data.catalog import read_catalog
from zoobot.data.demo import DEMO_TREE, demo_catalog, true_probabilities
from zoobot.data.demo.catalog import encode_jpeg
from zoobot.data.demo.telescope import lupton_rgb
from zoobot.data.labels import votes
from zoobot.models import ZoobotTree
from zoobot.runs.environment import environment
from zoobot.schemas import Schema, load_schema
from zoobot.trainer import Trainer

DRAWN = ("g", "r", "i", "z", "y")
PICTURES = "8-bit g r z"
CASES = {
    PICTURES: None,
    "float g r z": ("g", "r", "z"),
    "float g r i z y": DRAWN,
}
DRAWN_PX = 96  # of the cutouts; views are smaller


def main(argv: list[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--galaxies", type=int, default=3000, help="75%% to train on, 15%% to validate")
    add("--epochs", type=int, default=12)
    add("--image-size", type=int, default=64, help="side of a view, pixels")
    add("--encoder", default="resnet18", help="any timm encoder, from fresh weights")
    add("--batch-size", type=int, default=64)
    add("--lr", type=float, default=1e-3)
    add("--scaling", default="asinh", help="of the floats")
    add(
        "--softening",
        type=float,
        default=ImageSpec.softening,
        help="of asinh, in units of the sky noise",
    )
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--cases", nargs="+", choices=[*CASES], default=[*CASES])
    add("--num-workers", type=int, default=1)
    add("--device", default="auto")
    add("--out", default="runs/bands")
    add("--smoke", action="store_true", help="few galaxies, one epoch, two seeds")
    opt = parser.parse_args(argv)
    if opt.smoke:
        opt.galaxies, opt.epochs, opt.image_size, opt.seeds = 40, 1, 32, [0, 1]
        opt.encoder = "test_resnet"
    schema, rows = load_schema(DEMO_TREE), []
    Path(opt.out).mkdir(parents=True, exist_ok=True)
    for seed in opt.seeds:
        path = demo_catalog(opt.galaxies, seed, DRAWN_PX, Path(opt.out) / "demo", DRAWN)
        for case in opt.cases:
            row = run(opt, path, case, seed, schema)
            rows.append(row)
            print(json.dumps(row), flush=True)
            with open(Path(opt.out) / "results.jsonl", "a") as file:
                file.write(json.dumps(row | {"environment": environment()}) + "\n")
    print(table(rows))
    return rows


def run(opt: argparse.Namespace, path: Path, case: str, seed: int, schema: Schema) -> dict:
    """Train one case with one seed: a row of results."""
    galaxies = read_catalog(path, schema.label_cols)
    bands, spec = CASES[case], None
    if bands is None:
        galaxies = with_pictures(galaxies, path)
    else:
        places = {band: Place(plane=DRAWN.index(band)) for band in bands}
        spec = ImageSpec(bands, places, opt.scaling, opt.softening)
    splits = {
        split: galaxies[galaxies["split"] == split].reset_index(drop=True)
        for split in ("train", "val")
    }
    data = data_module(opt, splits, schema, spec, seed)
    torch.manual_seed(seed)
    model = ZoobotTree(
        schema=schema,
        architecture_name=opt.encoder,
        channels=data.channels,
        dropout_rate=0.0,
        learning_rate=opt.lr,
        scheduler_kwargs=optim.warm_then("cosine", opt.epochs, min(1, opt.epochs / 2), opt.lr),
        seed=seed,
    )
    folder = Path(opt.out) / f"{case.replace(' ', '-')}-seed{seed}"
    trainer = Trainer(
        folder, max_epochs=opt.epochs, patience=opt.epochs, device=opt.device, seed=seed
    )
    start = time.perf_counter()
    trainer.fit(model, data)
    seconds = time.perf_counter() - start
    loss = trainer.validate(model, data, verbose=False)[0]["validation/supervised_loss"]
    train_votes, val_votes = (
        torch.from_numpy(votes(splits[s], schema.label_cols)) for s in ("train", "val")
    )
    truth = torch.tensor(true_probabilities(splits["val"], schema.label_cols))
    marks = metrics.vote_marks(train_votes, val_votes, truth, schema)
    return {
        "case": case,
        "seed": seed,
        "galaxies": opt.galaxies,
        "epochs": opt.epochs,
        "encoder": opt.encoder,
        "image_size": opt.image_size,
        "scaling": None if spec is None else f"{opt.scaling} {opt.softening:g}",
        "loss": loss,
        **marks,
        "closed": (marks["constant"] - loss) / (marks["constant"] - marks["truth"]),
        "seconds": round(seconds, 1),
    }


def with_pictures(galaxies: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The galaxies as colour JPEGs, made of the same pixels of g, r and z."""
    cubes = np.load(path.with_suffix(".npy"), mmap_mode="r")
    planes = [DRAWN.index(band) for band in ("g", "r", "z")]
    pictures = (lupton_rgb(torch.from_numpy(cube[None, planes]))[0] for cube in cubes)
    images = [encode_jpeg(picture.permute(1, 2, 0).numpy()) for picture in pictures]
    return galaxies.drop(columns="file_loc").assign(image=images)


def data_module(
    opt: argparse.Namespace, splits: dict, schema: Schema, spec: ImageSpec | None, seed: int
) -> CatalogDataModule:
    """Views as ``train.py`` makes them of the demo."""
    train_view, val_view = default_view_config(), minimal_view_config()
    train_view.random_affine["shear"] = None
    train_view.output_size = val_view.output_size = opt.image_size
    return CatalogDataModule(
        schema.label_cols,
        get_galaxy_transform(train_view),
        get_galaxy_transform(val_view),
        train_catalog=splits["train"],
        val_catalog=splits["val"],
        batch_size=opt.batch_size,
        num_workers=opt.num_workers,
        seed=seed,
        spec=spec,
    )


def table(rows: list[dict]) -> str:
    """A row a case: mean and standard deviation over seeds, and how much more than the pictures."""
    lines = [
        "| images | of the way closed, each seed | mean | more than pictures, each seed |",
        "|---|---|---|---|",
    ]
    closed = {(row["case"], row["seed"]): row["closed"] for row in rows}
    for case in dict.fromkeys(row["case"] for row in rows):
        seeds = [seed for name, seed in closed if name == case]
        values = [closed[case, seed] for seed in seeds]
        spread = np.std(values, ddof=1) if len(values) > 1 else 0
        more = [
            f"{closed[case, seed] - closed[PICTURES, seed]:+.1%}"
            for seed in seeds
            if case != PICTURES and (PICTURES, seed) in closed
        ]
        each = ", ".join(f"{value:.1%}" for value in values)
        mean = f"{np.mean(values):.1%} ± {spread:.1%}"
        lines.append(f"| {case} | {each} | {mean} | {', '.join(more)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
