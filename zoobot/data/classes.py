"""Classes as labels: their names, their numbers, and what is no class.

An error in the labels is a ValueError. It names the column and the value, and in most cases the
galaxy.
"""

import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from zoobot.data.catalog import check_not_reserved, require_columns
from zoobot.data.labels import (
    are_numbers,
    as_floats,
    as_numbers,
    check_varied,
    label_text,
    plain_labels,
    told_label,
)
from zoobot.limits.text import check_name
from zoobot.system import distributed
from zoobot.system.errors import UserError

FEW_GALAXIES = 10  # may each have a class of their own


def number_classes(splits: dict[str, pd.DataFrame], column: str, where: str) -> list[str]:
    """Find the names of the classes, and replace text labels by class numbers.

    If labels are text, the classes are the names in the training galaxies, sorted, without spaces
    around them. Each table in ``splits`` is replaced by a copy with class numbers (int32) in this
    column. If labels are numbers, the classes are 0 to the largest label in training (at least 0
    and 1), and tables of numbers stay as they are.

    Args:
        splits: tables by name, with one named 'train'.
        column: the label column.
        where: name of the catalog for error messages.

    Returns:
        The names of the classes, in the order of their numbers.

    Raises:
        ValueError: a text label is missing or is not in the training galaxies; a name is not
            allowed; a number is too large for the number of training galaxies; or all training
            galaxies have the same label.
    """
    train = splits["train"]
    require_columns(train, [column], where)
    labels = plain_labels(train[column])
    are_numbered = are_numbers(labels)
    if are_numbered:
        largest = labels.max() if labels.notna().any() else np.nan
        if not 0 <= largest < max(2, len(labels)):
            raise UserError(
                f"catalog {where}: column {column!r} holds {largest}, which is no class number: "
                f"these start from 0, and there are only {len(labels)} galaxies to train on"
            )
        names = [str(number) for number in range(max(2, int(largest) + 1))]
    else:
        _tell_spaces(splits, column)
        names = sorted(labels.dropna().unique())
        check_class_names(names, f"catalog {where}: column {column!r}: class")
        _check_are_classes(train, column, names, where)
    for split, table in splits.items():
        if are_numbered and are_numbers(as_numbers(table[column])):
            continue
        numbers = class_numbers(table[column], names)
        if numbers.isna().any():
            row = int(np.flatnonzero(numbers.isna())[0])
            label = plain_labels(table[column]).iloc[row]
            raise UserError(
                f"catalog {where} ({split}): column {column!r} of id_str "
                f"{table['id_str'].iloc[row]!r} holds {told_label(label)}; "
                f"the classes of the training galaxies are {', '.join(names[:10])}"
            )
        splits[split] = table.assign(**{column: numbers.astype(np.int32)})
    check_varied(train, column, where)
    return names


def class_numbers(labels: pd.Series, names: Sequence[str]) -> pd.Series:
    """The place of each label among the names of the classes, as float64; NaN if it is not there.

    Numbers are compared by their text: with the names '1' and '2' the label 2 is class 1.
    """
    values = plain_labels(labels)
    if are_numbers(values):
        values = values.astype(np.float64).map(label_text, na_action="ignore").astype(object)
    return values.map({name: i for i, name in enumerate(names)}).astype(np.float64)


def check_classes(table: pd.DataFrame, column: str, num_classes: int, where: str = "") -> None:
    """Raise ValueError if a label is not a class number from 0 to ``num_classes - 1``.

    The message lists the labels found.
    """
    require_columns(table, [column], where)
    cure = "; zoobot.data.classes.number_classes makes numbers of names, as finetune.py does"
    labels = as_floats(table, column, where, cure)
    bad = ~((labels >= 0) & (labels < num_classes) & (labels == np.floor(labels)))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        value, found = labels[row], np.unique(labels)
        listed = ", ".join(f"{value:g}" for value in found[:10])
        listed += ", ..." if len(found) > 10 else ""
        raise UserError(
            f"catalog {where}: column {column!r} of id_str {table['id_str'].iloc[row]!r} holds "
            f"{value:g}, but with num_classes={num_classes} labels are the whole numbers 0 to "
            f"{num_classes - 1}; classes found: {listed}"
            + ("; leave out galaxies without a label" if np.isnan(value) else "")
            + ("; fractions are for regression" if np.isfinite(value) and value % 1 else "")
        )


def check_class_names(names: Sequence[str], what: str = "class") -> None:
    """ValueError for a name that is no text, is taken twice, or has another meaning."""
    check_not_reserved(names, what)
    for name in names:
        if not isinstance(name, str):
            raise UserError(f"{what} {name!r} is no text")
        check_name(name, what)
    if len({*names}) < len(names):
        repeated = next(name for i, name in enumerate(names) if name in names[:i])
        raise UserError(f"{what} {repeated!r} is named twice")


def one_class_notes(
    tables: Mapping[str, pd.DataFrame], column: str, names: Sequence[str]
) -> list[str]:
    """A sentence about each split but train of which all galaxies are of one class.

    Args:
        tables: with class numbers in ``column``.
        names: of the classes, in the order of their numbers.
    """
    notes = []
    for split, table in tables.items():
        found = table[column].unique()
        if split != "train" and len(found) == 1:
            notes.append(
                f"split {split!r} has galaxies of the class {names[int(found[0])]!r} only "
                f"({len(table)}): its accuracy says nothing about the other classes"
            )
    return notes


def _check_are_classes(train: pd.DataFrame, column: str, names: Sequence[str], where: str) -> None:
    """ValueError for text that names no classes; the main process tells names of one spelling."""
    if len(names) == len(train) > FEW_GALAXIES:
        raise UserError(
            f"catalog {where}: column {column!r} holds another text for each of the {len(train)} "
            f"galaxies to train on, such as {names[0]!r} and {names[1]!r}: these are no classes"
        )
    if pd.api.types.infer_dtype(train[column], skipna=True) == "mixed":
        several = train[column].map(lambda x: isinstance(x, list | tuple | dict | np.ndarray))
        if several.any():
            row = int(several.to_numpy().argmax())
            raise UserError(
                f"catalog {where}: column {column!r} of id_str {train['id_str'].iloc[row]!r} holds "
                f"{train[column].iloc[row]!r:.80}: give one class a galaxy, of a one-hot row the "
                "place of the 1"
            )
    alike = [a for a, b in pairwise(sorted(names, key=str.lower)) if a.lower() == b.lower()]
    if alike and distributed.is_main():
        print(
            f"warning: column {column!r} has classes that differ in capitals only, for example "
            f"{alike[0]!r}",
            file=sys.stderr,
        )


def _tell_spaces(splits: dict[str, pd.DataFrame], column: str) -> None:
    """Say, in the main process, if there are text labels with spaces around them."""
    changed = []
    for table in splits.values():
        labels = table[column]
        if not pd.api.types.is_string_dtype(labels):
            labels = labels.astype(object).map(str, na_action="ignore")
        changed += labels[labels.notna() & (labels != labels.str.strip())].tolist()
    if changed and distributed.is_main():
        print(
            f"column {column!r}: spaces around {len(changed)} labels are left out, for example "
            f"{changed[0]!r} is {changed[0].strip()!r}"
        )
