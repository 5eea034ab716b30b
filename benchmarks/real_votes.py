"""Learn the votes of Galaxy Zoo 2 from 50 to 700 real galaxies, from fresh weights and others.

    python benchmarks/real_votes.py imagenet --data DATA      # a start: 4 sizes, 3 seeds
    python benchmarks/real_votes.py imagenet --data DATA --labels 700 --seeds 0    # one run of it
    python benchmarks/real_votes.py table                     # what all gave, real_votes.png
    python benchmarks/real_votes.py best --data DATA --catalog CATALOG --save-loc OUT.parquet

DATA holds gz2_votes/ (800 SDSS galaxies with the votes of volunteers down the whole tree) and
gz1_sdss/ (5,616 with one consensus class), each with catalog.csv (split train and val) and images/.

A run learns from some galaxies of train, a seed's first 50, 150, 350 or all 700. Its last weights
predict the 100 of val, which choose nothing in it. Results are JSON lines in OUT/results.jsonl.

``best`` trains ``MEMBERS`` models of the best recipe on all of train. As many others learn without
``HELD_OUT`` galaxies, whose votes then say how the mixture is to be calibrated (a temperature a
question, OUT/best/report/temperatures.json; OUT/best/report/report.html judges it by val). It
predicts any catalog of SDSS galaxies, with a summary of calibrated intervals beside OUT.parquet.

Everything is done by train.py, finetune.py and predict.py; each of their commands is printed.
"""

import argparse
import json
import os
import shlex
import time
from pathlib import Path

import numpy as np
import pandas as pd
import simulated_encoder
from imagenet_encoder import write_encoder
from matplotlib.figure import Figure
from our_scripts import run_command
from real_galaxies import SDSS_TREE
from simulated_encoder import ENCODER, PROCESS, TRAINING

from zoobot import baselines, evaluate, statistics
from zoobot.data.catalog import read_catalog
from zoobot.evaluation import protocols, vote_scores, worth
from zoobot.evaluation.vote_intervals import assess_intervals
from zoobot.predictions.files import read_predictions
from zoobot.runs.environment import environment
from zoobot.schemas import get_schema

SCHEMA = "gz2_ortho_schema"
EPOCHS = {50: 32, 150: 20, 350: 14, 700: 12}
NUM_VIEWS = 6
BEST, MEMBERS, HELD_OUT = "imagenet-gz1", 3, 100
ZOOM = "--zoom 1.7 2.3"  # until galaxies fill the view
RECIPE = (
    f"--image-size 96 {ZOOM} --shear 0 {PROCESS} --batch-size 32 --learning-rate 3e-3 "
    "--head softplus --head-dropout-prob 0.2 --no-report "
    '--scheduler-kwargs \'{"sched": "cosine", "warmup_epochs": 1}\''
)
PRETRAINED = "--layer-decay 0.9"


def learn_gz1(opt, folder: Path, encoder: str | None = None) -> None:
    """Train on the consensus classes of Galaxy Zoo 1, written as votes.

    The few galaxies that gz2_votes has too are left out.
    """
    tree, catalog = opt.out / "gz1_tree.json", opt.out / "gz1.csv"
    tree.write_text(json.dumps(SDSS_TREE))
    answers = [question + answer for question, q in SDSS_TREE.items() for answer in q["answers"]]
    table = read_catalog(opt.data / "gz1_sdss" / "catalog.csv", answers)
    again = set(pd.concat(read_galaxies(opt).values())["id_str"])
    table[~table["id_str"].isin(again)].to_csv(catalog, index=False)
    words = f"--catalog {catalog} --schema {tree} --epochs 6 {TRAINING} {ZOOM} --save-dir {folder}"
    if encoder is None:
        run_command("train", *shlex.split(f"--encoder {ENCODER} {words}"))
    else:
        words = f"{words} --learning-rate 1e-3 {PRETRAINED}"
        run_command("finetune", *shlex.split(f"--task tree --encoder {encoder} {words}"))


STARTS = {
    "fresh": "fresh weights",
    "gz1": "votes of Galaxy Zoo 1",
    "simulated": "simulated galaxies",
    "simulated-gz1": "simulated, then Galaxy Zoo 1",
    "imagenet": "ImageNet",
    "imagenet-lite1": "ImageNet, a larger encoder",
    "imagenet-gz1": "ImageNet, then Galaxy Zoo 1",
}


def options_of(opt, start: str) -> str:
    """The options of finetune.py for a start, which is made if it is not there yet."""
    if start == "fresh":
        return f"--encoder {ENCODER} --from-scratch"
    folder = opt.out / "starts" / start
    if start in ("imagenet", "imagenet-lite1"):
        if not folder.exists():
            write_encoder(folder, 1 if start.endswith("1") else 0)
        return f"--encoder local-dir:{folder} {PRETRAINED}"
    if not (folder / "done").exists():
        if start == "simulated":
            simulated_encoder.learn(folder)
        elif start == "gz1":
            learn_gz1(opt, folder)
        else:
            before = start.removesuffix("-gz1")
            learn_gz1(opt, folder, options_of(opt, before).split()[1])
        (folder / "done").touch()
    return f"--encoder {folder}/best.safetensors {PRETRAINED}"


def read_galaxies(opt) -> dict[str, pd.DataFrame]:
    """The galaxies of gz2_votes by split, each with its votes."""
    catalog = opt.data / "gz2_votes" / "catalog.csv"
    table = read_catalog(catalog, get_schema(SCHEMA).label_cols)
    return {split: table[table["split"] == split] for split in ("train", "val")}


def train_and_predict(opt, start: str, num_labels: int, seed: int) -> dict:
    """One run: a line of results."""
    galaxies = read_galaxies(opt)
    folder = opt.out / "runs" / f"{start}-{num_labels}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    files = {split: folder / f"{split}.csv" for split in galaxies}
    galaxies["train"] = galaxies["train"].sample(frac=1, random_state=seed)[:num_labels]
    for split, table in galaxies.items():
        table.to_csv(files[split], index=False)
    epochs = EPOCHS[num_labels]
    started = time.perf_counter()
    learn(opt, options_of(opt, start), files["train"], files["val"], epochs, seed, folder)
    seconds = time.perf_counter() - started
    path = folder / "val.parquet"
    predict_views(f"{folder}/checkpoints/last.ckpt", files["val"], path)
    scores = score(path, galaxies["val"])
    made = {"start": start, "labels": num_labels, "seed": seed, "epochs": epochs}
    return made | scores | {"seconds": round(seconds, 1)}


def learn(opt, options: str, catalog: Path, val: Path, epochs: int, seed: int, folder: Path):
    words = f"--task tree --schema {SCHEMA} --catalog {catalog} --val-catalog {val} {options}"
    words += f" {RECIPE} --epochs {epochs} --patience {epochs} --seed {seed}"
    run_command("finetune", *shlex.split(f"{words} --save-dir {folder} --resume never {opt.more}"))


def predict_views(checkpoints: str, catalog: Path, path: Path, more: str = "") -> None:
    words = f"--checkpoint {checkpoints} --catalog {catalog} --n-views {NUM_VIEWS} {PROCESS}"
    run_command("predict", *shlex.split(f"{words} --save-loc {path} {more}"))


def score(path: Path, table: pd.DataFrame) -> dict:
    """Scores of predictions by the votes of the same galaxies, in the same order."""
    schema = get_schema(SCHEMA)
    predictions = read_predictions(path)
    assert list(predictions.ids) == list(table["id_str"])
    concentrations = predictions.values.astype(float)
    votes = table[schema.label_cols].to_numpy(float)
    losses = vote_scores.vote_losses(concentrations, votes, schema)
    questions = vote_scores.assess_votes(concentrations, votes, schema, vote_scores.WELL_VOTED)
    compared = [q for q in questions if q.galaxies]
    weights = [q.galaxies for q in compared]
    fractions = statistics.fractions(concentrations, schema)
    of_half = protocols.decals_scores(fractions, votes, schema, min_volunteers=1)
    intervals = assess_intervals(concentrations, votes, schema, vote_scores.WELL_VOTED)
    worths = worth.assess_worth(fractions, votes, schema)
    marks = {
        name: float(vote_scores.constant_losses(votes, schema, bounds).sum(axis=1).mean())
        for name, bounds in (
            ("constant_loss", baselines.HEAD_BOUNDS),
            ("free_constant_loss", baselines.NO_BOUNDS),
        )
    }
    return {
        "loss": float(losses.sum(axis=1).mean()),
        "loss_error": float(losses.sum(axis=1).std(ddof=1) / np.sqrt(len(losses))),
        **marks,
        "accuracy": questions[0].accuracy,
        "edge_on_accuracy": of_half[1].every.accuracy,
        "rmse": float(np.sqrt(np.average([q.rmse[0] ** 2 for q in compared], weights=weights))),
        "mae": float(np.average([abs(q.predicted - q.observed).mean() for q in compared],
                                weights=weights)),
        "coverage": float(np.average([q.coverage[0] for q in intervals if q.galaxies],
                                     weights=[q.galaxies for q in intervals if q.galaxies])),
        "worth": worths[0].volunteers,
        "worth_interval": worths[0].interval,
    }  # fmt: skip


def best(opt) -> None:
    """Train the models that predict best, calibrate them, and predict a catalog with them."""
    folder, galaxies = opt.out / "best", read_galaxies(opt)
    shuffled = galaxies["train"].sample(frac=1, random_state=0)
    held_out, rest = shuffled[:HELD_OUT], shuffled[HELD_OUT:]
    calibrated = learn_members(opt, folder / "calibration", rest, galaxies["val"])
    members = learn_members(opt, folder / "members", galaxies["train"], galaxies["val"])
    for split, table, models in (
        ("held_out", held_out, calibrated),
        ("val", galaxies["val"], members),
    ):
        table.to_csv(folder / f"{split}.csv", index=False)
        predict_views(models, folder / f"{split}.csv", folder / f"{split}.parquet")
    evaluate.evaluate(
        folder / "val.parquet",
        galaxies["val"],
        folder / "report",
        recalibrate_on=(folder / "held_out.parquet", held_out),
        verbose=True,
    )
    temperatures = f"--summary --temperatures {folder}/report/temperatures.json"
    predict_views(members, opt.catalog, opt.save_loc, temperatures)


def learn_members(opt, folder: Path, train: pd.DataFrame, val: pd.DataFrame) -> str:
    """``MEMBERS`` models of the best recipe, which differ by their seeds; their checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    train.to_csv(folder / "train.csv", index=False)
    val.to_csv(folder / "val.csv", index=False)
    start, runs = options_of(opt, BEST), [folder / str(seed) for seed in range(MEMBERS)]
    for seed, run_folder in enumerate(runs):
        files = (folder / "train.csv", folder / "val.csv")
        learn(opt, start, *files, EPOCHS[700], seed, run_folder)
    return " ".join(f"{run_folder}/checkpoints/last.ckpt" for run_folder in runs)


def mean_and_spread(values: list[float], digits: int) -> str:
    """Mean and standard deviation of seeds."""
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def table(lines: list[dict]) -> str:
    """Means and standard deviations over seeds, a row a start and number of labels."""
    columns = {
        "loss": ("loss", 2),
        "accuracy": ("smooth or featured", 3),
        "edge_on_accuracy": ("edge-on", 3),
        "rmse": ("RMSE", 3),
        "mae": ("MAE", 3),
        "coverage": ("coverage", 3),
        "worth": ("worth", 1),
    }
    heads = ["start", "galaxies", "seeds", *(name for name, _ in columns.values())]
    rows = [heads, ["---"] * len(heads)]
    for start, told in STARTS.items():
        for number in EPOCHS:
            seeds = [x for x in lines if (x["start"], x["labels"]) == (start, number)]
            if seeds:
                cells = [mean_and_spread([x[k] for x in seeds], d) for k, (_, d) in columns.items()]
                rows.append([told, str(number), str(len(seeds)), *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def plot(lines: list[dict], out: Path) -> Path:
    """Loss and worth against the number of galaxies learned from: seeds, and their means."""
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    axes = figure.subplots(1, 2)
    panels = {
        "loss": "loss a galaxy, 100 others (lower is better)",
        "worth": "smooth or featured: worth in volunteers",
    }
    for axis, (key, told) in zip(axes, panels.items(), strict=True):
        for i, (start, name) in enumerate(STARTS.items()):
            points = np.array([(x["labels"], x[key]) for x in lines if x["start"] == start])
            if not len(points):
                continue
            numbers = np.unique(points[:, 0])
            means = [points[points[:, 0] == number, 1].mean() for number in numbers]
            axis.plot(*points.T, "o", color=f"C{i}", ms=3.5, alpha=0.5, zorder=3)
            axis.plot(numbers, means, color=f"C{i}", lw=2, label=name)
        axis.set_xscale("log")
        axis.set_xticks([*EPOCHS], [str(number) for number in EPOCHS])
        axis.set_xticks([], minor=True)
        axis.set_xlabel("labelled galaxies")
        axis.set_ylabel(told)
        axis.spines[["top", "right"]].set_visible(False)
    for key, told in (
        ("constant_loss", "within a sigmoid head's bounds"),
        ("free_constant_loss", "without bounds"),
    ):
        mark = lines[0][key]
        axes[0].axhline(mark, color="0.5", ls="--", lw=1)
        axes[0].annotate(
            f"best constant, {told}", (max(EPOCHS), mark), xytext=(0, 3), ha="right",
            textcoords="offset points", color="0.4", fontsize=8,
        )  # fmt: skip
    axes[1].legend(frameon=False, fontsize=8)
    figure.savefig(out / "real_votes.png", dpi=130)
    return out / "real_votes.png"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("case", choices=[*STARTS, "table", "best"])
    parser.add_argument("--data", type=Path, default=os.environ.get("ZOOBOT_TEST_DATA", "data"))
    parser.add_argument("--labels", type=int, nargs="+", choices=EPOCHS, default=list(EPOCHS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/real_votes"))
    parser.add_argument("--more", default="", help="options of finetune.py, to try others")
    parser.add_argument("--catalog", type=Path, help="of best: galaxies to predict")
    parser.add_argument("--save-loc", type=Path, help="of best: their predictions")
    opt = parser.parse_args()
    results = opt.out / "results.jsonl"
    if opt.case == "table":
        if not results.exists():
            parser.error(f"there is no {results}: run the starts first")
        lines = [json.loads(line) for line in results.read_text().splitlines()]
        print(plot(lines, opt.out), table(lines), sep="\n")
        return
    opt.out.mkdir(parents=True, exist_ok=True)
    if opt.case == "best":
        if not (opt.catalog and opt.save_loc):
            parser.error("best needs --catalog and --save-loc")
        best(opt)
        return
    for num_labels in opt.labels:
        for seed in opt.seeds:
            line = train_and_predict(opt, opt.case, num_labels, seed)
            with open(results, "a") as file:
                file.write(json.dumps(line | {"environment": environment()}) + "\n")
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
