"""What a run trains on, as a table of text: galaxies by class and split, votes, or numbers."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from zoobot.data.brightness import NINES
from zoobot.data.labels import votes
from zoobot.data.sources import Galaxies
from zoobot.schemas import Schema

Splits = Mapping[str, pd.DataFrame | Galaxies | None]

# Labels have more such values than pixels: 1000 may be a pixel's flux, and -1 its noise.
NO_LABELS = (*NINES, 99.9, 999.9, 1000.0, 32768.0)
SENTINELS = [-1.0, *NO_LABELS, *(-value for value in NO_LABELS)]
FAR = 5.0  # spreads of the others


def class_overview(splits: Splits, column: str, names: Sequence[str]) -> str:
    """Galaxies of each class in each split, and a sentence about classes without any in training.

    Args:
        splits: tables or galaxies with class numbers in ``column``.
        names: of the classes, in the order of their numbers.
    """
    numbers = {split: _numbers(some, column) for split, some in _filled(splits).items()}
    counts = [[int((labels == i).sum()) for labels in numbers.values()] for i in range(len(names))]
    rows = [[name, *map(_counted, row)] for name, row in zip(names, counts, strict=True)]
    rows.append(["all", *(_counted(len(labels)) for labels in numbers.values())])
    lines = [_aligned([column, *numbers], rows)]
    absent = [name for name, row in zip(names, counts, strict=True) if not row[0]]
    if absent:
        first = np.nanmin(numbers["train"], initial=np.inf)
        from_one = f": the first label is {first:g}, and classes count from 0" if first >= 1 else ""
        what = "class" if len(absent) == 1 else "classes"
        listed = ", ".join(absent[:10]) + (", ..." if len(absent) > 10 else "")
        lines.append(f"no galaxy to train on has the {what} {listed}{from_one}")
    return "\n".join(lines)


def vote_overview(splits: Splits, schema: Schema) -> str:
    """Galaxies with votes on each question, and their votes, in each split."""
    counts = {split: _votes(some, schema, split) for split, some in _filled(splits).items()}
    rows = []
    for question in schema.questions:
        columns = slice(question.start_index, question.end_index + 1)
        row = [question.text]
        for votes_of_split in counts.values():
            answered = votes_of_split[:, columns].sum(axis=1, dtype=np.int64)
            row += [_counted(int((answered > 0).sum())), _counted(int(answered.sum()))]
        rows.append(row)
    row = ["all"]
    for votes_of_split in counts.values():
        row += [_counted(len(votes_of_split)), _counted(int(votes_of_split.sum(dtype=np.int64)))]
    return _aligned(["question", *(n for s in counts for n in (s, "votes"))], [*rows, row])


def number_overview(splits: Splits, column: str) -> str:
    """The range and the spread of a number in each split; what is no number is left out.

    Values that stand for a missing number, such as -99, are named.
    """
    rows, notes = [], []
    for split, some in _filled(splits).items():
        numbers = _numbers(some, column)
        finite = numbers[np.isfinite(numbers)]
        told = ["-"] * 4
        if len(finite):
            measures = (finite.min(), finite.max(), finite.mean(), finite.std())
            told = [f"{value:.5g}" for value in measures]
        rows.append([split, _counted(len(numbers)), *told])
        notes += [
            f"{count} {split} galaxies have {column} {value:g}, which looks like a missing number: "
            "drop them, or say what it is in another column"
            for value, count in _sentinels(finite).items()
        ]
    heads = [column, "galaxies", "lowest", "highest", "mean", "spread"]
    return "\n".join([_aligned(heads, rows), *notes])


def _sentinels(numbers: np.ndarray) -> dict[float, int]:
    """Usual values for no number that lie apart from all others, and how many there are."""
    found, is_new = {}, True
    while is_new:  # one may hide another
        is_new = False
        for value in SENTINELS:
            rest = numbers[numbers != value]
            if len(rest) in (0, len(numbers)) or value not in (numbers.min(), numbers.max()):
                continue
            is_far = abs(value - rest.mean()) > FAR * rest.std() > 0
            if is_far or value < 0 <= rest.min():
                found[value], is_new = len(numbers) - len(rest), True
                numbers = rest
    return found


def _filled(splits: Splits) -> dict[str, pd.DataFrame | Galaxies]:
    """The splits that have galaxies."""
    return {split: some for split, some in splits.items() if some is not None and len(some)}


def _numbers(some: pd.DataFrame | Galaxies, column: str) -> np.ndarray:
    """(N,) labels as float64, NaN for what is no number."""
    if isinstance(some, pd.DataFrame):
        labels = pd.to_numeric(some[column].astype(object), errors="coerce")
        return labels.to_numpy(np.float64, na_value=np.nan)
    return some.labels(range(len(some)))[:, some.label_cols.index(column)].double().numpy()


def _votes(some: pd.DataFrame | Galaxies, schema: Schema, split: str) -> np.ndarray:
    """(N, A) counts; ValueError if a table holds what are none."""
    if isinstance(some, pd.DataFrame):
        return votes(some, schema.label_cols, split)
    return some.labels(range(len(some))).numpy()


def _counted(number: int) -> str:
    return f"{number:,}"


def _aligned(header: list[str], rows: list[list[str]]) -> str:
    """Lines with columns of equal width: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in [header, *rows]
    )
