"""Errors of scores: intervals of shares, errors of means over galaxies, and verdicts from them."""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincinv, ndtri

LEVEL = 0.9  # of the intervals


def exact_interval(
    hits: ArrayLike, total: ArrayLike, level: float = LEVEL
) -> tuple[np.ndarray, np.ndarray]:
    """The interval of a share of which ``hits`` of ``total`` galaxies were seen.

    It contains the true share with probability ``level`` or more, also if there are few galaxies:
    0 of 17 gives 0 to 0.16 (C. J. Clopper & E. S. Pearson 1934, Biometrika 26, 404).

    Returns:
        Lower and upper ends, with the shape of the arguments; 0 and 1 where ``total`` is 0.
    """
    hits, total = np.broadcast_arrays(np.asarray(hits, float), np.asarray(total, float))
    tail = (1 - level) / 2
    lower = np.where(hits > 0, betaincinv(np.maximum(hits, 1), total - hits + 1, tail), 0.0)
    upper = betaincinv(hits + 1, np.maximum(total - hits, 1), 1 - tail)
    return lower, np.where(hits < total, upper, 1.0)


def wilson_interval(
    hits: ArrayLike, total: ArrayLike, level: float = LEVEL
) -> tuple[np.ndarray, np.ndarray]:
    """The interval of a share, narrower than the exact one: right on average over many shares.

    For the many bins of one figure (E. B. Wilson 1927, JASA 22, 209). One galaxy of one gives
    0.27 to 1.

    Returns:
        As ``exact_interval``.
    """
    hits, total = np.broadcast_arrays(np.asarray(hits, float), np.asarray(total, float))
    z2 = float(ndtri((1 + level) / 2)) ** 2
    middle = (hits + z2 / 2) / (total + z2)
    spread = hits * (total - hits) / np.maximum(total, 1)
    half = np.sqrt(z2 * (spread + z2 / 4)) / (total + z2)
    lower, upper = middle - half, middle + half
    return np.where(hits > 0, lower, 0.0), np.where(hits < total, upper, 1.0)


def mean_error(values: np.ndarray) -> float:
    """The standard error of the mean of (N,) values, one a galaxy; NaN for fewer than two."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def ratio_error(sums: np.ndarray, counts: np.ndarray) -> float:
    """The standard error of ``sums.sum() / counts.sum()``, of (N,) of each, one a galaxy.

    Values of the same galaxy belong together: they are not independent.
    """
    if len(sums) < 2 or not counts.sum():
        return math.nan
    residuals = sums - counts * (sums.sum() / counts.sum())
    return float(residuals.std(ddof=1) * math.sqrt(len(sums)) / counts.sum())


def is_above_zero(gains: np.ndarray, level: float = LEVEL) -> bool:
    """Whether the mean of (N,) gains, one a galaxy, is above 0 by more than its error."""
    if len(gains) < 2:
        return False
    return bool(gains.mean() > ndtri((1 + level) / 2) * mean_error(gains))
