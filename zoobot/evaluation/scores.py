"""Scores of predicted classes and numbers, compared with the labels.

All scores are exact means over the galaxies that their descriptions name.
"""

import dataclasses
import math

import numpy as np

CALIBRATION_BINS = 15
PERFECT_DRAWS = 100  # labels that are drawn as a perfect model's would be
OUTLIER_NMAD = 3  # a galaxy whose residual is further from the median is an outlier
NMAD_OF_NORMAL = 1.4826  # standard deviation / median absolute deviation
THRESHOLDS = 101
MOST_BINS, GALAXIES_A_BIN = 12, 20


def confusion_counts(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """(C, C) counts: how many galaxies of true class i (row) have predicted class j (column)."""
    cells = truth.astype(np.int64) * num_classes + predicted
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_scores(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """``precision``, ``recall`` and ``f1`` of each class, (C,) each; NaN where not defined.

    F1 is 2 TP / (2 TP + FP + FN). It is 0 for a class that occurs but is never predicted rightly.
    """
    right = np.diag(confusion).astype(float)
    true, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "precision": right / predicted,
            "recall": right / true,
            "f1": 2 * right / (true + predicted),
        }


def accuracy(confusion: np.ndarray) -> float:
    """The share of right predictions; NaN if there are none."""
    total = confusion.sum()
    return float(np.trace(confusion) / total) if total else math.nan


def mean_f1(confusion: np.ndarray, weighted: bool = False) -> float:
    """Mean F1 over the classes that occur; NaN if there are none.

    Args:
        weighted: each class counts as often as it occurs; else all count the same (macro F1).
    """
    counts = confusion.sum(axis=1)
    occurring = counts > 0
    if not occurring.any():
        return math.nan
    weights = counts[occurring] if weighted else None
    return float(np.average(class_scores(confusion)["f1"][occurring], weights=weights))


@dataclasses.dataclass
class Calibration:
    """Confidence and accuracy in bins of equal width (Guo et al. 2017, arXiv:1706.04599).

    Attributes:
        confidence: mean probability of the predicted class in each bin; NaN if the bin is empty.
        accuracy: share of right predictions in each bin; NaN if the bin is empty.
        counts: number of galaxies in each bin.
        error: the expected calibration error, the mean of |confidence - accuracy| over galaxies.
        perfect: the mean error of a perfect model with these probabilities. It is above 0, because
            the galaxies of a bin are few.
        perfect_high: an error that only 5% of perfect models exceed.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    counts: np.ndarray
    error: float
    perfect: float
    perfect_high: float


def calibration(confidence: np.ndarray, is_right: np.ndarray) -> Calibration:
    """The calibration of N predictions.

    Args:
        confidence: (N,) probability of the predicted class.
        is_right: (N,) whether the predicted class is the true one.
    """
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)

    def sums(values: np.ndarray) -> np.ndarray:
        return np.bincount(bins, values, CALIBRATION_BINS)

    def error(right: np.ndarray) -> float:
        return float(np.abs(sums(confidence) - sums(right)).sum() / len(confidence))

    with np.errstate(invalid="ignore"):
        means = sums(confidence) / counts, sums(is_right.astype(float)) / counts
    rng = np.random.default_rng(0)
    perfect = [error(rng.random(len(confidence)) < confidence) for _ in range(PERFECT_DRAWS)]
    high = float(np.quantile(perfect, 0.95))
    return Calibration(*means, counts, error(is_right), float(np.mean(perfect)), high)


@dataclasses.dataclass
class Selection:
    """Samples of one class, selected by a threshold on its probability, (T,) each.

    Attributes:
        thresholds: from 0 to 1.
        chosen: galaxies with at least this probability.
        completeness: share of the class's galaxies that are chosen.
        purity: share of the chosen galaxies that are of the class; NaN if none is chosen.
        found: how many of the chosen are of the class.
    """

    thresholds: np.ndarray
    chosen: np.ndarray
    found: np.ndarray
    completeness: np.ndarray
    purity: np.ndarray


def selection(probability: np.ndarray, is_class: np.ndarray) -> Selection:
    """Completeness and purity of samples of a class, for each threshold.

    Args:
        probability: (N,) predicted probability of the class.
        is_class: (N,) whether a galaxy is of the class; at least one is.
    """
    thresholds = np.linspace(0, 1, THRESHOLDS)
    every, of_class = np.sort(probability), np.sort(probability[is_class])
    chosen = len(every) - np.searchsorted(every, thresholds, side="left")
    found = len(of_class) - np.searchsorted(of_class, thresholds, side="left")
    with np.errstate(invalid="ignore"):
        return Selection(thresholds, chosen, found, found / len(of_class), found / chosen)


def regression_scores(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Scores of numbers. The residual is predicted - true.

    Returns:
        ``rmse``, ``mae`` (mean absolute error), ``bias`` (mean residual), ``r2``, ``median``
        residual, ``nmad``, and ``outliers``.

    R2 is 1 - (sum of squared errors) / (sum of squares about the mean); NaN if all true values are
    equal. NMAD is 1.4826 times the median distance of residuals from their median: the standard
    deviation if they are normal, which outliers hardly change. The outlier fraction is the share of
    galaxies whose residual is more than 3 NMAD from the median; 0.003 is expected of normal ones.
    """
    residual = predicted - truth
    spread = ((truth - truth.mean()) ** 2).sum()
    middle = float(np.median(residual))
    distance = np.abs(residual - middle)
    nmad = NMAD_OF_NORMAL * float(np.median(distance))
    return {
        "rmse": float(np.sqrt((residual**2).mean())),
        "mae": float(np.abs(residual).mean()),
        "bias": float(residual.mean()),
        "r2": float(1 - (residual**2).sum() / spread) if spread > 0 else math.nan,
        "median": middle,
        "nmad": nmad,
        "outliers": float((distance > OUTLIER_NMAD * nmad).mean()),
    }


@dataclasses.dataclass
class Binned:
    """Residuals in bins of the true value with equal numbers of galaxies, (B,) each.

    Attributes:
        truth: median true value of each bin.
        median, low, high: median residual, and its 16% and 84% quantiles.
        error: standard error of the median, that of normal residuals.
        counts: galaxies.
    """

    truth: np.ndarray
    median: np.ndarray
    low: np.ndarray
    high: np.ndarray
    error: np.ndarray
    counts: np.ndarray


def binned_residuals(truth: np.ndarray, predicted: np.ndarray) -> Binned:
    """The residuals' median and spread against the true value; at most 12 bins, one if few."""
    num_bins = int(np.clip(len(truth) // GALAXIES_A_BIN, 1, MOST_BINS))
    bins = np.array_split(np.argsort(truth, kind="stable"), num_bins)
    residuals = [(predicted - truth)[rows] for rows in bins]
    low, median, high = (
        np.array([np.quantile(r, q) for r in residuals]) for q in (0.16, 0.5, 0.84)
    )
    counts = np.array([len(rows) for rows in bins])
    error = math.sqrt(math.pi / 2) * (high - low) / 2 / np.sqrt(counts)
    middles = np.array([np.median(truth[rows]) for rows in bins])
    return Binned(middles, median, low, high, error, counts)
