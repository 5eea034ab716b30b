"""What a model that does not look at the images can do: the most frequent class, the best constant.

They stand beside every accuracy and every loss, because these say little alone: where 80% of the
galaxies are smooth, an accuracy of 0.8 is no achievement.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize

from zoobot.system.errors import UserError

HEAD_BOUNDS = (1.0, 101.0)  # between which a decision tree's head predicts
NO_BOUNDS = (1e-4, 1e6)  # so wide that the loss does not tell them from none


def majority_class(labels: ArrayLike) -> tuple[int, float]:
    """The most frequent class, and its share: the accuracy of always predicting it.

    Args:
        labels: (N,) numbers of classes, from 0. Negative ones (no label) are left out.

    Returns:
        The class (of equally frequent ones the first), and its share; (-1, NaN) without labels.
    """
    labels = np.asarray(labels)
    counts = np.bincount(labels[labels >= 0].astype(np.int64))
    if not len(counts):
        return -1, float("nan")
    return int(counts.argmax()), float(counts.max() / counts.sum())


def constant_concentrations(
    counts: ArrayLike,
    question_sizes: ArrayLike,
    bounds: tuple[float, float] = HEAD_BOUNDS,
) -> np.ndarray:
    """The concentrations, the same for all galaxies, that fit the votes best.

    They minimise the Dirichlet-Multinomial loss (``zoobot.losses``), each question for itself. A
    model that does not look at the images and predicts within ``bounds`` can't do better on these
    votes. The time hardly depends on the number of galaxies.

    Args:
        counts: (N, A) votes, whole numbers.
        question_sizes: (Q,) number of answers of each question; their sum is A.
        bounds: lowest and highest concentration; by default those of a decision tree's head. With
            ``NO_BOUNDS`` it is the best constant of any model.

    Returns:
        (A,) float64. Those of a question without votes are equal, as near to 1 as allowed.

    Raises:
        ValueError: if ``counts`` and ``question_sizes`` don't fit, or a count is not a whole number
            of at least 0.
    """
    counts, sizes = np.asarray(counts), np.asarray(question_sizes, np.int64)
    if counts.ndim != 2 or counts.shape[1] != sizes.sum():
        raise UserError(f"counts have shape {counts.shape}: pass (galaxies, {sizes.sum()} answers)")
    wrong = ~(np.isfinite(counts) & (counts >= 0) & (counts == np.floor(counts)))
    if wrong.any():
        raise UserError(
            f"a vote count is {counts[wrong][0]:g}; all must be whole numbers of at least 0"
        )
    ends = np.cumsum(sizes)
    questions = np.split(counts.astype(np.int64), ends[:-1], axis=1)
    return np.concatenate([_constant(votes, bounds) for votes in questions])


def _constant(votes: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """The best constant of one question's votes (N, K): (K,).

    log Gamma(a + k) - log Gamma(a) is the sum of log(a + m) for m below k. So the loss needs only
    how many galaxies have more than m votes, for the answers and for their totals.
    """
    start = np.full(votes.shape[1], np.clip(1.0, *bounds))
    if not votes.any():
        return start
    num_galaxies = np.count_nonzero(votes.any(axis=1))
    of_total = _more_than(votes.sum(axis=1), votes.sum(axis=1).max()) / num_galaxies
    of_answers = np.stack([_more_than(column, len(of_total)) for column in votes.T]) / num_galaxies
    m = np.arange(len(of_total))

    def loss(log_a: np.ndarray) -> tuple[float, np.ndarray]:
        """The loss a galaxy without its constant part, and its gradient."""
        a = np.exp(log_a)
        sums, total = a[:, None] + m, a.sum() + m  # (K, M), (M,)
        value = of_total @ np.log(total) - (of_answers * np.log(sums)).sum()
        return value, a * ((of_total / total).sum() - (of_answers / sums).sum(axis=1))

    log_bounds = [tuple(np.log(bounds))] * len(start)
    options = {"maxiter": 2000, "maxfun": 4000, "ftol": 1e-13, "gtol": 1e-8}
    found = minimize(loss, np.log(start), jac=True, bounds=log_bounds, options=options)
    return np.exp(found.x).clip(*bounds)


def _more_than(counts: np.ndarray, length: int) -> np.ndarray:
    """How many of (N,) counts are above 0, 1, ... ``length`` - 1: (length,)."""
    histogram = np.bincount(counts, minlength=length + 1)
    return histogram[::-1].cumsum()[::-1][1 : length + 1]
