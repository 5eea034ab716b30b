"""Read and check the label columns of a catalog: vote counts, class numbers and other numbers.

An error in the labels is a ValueError. It names the column and the value, and in most cases the
galaxy.
"""

from collections.abc import Sequence
from numbers import Real

import numpy as np
import pandas as pd

from zoobot.data.catalog import check_not_reserved, require_columns
from zoobot.limits.text import check_name
from zoobot.system import distributed
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
        if not pd.api.types.is_numeric_dtype(values):
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
    """Numbers in a column of objects or categories as a column of numbers; others as they are."""
    if pd.api.types.is_numeric_dtype(labels):
        return labels
    values = labels.astype(object)
    missing = values.isna()
    if missing.all() or not all(isinstance(x, Real | np.bool_) for x in values[~missing]):
        return labels
    return pd.to_numeric(values)


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
        if not pd.api.types.is_numeric_dtype(column):
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


def _as_floats(table: pd.DataFrame, column: str, where: str) -> np.ndarray:
    """A column of numbers as (N,) float64; ValueError, with the first text, for another one."""
    values = as_numbers(table[column])
    if len(table) and not pd.api.types.is_numeric_dtype(values):
        row = _row_of_text(values)
        raise UserError(
            f"catalog {where}: column {column!r} of id_str {table['id_str'].iloc[row]!r} holds "
            f"{table[column].iloc[row]!r}: no number"
        )
    return values.to_numpy(dtype=np.float64, na_value=np.nan)


def number_classes(splits: dict[str, pd.DataFrame], column: str, where: str) -> list[str]:
    """Find the names of the classes, and replace text labels by class numbers.

    If labels are text, the classes are the names in the training galaxies, sorted, without spaces
    around them. Each table in ``splits`` is replaced by a copy with class numbers (int32) in this
    column. If labels are numbers, the classes are 0 to the largest label in training (at least 0
    and 1), and ``splits`` stays as it is.

    Args:
        splits: tables by name, with one named 'train'.
        column: the label column.
        where: name of the catalog for error messages.

    Returns:
        The names of the classes, in the order of their numbers.

    Raises:
        ValueError: a text label is missing or is not in the training galaxies; a name is not
            allowed; or a number is too large for the number of training galaxies.
    """
    labels = as_numbers(splits["train"][column])
    if pd.api.types.is_numeric_dtype(labels):
        largest = labels.max() if labels.notna().any() else np.nan
        if not 0 <= largest < max(2, len(labels)):
            raise UserError(
                f"catalog {where}: column {column!r} holds {largest}, which is no class number: "
                f"these start from 0, and there are only {len(labels)} galaxies to train on"
            )
        return [str(number) for number in range(max(2, int(largest) + 1))]
    _strip_labels(splits, column)
    names = sorted(splits["train"][column].dropna().unique())
    check_not_reserved(names, f"catalog {where}: column {column!r}: class")
    for name in names:
        check_name(name, f"catalog {where}: column {column!r}: class")
    for split, table in splits.items():
        numbers = table[column].map({name: i for i, name in enumerate(names)})
        if numbers.isna().any():
            row = int(np.flatnonzero(numbers.isna())[0])
            raise UserError(
                f"catalog {where} ({split}): column {column!r} of id_str "
                f"{table['id_str'].iloc[row]!r} holds {table[column].iloc[row]!r}; the classes of "
                f"the training galaxies are {', '.join(names[:10])}"
            )
        splits[split] = table.assign(**{column: numbers.astype(np.int32)})
    return names


def _strip_labels(splits: dict[str, pd.DataFrame], column: str) -> None:
    """Text labels without spaces around them, in place; the main process says if there were any."""
    changed = []
    for split, table in splits.items():
        labels = table[column].astype(object)
        text = labels.astype(str).mask(labels.isna())
        stripped = text.str.strip()
        changed += text[stripped != text].dropna().tolist()
        splits[split] = table.assign(**{column: stripped.mask(stripped == "")})
    if changed and distributed.is_main():
        print(
            f"column {column!r}: spaces around {len(changed)} labels are left out, for example "
            f"{changed[0]!r} is {changed[0].strip()!r}"
        )


def check_classes(table: pd.DataFrame, column: str, num_classes: int, where: str = "") -> None:
    """Raise ValueError if a label is not a class number from 0 to ``num_classes - 1``.

    The message lists the labels found.
    """
    require_columns(table, [column], where)
    labels = _as_floats(table, column, where)
    bad = ~((labels >= 0) & (labels < num_classes) & (labels == np.floor(labels)))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        found = np.unique(labels)
        listed = ", ".join(f"{value:g}" for value in found[:10])
        listed += ", ..." if len(found) > 10 else ""
        raise UserError(
            f"catalog {where}: column {column!r} of id_str {table['id_str'].iloc[row]!r} holds "
            f"{labels[row]:g}, but with num_classes={num_classes} labels are 0 to "
            f"{num_classes - 1}; classes found: {listed}"
        )


def check_numbers(
    table: pd.DataFrame, column: str, unit_interval: bool = False, where: str = ""
) -> None:
    """Raise ValueError if a label is not a finite number, or, if ``unit_interval``, not in 0-1."""
    require_columns(table, [column], where)
    labels = _as_floats(table, column, where)
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
