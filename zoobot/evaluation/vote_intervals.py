"""Whether predicted intervals of votes are right: their coverage, and the width that votes show."""

import dataclasses
import math

import numpy as np

from zoobot import statistics
from zoobot.evaluation.uncertainty import mean_error
from zoobot.evaluation.vote_scores import vote_losses
from zoobot.schemas import Schema

COVERAGE_LEVEL = 0.9
MANY_VOTES = 20  # on a question: coverage then shows concentrations that are too large
Z_90 = 1.645  # half a 90% interval in standard errors
STEP = 0.05  # of log temperature, for derivatives


@dataclasses.dataclass
class IntervalAssessment:
    """The intervals of one question, of galaxies with enough votes on it, and two at least.

    Attributes:
        name: of the question.
        galaxies: number of these galaxies. If it is 0, all other numbers are NaN.
        coverage: mean of ``statistics.vote_coverage`` for the central 90% interval, and its
            standard error; 0.9 is expected of calibrated predictions.
        many: number of galaxies with ``MANY_VOTES`` votes or more.
        many_coverage: their coverage, and its standard error.
        votes: mean number of votes.
        effective_votes: mean number of independent votes that scatter as much as these are
            predicted to scatter: n (A + 1) / (A + n) for n votes and concentrations of sum A. Where
            it is near ``votes``, the width of the predicted distribution hardly matters for the
            votes, and their coverage says little about it.
        concentration: mean sum of the concentrations, as predicted.
        temperature: the factor for the concentrations that fits these votes best.
        temperature_interval: its 90% interval, from the scatter of galaxies.
        used: the factor fitted to other galaxies; NaN if there is none.
        recalibrated: the coverage with it, and its standard error.
    """

    name: str
    galaxies: int
    coverage: tuple[float, float] = (math.nan, math.nan)
    many: int = 0
    many_coverage: tuple[float, float] = (math.nan, math.nan)
    votes: float = math.nan
    effective_votes: float = math.nan
    concentration: float = math.nan
    temperature: float = math.nan
    temperature_interval: tuple[float, float] = (math.nan, math.nan)
    used: float = math.nan
    recalibrated: tuple[float, float] = (math.nan, math.nan)

    @property
    def verdict(self) -> str:
        """'too narrow' or 'too wide' if the temperature differs from 1 by its error, else ''."""
        lower, upper = self.temperature_interval
        return "too narrow" if upper < 1 else "too wide" if lower > 1 else ""


def assess_intervals(
    concentrations: np.ndarray,
    votes: np.ndarray,
    schema: Schema,
    min_votes: int,
    temperatures: np.ndarray | None = None,
) -> list[IntervalAssessment]:
    """The intervals of every question of a tree.

    Args:
        concentrations: (N, A, S).
        votes: (N, A).
        min_votes: how many votes on a question are enough.
        temperatures: (Q,) factors fitted to other galaxies, for the recalibrated coverage.
    """
    covered = statistics.vote_coverage(concentrations, votes, schema, COVERAGE_LEVEL)
    after = None
    if temperatures is not None:
        cooled = statistics.recalibrate(concentrations, temperatures, schema)
        after = statistics.vote_coverage(cooled, votes, schema, COVERAGE_LEVEL)
    fitted = statistics.fit_temperatures(concentrations, votes, schema)
    errors = temperature_errors(concentrations, votes, schema, fitted)
    assessed = []
    for q, question in enumerate(schema.questions):
        columns = slice(question.start_index, question.end_index + 1)
        n = votes[:, columns].sum(axis=1)
        enough, many = n >= max(2, min_votes), n >= max(MANY_VOTES, min_votes)
        item = IntervalAssessment(question.text, int(enough.sum()), many=int(many.sum()))
        assessed.append(item)
        if not enough.any():
            continue
        total = concentrations[enough, columns].sum(axis=1).mean(axis=1)
        item.coverage = _mean_and_error(covered[enough, columns])
        item.many_coverage = _mean_and_error(covered[many, columns])
        item.votes = float(n[enough].mean())
        item.effective_votes = float((n[enough] * (total + 1) / (total + n[enough])).mean())
        item.concentration = float(total.mean())
        item.temperature = float(fitted[q])
        ends = np.log(fitted[q]) + Z_90 * errors[q] * np.array([-1, 1])
        item.temperature_interval = tuple(np.exp(ends).tolist())
        if after is not None:
            item.used = float(temperatures[q])
            item.recalibrated = _mean_and_error(after[enough, columns])
    return assessed


def _mean_and_error(covered: np.ndarray) -> tuple[float, float]:
    """The mean of (G, answers), and its standard error over galaxies."""
    if not len(covered):
        return math.nan, math.nan
    of_galaxies = covered.mean(axis=1)
    return float(of_galaxies.mean()), mean_error(of_galaxies)


def temperature_errors(
    concentrations: np.ndarray, votes: np.ndarray, schema: Schema, temperatures: np.ndarray
) -> np.ndarray:
    """The standard errors (Q,) of the logarithms of ``statistics.fit_temperatures``.

    From the scatter of the galaxies' derivatives of the loss (the "sandwich" of H. White 1982,
    Econometrica 50, 1). So they hold too where votes do not follow the predicted distribution. They
    include the prior; without any votes they are its width.

    Args:
        temperatures: the fitted ones.
    """
    below, at, above = (
        vote_losses(
            statistics.recalibrate(concentrations, temperatures * math.exp(step), schema),
            votes,
            schema,
        )
        for step in (-STEP, 0, STEP)
    )
    slopes = (above - below) / (2 * STEP)
    curvature = np.maximum((above + below - 2 * at).sum(axis=0) / STEP**2, 0)
    prior = 1 / statistics.TEMPERATURE_SPREAD**2
    return np.sqrt((slopes**2).sum(axis=0) + prior) / (curvature + prior)
