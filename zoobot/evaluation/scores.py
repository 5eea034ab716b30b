"""Scores of predicted classes, votes and numbers, compared with the labels.

All scores are exact means over the galaxies that their descriptions name.
"""

import dataclasses
import math

import numpy as np
import torch

from zoobot import statistics
from zoobot.losses import dirichlet_multinomial_nll
from zoobot.schemas import Schema

CONFIDENT_FRACTION = 0.8  # volunteers agree if the leading answer has a larger fraction
CALIBRATION_BINS = 15
WELL_VOTED = 10  # votes on a question that are enough to compare with the volunteers' fractions
COVERAGE_LEVEL = 0.9


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


@dataclasses.dataclass
class Calibration:
    """Confidence and accuracy in bins of equal width (Guo et al. 2017, arXiv:1706.04599).

    Attributes:
        confidence: mean probability of the predicted class in each bin; NaN if the bin is empty.
        accuracy: share of right predictions in each bin; NaN if the bin is empty.
        counts: number of galaxies in each bin.
        error: the expected calibration error, the mean of |confidence - accuracy| over galaxies.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    counts: np.ndarray
    error: float


def calibration(confidence: np.ndarray, is_right: np.ndarray) -> Calibration:
    """The calibration of N predictions.

    Args:
        confidence: (N,) probability of the predicted class.
        is_right: (N,) whether the predicted class is the true one.
    """
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    with np.errstate(invalid="ignore"):
        means = [
            np.bincount(bins, values, CALIBRATION_BINS) / counts
            for values in (confidence, is_right.astype(float))
        ]
    gaps = np.abs(means[0] - means[1])[counts > 0]
    return Calibration(*means, counts, float((gaps * counts[counts > 0]).sum() / len(confidence)))


@dataclasses.dataclass
class QuestionAssessment:
    """Scores of one question of a tree. The leading answer is the one with the largest fraction.

    Attributes:
        name: of the question.
        answers: its answers, as plain words.
        galaxies: number of galaxies with enough votes on the question (G below).
        confident: number of those whose volunteers agree: the leading answer has a fraction above
            ``CONFIDENT_FRACTION``.
        confusion: (answers, answers) counts of the volunteers' and the predicted leading answer, of
            galaxies with enough votes.
        confident_confusion: the same, of galaxies whose volunteers agree.
        loss: mean over all galaxies with a vote on the question.
        rmse: root of the mean squared difference of predicted and volunteers' fractions, over the
            answers and over galaxies with enough votes.
        coverage: mean of ``statistics.vote_coverage`` for the central 90% interval, over galaxies
            with enough votes; 0.9 is expected of calibrated predictions.
        predicted, observed: (G, answers) predicted and volunteers' fractions.
        temperature: the factor for concentrations; NaN if no temperatures were given.
        recalibrated_coverage: the coverage with it; NaN if no temperatures were given.
    """

    name: str
    answers: list[str]
    galaxies: int
    confident: int
    confusion: np.ndarray
    confident_confusion: np.ndarray
    loss: float
    rmse: float
    coverage: float
    predicted: np.ndarray
    observed: np.ndarray
    temperature: float = math.nan
    recalibrated_coverage: float = math.nan

    @property
    def accuracy(self) -> float:
        """Share of galaxies with enough votes whose leading answer is predicted rightly."""
        return _accuracy(self.confusion)

    @property
    def confident_accuracy(self) -> float:
        """The accuracy for galaxies whose volunteers agree."""
        return _accuracy(self.confident_confusion)

    @property
    def f1(self) -> float:
        """Mean F1 over the answers that are the leading answer of any galaxy."""
        return mean_f1(self.confusion)

    @property
    def confident_f1(self) -> float:
        """The mean F1 for galaxies whose volunteers agree."""
        return mean_f1(self.confident_confusion)


def _accuracy(confusion: np.ndarray) -> float:
    """The share of right predictions; NaN if there are none."""
    total = confusion.sum()
    return float(np.trace(confusion) / total) if total else math.nan


def mean_f1(confusion: np.ndarray) -> float:
    """Mean F1 over the classes that occur; NaN if there are none."""
    occurring = confusion.sum(axis=1) > 0
    return float(class_scores(confusion)["f1"][occurring].mean()) if occurring.any() else math.nan


def enough_votes(votes: np.ndarray, schema: Schema) -> int:
    """How many votes on a question are enough: ``WELL_VOTED``, or 1 if no galaxy has so many."""
    starts = [question.start_index for question in schema.questions]
    most = np.add.reduceat(votes, starts, axis=1).max()
    return WELL_VOTED if most >= WELL_VOTED else 1


def assess_votes(
    concentrations: np.ndarray,
    votes: np.ndarray,
    schema: Schema,
    min_votes: int,
    temperatures: np.ndarray | None = None,
) -> list[QuestionAssessment]:
    """Score every question of a tree.

    Args:
        concentrations: (N, A, S).
        votes: (N, A).
        min_votes: how many votes on a question are enough.
        temperatures: (Q,) factors fitted to other galaxies, for the recalibrated coverage.
    """
    fractions = statistics.fractions(concentrations, schema)
    coverage = statistics.vote_coverage(concentrations, votes, schema, COVERAGE_LEVEL)
    losses = vote_losses(concentrations, votes, schema)
    after = None
    if temperatures is not None:
        cooled = statistics.recalibrate(concentrations, temperatures, schema)
        after = statistics.vote_coverage(cooled, votes, schema, COVERAGE_LEVEL)
    assessed = []
    for q, question in enumerate(schema.questions):
        columns = slice(question.start_index, question.end_index + 1)
        counts, predicted = votes[:, columns], fractions[:, columns]
        totals = counts.sum(axis=1)
        enough = totals >= min_votes
        observed = counts[enough] / totals[enough, None]
        predicted = predicted[enough]
        confident = observed.max(axis=1, initial=0) > CONFIDENT_FRACTION
        leading = observed.argmax(axis=1) if len(observed) else np.empty(0, int)
        guess = predicted.argmax(axis=1) if len(observed) else np.empty(0, int)
        size = counts.shape[1]
        item = QuestionAssessment(
            name=question.text,
            answers=[answer.pretty_text for answer in question.answers],
            galaxies=int(enough.sum()),
            confident=int(confident.sum()),
            confusion=confusion_counts(leading, guess, size),
            confident_confusion=confusion_counts(leading[confident], guess[confident], size),
            loss=_mean(losses[totals > 0, q]),
            rmse=math.sqrt(_mean((predicted - observed) ** 2)),
            coverage=_mean(coverage[enough][:, columns]),
            predicted=predicted,
            observed=observed,
        )
        if after is not None:
            item.temperature = float(temperatures[q])
            item.recalibrated_coverage = _mean(after[enough][:, columns])
        assessed.append(item)
    return assessed


def _mean(values: np.ndarray) -> float:
    """The mean; NaN if there are no values."""
    return float(values.mean()) if values.size else math.nan


def vote_losses(concentrations: np.ndarray, votes: np.ndarray, schema: Schema) -> np.ndarray:
    """Dirichlet-Multinomial loss (N, Q) of votes (N, A), for the mixture of S samples (N, A, S)."""
    counts = torch.from_numpy(np.ascontiguousarray(votes))
    samples = [
        -dirichlet_multinomial_nll(
            torch.from_numpy(np.ascontiguousarray(concentrations[..., s], dtype=np.float64)),
            counts,
            schema.question_sizes,
        )
        for s in range(concentrations.shape[2])
    ]
    return -(torch.logsumexp(torch.stack(samples), 0) - math.log(len(samples))).numpy()


def regression_scores(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """``rmse``, ``mae`` (mean absolute error), ``bias`` (mean of predicted - true), and ``r2``.

    R2 is 1 - (sum of squared errors) / (sum of squares about the mean); NaN if all true values are
    equal.
    """
    residual = predicted - truth
    spread = ((truth - truth.mean()) ** 2).sum()
    return {
        "rmse": float(np.sqrt((residual**2).mean())),
        "mae": float(np.abs(residual).mean()),
        "bias": float(residual.mean()),
        "r2": float(1 - (residual**2).sum() / spread) if spread > 0 else math.nan,
    }
