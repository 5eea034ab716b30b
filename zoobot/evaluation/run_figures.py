"""Draw and save the figures of a training run."""

import functools
import math
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from zoobot.evaluation.pictures import Pictures
from zoobot.evaluation.room import in_figures
from zoobot.runs.log import constant_metrics, constant_of, model_metrics, short_name
from zoobot.schemas import Schema
from zoobot.system.files import write_whole

MAX_FIGURE_PIXELS = 50_000_000
# For figures with names from files: a dollar sign in a name does not start a formula.
plain_text = functools.partial(matplotlib.rc_context, {"text.parse_math": False})
MOST_PANELS = 3
WORDS = {
    "supervised_loss": "loss a galaxy, summed over questions",
    "acc": "accuracy",
    "rmse": "RMSE",
}
BLUE, ORANGE, GREY = "#2a6fbb", "#d9722e", "#777777"


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG. Very large figures get fewer pixels per inch."""
    width, height = figure.get_size_inches()
    dpi = min(150, math.sqrt(MAX_FIGURE_PIXELS / (width * height)))
    write_whole(path, lambda aside: figure.savefig(aside, format="png", dpi=dpi))


def tidy(axis: Axes, lines: str = "y") -> None:
    """Remove the top and right frame lines, and draw light grid lines for the axis ``lines``."""
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis=lines, color="0.92")


def plot_curves(lines: list[dict], path: str | Path, marks: dict[str, float] | None = None) -> None:
    """Draw the metrics of training and validation against the epoch, and save the figure.

    They are the loss and, if there are any, the accuracy or RMSE, each with what the best constant
    prediction reaches on the validation galaxies. Those of single questions are left out.

    Args:
        lines: of ``metrics.jsonl``, as ``zoobot.runs.folder.read_metrics`` returns them.
        marks: name -> loss of another horizontal line.
    """
    by_split = {
        split: [line for line in lines if line["split"] == split]
        for split in ("train", "validation")
    }
    last = by_split["validation"][-1]
    names = [name for name in model_metrics(last) if name.count("/") == 1][:MOST_PANELS]
    figure = Figure(figsize=(7, 4.2 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), squeeze=False)[:, 0]
    best = int(np.argmin([line[names[0]] for line in by_split["validation"]]))
    for place, (axis, name) in enumerate(zip(axes, names, strict=True)):
        beside = constant_metrics(last)
        levels = {constant_of(name): beside[name]} if name in beside else {}
        _plot_metric(axis, by_split, place, best, levels | ((marks or {}) if not place else {}))
        axis.set_ylabel(WORDS.get(short_name(name), short_name(name)))
    axes[-1].set_xlabel("epoch")
    save(figure, path)


def _plot_metric(
    axis: Axes, by_split: dict[str, list[dict]], place: int, best: int, levels: dict[str, float]
) -> None:
    """Draw the metric at this place among those that are shown of a line.

    Args:
        best: the place of the best epoch among the validation lines.
        levels: name -> height of a horizontal line.
    """
    for split, colour in (("train", BLUE), ("validation", ORANGE)):
        points = [(x["epoch"], [*model_metrics(x).values()][place]) for x in by_split[split]]
        if not points:
            continue
        epochs, values = zip(*points, strict=True)
        axis.plot(epochs, values, "o-", color=colour, ms=4, label=split)
        if split == "validation":
            axis.plot(epochs[best], values[best], "o", color=colour, ms=10, mfc="none")
            axis.annotate(
                f"best {values[best]:.3f}",
                (epochs[best], values[best]),
                xytext=(0, -14),
                textcoords="offset points",
                ha=("left" if best == 0 else "right" if best == len(epochs) - 1 else "center"),
                color=colour,
            )
    for name, level in levels.items():
        axis.axhline(level, color=GREY, ls="--", lw=1)
        axis.annotate(
            f"{name} {level:.3f}",
            (1, level),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 3),
            textcoords="offset points",
            ha="right",
            color=GREY,
        )
    axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axis.margins(y=0.12)
    axis.legend(frameon=False)
    tidy(axis)


@plain_text()
def plot_questions(metrics: dict[str, float], schema: Schema, path: str | Path) -> None:
    """Draw bars of each question's accuracy and loss, and save the figure.

    Args:
        metrics: the means of ``metrics.VoteMeasures``.
    """
    asked = [q.text for q in schema.questions if f"question_loss/{q.text}" in metrics]
    num_asked, (asked, cut) = len(asked), in_figures(asked, "questions")
    height = 1.2 + 0.27 * len(asked)
    figure = Figure(figsize=(8, height), layout="constrained")
    accuracy_axis, loss_axis = figure.subplots(1, 2, sharey=True)
    for axis, kind, label in (
        (accuracy_axis, "question_accuracy", "leading answer right"),
        (loss_axis, "question_loss", "loss, galaxies with a vote"),
    ):
        values = [metrics[f"{kind}/{question}"] for question in asked]
        bars = axis.barh(asked, values, color=BLUE, height=0.7)
        axis.bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
        axis.set_xlabel(label)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.12)
    accuracy_axis.set_xlim(0, 1.1)
    accuracy_axis.invert_yaxis()
    if cut:
        figure.suptitle(f"the first {len(asked)} of {num_asked:,} questions", fontsize=9)
    save(figure, path)


@plain_text()
def plot_galaxies(
    catalog: pd.DataFrame,
    schema: Schema,
    path: str | Path,
    rows: int = 4,
    pictures: Pictures | None = None,
) -> None:
    """Draw galaxies with their votes, and save the figure.

    They are chosen evenly from those with votes on few questions to those with votes on many.

    Args:
        pictures: how galaxies are shown; by default as 8-bit images.
    """
    columns = 5
    votes = catalog[schema.label_cols].to_numpy()
    asked = np.add.reduceat(votes, [q.start_index for q in schema.questions], axis=1) > 0
    order = np.argsort(asked.sum(axis=1), kind="stable")
    places = np.linspace(0, len(order) - 1, min(rows * columns, len(order))).astype(int)
    figure = Figure(figsize=(2.3 * columns, 2.7 * rows), layout="constrained")
    axes = figure.subplots(rows, columns).ravel()
    for axis in axes:
        axis.set_axis_off()
    shown = catalog.iloc[order[places]]
    pictures = (pictures or Pictures()).balanced_on(shown)
    if pictures.caption:
        figure.supxlabel(f"pictures: {pictures.caption}", fontsize=9, color=GREY)
    titles = [_leading_answers(galaxy, schema) for _, galaxy in shown.iterrows()]
    longest = max((len(line) for title in titles for line in title.split("\n")), default=1)
    points = min(7, 260 / max(longest, 1))  # no title is wider than its galaxy
    for axis, title, (_, galaxy) in zip(axes, titles, shown.iterrows(), strict=False):
        if (image := pictures.read(galaxy)) is not None:
            axis.imshow(image)
        axis.set_title(title, fontsize=points)
    save(figure, path)


def _leading_answers(galaxy: pd.Series, schema: Schema, longest: int = 4) -> str:
    """The answer with most votes, for each of the ``longest`` questions with most votes."""
    votes = {q.text: galaxy[q.label_cols].to_numpy(dtype=int) for q in schema.questions}
    ranked = sorted(schema.questions, key=lambda q: -votes[q.text].sum())
    lines = []
    for question in ranked[:longest]:
        counts = votes[question.text]
        if counts.sum() > 0:
            answer = question.answers[int(counts.argmax())]
            lines.append(f"{question.text}: {answer.pretty_text} {counts.max()}/{counts.sum()}")
    return "\n".join(lines)
