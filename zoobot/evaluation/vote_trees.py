"""A picture of some galaxies, each with its decision tree as predicted and as volunteers voted."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from zoobot.evaluation.figures import WIDE
from zoobot.evaluation.run_figures import BLUE
from zoobot.schemas import Question, Schema

MOST_GALAXIES = 4
COLOURS = (BLUE, "#9ecae1", "#c6dbef", "#deebf7", "#eef4fb")  # of the leading answer, then others
ASKED = 0.5  # a question that fewer volunteers reach is left out
MOST_DRAWN = 12  # questions below a galaxy, and answers in a bar; the last is of all others
LONGEST_ID = 44  # of longer ones the end is shown
LABELLED = 0.28  # an answer with less has no room for its name
BAR, THIN, ROW = 0.4, 0.16, 1.15  # heights


def leading_paths(schema: Schema, probabilities: np.ndarray) -> list[list[int]]:
    """The leading answers (their places) of the questions that most volunteers reach.

    Args:
        probabilities: (N, A) of the answers of each question.

    Returns:
        Those of each of the N galaxies.
    """
    asked = schema.proportion_asked(probabilities) >= ASKED
    leading = np.stack([_leading(q, probabilities) for q in schema.questions], axis=1)
    return [row[reached].tolist() for row, reached in zip(leading, asked, strict=True)]


def _leading(question: Question, probabilities: np.ndarray) -> np.ndarray:
    answers = slice(question.start_index, question.end_index + 1)
    return question.start_index + np.argmax(probabilities[:, answers], axis=1)


def different_galaxies(
    schema: Schema, probabilities: np.ndarray, number: int = MOST_GALAXIES
) -> list[int]:
    """The rows of some galaxies that differ: of each path down the tree the clearest one.

    The first has the longest path; each of the next has the most answers that those before it lack,
    less those that they have.

    Args:
        probabilities: (N, A) of the answers of each question.
    """
    clearest: dict[tuple[int, ...], tuple[float, int]] = {}
    for row, path in enumerate(map(tuple, leading_paths(schema, probabilities))):
        p = probabilities[row]
        if np.isfinite(p).all():
            clear = float(np.log(np.maximum(p[[*path]], 1e-9)).mean())
            if path not in clearest or clear > clearest[path][0]:
                clearest[path] = clear, row
    chosen = sorted(clearest, key=lambda path: (-len(path), -clearest[path][0]))[:1]
    while len(chosen) < min(number, len(clearest)):
        seen = {answer for path in chosen for answer in path}
        left = [path for path in clearest if path not in chosen]
        new = {path: len(path) - 2 * len(seen.intersection(path)) for path in left}
        chosen.append(max(left, key=lambda path: (new[path], clearest[path][0])))
    return [clearest[path][1] for path in chosen]


def vote_trees(
    schema: Schema,
    ids: Sequence[str],
    images: Sequence[Image.Image],
    probabilities: np.ndarray,
    votes: np.ndarray | None = None,
    columns: int = WIDE,
) -> Figure:
    """Galaxies side by side, under each the questions that most volunteers reach.

    The bars are the predicted shares of the answers, the leading one dark; the thin bars below them
    those of the volunteers.

    Args:
        probabilities: (N, A) of the answers of each question.
        votes: (N, A); None: there are none.
        columns: the most galaxies in a row.
    """
    paths = [path[:MOST_DRAWN] for path in leading_paths(schema, probabilities)]
    most = max(map(len, paths))
    across = min(columns, len(paths))
    heights = [3.0, 0.52 * most] * math.ceil(len(paths) / across)
    figure = Figure(figsize=(3.1 * across, sum(heights)), layout="constrained")
    axes = figure.subplots(len(heights), across, squeeze=False, height_ratios=heights)
    for axis in axes.flat:
        axis.set_axis_off()
    for i, path in enumerate(paths):
        row, column = divmod(i, across)
        picture, tree = axes[2 * row : 2 * row + 2, column]
        picture.imshow(images[i])
        name = ids[i] if len(ids[i]) <= LONGEST_ID else f"…{ids[i][1 - LONGEST_ID :]}"
        picture.set_title(name, fontsize=8, color="0.4")
        counts = None if votes is None else votes[i]
        _draw_tree(tree, schema, path, probabilities[i], counts, most)
    return figure


def _draw_tree(
    axis: Axes,
    schema: Schema,
    path: list[int],
    probabilities: np.ndarray,
    votes: np.ndarray | None,
    most: int,
) -> None:
    for place, leading in enumerate(path):
        question = schema.answers[leading].question
        top = -place * ROW
        axis.text(0, top + 0.06, question.text.replace("-", " "), fontsize=8, color="0.35")
        order = range(question.start_index, question.end_index + 1)
        order = sorted(order, key=lambda answer: -probabilities[answer])
        names = [schema.answers[answer].pretty_text for answer in order]
        _draw_bar(axis, top - BAR, BAR, probabilities[order], names)
        if votes is not None and votes[order].sum():
            _draw_bar(axis, top - BAR - THIN - 0.03, THIN, votes[order] / votes[order].sum())
    axis.set(xlim=(0, 1), ylim=(-ROW * most + 0.3, 0.45))


def _draw_bar(
    axis: Axes, bottom: float, height: float, shares: np.ndarray, names: Sequence[str] = ()
) -> None:
    """One bar of the shares of a question's answers, the leading one first."""
    left = 0.0
    if len(shares) > MOST_DRAWN:
        others = shares[MOST_DRAWN - 1 :].sum(keepdims=True)
        shares, names = np.append(shares[: MOST_DRAWN - 1], others), [*names][: MOST_DRAWN - 1]
        names = [*names, "others"] if names else names
    for rank, share in enumerate(shares):
        colour = COLOURS[min(rank, len(COLOURS) - 1)]
        axis.barh(bottom, share, height, left, align="edge", color=colour, edgecolor="white")
        if names and (share >= LABELLED or rank == 0):
            told, tone = f"{names[rank]} {share:.2f}", "white" if rank == 0 else "0.2"
            middle = bottom + height / 2 - 0.02
            axis.text(left + 0.015, middle, told, fontsize=7.5, color=tone, va="center")
        left += share
