"""Draw the figures of predicted numbers. Each function returns one ``Figure``."""

import numpy as np
from matplotlib.figure import Figure

from zoobot.evaluation.figures import NARROW, WIDE, one_panel, opacity
from zoobot.evaluation.run_figures import BLUE, GREY, ORANGE, tidy
from zoobot.evaluation.scores import binned_residuals


def regression(truth: np.ndarray, predicted: np.ndarray, name: str, columns: int = WIDE) -> Figure:
    """Predicted against true values."""
    figure = one_panel(5.5, 5.5, columns)
    axis = figure.subplots()
    ends = [min(truth.min(), predicted.min()), max(truth.max(), predicted.max())]
    axis.plot(ends, ends, color=GREY, ls="--", lw=1)
    axis.plot(truth, predicted, ".", color=BLUE, alpha=opacity(len(truth)), ms=5)
    axis.set_xlabel(f"true {name}")
    axis.set_ylabel(f"predicted {name}")
    axis.set_aspect("equal")
    tidy(axis)
    return figure


def residuals(truth: np.ndarray, predicted: np.ndarray, name: str, columns: int = WIDE) -> Figure:
    """Residuals (predicted - true) against true values, with binned medians; their histogram."""
    side_by_side = columns != NARROW
    figure = Figure(figsize=(8, 3.8) if side_by_side else (4.2, 6.5), layout="constrained")
    shape = {"ncols": 2, "width_ratios": [3, 1], "sharey": True} if side_by_side else {"nrows": 2}
    axis, histogram = figure.subplots(**shape)
    residual = predicted - truth
    axis.plot(truth, residual, ".", color=BLUE, alpha=0.6 * opacity(len(truth)), ms=5, zorder=1)
    binned = binned_residuals(truth, predicted)
    axis.fill_between(binned.truth, binned.low, binned.high, color=ORANGE, alpha=0.2, lw=0)
    axis.errorbar(
        binned.truth, binned.median, binned.error, fmt="o-", ms=4, color=ORANGE, capsize=2, zorder=3
    )
    axis.set_xlabel(f"true {name}")
    axis.set_ylabel("predicted - true")
    edges, turned = _bin_edges(residual, 40), "horizontal" if side_by_side else "vertical"
    histogram.hist(residual, edges, orientation=turned, color=BLUE)
    (histogram.set_xlabel if side_by_side else histogram.set_ylabel)("galaxies")
    axis.axhline(0, color=GREY, ls="--", lw=1)
    if side_by_side:
        histogram.axhline(0, color=GREY, ls="--", lw=1)
    else:
        histogram.axvline(0, color=GREY, ls="--", lw=1)
        histogram.set_xlabel("predicted - true")
    for each in (axis, histogram):
        tidy(each)
    return figure


def _bin_edges(values: np.ndarray, num_bins: int) -> np.ndarray:
    """Edges of equal bins over the values, also where these are equal to rounding, or huge."""
    low, high = values.min() / 2, values.max() / 2  # halves: their difference does not overflow
    margin = max(abs(low), abs(high), 1e-300) * 1e-9
    if high - low < margin:
        low, high = low - margin, high + margin
    return np.linspace(low, high, num_bins + 1) * 2
