"""Read and check the label columns of a catalog: vote counts and other numbers.

An error in the labels is a ValueError. It names the column and the value, and in most cases the
galaxy.
"""

from collections.abc import Sequence
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from zoobot.data.catalog import require_columns
from zoobot.data.columns import is_nested
from zoobot.system.errors import UserError

MAX_VOTES = np.iinfo(np.int32).max


def votes(catalog: pd.DataFrame, label_cols: Sequence[str], where: str = "") -> np.ndarray:
    """Vote counts of all galaxies as one contiguous array: (N, A) int32, a column per answer.

    Raises:
        ValueError: a column is missing, or a count is NaN, negative, not whole, too large or not a
            number. The message names the column, the galaxy's ``id_str`` and the value.
    """
    require_columns(catalog, label_cols, where)
    counts = np.empty((len(catalog), len(label_cols)), dtype=np.int32)
    for i, column in enumerate(label_cols):
        values = as_numbers(catalog[column])
        if not are_numbers(values):
            values = pd.to_numeric(values, errors="coerce")
        numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
        bad = ~((numbers >= 0) & (numbers <= MAX_VOTES) & (numbers == np.floor(numbers)))
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise UserError(
                f"catalog {where}: column {column!r} of id_str {catalog['id_str'].iloc[row]!r} "
                f"holds {catalog[column].iloc[row]}, which is no vote count "
                f"({int(bad.sum())} such rows); counts are whole numbers >= 0, "
                f"and 0 where a question was not asked{_cure(numbers[row])}"
            )
        counts[:, i] = numbers
    return counts


def as_numbers(labels: pd.Series) -> pd.Series:
    """Numbers in a column of objects or categories as a column of numbers; others as they are.

    Complex numbers become text, which is refused where numbers are needed.

    Raises:
        ValueError: the column has lists or dicts, as a Parquet file may have.
    """
    if pd.api.types.is_complex_dtype(labels):
        return labels.astype(object).map(str)
    if are_numbers(labels):
        return labels
    if is_nested(labels):
        raise UserError(
            f"column {labels.name!r} holds {labels.dtype!s:.60}, not one value a galaxy"
        )
    values = labels.astype(object)
    missing = values.isna()
    if missing.all() or not all(isinstance(x, Real | np.bool_ | Decimal) for x in values[~missing]):
        return labels
    return pd.to_numeric(values)


def are_numbers(labels: pd.Series) -> bool:
    """Whether a column has a type of real numbers, or of true and false."""
    is_complex = pd.api.types.is_complex_dtype(labels)
    return pd.api.types.is_numeric_dtype(labels) and not is_complex


def told_label(label: Any) -> str:
    """A plain label for a message: text in quotes."""
    if isinstance(label, str):
        return repr(label)
    return "nan" if pd.isna(label) else f"{label:.9g}"


def check_some_votes(table: pd.DataFrame, label_cols: Sequence[str], where: str) -> None:
    """ValueError if no galaxy has a vote: nothing can be learned."""
    if len(table) and not table[[*label_cols]].astype(bool).to_numpy().any():
        raise UserError(
            f"catalog {where}: none of the {len(table)} galaxies to train on has a vote, in any of "
            f"{len(label_cols)} columns ({', '.join(label_cols[:3])}, ...), so there is nothing to "
            "learn"
        )


def _cure(count: float) -> str:
    """What to do about a count that is not whole, for a message; '' for another one."""
    if not 0 < count <= MAX_VOTES:
        return ""
    return (
        "; weighted counts are rounded by --round-votes, and docs/catalogs.md says how fractions "
        "become counts"
    )


def round_votes(table: pd.DataFrame, label_cols: Sequence[str], where: str = "") -> pd.DataFrame:
    """Round weighted vote counts, such as 8.73, to the nearest whole number, halves up.

    Returns:
        A copy with whole numbers in the label columns. What is no count of 0 or more stays, for
        ``votes`` to refuse.

    Raises:
        ValueError: a column is missing, or no count is larger than 1 and some are not whole: these
            are fractions, which rounding would make 0 or 1.
    """
    require_columns(table, label_cols, where)
    rounded = {}
    largest, some_are_parts = 0.0, False
    for column in label_cols:
        counts = pd.to_numeric(table[column], errors="coerce").astype(np.float64)
        is_count = (counts >= 0) & (counts <= MAX_VOTES)
        whole = np.floor(counts + 0.5)
        largest = max(largest, counts[is_count].max() if is_count.any() else 0.0)
        some_are_parts |= bool((counts[is_count] % 1 != 0).any())
        rounded[column] = whole if is_count.all() else table[column].mask(is_count, whole)
    if some_are_parts and largest <= 1:
        raise UserError(
            f"catalog {where}: no column of votes ({', '.join(label_cols[:3])}, ...) holds more "
            "than 1: these are fractions, not counts; docs/catalogs.md says how to make counts"
        )
    return table.assign(**rounded)


def label_array(catalog: pd.DataFrame, label_cols: Sequence[str], where: str = "") -> np.ndarray:
    """Label columns as one array (N, L).

    Returns:
        int32 if all columns have an integer type and their values fit; float32 otherwise, and for
        a table without rows.

    Raises:
        ValueError: a column is missing, or its type is not numeric.
    """
    require_columns(catalog, label_cols, where)
    if not label_cols:
        return np.empty((len(catalog), 0), np.float32)
    columns = [as_numbers(catalog[column]) for column in label_cols]
    for column in columns:
        if not are_numbers(column):
            value = column.iloc[_row_of_text(column)] if len(catalog) else None
            raise UserError(
                f"catalog {where}: label column {column.name!r} holds {value!r}, "
                "which is no number; number the classes from 0 (finetune.py does that itself)"
            )
    values = pd.concat(columns, axis=1)
    whole = all(pd.api.types.is_integer_dtype(dtype) for dtype in values.dtypes)
    whole = whole and len(values) and not values.isna().any(axis=None)
    whole = whole and values.abs().to_numpy().max() <= MAX_VOTES
    if whole:
        return np.array(values, dtype=np.int32, order="C")
    return np.stack([c.to_numpy(dtype=np.float32, na_value=np.nan) for c in columns], axis=1)


def _row_of_text(labels: pd.Series) -> int:
    """The row of the first label that can't be read as a number; 0 if all can."""
    return int(pd.to_numeric(labels, errors="coerce").isna().to_numpy().argmax())


def as_floats(table: pd.DataFrame, column: str, where: str, cure: str = "") -> np.ndarray:
    """A column of numbers as (N,) float64; ValueError, with the first text, for another one."""
    values = as_numbers(table[column])
    if len(table) and not are_numbers(values):
        row = _row_of_text(values)
        raise UserError(
            f"catalog {where}: column {column!r} of id_str {table['id_str'].iloc[row]!r} holds "
            f"{table[column].iloc[row]!r}: no number{cure or _cure_of_text(values.iloc[row])}"
        )
    return values.to_numpy(dtype=np.float64, na_value=np.nan)


def _cure_of_text(label: Any) -> str:
    """What to do about a text where a number should be, for a message; '' for another label."""
    if isinstance(label, str) and pd.notna(pd.to_numeric(label, errors="coerce")):
        return ", but text (is there text in another row?): save the column as numbers"
    return ""


def plain_labels(labels: pd.Series) -> pd.Series:
    """Labels as they are compared: all numbers, or all text without spaces around it.

    Numbers among text become text, whole ones without a point: 1.0 is '1'. Empty text is missing.
    """
    values = as_numbers(labels)
    if are_numbers(values):
        return values
    if pd.api.types.is_string_dtype(labels):  # the same, but faster
        text = labels.str.strip()
    else:
        text = labels.astype(object).map(label_text, na_action="ignore")
    return text.mask(text == "")


def label_text(label: Any) -> str:
    """A label as text without spaces around it, a whole number without a point."""
    if isinstance(label, bytes):
        return label.decode(errors="backslashreplace").strip()
    if isinstance(label, Real) and float(label).is_integer() and not isinstance(label, bool):
        return str(int(label))
    return str(label).strip()


def check_varied(table: pd.DataFrame, column: str, where: str) -> None:
    """ValueError if all galaxies to train on have the same label."""
    labels = plain_labels(table[column]).dropna()
    if labels.nunique() == 1:
        raise UserError(
            f"catalog {where}: column {column!r} holds {told_label(labels.iloc[0])} in each of the "
            f"{len(labels)} galaxies to train on, so there is nothing to learn: add galaxies with "
            "other labels, or name another column"
        )


def check_numbers(
    table: pd.DataFrame, column: str, unit_interval: bool = False, where: str = ""
) -> None:
    """Raise ValueError if a label is not a finite number, or, if ``unit_interval``, not in 0-1."""
    require_columns(table, [column], where)
    labels = as_floats(table, column, where)
    bad = ~np.isfinite(labels)
    reason = "which is no finite number; drop such galaxies"
    if unit_interval and not bad.any():
        bad = ~((labels >= 0) & (labels <= 1))
        reason = "which is outside 0-1; rescale the labels, or leave unit_interval out"
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise UserError(
            f"catalog {where}: column {column!r} of id_str {table['id_str'].iloc[row]!r} holds "
            f"{labels[row]:g}, {reason} ({int(bad.sum())} such rows)"
        )
