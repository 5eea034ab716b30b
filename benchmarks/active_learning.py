"""Does it save labels to choose which galaxies volunteers look at? The loop, on the demo.

    python benchmarks/active_learning.py            # docs/active_learning.md has its results
    python benchmarks/active_learning.py --smoke    # the same in seconds, to see that it runs

The demo's volunteers can be asked: the votes of all galaxies but the first are hidden until a
galaxy is chosen. Each round trains a model from fresh weights on what is labelled (train.py),
predicts all galaxies of the pool (predict.py), chooses (at random; zoobot.select; the same with
--diverse), asks, and merges the answers (zoobot.merge_votes). What is compared is the loss on
galaxies that are never chosen, at equal numbers of labelled galaxies. A seed draws galaxies, the
first labels, weights, order, views and dropout; the first round is the same for all choices.

Results are JSON lines in OUT/results.jsonl, two tables, and the figure OUT/active_learning.png. A
run that was stopped goes on with the same command: rounds in results.jsonl are not made again.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from our_scripts import run_command

from zoobot import metrics
from zoobot.data.demo import DEMO_TREE, demo_catalog, true_probabilities
from zoobot.data.labels import votes
from zoobot.evaluation.run_figures import BLUE, GREY, ORANGE, save, tidy
from zoobot.runs.environment import environment
from zoobot.runs.folder import read_metrics
from zoobot.schemas import load_schema

SCHEMA = load_schema(DEMO_TREE)
QUESTIONS = SCHEMA.questions
CHOICES = ("random", "informative", "diverse")
COLOURS = dict(zip(CHOICES, (GREY, BLUE, ORANGE), strict=True))


def main(argv: list[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--pool", type=int, default=1500, help="galaxies that can be labelled")
    add("--val", type=int, default=80, help="labelled ones that choose the best epoch")
    add("--test", type=int, default=600, help="labelled ones that models are compared by")
    add("--start", type=int, default=100, help="labelled at random in the first round")
    add("--step", type=int, default=100, help="labelled after each round")
    add("--rounds", type=int, default=3, help="trainings of a choice, the first one included")
    add("--epochs", type=int, default=12)
    add("--batch-size", type=int, default=16)
    add("--image-size", type=int, default=48, help="side of a view, pixels")
    add("--encoder", default="resnet10t", help="any timm encoder, from fresh weights")
    add("--dropout", type=float, default=0.5, help="of the head, also in the passes")
    add("--n-samples", type=int, default=50, help="passes of a prediction")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--out", type=Path, default=Path("runs/active-learning"))
    add("--smoke", action="store_true", help="few galaxies, one epoch, two rounds, one seed")
    opt = parser.parse_args(argv)
    if opt.smoke:
        opt.pool, opt.val, opt.test, opt.start, opt.step, opt.rounds = 64, 8, 16, 8, 4, 2
        opt.epochs, opt.image_size, opt.encoder, opt.seeds = 1, 32, "test_resnet", [0]
        opt.n_samples = 3
    opt.out.mkdir(parents=True, exist_ok=True)
    rows, start = [], time.process_time()
    results = opt.out / "results.jsonl"
    results.touch()
    done = {key(row): row for row in map(json.loads, results.read_text("utf-8").splitlines())}
    for seed in opt.seeds:
        for row in loop(opt, seed, done):
            rows.append(row)
            if key(row) not in done:
                with open(results, "a", encoding="utf-8") as file:
                    file.write(json.dumps(row | {"environment": environment()}) + "\n")
    print(table(rows), by_question(rows), sep="\n\n")
    print(f"{time.process_time() - start:.0f} s of processor time")
    save(draw(rows), opt.out / "active_learning.png")
    return rows


def loop(opt: argparse.Namespace, seed: int, done: dict[tuple, dict]) -> Iterator[dict]:
    """All rounds of all choices with one seed: rows of results, as they come.

    Args:
        done: rows of an earlier run in the same folder.
    """
    folder = opt.out / f"seed{seed}"
    folder.mkdir(exist_ok=True)
    galaxies, marks = hide(opt, seed, folder)
    for choice in CHOICES:
        labelled, run = folder / "start.parquet", folder / "start"
        for number in range(opt.rounds):
            name = folder / f"{choice}-{number}"
            row = {"choice": choice, "seed": seed, "labels": opt.start + number * opt.step}
            earlier = done.get(key(row))
            if number:
                if earlier is None:
                    ask(galaxies, choose(opt, choice, seed, labelled, run, name), labelled, name)
                labelled, run = name.with_suffix(".parquet"), name
            if earlier is not None:
                yield earlier
                continue
            if number or choice == CHOICES[0]:
                train_on(opt, seed, labelled, run)
            told = read_metrics(run)[-1]
            loss = told["test/supervised_loss"]
            yield {
                **row,
                "answers": num_answers(labelled),
                "loss": loss,
                **marks,
                "closed": (marks["constant"] - loss) / (marks["constant"] - marks["truth"]),
                "questions": {q.text: told[f"test/question_loss/{q.text}"] for q in QUESTIONS},
            }


def key(row: dict) -> tuple:
    """What tells the rounds apart."""
    return row["choice"], row["seed"], row["labels"]


def num_answers(labelled: Path) -> int:
    """How many answers volunteers gave about the galaxies to train on."""
    known = pd.read_parquet(labelled, columns=["split", *SCHEMA.label_cols])
    return int(known.loc[known["split"] == "train", SCHEMA.label_cols].to_numpy().sum())


def hide(opt: argparse.Namespace, seed: int, folder: Path) -> tuple[pd.DataFrame, dict]:
    """The galaxies with all votes, and marks of the test galaxies.

    Writes ``pool.parquet`` without votes, and ``start.parquet`` with those of the first galaxies
    and of the splits val and test.
    """
    num_galaxies = opt.pool + opt.val + opt.test
    path = demo_catalog(num_galaxies, seed, 64, opt.out / "demo")
    galaxies = pd.read_parquet(path).drop(columns="split")
    splits = np.repeat(["train", "val", "test"], [opt.pool, opt.val, opt.test])
    galaxies["split"] = np.random.default_rng([seed, 0]).permutation(splits)
    pool = galaxies[galaxies["split"] == "train"]
    test = galaxies[galaxies["split"] == "test"]
    pool[["id_str", "image"]].to_parquet(folder / "pool.parquet", index=False)
    start = pd.concat([pool[: opt.start], galaxies[galaxies["split"] != "train"]])
    columns = ["id_str", "image", "split", *SCHEMA.label_cols]
    start[columns].to_parquet(folder / "start.parquet", index=False)
    known, held_out = (torch.from_numpy(votes(table, SCHEMA.label_cols)) for table in (pool, test))
    truth = torch.tensor(true_probabilities(test, SCHEMA.label_cols))
    marks = metrics.vote_marks(known, held_out, truth, SCHEMA)
    return galaxies, {name: marks[name] for name in ("constant", "truth")}


def train_on(opt: argparse.Namespace, seed: int, catalog: Path, save_dir: Path) -> None:
    """Train a model from fresh weights."""
    run_command(
        "train",
        *("--catalog", catalog, "--schema", DEMO_TREE, "--save-dir", save_dir, "--seed", seed),
        *("--encoder", opt.encoder, "--image-size", opt.image_size, "--dropout", opt.dropout),
        *("--epochs", opt.epochs, "--patience", opt.epochs, "--batch-size", opt.batch_size),
        *("--shear", 0),
        *("--resume", "never", "--no-report", "--num-workers", 0),
    )


def choose(
    opt: argparse.Namespace,
    choice: str,
    seed: int,
    labelled: Path,
    run: Path,
    name: Path,
) -> pd.Series:
    """The ids of the galaxies to ask about next."""
    pool = name.parent / "pool.parquet"
    if choice == "random":
        known = pd.read_parquet(labelled, columns=["id_str"])["id_str"]
        others = pd.read_parquet(pool, columns=["id_str"])["id_str"]
        others = others[~others.isin(known)]
        rng = np.random.default_rng([seed, len(known)])
        return others.iloc[rng.permutation(len(others))[: opt.step]]
    made, features = (name.with_name(f"{name.name}-{what}.parquet") for what in ("p", "features"))
    predicted = ("--checkpoint", run, "--catalog", pool, "--num-workers", 0, "--seed", seed)
    run_command("predict", *predicted, "--n-samples", opt.n_samples, "--save-loc", made)
    spread = ()
    if choice == "diverse":
        run_command("predict", *predicted, "--representations", "--save-loc", features)
        spread = ("--diverse", "--representations", features)
    chosen = name.with_name(f"{name.name}-next.csv")
    run_command(
        "zoobot.select",
        *("--predictions", made, "--number", opt.step, "--already", labelled, *spread),
        *("--save-loc", chosen, "--catalog", pool),
    )
    return pd.read_csv(chosen, dtype={"id_str": str})["id_str"]


def ask(galaxies: pd.DataFrame, ids: pd.Series, labelled: Path, name: Path) -> None:
    """Have the volunteers look at these galaxies, and write the catalog with their answers."""
    answers = galaxies.set_index("id_str").loc[ids, SCHEMA.label_cols]
    new = name.with_name(f"{name.name}-votes.csv")
    answers.to_csv(new)
    run_command(
        "zoobot.merge_votes",
        *("--catalog", labelled, "--votes", new, "--schema", DEMO_TREE),
        *("--pool", labelled.parent / "pool.parquet", "--save-loc", name.with_suffix(".parquet")),
    )


def saved_labels(rows: list[dict], choice: str, seed: int) -> float:
    """The share of labels that a choice saves with one seed; negative if it needs more.

    The loss of random choices is taken to fall linearly with the logarithm of the number of labels.
    The mean gap of the rounds after the first, divided by this slope, says by what factor random
    choices need more labels for the same loss.
    """
    curves = {}
    for name in ("random", choice):
        some = [row for row in rows if (row["choice"], row["seed"]) == (name, seed)]
        curves[name] = np.array([(np.log(row["labels"]), row["loss"]) for row in some]).T
    (logs, losses), (_, others) = curves["random"], curves[choice]
    slope = np.polyfit(logs, losses, 1)[0]
    return float(1 - np.exp((losses - others)[1:].mean() / slope)) if slope < 0 else float("nan")


def table(rows: list[dict]) -> str:
    """A row a choice: the way closed at each number of labels, and the labels saved."""
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    numbers = sorted({row["labels"] for row in rows})
    heads = [f"{number} labels" for number in numbers]
    lines = [
        f"| chosen | {' | '.join(heads)} | answers a galaxy | labels saved, each seed | mean |",
        "|---" * (len(heads) + 4) + "|",
    ]
    for choice in CHOICES:
        cells = []
        for number in numbers:
            some = [r["closed"] for r in rows if (r["choice"], r["labels"]) == (choice, number)]
            cells.append(f"{np.mean(some):.1%} ± {_spread(some):.1%}")
        last = [r for r in rows if (r["choice"], r["labels"]) == (choice, numbers[-1])]
        cells.append(f"{np.mean([row['answers'] / row['labels'] for row in last]):.0f}")
        if choice == "random":
            cells += ["", ""]
        else:
            saved = [saved_labels(rows, choice, seed) for seed in seeds]
            cells.append(", ".join(f"{each:+.0%}" for each in saved))
            cells.append(f"{np.mean(saved):+.0%} ± {_spread(saved):.0%}")
        lines.append(f"| {choice} | {' | '.join(cells)} |")
    return "\n".join(lines)


def by_question(rows: list[dict]) -> str:
    """A row a question: the loss in the last round, and how much higher it is if chosen."""
    last = max(row["labels"] for row in rows)
    of = {(row["choice"], row["seed"]): row["questions"] for row in rows if row["labels"] == last}
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    lines = [f"| question, {last} labels | {' | '.join(CHOICES)} |", "|---" * 4 + "|"]
    for question in (q.text for q in QUESTIONS):
        cells = [f"{np.mean([of['random', seed][question] for seed in seeds]):.2f}"]
        for choice in CHOICES[1:]:
            more = [of[choice, s][question] - of["random", s][question] for s in seeds]
            cells.append(f"{np.mean(more):+.2f} ± {_spread(more):.2f}")
        lines.append(f"| {question} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> float:
    """The standard deviation over seeds; 0 of one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def draw(rows: list[dict]) -> Figure:
    """Left the mean of all seeds; right, seed by seed, how much lower the loss is than random's."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    for place, choice in enumerate(CHOICES):
        of_seeds = np.array(
            [
                [(r["labels"], r["closed"], r["loss"]) for r in rows
                 if (r["choice"], r["seed"]) == (choice, seed)]
                for seed in seeds
            ]
        )  # (seeds, rounds, 3)  # fmt: skip
        labels, closed = of_seeds[0, :, 0], of_seeds[..., 1]
        if choice == "random":
            random = of_seeds[..., 2]
        errors = closed.std(axis=0, ddof=1) if len(seeds) > 1 else 0
        shifted = labels * 1.015 ** (place - 1)  # so that bars do not hide each other
        left.errorbar(
            shifted, 100 * closed.mean(axis=0), 100 * errors,
            color=COLOURS[choice], marker="o", markersize=4, capsize=2, label=choice,
        )  # fmt: skip
        if choice != "random":
            gained = random - of_seeds[..., 2]
            for line in gained:
                right.plot(labels, line, color=COLOURS[choice], linewidth=0.8, alpha=0.5)
            right.plot(labels, gained.mean(axis=0), color=COLOURS[choice], marker="o", markersize=4)
    left.set(xlabel="labelled galaxies", ylabel="of the way from constant to truth, %")
    left.set_title("Held-out galaxies, mean and spread of seeds", fontsize=9, loc="left")
    right.set(xlabel="labelled galaxies", ylabel="loss of random minus loss; above 0 is better")
    right.set_title("The same galaxies: each seed (thin), mean (thick)", fontsize=9, loc="left")
    right.axhline(0, color=GREY, linewidth=1)
    left.legend(frameon=False, fontsize=8, loc="lower right")
    for axis in (left, right):
        axis.set_xticks(sorted({row["labels"] for row in rows}))
        tidy(axis)
    return figure


if __name__ == "__main__":
    main()
