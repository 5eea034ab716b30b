"""Make vote counts of published vote fractions."""

import numpy as np
import pandas as pd

from zoobot.data.catalog import require_columns
from zoobot.schemas import Schema
from zoobot.system.errors import UserError


def counts_from_fractions(
    fractions: pd.DataFrame, schema: Schema, num_people: pd.Series | np.ndarray
) -> pd.DataFrame:
    """Counts of each answer, down the tree, from the fractions of each question's answers.

    All ``num_people`` answer the questions that are asked first; another question is answered by
    those who gave an answer that leads to it. A question's votes are dealt to its answers by the
    largest remainder, so that they add up. Counts are the true ones where each volunteer counts as
    one, whatever the digits to which the fractions are rounded, up to several hundred people.

    Args:
        fractions: (N, A) at least the tree's label columns, 0 to 1; a question that was not asked
            has zeros or NaN.
        schema: the tree that volunteers were led down, which may differ from the one to train with.
        num_people: (N,) how many volunteers looked at each galaxy.

    Returns:
        (N, A) int32, with the index of ``fractions``.

    Raises:
        ValueError: a column is missing, a fraction is text or not within 0-1, or a number of people
            is text, missing, negative or infinite; or there are not as many numbers of people as
            galaxies, or they belong to other rows.
    """
    require_columns(fractions, schema.label_cols, "in memory")
    columns = [_as_floats(fractions[column], column) for column in schema.label_cols]
    values = np.stack(columns, axis=1)
    values = np.nan_to_num(values, nan=0.0, posinf=np.inf)
    bad = ~((values >= 0) & (values <= 1.001))
    if bad.any():
        row, column = (int(place[0]) for place in np.nonzero(bad))
        raise UserError(
            f"column {schema.label_cols[column]!r} holds {values[row, column]:g} in row {row}, "
            "which is no fraction"
        )
    people = _as_floats(num_people, "num_people")
    if len(people) != len(values):
        raise UserError(f"num_people has {len(people)} numbers for {len(values)} galaxies")
    if isinstance(num_people, pd.Series) and not num_people.index.equals(fractions.index):
        raise UserError(
            "num_people and the fractions have different indices: take both from one table, or "
            "give num_people.to_numpy() if their rows are in the same order"
        )
    bad = ~((people >= 0) & (people <= np.iinfo(np.int32).max))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise UserError(f"num_people is {people[row]:g} in row {row}")
    counts = np.zeros(values.shape, dtype=np.int32)
    for level in schema.levels:
        for question in level:
            columns = slice(question.start_index, question.end_index + 1)
            leading = [answer.index for answer in question.parents]
            votes = counts[:, leading].sum(axis=1) if leading else np.round(people)
            counts[:, columns] = _deal(values[:, columns], votes)
    return pd.DataFrame(counts, fractions.index, schema.label_cols)


def _as_floats(numbers: pd.Series | np.ndarray, name: str) -> np.ndarray:
    """(N,) float64, NaN for what is missing; ValueError for text that is no number."""
    if np.ndim(numbers) != 1:
        raise UserError(f"{name} must be one column of numbers, not {np.ndim(numbers)}-dimensional")
    cells = pd.Series(numbers).reset_index(drop=True)
    values = pd.to_numeric(cells.astype(object), errors="coerce")
    text = values.isna() & cells.notna()
    if text.any():
        row = int(text.to_numpy().argmax())
        raise UserError(f"column {name!r} holds {cells.iloc[row]!r} in row {row}: no number")
    return values.to_numpy(np.float64, na_value=np.nan)


def _deal(fractions: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """Whole numbers (N, K) near ``fractions`` times ``votes`` (N,), which add up to the votes."""
    sums = fractions.sum(axis=1, keepdims=True)
    exact = np.divide(fractions, sums, out=np.zeros_like(fractions), where=sums > 0)
    exact *= votes[:, None]
    counts = np.floor(exact + 1e-9)
    left = np.where(sums[:, 0] > 0, votes - counts.sum(axis=1), 0)
    rank = np.argsort(np.argsort(counts - exact, axis=1, kind="stable"), axis=1, kind="stable")
    return (counts + (rank < left[:, None])).astype(np.int32)
