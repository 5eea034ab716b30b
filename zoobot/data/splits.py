"""Split galaxies into train, val and test, and read the catalogs of a run.

Our own split is stratified: each split has each class in the same proportion, and training has all.
It depends on the set of ids, their labels and the seed, and not on the order of the rows.
"""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from zoobot.data.catalog import SPLITS, read_catalog
from zoobot.data.labels import are_numbers, plain_labels
from zoobot.schemas import Schema
from zoobot.system.errors import UserError

MAX_CLASSES = 50  # numbers with more different values are split by quantile
MOST_CLASSES_A_GALAXY = 0.75  # labels that differ more than that are no classes
MAX_QUANTILES, GALAXIES_A_QUANTILE = 20, 10
VAL_FRAC = 0.1  # of the training galaxies, if a catalog marks train and test but no val


def split_catalog(
    catalog: pd.DataFrame,
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    seed: int = 42,
    where: str = "",
    strata: np.ndarray | None = None,
) -> dict[str, pd.DataFrame]:
    """Split a catalog into train, val and test.

    If the catalog has a column ``split``, that column decides. Otherwise the galaxies of each
    stratum are sorted by a hash of ``id_str`` and the seed, and divided in this order.

    Args:
        catalog: the table, with ``id_str``.
        fractions: of train, val and test galaxies; the numbers of galaxies are rounded.
        seed: of the hash.
        where: name of the catalog for error messages.
        strata: (N,) int, see ``strata_of``; None: all galaxies are in one.

    Returns:
        Tables named 'train', 'val' and 'test'. Each keeps the order of the rows, renumbered from 0.

    Raises:
        ValueError: the column ``split`` has an empty or another value, or the fractions are
            negative or do not sum to 1.
    """
    if "split" in catalog:
        unknown = set(catalog["split"].dropna().unique()) - set(SPLITS)
        if unknown or catalog["split"].isna().any():
            told = f"holds {sorted(unknown)[0]!r}" if unknown else "has empty cells"
            raise UserError(f"catalog {where}: column 'split' {told}; use {', '.join(SPLITS)}")
        return {s: catalog[catalog["split"] == s].reset_index(drop=True) for s in SPLITS}
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise UserError(f"split fractions must be >= 0 and sum to 1, not {fractions}")
    order = np.argsort(hash_ids(catalog["id_str"], seed), kind="stable")
    sizes = np.array([len(catalog)])
    if strata is not None:
        _, strata, sizes = np.unique(strata, return_inverse=True, return_counts=True)
        order = order[np.argsort(strata[order], kind="stable")]
    shares = _shares(sizes, fractions)  # (K, 3)
    split_of = np.repeat(np.tile(np.arange(3), len(sizes)), shares.ravel())
    return {
        s: catalog.iloc[np.sort(order[split_of == i])].reset_index(drop=True)
        for i, s in enumerate(SPLITS)
    }


def _shares(sizes: np.ndarray, fractions: tuple[float, float, float]) -> np.ndarray:
    """How many galaxies of each stratum each split gets: (K, 3), from the sizes (K,).

    Small strata come first. Rounding carries on from one to the next, so that the sums over strata
    are rounded only once. Every stratum has a galaxy to train on if there are enough.
    """
    order = np.argsort(sizes, kind="stable")
    train = _rounded_shares(sizes[order], fractions[0])
    if train.sum() >= len(sizes) > 1:
        lacking = train == 0
        train[lacking] = 1
        for _ in range(int(lacking.sum())):
            train[train.argmax()] -= 1
    rest = sizes[order] - train
    num_val = round((fractions[0] + fractions[1]) * sizes.sum()) - train.sum()
    val = _rounded_shares(rest, num_val / max(1, rest.sum()))
    shares = np.empty((len(sizes), 3), dtype=np.int64)
    shares[order] = np.stack([train, val, rest - val], axis=1)
    return shares


def _rounded_shares(sizes: np.ndarray, fraction: float) -> np.ndarray:
    """(K,) whole numbers near ``fraction`` of each size, whose sum is that of the sum, rounded."""
    ends = np.round(fraction * np.cumsum(sizes)).astype(np.int64)
    return np.diff(ends, prepend=0)


def hash_ids(ids: pd.Series, seed: int) -> np.ndarray:
    """Hash ids: (N,) uint64. A hash depends on the id and the seed only."""
    key = f"{seed:016d}"[-16:]
    return pd.util.hash_array(ids.to_numpy(dtype=object), hash_key=key, categorize=False)


def strata_of(
    catalog: pd.DataFrame, label_cols: Sequence[str], schema: Schema | None = None
) -> np.ndarray | None:
    """The strata of a catalog's galaxies, by their labels.

    Votes: the leading answer to the first question of the tree, or, where nobody answered it, to
    the next one that all are asked. Classes: the class. Other numbers: quantiles.

    Args:
        label_cols: the label columns. Several without a schema are votes if the first ones have the
            same name up to the last ``_``; otherwise there are no strata.
        schema: the decision tree of votes.

    Returns:
        (N,) int; None if there are no strata, or a label column is missing. Galaxies without a
        label have a stratum of their own.
    """
    if not label_cols or not set(label_cols) <= set(catalog.columns):
        return None
    if schema is not None:
        roots = [question.label_cols for question in schema.questions if not question.parents]
        return _leading_answers(catalog, roots)
    if len(label_cols) == 1:
        return _label_strata(catalog[label_cols[0]])
    question = [c for c in label_cols if c.rpartition("_")[0] == label_cols[0].rpartition("_")[0]]
    return _leading_answers(catalog, [question]) if len(question) > 1 else None


def _leading_answers(catalog: pd.DataFrame, questions: list[list[str]]) -> np.ndarray:
    strata, first = np.zeros(len(catalog), dtype=np.int64), 1
    for columns in questions:
        counts = np.stack([_numbers(catalog[column]) for column in columns], axis=1)
        asked = (strata == 0) & (counts.max(axis=1) > 0)
        strata[asked] = first + counts[asked].argmax(axis=1)
        first += len(columns)
    return strata


def _label_strata(labels: pd.Series) -> np.ndarray | None:
    """The class of each galaxy; of numbers that are no classes the quantile."""
    labels = plain_labels(labels)
    if not are_numbers(labels):
        text = labels.mask(labels.isna(), "").to_numpy(dtype=object)
        names, strata = np.unique(text, return_inverse=True)
        return strata if len(names) <= MOST_CLASSES_A_GALAXY * len(labels) else None
    numbers = _numbers(labels)
    values, strata = np.unique(numbers, return_inverse=True)
    if len(values) <= min(MAX_CLASSES, MOST_CLASSES_A_GALAXY * len(labels)):
        return strata
    num_quantiles = min(MAX_QUANTILES, len(numbers) // GALAXIES_A_QUANTILE)
    edges = np.quantile(numbers, np.linspace(0, 1, num_quantiles + 1)[1:-1])
    return np.searchsorted(np.unique(edges), numbers, side="left")


def _numbers(labels: pd.Series) -> np.ndarray:
    """Labels as float64, those that are none (they are refused later) as -1."""
    numbers = pd.to_numeric(labels, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    return np.where(np.isfinite(numbers), numbers, -1.0)


def overlap(splits: dict[str, pd.DataFrame]) -> str:
    """A sentence about galaxies that are, by ``id_str``, in more than one split; '' if none is."""
    ids = {split: table["id_str"].astype(str) for split, table in splits.items()}
    if len(ids) < 2 or not pd.concat([*ids.values()]).duplicated().any():
        return ""
    for first, second in combinations(ids, 2):
        shared = ids[second][ids[second].isin(ids[first])]
        if len(shared):
            return (
                f"{len(shared)} galaxies are in both {first} and {second}, for example "
                f"{shared.min()!r}: leave them out of one"
            )
    return ""


def load_splits(
    catalog: str | Path,
    val_catalog: str | Path | None,
    test_catalog: str | Path | None,
    label_cols: Sequence[str],
    seed: int,
    schema: Schema | None = None,
) -> dict[str, pd.DataFrame]:
    """Read and check the catalogs of a run, and return the train, val and test galaxies.

    A separate validation or test catalog is used whole as that split. The main catalog is split by
    its column ``split``; if this marks train and test but no val galaxies, a tenth of the training
    galaxies are val. Without this column it gives, stratified by the labels:

    - 70% train, 10% val and 20% test galaxies if there is no separate catalog;
    - 90% train and 10% val galaxies if there is a separate test catalog only;
    - train galaxies only if there is a separate validation catalog.

    Args:
        schema: of votes; see ``strata_of``.

    Raises:
        ValueError: a fault of a catalog; a label column is missing; there are no train or no val
            galaxies; or a galaxy is in two splits.
    """
    separate = {"val": val_catalog, "test": test_catalog}
    main = read_catalog(catalog, label_cols)
    splits = dict.fromkeys(SPLITS, main.iloc[:0])
    if "split" in main:
        splits = split_catalog(main, where=str(catalog))
        if not val_catalog and len(splits["test"]) and not len(splits["val"]):
            splits |= with_val(splits["train"].drop(columns="split"), label_cols, seed, schema)
    elif not val_catalog:
        fractions = (0.9, 0.1, 0.0) if test_catalog else (0.7, 0.1, 0.2)
        strata = strata_of(main, label_cols, schema)
        splits = split_catalog(main, fractions, seed, str(catalog), strata)
    else:
        splits["train"] = main
    for split, path in separate.items():
        if path:
            splits[split] = read_catalog(path, label_cols)
    for split in ("train", "val"):
        if len(splits[split]) == 0:
            raise UserError(
                f"catalog {catalog} has no galaxies in split {split!r} "
                f"({len(main)} galaxies in all); mark some in the 'split' column"
                + (", or give --val-catalog" if split == "val" else "")
            )
    if (val_catalog or test_catalog) and (found := overlap(splits)):
        raise UserError(found)
    return splits


def with_val(
    train: pd.DataFrame, label_cols: Sequence[str], seed: int, schema: Schema | None
) -> dict[str, pd.DataFrame]:
    """Training galaxies as train and val."""
    fractions = (1 - VAL_FRAC, VAL_FRAC, 0.0)
    parts = split_catalog(train, fractions, seed, strata=strata_of(train, label_cols, schema))
    return {"train": parts["train"], "val": parts["val"]}
