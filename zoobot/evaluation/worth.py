"""What predicted fractions are worth: the number of volunteers whose votes would be as good.

If N volunteers are asked a question about a galaxy whose true fractions are p, the fractions of
their votes miss p, because they are few: the squared difference, summed over answers, is
sum p (1 - p) / N on average. A model that misses p by as much on average as N volunteers would is
worth N volunteers.

Nobody knows p. From n >= 2 votes with fractions f, and the prediction q:

- V = (1 - sum f^2) n / (n - 1) has the mean sum p (1 - p), because the mean of sum f^2 is
  sum p^2 + sum p (1 - p) / n. It is the unbiased estimate of Gini's index (E. H. Simpson 1949,
  Nature 163, 688).
- M = sum (q - f)^2 - V / n has the mean sum (q - p)^2, because q does not know these votes, and f
  scatters about p by sum p (1 - p) / n. (Without the correction a model could not seem to be worth
  more than the volunteers who judge it.)

W = mean M / mean V over galaxies is then the model's error in units of that of one vote, and
N = 1 / W. The error of a ratio of means over G galaxies (W. G. Cochran 1977, "Sampling Techniques",
chapter 6) is: var W = var(M - W V) / (G mean(V)^2). W is nearly normal and N = 1 / W is
not, so the interval is made of W and inverted. If its lower end is not above 0, these votes do not
tell the model from a perfect one, and N has no upper end.

A galaxy counts once, however many votes it has. A question that few of the volunteers were asked
counts as much as others, so this is about galaxies to which the question was asked at all.
"""

import dataclasses
import math

import numpy as np

from zoobot.evaluation.uncertainty import ratio_error
from zoobot.evaluation.vote_intervals import Z_90
from zoobot.schemas import Schema

FEWEST_GALAXIES = 20  # for an interval that can be trusted


@dataclasses.dataclass
class Worth:
    """The worth of the predictions of one question.

    Attributes:
        name: of the question.
        galaxies: number of galaxies with two votes or more on it.
        relative_error: W, the mean squared error over that of one vote, and its standard error.
            NaN if there are fewer than ``FEWEST_GALAXIES``, or all volunteers agree on each.
        volunteers: N; infinite where W is not above 0.
        interval: its 90% interval.
        random: the worth of guessing all fractions that sum to 1 equally often.
        constant: the worth of the best constant, the mean of the volunteers' fractions.
    """

    name: str
    galaxies: int
    relative_error: tuple[float, float] = (math.nan, math.nan)
    random: float = math.nan
    constant: float = math.nan

    @property
    def is_known(self) -> bool:
        return not math.isnan(self.relative_error[0])

    @property
    def volunteers(self) -> float:
        return _inverse(self.relative_error[0])

    @property
    def interval(self) -> tuple[float, float]:
        value, error = self.relative_error
        return _inverse(value + Z_90 * error), _inverse(value - Z_90 * error)


def assess_worth(fractions: np.ndarray, votes: np.ndarray, schema: Schema) -> list[Worth]:
    """The worth of predictions, for every question of a tree.

    Args:
        fractions: (N, A) predicted.
        votes: (N, A).
    """
    assessed = []
    for question in schema.questions:
        columns = slice(question.start_index, question.end_index + 1)
        rows = votes[:, columns].sum(axis=1) >= 2
        item = Worth(question.text, int(rows.sum()))
        assessed.append(item)
        if item.galaxies < FEWEST_GALAXIES:
            continue
        counts = votes[rows, columns]
        of_one_vote = vote_variance(counts)
        if not of_one_vote.sum() > 0:
            continue
        n, k = counts.sum(axis=1), counts.shape[1]
        observed = counts / n[:, None]
        noise, mean = of_one_vote / n, observed.mean(axis=0)
        squares = ((fractions[rows, columns] - observed) ** 2).sum(axis=1)
        guessed = (k - 1) / (k * (k + 1)) + ((observed - 1 / k) ** 2).sum(axis=1)
        constant = ((observed - mean) ** 2).sum(axis=1)
        of_model, of_guess, of_constant = (s - noise for s in (squares, guessed, constant))
        value = float(of_model.mean() / of_one_vote.mean())
        item.relative_error = value, ratio_error(of_model, of_one_vote)
        item.random, item.constant = (
            _inverse(float(m.mean() / of_one_vote.mean())) for m in (of_guess, of_constant)
        )
    return assessed


def vote_variance(counts: np.ndarray) -> np.ndarray:
    """V: how much one vote scatters, unbiased, from votes (G, K) of two or more each: (G,)."""
    n = counts.sum(axis=1)
    same = (counts / n[:, None]) ** 2
    return (1 - same.sum(axis=1)) * n / (n - 1)


def _inverse(relative_error: float) -> float:
    """How many volunteers; infinitely many for an error that is not above 0, NaN for NaN."""
    return math.inf if relative_error <= 0 else 1 / relative_error
