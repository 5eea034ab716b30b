"""Draw the figures of classes, and what all figures share. Each function returns one ``Figure``.

Those with several panels take the number of panels in a row: ``WIDE`` for a file and a wide page,
``NARROW`` for a phone.
"""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from zoobot.evaluation.room import MOST_ANSWERS
from zoobot.evaluation.run_figures import BLUE, GREY, ORANGE, tidy
from zoobot.evaluation.scores import Calibration, Selection, class_scores
from zoobot.evaluation.uncertainty import exact_interval, wilson_interval

WIDE, NARROW = 4, 1  # panels in a row
PHONE_INCHES = 4.2  # a figure of this width can be read on a phone


def grid(num_panels: int, width: float, height: float, columns: int) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels, each of this width and height in inches."""
    columns = min(columns, num_panels)
    rows = math.ceil(num_panels / columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[num_panels:]:
        axis.set_axis_off()
    return figure, list(axes[:num_panels])


def one_panel(width: float, height: float, columns: int) -> Figure:
    """A figure with one panel of this size in inches, on a phone not wider than its screen."""
    width = min(width, PHONE_INCHES) if columns == NARROW else width
    return Figure(figsize=(width, height), layout="constrained")


def opacity(num_points: int) -> float:
    """The opacity of points: less for many of them."""
    return min(0.8, max(0.05, 300 / max(num_points, 1)))


def legend_above(figure: Figure, axis: Axes, columns: int) -> None:
    """The legend of an axis, above it: there it hides nothing."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=1 if columns == NARROW else 3,
        frameon=False,
        fontsize=8,
    )


def arms(values: np.ndarray, interval: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Lengths (2, N) of the error bars from values to the ends of their intervals."""
    values, lower, upper = (np.nan_to_num(each) for each in (values, *interval))
    return np.maximum([values - lower, upper - values], 0)


def draw_confusion(axis: Axes, confusion: np.ndarray, names: list[str], size: int) -> None:
    """Draw the counts of a confusion matrix, coloured by their share of the true class.

    Of more than ``MOST_ANSWERS`` classes the colours only.
    """
    total = confusion.sum(axis=1, keepdims=True)
    share = confusion / np.maximum(total, 1)
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(confusion.shape if len(names) <= MOST_ANSWERS else (0, 0)):
        colour = "white" if share[i, j] > 0.55 else "0.15"
        axis.text(j, i, confusion[i, j], ha="center", va="center", fontsize=size, color=colour)
    axis.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=size)
    axis.set_yticks(range(len(names)), names, fontsize=size)


def confusion_matrix(confusion: np.ndarray, names: list[str], columns: int = WIDE) -> Figure:
    """A matrix of counts: true class (rows) and predicted class (columns)."""
    side = 2.2 + (0.7 if len(names) <= MOST_ANSWERS else 0.16) * len(names)
    figure = one_panel(side, side, columns)
    axis = figure.subplots()
    draw_confusion(axis, confusion, names, 10)
    axis.set_xlabel("predicted class")
    axis.set_ylabel("true class")
    return figure


def per_class_accuracy(confusion: np.ndarray, names: list[str], columns: int = WIDE) -> Figure:
    """A bar for each true class: the share that is predicted rightly, with its 90% interval."""
    right, totals = np.diag(confusion), confusion.sum(axis=1)
    recall = class_scores(confusion)["recall"]
    lower, upper = exact_interval(right, totals)
    errors = arms(recall, (lower, np.where(totals > 0, upper, 0)))
    figure = one_panel(7, 1.2 + 0.45 * len(names), columns)
    axis = figure.subplots()
    labels = [f"{name} ({total})" for name, total in zip(names, totals, strict=True)]
    axis.barh(labels, np.nan_to_num(recall), xerr=errors, color=BLUE, ecolor="0.25", capsize=3)
    for place, (value, high) in enumerate(zip(recall, upper, strict=True)):
        text, end = ("no galaxy", 0) if math.isnan(value) else (f"{value:.1%}", high)
        axis.annotate(
            text, (end, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9
        )
    axis.set_xlim(0, 1.18)
    axis.set_xticks(np.linspace(0, 1, 6))
    axis.set_xlabel("predicted right, share of the galaxies of this class")
    axis.invert_yaxis()
    tidy(axis, "x")
    return figure


def confidence_distribution(
    confidence: np.ndarray, is_right: np.ndarray, num_classes: int, columns: int = WIDE
) -> Figure:
    """Histograms of the predicted class's probability, right predictions above, wrong below.

    The probability of the predicted class is at least one over the number of classes.
    """
    figure = one_panel(7, 4.4, columns)
    axes = figure.subplots(2, 1, sharex=True)
    edges = np.linspace(1 / num_classes, 1, 31)
    for axis, chosen, colour, name in (
        (axes[0], is_right, BLUE, "right"),
        (axes[1], ~is_right, ORANGE, "wrong"),
    ):
        axis.hist(np.clip(confidence[chosen], edges[0], 1), edges, color=colour)
        axis.set_ylabel("galaxies")
        axis.set_title(f"{name}: {chosen.sum()} galaxies", loc="left", fontsize=10)
        axis.yaxis.get_major_locator().set_params(integer=True)
        tidy(axis)
    axes[1].set_xlim(edges[0], 1)
    axes[1].set_xlabel("probability of the predicted class")
    return figure


def residual_distribution(
    truth: np.ndarray, probabilities: np.ndarray, names: list[str], columns: int = WIDE
) -> Figure:
    """Histograms of 1 - (probability of the true class), one panel for each true class."""
    figure, axes = grid(len(names), 3.4, 2.8, columns)
    for i, (axis, name) in enumerate(zip(axes, names, strict=True)):
        residuals = 1 - probabilities[truth == i, i]
        axis.hist(residuals, np.linspace(0, 1, 31), color=BLUE)
        axis.set_title(f"{name}: no galaxy", fontsize=10)
        if len(residuals):
            axis.axvline(np.median(residuals), color=ORANGE, lw=1.5)
            axis.set_title(f"{name}: median {np.median(residuals):.2f}", fontsize=10)
        axis.set_xlabel("1 - p(true class)")
        axis.yaxis.get_major_locator().set_params(integer=True)
        tidy(axis)
        if axis.get_subplotspec().is_first_col():
            axis.set_ylabel("galaxies")
    return figure


def calibration(result: Calibration, columns: int = WIDE) -> Figure:
    """Accuracy against confidence, with 90% intervals. Below the diagonal, p is too high."""
    figure = one_panel(5.5, 5.5, columns)
    axis, counts_axis = figure.subplots(2, 1, height_ratios=[4, 1], sharex=True)
    axis.plot([0, 1], [0, 1], color=GREY, ls="--", lw=1)
    full = result.counts > 0
    share, counts = result.accuracy[full], result.counts[full]
    errors = arms(share, wilson_interval(share * counts, counts))
    axis.errorbar(result.confidence[full], share, errors, fmt="o-", color=BLUE, capsize=2)
    axis.set_ylabel("predicted right")
    axis.set_ylim(-0.02, 1.02)
    axis.annotate(
        f"expected calibration error {result.error:.3f}\n"
        f"(of a perfect model {result.perfect:.3f}, at most {result.perfect_high:.3f})",
        (0.03, 0.88),
        xycoords="axes fraction",
    )
    width = 1 / len(result.counts)
    counts_axis.bar((np.arange(len(result.counts)) + 0.5) * width, result.counts, width, color=GREY)
    counts_axis.set_ylabel("galaxies")
    counts_axis.set_xlabel("probability of the predicted class")
    for each in (axis, counts_axis):
        tidy(each)
    return figure


def selections(chosen: dict[str, Selection], columns: int = WIDE) -> Figure:
    """Completeness and purity against the threshold, one panel for each class, with 90% bands."""
    figure, axes = grid(len(chosen), 3.4, 3.1, columns)
    for axis, (name, each) in zip(axes, chosen.items(), strict=True):
        of_class = each.found[0]
        for colour, label, share, total in (
            (BLUE, "completeness", each.completeness, np.full_like(each.found, of_class)),
            (ORANGE, "purity", each.purity, each.chosen),
        ):
            axis.plot(each.thresholds, share, color=colour, label=label)
            some = total > 0
            band = wilson_interval(each.found[some], total[some])
            axis.fill_between(each.thresholds[some], *band, color=colour, alpha=0.15, lw=0)
        axis.set_title(f"{name} ({of_class} galaxies)", fontsize=10)
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1.03)
        axis.set_xlabel("at least this probability")
        tidy(axis)
    legend_above(figure, axes[0], columns)
    return figure


def galaxy_row(images: list[Image.Image | None], titles: list[str], columns: int = WIDE) -> Figure:
    """Images of galaxies, each with a title above it; side by side, on a phone two in a row."""
    figure, axes = grid(len(images), 2.6, 3.1, 2 if columns == NARROW else len(images))
    for axis, image, title in zip(axes, images, titles, strict=True):
        axis.set_axis_off()
        axis.set_title(title, fontsize=9)
        if image is not None:
            axis.imshow(image)
    return figure
