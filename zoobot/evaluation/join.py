"""Match predictions with the labels of the same galaxies, and find out what was predicted."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from zoobot.data import classes, labels
from zoobot.data.catalog import check_ids, read_catalog, require_columns
from zoobot.data.file_kinds import image_stem
from zoobot.limits.text import check_name
from zoobot.predictions.files import Predictions, read_predictions
from zoobot.schemas import Schema, get_schema
from zoobot.system.errors import UserError

MAX_CLASSES = 200  # the report has a table row and a figure panel for each class
TASKS = ("tree", "classification", "regression")


@dataclasses.dataclass
class Joined:
    """Predictions and labels of the same galaxies, in the same order.

    Attributes:
        predictions: of galaxies in the catalog whose images could be read; values are float64.
        table: the catalog's rows of these galaxies.
        task: one of ``TASKS``.
        schema: the decision tree, for the task "tree".
        label_col: the column of labels, for the other tasks.
        class_names: the names of the classes, for the task "classification".
        notes: sentences about the galaxies that are left out, for the report.
        round_votes: whether the table's votes were rounded.
    """

    predictions: Predictions
    table: pd.DataFrame
    task: str
    schema: Schema | None
    label_col: str
    class_names: list[str]
    notes: list[str]
    round_votes: bool = False


def join(
    predictions: Predictions | str | Path,
    catalog: pd.DataFrame | str | Path,
    task: str | None = None,
    schema: Schema | str | Path | None = None,
    label_col: str | None = None,
    class_names: Sequence[str] | None = None,
    round_votes: bool = False,
) -> Joined:
    """Match predictions with labels by ``id_str``.

    An id that is the end of another one's path matches it, if no other id has that name: ``g0``
    and ``img/g0``, the id of an image in a folder. Suffixes of images don't count.

    Args:
        predictions, catalog: objects, or the paths of their files.
        task, schema, label_col, class_names: what was predicted; by default what the predictions'
            metadata say. Other columns of the predictions are left out.
        round_votes: round the catalog's votes, see ``labels.round_votes``.

    Raises:
        ValueError: if a file can't be read, it is not known what was predicted, predictions of
            classes are no probabilities, labels are missing or wrong, a galaxy is predicted twice,
            or no prediction is of a galaxy in the catalog.
    """
    if not isinstance(predictions, Predictions):
        predictions = read_predictions(predictions)
    said = predictions.metadata
    schema = schema if schema is not None else said.get("schema")
    schema = Schema.from_dict(schema) if isinstance(schema, dict) else schema
    told = said.get("label_col")
    label_col = label_col or (told if isinstance(told, str) else None)  # or several numbers
    class_names = class_names or said.get("class_names")
    task = task or ("tree" if schema is not None else said.get("task"))
    if task not in (None, *TASKS):
        raise UserError(f"task {task!r} can't be evaluated: use one of {', '.join(TASKS)}")
    if task == "tree" and schema is None:
        raise UserError("these predictions don't tell their decision tree: give --schema")
    schema = get_schema(schema) if task == "tree" else None
    task = task or _guess(predictions, label_col, class_names)
    columns = _columns_of(predictions.columns, task, schema, label_col, class_names, said)
    predictions = _take(predictions, columns)
    if task == "regression":
        label_col = label_col or columns[0]
    label_cols = schema.label_cols if schema else [label_col or "label"]
    label_col = "" if schema else label_cols[0]
    where = "in memory"
    if not isinstance(catalog, pd.DataFrame):
        where, catalog = str(catalog), read_catalog(catalog, label_cols)
    require_columns(catalog, ["id_str", *label_cols], where)
    check_ids(catalog, where)
    if round_votes:
        if task != "tree":
            raise UserError("--round-votes is for vote counts of a decision tree")
        catalog = labels.round_votes(catalog, label_cols, where)
    if len(predictions.ids) == 0:
        raise UserError("there are no predictions")
    repeated = pd.Series(predictions.ids)[lambda ids: ids.duplicated()]
    if len(repeated):
        raise UserError(
            f"predictions of {repeated.iloc[0]!r} appear more than once ({len(repeated)} rows too "
            "many), and each would count: keep one of each galaxy"
        )
    predictions, table, notes = _match(predictions, catalog, where)
    names = list(map(str, class_names or columns))
    if set(names) == set(columns):
        names = columns  # in the order of their numbers
    if task == "classification":
        if len(names) > MAX_CLASSES:
            raise UserError(f"{len(names)} classes: at most {MAX_CLASSES} can be evaluated")
        for name in names:
            check_name(name, "class")
        _check_probabilities(predictions)
    joined = Joined(predictions, table, task, schema, label_col, names, notes, round_votes)
    _check_labels(joined, where)
    return joined


def _guess(
    predictions: Predictions, label_col: str | None, class_names: Sequence[str] | None
) -> str:
    """The task, if the metadata don't say it.

    It is regression if there is one column, or one called like the label; classification if there
    are names of classes, or the values sum to 1. ValueError for other predictions.
    """
    if class_names:
        return "classification"
    if predictions.values.shape[1] == 1 or label_col in predictions.columns:
        return "regression"
    if _numbered(predictions.columns, label_col) or not _not_probabilities(predictions).any():
        return "classification"
    raise UserError("these predictions don't tell what they are: give --schema or --task")


def _columns_of(
    columns: list[str],
    task: str,
    schema: Schema | None,
    label_col: str | None,
    class_names: Sequence[str] | None,
    said: dict,
) -> list[str]:
    """The columns that were predicted, of those that the predictions have.

    Classes: those that the file names; or those called like the classes; or numbered ones, such as
    ``label_0``. ValueError if that leaves a choice.
    """
    listed = ", ".join(columns[:10]) + (", ..." if len(columns) > 10 else "")
    if task == "tree":
        if not set(schema.label_cols) <= set(columns):
            schema.check_label_cols(columns)
        return schema.label_cols
    if task == "regression":
        if label_col in columns:
            return [label_col]
        if len(columns) == 1:
            return columns
        raise UserError(
            f"predictions have no column {label_col or 'that is said to be predicted'!r}, but "
            f"{listed}: name it with --label-col"
        )
    names = said.get("class_names") or class_names or []
    found = list(names) if set(names) <= set(columns) else []
    found = found or _numbered(columns, said.get("label_col") or label_col)
    found = found or columns
    if class_names and len(class_names) != len(found):
        raise UserError(
            f"{len(class_names)} class names for {len(found)} classes, the columns {listed}"
        )
    return found


def _numbered(columns: list[str], label_col: str | None) -> list[str]:
    """The columns of numbered classes, such as ``label_0``, ``label_1``; empty without them."""
    numbered, number = [], 0
    while f"{label_col or 'label'}_{number}" in columns:
        numbered.append(f"{label_col or 'label'}_{number}")
        number += 1
    return numbered if number > 1 else []


def _take(predictions: Predictions, columns: list[str]) -> Predictions:
    """The predictions with these columns only."""
    places = [predictions.columns.index(column) for column in columns]
    return dataclasses.replace(predictions, values=predictions.values[:, places], columns=columns)


def _not_probabilities(predictions: Predictions) -> np.ndarray:
    """(N,) whether a galaxy's values are not within 0-1 or do not sum to 1; NaN are let pass."""
    values = predictions.values.mean(axis=2, dtype=np.float64)
    sums = values.sum(axis=1)
    wrong = (values.min(axis=1) < -1e-3) | (values.max(axis=1) > 1 + 1e-3)
    return (wrong | (np.abs(sums - 1) > 1e-3)) & np.isfinite(sums)


def _check_probabilities(predictions: Predictions) -> None:
    """ValueError for galaxies whose values are no probabilities of classes."""
    wrong = _not_probabilities(predictions)
    if wrong.any():
        row = int(wrong.argmax())
        values = predictions.values[row].mean(axis=1)
        told = ", ".join(
            f"{n}={v:.4g}" for n, v in zip(predictions.columns[:10], values, strict=False)
        )
        raise UserError(
            f"predictions of {predictions.ids[row]!r} are no probabilities of classes, within 0-1 "
            f"and with sum 1: {told} ({int(wrong.sum())} such galaxies); if some columns are no "
            "classes, name the classes' columns with --class-names"
        )


def _match(
    predictions: Predictions, catalog: pd.DataFrame, where: str
) -> tuple[Predictions, pd.DataFrame, list[str]]:
    """Predictions and catalog rows of the galaxies that are in both, and notes about the others."""
    ids = catalog["id_str"].astype(str).to_numpy()
    places = pd.Index(ids).get_indexer(predictions.ids)
    num_same = (places >= 0).sum()
    places, ambiguous = _match_names(predictions.ids, ids, places)
    found = places >= 0
    if not found.any():
        raise UserError(
            f"no prediction belongs to a galaxy of catalog {where}: predictions have ids like "
            f"{predictions.ids[0]!r}, the catalog like {ids[0]!r}"
            + (f"; the name of {ambiguous[0]!r} is that of several" if ambiguous else "")
        )
    readable = np.isfinite(predictions.values).all(axis=(1, 2))
    kept = found & readable
    if not kept.any():
        raise UserError("all predictions that join are NaN: their images could not be read")
    notes = [f"{found.sum()} of {len(found)} predictions belong to a galaxy of the catalog."]
    if found.sum() > num_same:
        notes.append(f"{found.sum() - num_same} of them by the name without folder and suffix.")
    if ambiguous:
        notes.append(f"The names of several galaxies, so not matched: {_some(ambiguous)}.")
    if not found.all():
        notes.append(f"Not in the catalog: {_some(predictions.ids[~found])}.")
    if found.sum() < len(catalog):
        notes.append(f"{len(catalog) - found.sum()} galaxies of the catalog have no prediction.")
    if (found & ~readable).any():
        notes.append(f"Without a readable image: {_some(predictions.ids[found & ~readable])}.")
    matched = Predictions(
        predictions.ids[kept],
        predictions.values[kept].astype(np.float64),
        predictions.columns,
        None,
        predictions.metadata,
    )
    return matched, catalog.iloc[places[kept]].reset_index(drop=True), notes


def _match_names(
    predicted: np.ndarray, ids: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """Match ids that have no partner by their names, without folder and suffix.

    Args:
        predicted: (P,) ids of predictions.
        ids: (N,) ids of the catalog.
        places: (P,) the place in the catalog of each prediction; -1 if its id is not there.

    Returns:
        The places, with those found by name; and predicted ids whose name several have, among the
        predictions or in the catalog.
    """
    lone = np.flatnonzero(places < 0)
    if len(lone) == 0:
        return places, []
    free = np.setdiff1d(np.arange(len(ids)), places)
    names = pd.Series([_name(predicted[i]) for i in lone], index=lone)
    free_names = pd.Series(free, index=[_name(ids[i]) for i in free])
    taken = free_names.index[free_names.index.duplicated()]
    is_repeated = (names.duplicated(keep=False) | names.isin(taken)).to_numpy()
    is_there = names.isin(free_names.index).to_numpy()
    places = places.copy()
    for i, name in names[is_there & ~is_repeated].items():
        place = free_names.at[name]
        if _is_end_of_path(predicted[i], ids[place]):
            places[i] = place
    return places, predicted[lone[is_there & is_repeated]].tolist()


def _name(id_str: str) -> str:
    return image_stem(id_str).rpartition("/")[2]


def _is_end_of_path(a: str, b: str) -> bool:
    """Whether one id, without suffix, is the end of the other: 'g0' of 'img/g0', not 'x/g0'."""
    short, long = sorted((image_stem(a), image_stem(b)), key=len)
    return f"/{long}".endswith(f"/{short}")


def _some(ids: Sequence[str]) -> str:
    """The first five ids, and how many more there are."""
    more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
    return ", ".join(ids[:5]) + more


def _check_labels(joined: Joined, where: str) -> None:
    """Check the labels of classes and numbers. Replaces names of classes by their numbers."""
    column = joined.label_col
    if joined.task == "regression":
        labels.check_numbers(joined.table, column, where=where)
        truth = joined.table[column].to_numpy(np.float64)
        if len(truth) > 2 and (joined.predictions.values[:, 0].mean(axis=1) == truth).all():
            raise UserError(
                f"column {column!r} of the predictions is that of the catalog in every galaxy: it "
                "holds labels, not what was predicted; name the right one with --label-col, or "
                "give --task"
            )
    elif joined.task == "classification":
        numbers = _class_numbers(joined.table[column], joined.class_names)
        if numbers.isna().any():
            raise UserError(
                f"catalog {where}: column {column!r} holds "
                f"{joined.table[column][numbers.isna()].iloc[0]!r}; the classes are "
                f"{', '.join(joined.class_names)}"
            )
        joined.table = joined.table.assign(**{column: numbers})
        classes.check_classes(joined.table, column, len(joined.class_names), where)


def _class_numbers(truth: pd.Series, names: list[str]) -> pd.Series:
    """Class numbers of labels that are names of classes; other numbers as they are."""
    numbers = classes.class_numbers(truth, names)
    values = labels.as_numbers(truth)
    is_numeric = labels.are_numbers(values)
    return values if is_numeric and numbers.isna().any() else numbers
