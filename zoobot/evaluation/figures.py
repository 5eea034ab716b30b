"""Draw the figures of an evaluation. Each function returns one ``Figure``."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from zoobot.evaluation.run_figures import (
    BLUE,
    GREY,
    ORANGE,
    tidy,
)
from zoobot.evaluation.scores import (
    COVERAGE_LEVEL,
    Calibration,
    QuestionAssessment,
    class_scores,
)

PANELS_A_ROW = 4
ACCEPTED_COVERAGE = (0.85, 0.95)  # a coverage between them counts as right


def _grid(num_panels: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels, each of this width and height in inches."""
    columns = min(PANELS_A_ROW, num_panels)
    rows = math.ceil(num_panels / columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[num_panels:]:
        axis.set_axis_off()
    return figure, list(axes[:num_panels])


def _draw_confusion(axis: Axes, confusion: np.ndarray, names: list[str], size: int) -> None:
    """Draw the counts of a confusion matrix, coloured by their share of the true class."""
    total = confusion.sum(axis=1, keepdims=True)
    share = confusion / np.maximum(total, 1)
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(confusion.shape):
        colour = "white" if share[i, j] > 0.55 else "0.15"
        axis.text(j, i, confusion[i, j], ha="center", va="center", fontsize=size, color=colour)
    axis.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=size)
    axis.set_yticks(range(len(names)), names, fontsize=size)


def confusion_matrix(confusion: np.ndarray, names: list[str]) -> Figure:
    """A matrix of counts: true class (rows) and predicted class (columns)."""
    side = 2.2 + 0.7 * len(names)
    figure = Figure(figsize=(side, side), layout="constrained")
    axis = figure.subplots()
    _draw_confusion(axis, confusion, names, 10)
    axis.set_xlabel("predicted class")
    axis.set_ylabel("true class")
    return figure


def per_class_accuracy(confusion: np.ndarray, names: list[str]) -> Figure:
    """A bar for each true class: the share that is predicted rightly, with 68% binomial errors."""
    recall, totals = class_scores(confusion)["recall"], confusion.sum(axis=1)
    error = np.sqrt(recall * (1 - recall) / np.maximum(totals, 1))
    figure = Figure(figsize=(7, 1.2 + 0.45 * len(names)), layout="constrained")
    axis = figure.subplots()
    labels = [f"{name} ({total})" for name, total in zip(names, totals, strict=True)]
    bars = axis.barh(labels, np.nan_to_num(recall), xerr=np.nan_to_num(error), color=BLUE)
    axis.bar_label(bars, [f"{value:.1%}" for value in recall], padding=4, fontsize=9)
    axis.set_xlim(0, 1.15)
    axis.set_xlabel("predicted right, share of the galaxies of this class")
    axis.invert_yaxis()
    tidy(axis, "x")
    return figure


def confidence_distribution(confidence: np.ndarray, is_right: np.ndarray) -> Figure:
    """Histograms of the predicted class's probability, for right and for wrong predictions."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for chosen, colour, name in ((is_right, BLUE, "right"), (~is_right, ORANGE, "wrong")):
        label = f"{name} ({chosen.sum()})"
        axis.hist(confidence[chosen], np.linspace(0, 1, 41), color=colour, alpha=0.6, label=label)
    axis.set_xlabel("probability of the predicted class")
    axis.set_ylabel("galaxies")
    axis.set_yscale("symlog", linthresh=10)
    axis.yaxis.set_major_formatter("{x:g}")
    axis.legend(frameon=False)
    tidy(axis)
    return figure


def residual_distribution(truth: np.ndarray, probabilities: np.ndarray, names: list[str]) -> Figure:
    """Histograms of 1 - (probability of the true class), one panel for each true class."""
    figure, axes = _grid(len(names), 3.2, 2.6)
    for i, (axis, name) in enumerate(zip(axes, names, strict=True)):
        residuals = 1 - probabilities[truth == i, i]
        axis.hist(residuals, np.linspace(0, 1, 31), color=BLUE)
        if len(residuals):
            axis.axvline(np.median(residuals), color=ORANGE, lw=1.5)
            axis.set_title(f"{name}: median {np.median(residuals):.2f}", fontsize=10)
        axis.set_xlabel("1 - p(true class)")
        tidy(axis)
    axes[0].set_ylabel("galaxies")
    return figure


def calibration(result: Calibration) -> Figure:
    """Accuracy against confidence. Below the diagonal, the probabilities are too high."""
    figure = Figure(figsize=(5.5, 5.5), layout="constrained")
    axis, counts_axis = figure.subplots(2, 1, height_ratios=[4, 1], sharex=True)
    axis.plot([0, 1], [0, 1], color=GREY, ls="--", lw=1)
    full = result.counts > 0
    error = np.sqrt(result.accuracy * (1 - result.accuracy) / np.maximum(result.counts, 1))
    axis.errorbar(result.confidence[full], result.accuracy[full], error[full], fmt="o-", color=BLUE)
    axis.set_ylabel("predicted right")
    axis.set_ylim(0, 1)
    axis.annotate(
        f"expected calibration error {result.error:.3f}", (0.03, 0.93), xycoords="axes fraction"
    )
    width = 1 / len(result.counts)
    counts_axis.bar((np.arange(len(result.counts)) + 0.5) * width, result.counts, width, color=GREY)
    counts_axis.set_ylabel("galaxies")
    counts_axis.set_xlabel("probability of the predicted class")
    for each in (axis, counts_axis):
        tidy(each)
    return figure


def galaxy_row(images: list[Image.Image | None], titles: list[str]) -> Figure:
    """Images of galaxies side by side, each with a title above it."""
    figure = Figure(figsize=(2.6 * len(images), 3.1), layout="constrained")
    for axis, image, title in zip(
        figure.subplots(1, len(images), squeeze=False)[0], images, titles, strict=True
    ):
        axis.set_axis_off()
        axis.set_title(title, fontsize=9)
        if image is not None:
            axis.imshow(image)
    return figure


def regression(truth: np.ndarray, predicted: np.ndarray, name: str) -> Figure:
    """Predicted against true values."""
    figure = Figure(figsize=(5.5, 5.5), layout="constrained")
    axis = figure.subplots()
    ends = [min(truth.min(), predicted.min()), max(truth.max(), predicted.max())]
    axis.plot(ends, ends, color=GREY, ls="--", lw=1)
    axis.plot(truth, predicted, ".", color=BLUE, alpha=_alpha(len(truth)), ms=5)
    axis.set_xlabel(f"true {name}")
    axis.set_ylabel(f"predicted {name}")
    axis.set_aspect("equal")
    tidy(axis)
    return figure


def residuals(truth: np.ndarray, predicted: np.ndarray, name: str) -> Figure:
    """Residuals (predicted - true) against true values, and a histogram of them."""
    figure = Figure(figsize=(8, 3.8), layout="constrained")
    axis, histogram = figure.subplots(1, 2, width_ratios=[3, 1], sharey=True)
    axis.plot(truth, predicted - truth, ".", color=BLUE, alpha=_alpha(len(truth)), ms=5)
    axis.set_xlabel(f"true {name}")
    axis.set_ylabel("predicted - true")
    edges = _bin_edges(predicted - truth, 40)
    histogram.hist(predicted - truth, edges, orientation="horizontal", color=BLUE)
    histogram.set_xlabel("galaxies")
    for each in (axis, histogram):
        each.axhline(0, color=GREY, ls="--", lw=1)
        tidy(each)
    return figure


def _bin_edges(values: np.ndarray, num_bins: int) -> np.ndarray:
    """Edges of equal bins over the values, also where these are equal to rounding, or huge."""
    low, high = values.min() / 2, values.max() / 2  # halves: their difference does not overflow
    margin = max(abs(low), abs(high), 1e-300) * 1e-9
    if high - low < margin:
        low, high = low - margin, high + margin
    return np.linspace(low, high, num_bins + 1) * 2


def _alpha(num_points: int) -> float:
    """The opacity of points: less for many of them."""
    return min(0.8, max(0.05, 300 / max(num_points, 1)))


def question_confusions(questions: list[QuestionAssessment], confident: bool) -> Figure:
    """A confusion matrix of leading answers for each question, volunteers' against predicted.

    Args:
        confident: only galaxies whose volunteers agree.
    """
    figure, axes = _grid(len(questions), 3.4, 3.2)
    for axis, question in zip(axes, questions, strict=True):
        confusion = question.confident_confusion if confident else question.confusion
        accuracy = question.confident_accuracy if confident else question.accuracy
        _draw_confusion(axis, confusion, question.answers, 7)
        axis.set_title(f"{question.name}: {accuracy:.1%} of {confusion.sum()}", fontsize=9)
    figure.supxlabel("predicted leading answer", fontsize=10)
    figure.supylabel("volunteers' leading answer", fontsize=10)
    return figure


def fractions(questions: list[QuestionAssessment]) -> Figure:
    """Predicted against volunteers' fractions. One panel per question, one colour per answer."""
    figure, axes = _grid(len(questions), 3.2, 3.5)
    for axis, question in zip(axes, questions, strict=True):
        axis.plot([0, 1], [0, 1], color=GREY, ls="--", lw=1)
        for i, answer in enumerate(question.answers):
            points = (question.observed[:, i], question.predicted[:, i])
            alpha = _alpha(question.galaxies)
            line = axis.plot(*points, ".", ms=4, alpha=alpha, mew=0, rasterized=True)[0]
            axis.plot([], [], ".", color=line.get_color(), label=answer)
        axis.set_title(f"{question.name}: RMSE {question.rmse:.3f}", fontsize=9)
        axis.set_xlim(-0.03, 1.03)
        axis.set_ylim(-0.03, 1.03)
        axis.set_aspect("equal")
        axis.legend(fontsize=6, frameon=False, loc="upper left", handletextpad=0)
    figure.supxlabel("fraction of the volunteers", fontsize=10)
    figure.supylabel("predicted fraction", fontsize=10)
    return figure


def question_bars(questions: list[QuestionAssessment]) -> Figure:
    """Bars for each question: accuracy (of all galaxies, and where volunteers agree) and loss."""
    height = 1.4 + 0.36 * len(questions)
    figure = Figure(figsize=(9, height), layout="constrained")
    accuracy_axis, loss_axis = figure.subplots(1, 2, sharey=True, width_ratios=[2, 1])
    places = np.arange(len(questions))
    for shift, colour, label, values in (
        (-0.2, BLUE, "all galaxies with enough votes", [q.accuracy for q in questions]),
        (0.2, ORANGE, "volunteers agree (> 0.8)", [q.confident_accuracy for q in questions]),
    ):
        bars = accuracy_axis.barh(
            places + shift, np.nan_to_num(values), 0.38, color=colour, label=label
        )
        labels = ["" if math.isnan(value) else f"{value:.2f}" for value in values]
        accuracy_axis.bar_label(bars, labels, padding=2, fontsize=7)
    accuracy_axis.set_yticks(places, [question.name for question in questions], fontsize=9)
    accuracy_axis.set_xlabel("leading answer right")
    accuracy_axis.set_xlim(0, 1.12)
    accuracy_axis.invert_yaxis()
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=8)
    loss_axis.barh(places, [question.loss for question in questions], 0.7, color=GREY)
    loss_axis.set_xlabel("loss, galaxies with a vote")
    for axis in (accuracy_axis, loss_axis):
        tidy(axis, "x")
    return figure


def coverage(questions: list[QuestionAssessment]) -> Figure:
    """Coverage of the 90% intervals for each question, before and after recalibration."""
    figure = Figure(figsize=(7, 1.4 + 0.3 * len(questions)), layout="constrained")
    axis = figure.subplots()
    axis.axvspan(*ACCEPTED_COVERAGE, color=BLUE, alpha=0.12, lw=0)
    axis.axvline(COVERAGE_LEVEL, color=GREY, ls="--", lw=1)
    places = np.arange(len(questions))
    names = [question.name for question in questions]
    axis.plot([q.coverage for q in questions], places, "o", color=BLUE, label="as predicted")
    if not all(math.isnan(q.recalibrated_coverage) for q in questions):
        after = [q.recalibrated_coverage for q in questions]
        axis.plot(after, places, "D", color=ORANGE, mfc="none", label="recalibrated")
    axis.set_yticks(places, names, fontsize=9)
    axis.invert_yaxis()
    axis.set_xlabel("share of observed votes inside the predicted 90% interval")
    axis.set_xlim(min(0.6, min((q.coverage for q in questions), default=0.6) - 0.05), 1)
    axis.legend(frameon=False, fontsize=8, loc="lower left")
    tidy(axis, "x")
    return figure
