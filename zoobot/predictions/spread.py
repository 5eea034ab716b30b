"""Choose galaxies that differ from each other, by their representations.

The most informative galaxies are often alike, and of two that are alike one is enough. So more
candidates than are asked for are put into as many groups as are asked for (k-means over their
representations), and the most informative galaxy of each group is chosen (F. Zhdanov 2019,
"Diverse mini-batch active learning").
"""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.cluster.vq import kmeans2

from zoobot.predictions.files import read_in_pieces
from zoobot.predictions.neighbours import NUM_COMPONENTS, as_features, usable_rows
from zoobot.system.errors import UserError

NUM_ITERATIONS = 20  # of k-means


def features_of(path: str | Path, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The representations of some galaxies; of the file only these stay in memory.

    Args:
        path: representations of ``predict.py --representations``.
        ids: (N,).

    Returns:
        The places in ``ids`` of the galaxies that have any, and these (M, D) float32.

    Raises:
        ValueError: the file can't be read, holds no representations, has one of these galaxies
            twice, or none of them.
    """
    wanted, places, found = pd.Index(ids), [], []
    for piece in read_in_pieces(path):
        piece = as_features(piece, path)
        where = wanted.get_indexer(piece.ids)
        rows = np.flatnonzero(where >= 0)
        rows = rows[usable_rows(piece.values[rows, :, 0])]
        places.append(where[rows])
        found.append(piece.values[rows, :, 0])
    places = np.concatenate(places) if places else np.array([], int)
    if not len(places):
        raise UserError(
            f"{path} has representations of none of the {len(ids):,} most informative galaxies, "
            f"such as {ids[0]!r}: predict the same catalog with --representations"
        )
    values, counts = np.unique(places, return_counts=True)
    if counts.max() > 1:
        raise UserError(f"{path} has galaxy {ids[values[counts.argmax()]]!r} more than once")
    order = np.argsort(places)
    return places[order], np.concatenate(found)[order]


def one_of_each_group(features: np.ndarray, number: int) -> np.ndarray:
    """The first galaxy of each of ``number`` groups of galaxies that are alike.

    Groups are those of k-means in the principal components of the representations. If some are
    empty, because galaxies have the same representations, the first of the others follow.

    Args:
        features: (N, D) of galaxies, the most informative first; N is at least ``number``.

    Returns:
        ``number`` rows, in order.
    """
    reduced = _principal(features)
    drawn = np.random.default_rng(0).choice(len(reduced), number, replace=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of empty groups
        _, groups = kmeans2(reduced, reduced[drawn], NUM_ITERATIONS, minit="matrix")
    _, firsts = np.unique(groups, return_index=True)
    others = np.setdiff1d(np.arange(len(reduced)), firsts)
    return np.sort(np.concatenate([firsts, others[: number - len(firsts)]]))


def _principal(features: np.ndarray) -> np.ndarray:
    """(N, C) float64: the first principal components."""
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    _, axes = np.linalg.eigh(centred.T @ centred)
    return centred @ axes[:, ::-1][:, :NUM_COMPONENTS]
