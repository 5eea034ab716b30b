"""Scores of predicted votes by the rules of two papers, so that they can stand beside theirs.

GZ DECaLS (M. Walmsley et al. 2022, MNRAS 509, 3966): how often the leading answer is right, among
galaxies that many volunteers have seen, of questions that at least half of them were asked.

GZ Evo (M. Walmsley et al. 2022, arXiv:2206.11927): the differences of predicted and volunteers'
fractions, among galaxies with many votes on the question, averaged over answers. The volunteers'
noise is not subtracted.

Beside each score stands what a guess at random reaches, and the best constant prediction.
"""

import dataclasses
import math

import numpy as np

from zoobot.baselines import majority_class
from zoobot.evaluation.uncertainty import exact_interval
from zoobot.evaluation.vote_scores import CONFIDENT_FRACTION, leading_answers
from zoobot.schemas import Schema

PROTOCOLS = ("decals", "evo")
DECALS_VOTES = 34  # volunteers who have seen the galaxy
DECALS_ASKED = 0.5  # the share of them who were asked the question
EVO_VOTES = 20  # on the question


@dataclasses.dataclass
class LeadingAnswer:
    """How often the leading answer of one question is right.

    Attributes:
        galaxies: number of galaxies; those of which several answers have most votes do not count.
        right: of how many the leading answer is predicted.
        majority: of how many the answer leads that leads most often.
    """

    galaxies: int
    right: int
    majority: int

    @property
    def accuracy(self) -> float:
        """The share of right predictions; NaN without galaxies."""
        return self.right / self.galaxies if self.galaxies else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The accuracy's 90% interval."""
        lower, upper = exact_interval(self.right, self.galaxies)
        return float(lower), float(upper)

    @property
    def constant(self) -> float:
        """The accuracy of always predicting the most frequent answer; NaN without galaxies."""
        return self.majority / self.galaxies if self.galaxies else math.nan


@dataclasses.dataclass
class DecalsScores:
    """Scores of one question by the rules of GZ DECaLS.

    Attributes:
        name: of the question.
        random: the expected accuracy if each answer is guessed equally often.
        every: of all its galaxies.
        confident: of those whose leading answer has a fraction above ``CONFIDENT_FRACTION``.
    """

    name: str
    random: float
    every: LeadingAnswer
    confident: LeadingAnswer


@dataclasses.dataclass
class Error:
    """A mean error of fractions.

    Attributes:
        value, error: of the model, and its standard error, from the scatter of galaxies.
        random: expected if all fractions that sum to 1 are guessed equally often.
        constant: of the best constant for this measure: medians for MAE, means for RMSE.
    """

    value: float
    error: float
    random: float
    constant: float


@dataclasses.dataclass
class EvoScores:
    """Errors of fractions by the rules of GZ Evo, averaged over answers.

    Attributes:
        name: of the question; "all answers" for the mean over the answers of all questions.
        galaxies: number of galaxies with enough votes on the question, or on any.
        mae: the mean absolute difference of predicted and volunteers' fraction.
        rmse: the root of the mean squared difference of each answer, then the mean.
    """

    name: str
    galaxies: int
    mae: Error
    rmse: Error


def volunteers(votes: np.ndarray, schema: Schema) -> np.ndarray:
    """How many volunteers have seen a galaxy in the survey of each question: (N, Q).

    They are those with a vote on the first question on the way to it. Where several ways lead to
    it, it is the first question with most votes.

    Args:
        votes: (N, A).
    """
    first: dict[int, set[int]] = {}
    for question in (q for level in schema.levels for q in level):
        before = [first[answer.question.index] for answer in question.parents]
        first[question.index] = set().union(*before) or {question.index}
    starts = [question.start_index for question in schema.questions]
    totals = np.add.reduceat(votes, starts, axis=1)
    seen = [totals[:, sorted(first[q.index])].max(axis=1) for q in schema.questions]
    return np.stack(seen, axis=1)


def decals_scores(
    fractions: np.ndarray, votes: np.ndarray, schema: Schema, min_volunteers: int = DECALS_VOTES
) -> list[DecalsScores]:
    """The leading answers of every question, by the rules of GZ DECaLS.

    Args:
        fractions: (N, A) predicted.
        votes: (N, A).
        min_volunteers: who must have seen a galaxy.
    """
    seen = volunteers(votes, schema)
    scores = []
    for q, question in enumerate(schema.questions):
        columns = slice(question.start_index, question.end_index + 1)
        n, leading = votes[:, columns].sum(axis=1), leading_answers(votes[:, columns])
        counts = (seen[:, q] >= min_volunteers) & (n >= DECALS_ASKED * seen[:, q]) & (n > 0)
        counts &= leading >= 0
        agreed = counts & (votes[:, columns].max(axis=1) > CONFIDENT_FRACTION * n)
        guess = fractions[:, columns].argmax(axis=1)
        scores.append(
            DecalsScores(
                question.text,
                1 / len(question.answers),
                *(_leading_answer(leading[rows], guess[rows]) for rows in (counts, agreed)),
            )
        )
    return scores


def _leading_answer(leading: np.ndarray, guess: np.ndarray) -> LeadingAnswer:
    most, _ = majority_class(leading)
    right, majority = int((leading == guess).sum()), int((leading == most).sum())
    return LeadingAnswer(len(leading), right, majority)


def evo_scores(
    fractions: np.ndarray, votes: np.ndarray, schema: Schema, min_votes: int = EVO_VOTES
) -> list[EvoScores]:
    """The errors of fractions of every question, and last those of all answers.

    Args:
        fractions: (N, A) predicted.
        votes: (N, A).
        min_votes: on a question, by which a galaxy counts for it.
    """
    names, counts, mae, rmse = [], [], [], []
    counted = np.zeros((len(votes), len(schema.questions)), dtype=bool)
    for q, question in enumerate(schema.questions):
        columns = slice(question.start_index, question.end_index + 1)
        n = votes[:, columns].sum(axis=1)
        rows = counted[:, q] = n >= min_votes
        names.append(question.text)
        counts.append(int(rows.sum()))
        observed = votes[rows, columns] / n[rows, None]
        errors = _answer_errors(fractions[rows, columns], observed, rows)
        mae.append(errors[0])
        rmse.append(errors[1])
    several = [q for q, count in enumerate(counts) if count]
    if several:
        names.append("all answers")
        counts.append(int(counted.any(axis=1).sum()))
        for errors in (mae, rmse):
            errors.append(np.concatenate([errors[q] for q in several], axis=1))
    return [
        EvoScores(name, count, _mean_over_answers(a), _mean_over_answers(b))
        for name, count, a, b in zip(names, counts, mae, rmse, strict=True)
    ]


def _answer_errors(
    predicted: np.ndarray, observed: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """MAE and RMSE of the answers of one question, from fractions (G, K): two of (3 + N, K).

    Their rows are the model's error, that of a random guess, that of the best constant, and by how
    much each of the N galaxies moves the model's.

    Args:
        rows: (N,) which of all galaxies the G are.

    A random guess q of K fractions has the density (K - 1) (1 - q)^(K - 2). So the mean of |q - f|
    is f - 1/K + 2 (1 - f)^K / K, and the mean of q is 1/K, its variance (K - 1) / (K^2 (K + 1)).
    """
    num_galaxies, k = observed.shape
    if not num_galaxies:
        return tuple(np.full((3 + len(rows), k), np.nan) for _ in range(2))
    moves = np.zeros((2, len(rows), k))
    distance = np.abs(predicted - observed)
    mae, squared = distance.mean(axis=0), (distance**2).mean(axis=0)
    rmse = np.sqrt(squared)
    moves[0, rows] = (distance - mae) / num_galaxies
    moves[1, rows] = (distance**2 - squared) / (2 * np.maximum(rmse, 1e-12)) / num_galaxies
    random_mae = (observed - 1 / k + 2 * (1 - observed) ** k / k).mean(axis=0)
    variance = (k - 1) / (k**2 * (k + 1))
    random_rmse = np.sqrt(variance + ((observed - 1 / k) ** 2).mean(axis=0))
    constant_mae = np.abs(observed - np.median(observed, axis=0)).mean(axis=0)
    of_mae, of_rmse = (mae, random_mae, constant_mae), (rmse, random_rmse, observed.std(axis=0))
    return np.vstack([*of_mae, moves[0]]), np.vstack([*of_rmse, moves[1]])


def _mean_over_answers(errors: np.ndarray) -> Error:
    """The mean of (3 + N, K) of ``_answer_errors``, and its standard error."""
    value, random, constant, *moves = errors.mean(axis=1)
    counted = np.count_nonzero(moves)
    error = math.sqrt(np.square(moves).sum()) if counted > 1 else math.nan
    return Error(float(value), error, float(random), float(constant))
