"""Draw the figures of predicted votes. Each function returns one ``Figure``."""

import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from zoobot.evaluation.figures import (
    NARROW,
    WIDE,
    arms,
    draw_confusion,
    grid,
    legend_above,
    one_panel,
    opacity,
)
from zoobot.evaluation.run_figures import BLUE, GREY, ORANGE, tidy
from zoobot.evaluation.vote_intervals import COVERAGE_LEVEL, Z_90, IntervalAssessment
from zoobot.evaluation.vote_scores import QuestionAssessment

ACCEPTED_COVERAGE = (0.85, 0.95)  # a coverage between them counts as right


def question_confusions(
    questions: list[QuestionAssessment], confident: bool, columns: int = WIDE
) -> Figure:
    """A confusion matrix of leading answers for each question, volunteers' against predicted.

    Args:
        confident: only galaxies whose volunteers agree.
    """
    figure, axes = grid(len(questions), 3.7, 3.5, columns)
    for axis, question in zip(axes, questions, strict=True):
        confusion = question.confident_confusion if confident else question.confusion
        accuracy = question.confident_accuracy if confident else question.accuracy
        draw_confusion(axis, confusion, question.answers, 7)
        axis.set_title(f"{question.name}\n{accuracy:.1%} of {confusion.sum()}", fontsize=9)
    figure.supxlabel("predicted leading answer", fontsize=10)
    figure.supylabel("volunteers' leading answer", fontsize=10)
    return figure


def fractions(questions: list[QuestionAssessment], columns: int = WIDE) -> Figure:
    """Predicted against volunteers' fractions. One panel per question, one colour per answer."""
    figure, axes = grid(len(questions), 3.4, 4.3, columns)
    for axis, question in zip(axes, questions, strict=True):
        axis.plot([0, 1], [0, 1], color=GREY, ls="--", lw=1)
        for i, answer in enumerate(question.answers):
            points = (question.observed[:, i], question.predicted[:, i])
            alpha = opacity(question.galaxies)
            line = axis.plot(*points, ".", ms=4, alpha=alpha, mew=0, rasterized=True)[0]
            axis.plot([], [], ".", color=line.get_color(), label=answer)
        value, error = question.rmse
        told = f"RMSE {value:.3f}" + ("" if math.isnan(error) else f" ± {error:.3f}")
        axis.set_title(f"{question.name}\n{told}", fontsize=9)
        axis.set_xlim(-0.03, 1.03)
        axis.set_ylim(-0.03, 1.03)
        axis.set_aspect("equal")
        axis.legend(
            fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2,
            handletextpad=0, columnspacing=1,
        )  # fmt: skip
    figure.supxlabel("fraction of the volunteers", fontsize=10)
    figure.supylabel("predicted fraction", fontsize=10)
    return figure


def question_bars(questions: list[QuestionAssessment], columns: int = WIDE) -> Figure:
    """Accuracy and loss of each question with errors, beside majority class and best constant."""
    places, height = np.arange(len(questions)), 1.4 + 0.42 * len(questions)
    if columns == NARROW:
        figure = Figure(figsize=(4.2, 2 * height), layout="constrained")
        accuracy_axis, loss_axis = figure.subplots(2, 1)
    else:
        figure = Figure(figsize=(10, height), layout="constrained")
        accuracy_axis, loss_axis = figure.subplots(1, 2, sharey=True, width_ratios=[2, 1])
    for shift, colour, label, values, ends, constants in (
        (-0.2, BLUE, "all galaxies with a leading answer", [q.accuracy for q in questions],
         [q.accuracy_interval for q in questions], [q.majority[1] for q in questions]),
        (0.2, ORANGE, "volunteers agree (> 0.8)", [q.confident_accuracy for q in questions],
         [q.confident_interval for q in questions], [q.confident_majority[1] for q in questions]),
    ):  # fmt: skip
        values = np.array(values)
        known = ~np.isnan(values)
        errors = arms(values[known], np.array(ends)[known].T)
        accuracy_axis.barh(
            places[known] + shift, values[known], 0.38, color=colour, label=label,
            xerr=errors, error_kw={"ecolor": "0.25", "elinewidth": 1, "capsize": 2},
        )  # fmt: skip
        accuracy_axis.plot(constants, places + shift, "|", color="black", ms=12, mew=2)
    accuracy_axis.plot([], [], "|", color="black", ms=12, mew=2, label="a constant prediction")
    accuracy_axis.set_xlabel("leading answer right")
    accuracy_axis.set_xlim(0, 1.02)
    losses, errors = [q.loss for q in questions], [Z_90 * q.loss_error for q in questions]
    loss_axis.barh(
        places, losses, 0.7, xerr=np.nan_to_num(errors), color="0.75",
        error_kw={"ecolor": "0.25", "elinewidth": 1, "capsize": 2},
    )  # fmt: skip
    constants = [q.constant_loss for q in questions]
    loss_axis.plot(constants, places, "|", color="black", ms=14, mew=2)
    loss_axis.set_xlabel("loss of galaxies with a vote")
    loss_axis.set_xlim(left=0)
    for axis in (accuracy_axis, loss_axis):
        axis.set_yticks(places, [question.name for question in questions], fontsize=9)
        axis.set_ylim(len(questions) - 0.5, -0.5)
        tidy(axis, "x")
    if columns != NARROW:
        loss_axis.tick_params(labelleft=False)
    legend_above(figure, accuracy_axis, columns)
    return figure


def coverage(questions: list[IntervalAssessment], columns: int = WIDE) -> Figure:
    """Coverage of each question's 90% intervals, with errors: all, many votes, recalibrated."""
    figure = one_panel(7, 1.7 + 0.36 * len(questions), columns)
    axis = figure.subplots()
    axis.axvspan(*ACCEPTED_COVERAGE, color=BLUE, alpha=0.12, lw=0)
    axis.axvline(COVERAGE_LEVEL, color=GREY, ls="--", lw=1)
    places, lowest = np.arange(len(questions)), 0.6
    for shift, style, label, found in (
        (-0.2, {"fmt": "o", "color": BLUE}, "as predicted", [q.coverage for q in questions]),
        (0.0, {"fmt": "s", "color": GREY, "ms": 4}, "as predicted, 20 votes and more",
         [q.many_coverage for q in questions]),
        (0.2, {"fmt": "D", "color": ORANGE, "mfc": "none"}, "recalibrated",
         [q.recalibrated for q in questions]),
    ):  # fmt: skip
        values, errors = np.array(found).T
        if np.isnan(values).all():
            continue
        half = Z_90 * np.nan_to_num(errors)
        axis.errorbar(
            values, places + shift, xerr=half, capsize=2, lw=1, ls="", **style, label=label
        )
        lowest = min(lowest, np.nanmin(values - half) - 0.03)
    names = [f"{question.name} ({question.galaxies})" for question in questions]
    axis.set_yticks(places, names, fontsize=9)
    axis.set_ylim(len(questions) - 0.5, -0.5)
    axis.set_xlabel("share of votes inside the 90% interval")
    axis.set_xlim(max(0, lowest), 1.01)
    legend_above(figure, axis, columns)
    tidy(axis, "x")
    return figure


def temperatures(questions: list[IntervalAssessment], columns: int = WIDE) -> Figure:
    """The factor for the concentrations that fits the votes best, with its 90% interval."""
    figure = one_panel(7, 1.4 + 0.32 * len(questions), columns)
    axis = figure.subplots()
    axis.axvline(1, color=GREY, ls="--", lw=1)
    places, values = np.arange(len(questions)), np.array([q.temperature for q in questions])
    errors = arms(values, np.array([q.temperature_interval for q in questions]).T)
    axis.errorbar(values, places, xerr=errors, fmt="o", color=BLUE, capsize=2)
    axis.set_xscale("log")
    ends = np.array([q.temperature_interval for q in questions])
    axis.set_xlim(min(0.45, 0.9 * ends.min()), max(2.2, 1.1 * ends.max()))
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter("")
    axis.set_yticks(places, [question.name for question in questions], fontsize=9)
    axis.set_ylim(len(questions) - 0.5, -0.5)
    axis.set_xlabel("← too narrow   temperature   too wide →")
    tidy(axis, "x")
    return figure


def biases(questions: list[QuestionAssessment], columns: int = WIDE) -> Figure:
    """Mean predicted - observed fraction of each answer, with its 90% interval."""
    rows = [(f"{q.name}: {name}", bias, error) for q in questions
            for name, _, _, bias, error in q.biases]  # fmt: skip
    names, values, errors = zip(*rows, strict=True)
    figure = one_panel(7, 1.2 + 0.24 * len(rows), columns)
    axis = figure.subplots()
    axis.axvline(0, color=GREY, ls="--", lw=1)
    half = Z_90 * np.nan_to_num(errors)
    axis.errorbar(values, range(len(rows)), xerr=half, fmt="o", ms=4, color=BLUE, capsize=2)
    axis.set_yticks(range(len(rows)), names, fontsize=8)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlabel("predicted - volunteers' fraction, mean")
    tidy(axis, "x")
    return figure
