"""A catalog's label columns as arrays: vote counts, classes and numbers, each checked.

Every fault is a ValueError that names the column, the galaxy and the value.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from zoobot.data.catalog import require_columns
from zoobot.limits.text import check_name
from zoobot.system.errors import UserError

MAX_VOTES = np.iinfo(np.int32).max


def votes(catalog: pd.DataFrame, label_cols: Sequence[str], where: str = "") -> np.ndarray:
    """The vote counts of all galaxies as one array: (N, A) int32, contiguous.

    Raises:
        ValueError: for a missing column, or a NaN, negative, fractional or non-numeric count; it
            names the column, the galaxy's id_str and the value.
    """
    require_columns(catalog, label_cols, where)
    counts = np.empty((len(catalog), len(label_cols)), dtype=np.int32)
    for i, column in enumerate(label_cols):
        values = catalog[column]
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
                "and 0 where a question was not asked"
            )
        counts[:, i] = numbers
    return counts


def label_array(catalog: pd.DataFrame, label_cols: Sequence[str], where: str = "") -> np.ndarray:
    """Label columns as one array (N, L): int32 if all hold integers, else float32.

    Raises:
        ValueError: for a missing column, or a label that is no number.
    """
    require_columns(catalog, label_cols, where)
    if not label_cols:
        return np.empty((len(catalog), 0), np.float32)
    for column in label_cols:
        if not pd.api.types.is_numeric_dtype(catalog[column]):
            raise UserError(
                f"catalog {where}: label column {column!r} holds {catalog[column].iloc[0]!r}, "
                "which is no number; number the classes from 0 (finetune.py does that itself)"
            )
    values = catalog[list(label_cols)]
    whole = all(pd.api.types.is_integer_dtype(dtype) for dtype in values.dtypes)
    whole = whole and len(values) and values.abs().to_numpy().max() <= MAX_VOTES
    return np.array(values, dtype=np.int32 if whole else np.float32, order="C")


def number_classes(splits: dict[str, pd.DataFrame], column: str, where: str) -> list[str]:
    """The names of the classes; text labels become their numbers, in all splits, in place.

    Names are those of the training galaxies, sorted; numbers 0 to N - 1 stay as they are.

    Raises:
        ValueError: for a missing label, or a name that no training galaxy has.
    """
    labels = splits["train"][column]
    if pd.api.types.is_numeric_dtype(labels):
        largest = labels.max()
        if not largest < max(2, len(labels)):
            raise UserError(
                f"catalog {where}: column {column!r} holds {largest}, which is no class number: "
                f"there are only {len(labels)} galaxies to train on"
            )
        return [str(number) for number in range(max(2, int(largest) + 1))]
    names = sorted(labels.dropna().astype(str).unique())
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


def check_classes(table: pd.DataFrame, column: str, num_classes: int, where: str = "") -> None:
    """ValueError unless a column holds class numbers, 0 to ``num_classes - 1``; lists what is."""
    require_columns(table, [column], where)
    labels = table[column].to_numpy(dtype=np.float64)
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
    """ValueError unless a column holds finite numbers, within 0-1 if ``unit_interval``."""
    require_columns(table, [column], where)
    if not pd.api.types.is_numeric_dtype(table[column]):
        value, id_str = table[column].iloc[0], table["id_str"].iloc[0]
        raise UserError(
            f"catalog {where}: column {column!r} of id_str {id_str!r} holds {value!r}: no number"
        )
    labels = table[column].to_numpy(dtype=np.float64)
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
