"""Coverage and reliability of predicted votes in strata: by votes, by entropy, by any column.

An entry is the votes on one question about one galaxy. Errors are of galaxies: the entries of one
galaxy belong together.
"""

import dataclasses

import numpy as np
import pandas as pd

from zoobot import statistics
from zoobot.evaluation.uncertainty import ratio_error
from zoobot.evaluation.vote_intervals import COVERAGE_LEVEL
from zoobot.schemas import Schema

FEWEST_GALAXIES = 40  # in a stratum: the 90% interval of its coverage is then about +- 0.07
MOST_STRATA = 5  # of numbers
MOST_VALUES = 8  # of texts


@dataclasses.dataclass
class Stratum:
    """The entries of one stratum.

    Attributes:
        name: the range of values, or the value.
        low, middle, high: least, median and largest value; of a text, its place among the strata.
        galaxies, entries: how many.
        votes: mean number of votes.
        coverage: of the 90% intervals, and its standard error; 0.9 is expected.
        predicted: mean of the highest predicted fraction.
        observed: mean fraction of the volunteers for the same answers.
        difference: predicted - observed, and its standard error; above 0 the model is too sure.
    """

    name: str
    low: float
    middle: float
    high: float
    galaxies: int
    entries: int
    votes: float
    coverage: tuple[float, float]
    predicted: float
    observed: float
    difference: tuple[float, float]


@dataclasses.dataclass
class Strata:
    """The strata of some entries by some values.

    Attributes:
        by: what the values are.
        of: whose entries: a question's, or all.
        strata: in order of the values; none if there are too few galaxies.
        told: why there are none, or what was left out; '' if nothing.
        is_text: whether the values are texts.
    """

    by: str
    of: str
    strata: list[Stratum]
    told: str = ""
    is_text: bool = False


def entries(concentrations: np.ndarray, votes: np.ndarray, schema: Schema) -> pd.DataFrame:
    """One row for each galaxy and question with two votes or more.

    One vote is inside the interval equally often whatever its width, so it says nothing.

    Args:
        concentrations: (N, A, S).
        votes: (N, A).

    Returns:
        Columns ``galaxy`` and ``question`` (their numbers), ``votes`` (how many), ``entropy`` (of
        the predicted fractions over its maximum: 0 is sure, 1 knows nothing), ``covered`` (how much
        of the votes is in the central 90% interval, mean over answers), ``predicted`` (the highest
        predicted fraction), ``observed`` (the volunteers' fraction for the same answer).
    """
    covered = statistics.vote_coverage(concentrations, votes, schema, COVERAGE_LEVEL)
    fractions = statistics.fractions(concentrations, schema)
    entropy = statistics.answer_entropy(concentrations, schema) / np.log(schema.question_sizes)
    tables = []
    for q, question in enumerate(schema.questions):
        columns = slice(question.start_index, question.end_index + 1)
        n = votes[:, columns].sum(axis=1)
        rows = np.flatnonzero(n >= 2)
        first = fractions[rows, columns].argmax(axis=1) + question.start_index
        table = {
            "galaxy": rows,
            "question": q,
            "votes": n[rows],
            "entropy": entropy[rows, q],
            "covered": covered[rows, columns].mean(axis=1),
            "predicted": fractions[rows, first],
            "observed": votes[rows, first] / n[rows],
        }
        tables.append(pd.DataFrame(table))
    return pd.concat(tables, ignore_index=True)


def stratify(of: str, chosen: pd.DataFrame, by: str, values: pd.Series) -> Strata:
    """Divide entries into strata of ``FEWEST_GALAXIES`` or more.

    Numbers are divided into at most ``MOST_STRATA`` with about as many entries each; equal ones
    stay together. Of texts each frequent value is a stratum.

    Args:
        of: whose entries they are, for a reader.
        chosen: of ``entries``.
        by: what the values are, for a reader.
        values: (P,) of these entries, numbers or texts. Missing ones are left out.
    """
    is_number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if is_number:
        values = values.astype(np.float64).replace([np.inf, -np.inf], np.nan)
    known = values.notna().to_numpy()
    lost = chosen["galaxy"].nunique() - chosen["galaxy"][known].nunique()
    told = [f"{lost} galaxies without a value are left out"] if lost else []
    chosen, values = chosen[known], values.to_numpy()[known]
    galaxies = chosen["galaxy"].to_numpy()
    if is_number:
        groups = [(_range(values[rows]), rows) for rows in _by_rank(galaxies, values)]
    else:
        values = values.astype(str)
        groups, num_rare = _by_value(galaxies, values)
        if groups and num_rare:
            told.append(f"{num_rare} values of too few galaxies are left out")
    if not groups:
        told.append(_why_not(galaxies, values))
    strata = [
        _stratum(chosen.iloc[rows], name, values[rows] if is_number else np.full(len(rows), place))
        for place, (name, rows) in enumerate(groups)
    ]
    return Strata(by, of, strata, "; ".join(told), not is_number)


def _why_not(galaxies: np.ndarray, values: np.ndarray) -> str:
    """Why there are no strata, in words."""
    total = len(np.unique(galaxies))
    if total < 2 * FEWEST_GALAXIES:
        return (
            f"too few galaxies to divide: {total}, of at least {2 * FEWEST_GALAXIES} for two "
            f"strata of {FEWEST_GALAXIES}"
        )
    if len(np.unique(values)) == 1:
        return "all values are the same"
    return f"values differ so that no two strata have {FEWEST_GALAXIES} galaxies each"


def _by_value(galaxies: np.ndarray, values: np.ndarray) -> tuple[list, int]:
    """(value, rows) of values that are frequent enough, and how many values are not."""
    counts = pd.Series(galaxies).groupby(values).nunique().sort_values(ascending=False)
    frequent = sorted(counts.index[counts >= FEWEST_GALAXIES][:MOST_VALUES])
    groups = [(value, np.flatnonzero(values == value)) for value in frequent]
    return (groups if len(groups) > 1 else []), len(counts) - len(groups)


def _by_rank(galaxies: np.ndarray, values: np.ndarray) -> list[np.ndarray]:
    """The rows of as many strata as there are galaxies for; none for fewer than two."""
    most = min(MOST_STRATA, len(np.unique(galaxies)) // FEWEST_GALAXIES)
    for number in range(most, 1, -1):
        edges = np.quantile(values, np.linspace(0, 1, number + 1)[1:-1], method="lower")
        places = np.searchsorted(np.unique(edges), values, side="left")
        groups = [np.flatnonzero(places == place) for place in np.unique(places)]
        if len(groups) > 1 and all(
            len(np.unique(galaxies[rows])) >= FEWEST_GALAXIES for rows in groups
        ):
            return groups
    return []


def _range(values: np.ndarray) -> str:
    low, high = f"{values.min():.4g}", f"{values.max():.4g}"
    return low if low == high else f"{low} to {high}"


def _stratum(rows: pd.DataFrame, name: str, values: np.ndarray) -> Stratum:
    num_galaxies = rows["galaxy"].nunique()
    difference = rows["predicted"] - rows["observed"]
    return Stratum(
        name,
        *(float(each) for each in (np.min(values), np.median(values), np.max(values))),
        num_galaxies,
        len(rows),
        float(rows["votes"].mean()),
        _mean_and_error(rows["galaxy"], rows["covered"]),
        float(rows["predicted"].mean()),
        float(rows["observed"].mean()),
        _mean_and_error(rows["galaxy"], difference),
    )


def _mean_and_error(galaxies: pd.Series, values: pd.Series) -> tuple[float, float]:
    """The mean of entries, and its standard error over their galaxies."""
    of_galaxies = values.groupby(galaxies.to_numpy()).agg(["sum", "count"])
    sums, counts = of_galaxies["sum"].to_numpy(), of_galaxies["count"].to_numpy()
    return float(values.mean()), ratio_error(sums, counts)
