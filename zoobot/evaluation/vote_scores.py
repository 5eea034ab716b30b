"""Scores of predicted votes, question by question, beside those of the best constant.

Losses and accuracies are of all galaxies with a vote on the question, as in the table of a training
run. The volunteers' leading answer is the one with most votes. Where several have most, there is
none, and the galaxy does not count for the accuracy. Fractions are compared where votes are enough.
"""

import dataclasses
import math

import numpy as np
import torch

from zoobot import statistics
from zoobot.baselines import HEAD_BOUNDS, NO_BOUNDS, constant_concentrations, majority_class
from zoobot.evaluation.scores import accuracy, confusion_counts, mean_f1
from zoobot.evaluation.uncertainty import exact_interval, is_above_zero, mean_error
from zoobot.losses import dirichlet_multinomial_nll
from zoobot.schemas import Schema

CONFIDENT_FRACTION = 0.8  # volunteers agree if the leading answer has a larger fraction
WELL_VOTED = 10  # votes on a question that are enough to compare with the volunteers' fractions


@dataclasses.dataclass
class QuestionAssessment:
    """Scores of one question of a tree.

    Attributes:
        name: of the question.
        answers: its answers, as plain words.
        asked: number of galaxies with a vote on the question.
        tied: number of those without a leading answer.
        galaxies: number of galaxies with enough votes on the question (G below).
        confident: number of those whose volunteers agree: the leading answer has a fraction above
            ``CONFIDENT_FRACTION``.
        confusion: (answers, answers) counts of the volunteers' and the predicted leading answer, of
            galaxies with a leading answer.
        confident_confusion: the same, of galaxies with enough votes whose volunteers agree.
        loss: mean over galaxies with a vote, and its standard error.
        constant_loss: of the best constant within a head's bounds, fitted to these votes.
        free_constant_loss: of the best constant without bounds.
        beats_majority: whether the accuracy is above that of always predicting the answer that
            leads most often, by more than the error of the difference.
        beats_constant: whether it is, or the loss is likewise below ``constant_loss``.
        predicted, observed: (G, answers) predicted and volunteers' fractions.
        noise: (G, answers) the variance of the observed fractions about the true ones, f (1 - f) /
            (n - 1) for n votes; NaN for one vote.
    """

    name: str
    answers: list[str]
    asked: int
    tied: int
    galaxies: int
    confident: int
    confusion: np.ndarray
    confident_confusion: np.ndarray
    loss: float
    loss_error: float
    constant_loss: float
    free_constant_loss: float
    beats_majority: bool
    beats_constant: bool
    predicted: np.ndarray
    observed: np.ndarray
    noise: np.ndarray

    @property
    def accuracy(self) -> float:
        """Share of galaxies with a leading answer for which it is predicted."""
        return accuracy(self.confusion)

    @property
    def confident_accuracy(self) -> float:
        """The accuracy for galaxies whose volunteers agree."""
        return accuracy(self.confident_confusion)

    @property
    def majority(self) -> tuple[str, float]:
        """The answer that leads most often, and how often: the accuracy of always predicting it."""
        return self._most(self.confusion)

    @property
    def confident_majority(self) -> tuple[str, float]:
        """The same for galaxies whose volunteers agree."""
        return self._most(self.confident_confusion)

    def _most(self, confusion: np.ndarray) -> tuple[str, float]:
        most, share = majority_class(np.repeat(np.arange(len(confusion)), confusion.sum(axis=1)))
        return (self.answers[most] if most >= 0 else ""), share

    @property
    def f1(self) -> float:
        """Mean F1 over the answers that are the leading answer of any galaxy."""
        return mean_f1(self.confusion)

    @property
    def weighted_f1(self) -> float:
        """The mean F1 in which an answer counts as often as it leads."""
        return mean_f1(self.confusion, weighted=True)

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """The accuracy's 90% interval."""
        return _interval(self.confusion)

    @property
    def confident_interval(self) -> tuple[float, float]:
        """The 90% interval of the accuracy for galaxies whose volunteers agree."""
        return _interval(self.confident_confusion)

    @property
    def rmse(self) -> tuple[float, float]:
        """Root of the mean squared difference of predicted and observed fractions; its error.

        The mean is over the answers and over galaxies with enough votes.
        """
        return _root(((self.predicted - self.observed) ** 2).mean(axis=1))

    @property
    def true_rmse(self) -> tuple[float, float]:
        """The same against true fractions: the noise of the votes is subtracted; and its error.

        0 if the predictions differ from the votes by less than their noise.
        """
        return _root(self.square_errors)

    @property
    def square_errors(self) -> np.ndarray:
        """Squared differences from the true fractions, unbiased: (galaxies of two votes or more,).

        The mean over a galaxy's answers. That of one galaxy can be negative.
        """
        several = ~np.isnan(self.noise).any(axis=1)
        squares = (self.predicted - self.observed) ** 2 - self.noise
        return squares[several].mean(axis=1)

    @property
    def biases(self) -> list[tuple[str, float, float, float, float]]:
        """Of each answer: its name, mean observed and predicted fraction, difference, its error."""
        differences = self.predicted - self.observed
        return [
            (
                answer,
                float(self.observed[:, i].mean()),
                float(self.predicted[:, i].mean()),
                float(differences[:, i].mean()),
                mean_error(differences[:, i]),
            )
            for i, answer in enumerate(self.answers)
            if self.galaxies
        ]


def _interval(confusion: np.ndarray) -> tuple[float, float]:
    lower, upper = exact_interval(np.trace(confusion), confusion.sum())
    return float(lower), float(upper)


def _root(squares: np.ndarray) -> tuple[float, float]:
    """The root of the mean of (G,) squares, not below 0, and its standard error."""
    if not len(squares):
        return math.nan, math.nan
    root = math.sqrt(max(0.0, squares.mean()))
    return root, (mean_error(squares) / (2 * root) if root > 0 else math.nan)


def enough_votes(votes: np.ndarray, schema: Schema) -> int:
    """How many votes on a question are enough: ``WELL_VOTED``, or 1 if no galaxy has so many."""
    starts = [question.start_index for question in schema.questions]
    most = np.add.reduceat(votes, starts, axis=1).max()
    return WELL_VOTED if most >= WELL_VOTED else 1


def assess_votes(
    concentrations: np.ndarray, votes: np.ndarray, schema: Schema, min_votes: int
) -> list[QuestionAssessment]:
    """Score every question of a tree.

    Args:
        concentrations: (N, A, S).
        votes: (N, A).
        min_votes: how many votes on a question are enough.
    """
    fractions = statistics.fractions(concentrations, schema)
    losses = vote_losses(concentrations, votes, schema)
    bounded, free = (constant_losses(votes, schema, b) for b in (HEAD_BOUNDS, NO_BOUNDS))
    assessed = []
    for q, question in enumerate(schema.questions):
        columns = slice(question.start_index, question.end_index + 1)
        asked = votes[:, columns].any(axis=1)
        counts, predicted, q_losses = (
            votes[asked, columns],
            fractions[asked, columns],
            losses[asked, q],
        )
        leading, guess = leading_answers(counts), predicted.argmax(axis=1)
        clear = leading >= 0
        most, _ = majority_class(leading)
        right_more = (guess == leading).astype(int) - (leading == most)
        beats_majority = is_above_zero(right_more[clear])
        n = counts.sum(axis=1, keepdims=True)
        observed, enough = counts / n, n[:, 0] >= min_votes
        confident = clear & enough & (observed.max(axis=1, initial=0) > CONFIDENT_FRACTION)
        with np.errstate(invalid="ignore", divide="ignore"):
            noise = observed * (1 - observed) / (n - 1.0)
        size, answers = counts.shape[1], [answer.pretty_text for answer in question.answers]
        assessed.append(
            QuestionAssessment(
                name=question.text,
                answers=answers,
                asked=int(asked.sum()),
                tied=int((~clear).sum()),
                galaxies=int(enough.sum()),
                confident=int(confident.sum()),
                confusion=confusion_counts(leading[clear], guess[clear], size),
                confident_confusion=confusion_counts(leading[confident], guess[confident], size),
                loss=_mean(q_losses),
                loss_error=mean_error(q_losses),
                constant_loss=_mean(bounded[asked, q]),
                free_constant_loss=_mean(free[asked, q]),
                beats_majority=beats_majority,
                beats_constant=beats_majority or is_above_zero(bounded[asked, q] - q_losses),
                predicted=predicted[enough],
                observed=observed[enough],
                noise=noise[enough],
            )
        )
    return assessed


def leading_answers(counts: np.ndarray) -> np.ndarray:
    """The answer with most votes (N,), of votes (N, answers); -1 where several have most."""
    most = counts.max(axis=1, keepdims=True)
    is_clear = (counts == most).sum(axis=1) == 1
    return np.where(is_clear, counts.argmax(axis=1), -1)


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


def constant_losses(votes: np.ndarray, schema: Schema, bounds: tuple[float, float]) -> np.ndarray:
    """The losses (N, Q) of the best constant within bounds, fitted to these votes (N, A)."""
    constant = constant_concentrations(votes, schema.question_sizes, bounds)
    return vote_losses(np.tile(constant, (len(votes), 1))[..., None], votes, schema)
