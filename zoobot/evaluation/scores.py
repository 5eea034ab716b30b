"""How good predictions are, as numbers: classes, votes and regressions against what is known.

Everything is an exact mean over the galaxies that it names; nothing is smoothed or left out.
"""

import dataclasses
import math

import numpy as np
import torch

from zoobot import statistics
from zoobot.losses import dirichlet_multinomial_nll
from zoobot.schemas import Schema

CONFIDENT_FRACTION = 0.8  # volunteers agree: their leading answer has more than this
CALIBRATION_BINS = 15
WELL_VOTED = 10  # votes on a question that make a volunteers' fraction worth comparing with
COVERAGE_LEVEL = 0.9


def confusion_counts(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """How many galaxies of true class i were predicted as class j: (C, C) counts."""
    cells = truth.astype(np.int64) * num_classes + predicted
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_scores(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and F1 of each class, (C,) each; NaN where they are not defined.

    F1 is 2 TP / (2 TP + FP + FN), 0 for a class that occurs and is never found.
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
    """Confidence against accuracy in bins of equal width (Guo et al. 2017, arXiv:1706.04599).

    Attributes:
        confidence, accuracy: mean of each bin, NaN where it is empty.
        counts: galaxies of each bin.
        error: expected calibration error: the mean of |confidence - accuracy| over galaxies.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    counts: np.ndarray
    error: float


def calibration(confidence: np.ndarray, is_right: np.ndarray) -> Calibration:
    """Calibration of the probabilities (N,) that were given to the predicted classes."""
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
    """One question of a tree.

    Attributes:
        galaxies, confident: numbers of galaxies with enough votes, and of those of them whose
            volunteers agree (leading fraction above ``CONFIDENT_FRACTION``).
        confusion, confident_confusion: of the leading answers of those galaxies.
        loss: mean over all galaxies with a vote on the question.
        rmse: of the predicted against the volunteers' fractions, root of the mean over galaxies
            with enough votes, and answers.
        coverage: how many of the votes lie in the central 90% of their predictive distribution;
            0.9 if the intervals are right. See ``statistics.vote_coverage``.
        temperature, recalibrated_coverage: if temperatures were given.
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
        """How often the leading answer is predicted, among galaxies with enough votes."""
        return _accuracy(self.confusion)

    @property
    def confident_accuracy(self) -> float:
        """The same, among galaxies whose volunteers agree."""
        return _accuracy(self.confident_confusion)

    @property
    def f1(self) -> float:
        """Mean F1 over the answers that lead for some galaxy."""
        return mean_f1(self.confusion)

    @property
    def confident_f1(self) -> float:
        """The same, among galaxies whose volunteers agree."""
        return mean_f1(self.confident_confusion)


def _accuracy(confusion: np.ndarray) -> float:
    total = confusion.sum()
    return float(np.trace(confusion) / total) if total else math.nan


def mean_f1(confusion: np.ndarray) -> float:
    """Mean F1 over the classes that occur."""
    occurring = confusion.sum(axis=1) > 0
    return float(class_scores(confusion)["f1"][occurring].mean()) if occurring.any() else math.nan


def enough_votes(votes: np.ndarray, schema: Schema) -> int:
    """``WELL_VOTED``, or 1 where no galaxy has so many votes on any question."""
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
    """Every question of a tree, from concentrations (N, A, S) and votes (N, A).

    Args:
        min_votes: how many votes on a question are enough.
        temperatures: (Q,) fitted to other galaxies: how the coverage would be with them.
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
    return float(values.mean()) if values.size else math.nan


def vote_losses(concentrations: np.ndarray, votes: np.ndarray, schema: Schema) -> np.ndarray:
    """Dirichlet-Multinomial loss (N, Q) of the votes; of several passes, of their mixture."""
    counts = torch.from_numpy(np.ascontiguousarray(votes))
    passes = [
        -dirichlet_multinomial_nll(
            torch.from_numpy(np.ascontiguousarray(concentrations[..., s], dtype=np.float64)),
            counts,
            schema.question_sizes,
        )
        for s in range(concentrations.shape[2])
    ]
    return -(torch.logsumexp(torch.stack(passes), 0) - math.log(len(passes))).numpy()


def regression_scores(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """RMSE, mean absolute error, bias (mean of predicted - true) and R2 (1 - SSE / SST)."""
    residual = predicted - truth
    spread = ((truth - truth.mean()) ** 2).sum()
    return {
        "rmse": float(np.sqrt((residual**2).mean())),
        "mae": float(np.abs(residual).mean()),
        "bias": float(residual.mean()),
        "r2": float(1 - (residual**2).sum() / spread) if spread > 0 else math.nan,
    }
