"""Galaxies like a given one, and galaxies unlike all others, by the features of an encoder.

Features are read piece by piece into one array, which is not copied: 10^6 galaxies of 640 features
are 2.6 GB. Distances are computed piece by piece.
"""

from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoobot.limits.parquet import check_parquet, open_parquet
from zoobot.predictions.contents import METADATA_KEY, Predictions, carried_in, metadata_of
from zoobot.predictions.files import plain_ids, read_predictions
from zoobot.system.errors import UserError, did_you_mean

ROWS_AT_ONCE = 2**14
NUM_COMPONENTS = 40  # principal ones, in which odd galaxies are sought
NUM_DRAWN = 20_000  # galaxies among which their neighbours are sought
NEIGHBOUR = 5  # the one whose distance counts
SUGGESTED_FROM = 200  # ids around a wrong one, in alphabetical order


def read_features(path: str | Path) -> Predictions:
    """Read representations, as ``read_predictions`` does, in little more memory than they need.

    Raises:
        ValueError: the file can't be read, or holds predictions that are no representations.
    """
    path = Path(path)
    if path.suffix.lower() == ".parquet" and path.is_file():
        read = _read_parquet(path) or read_predictions(path)
    else:
        read = read_predictions(path)
    return as_features(read, path)


def as_features(read: Predictions, path: str | Path) -> Predictions:
    """Predictions as representations; ValueError if they are others, or several of a galaxy."""
    told = read.metadata.get("task", "representations")
    if told != "representations":
        raise UserError(f"{path} holds predictions of {told}: predict with --representations")
    if read.values.shape[2] != 1:
        raise UserError(f"{path} has {read.values.shape[2]} values a cell: predict one sample")
    places = [i for i, name in enumerate(read.columns) if name.startswith("feat_")]
    if places and len(places) < len(read.columns):  # other columns of a CSV file
        read.values, read.columns = read.values[:, places], [read.columns[i] for i in places]
    return read


def _read_parquet(path: Path) -> Predictions | None:
    """The same, of a file whose features are called as ours; None for another."""
    try:
        check_parquet(path)
        with open_parquet(path) as file:
            schema = file.schema_arrow
            columns = [name for name in schema.names if name.startswith("feat_")]
            metadata = metadata_of((schema.metadata or {}).get(METADATA_KEY.encode(), b"{}"))
            if not columns or any(schema.field(name).type != "float" for name in columns):
                return None
            features = np.empty((file.metadata.num_rows, len(columns)), np.float32)
            start = 0
            for group in range(file.num_row_groups):  # of all at once the whole file would be kept
                for batch in file.iter_batches(ROWS_AT_ONCE, [group], columns):
                    for i, column in enumerate(batch.columns):
                        numbers = column.to_numpy(zero_copy_only=False)
                        features[start : start + len(batch), i] = numbers
                    start += len(batch)
            carried = carried_in(metadata, schema.names)
            others = file.read(columns=["id_str", *carried])
        ids = plain_ids(others)
    except Exception:
        return None  # ``read_predictions`` says what is wrong
    carried = others.select(carried).replace_schema_metadata() if carried else None
    return Predictions(ids, features[..., None], columns, None, metadata, carried)


def find_galaxy(ids: np.ndarray, wanted: str) -> int:
    """The row of a galaxy. ValueError if there is none with this id, with ids that are close."""
    rows = np.flatnonzero(ids == wanted)
    if len(rows):
        return int(rows[0])
    raise UserError(
        f"no galaxy {wanted!r} among the {len(ids):,}{did_you_mean(wanted, _near(ids, wanted))}"
    )


def _near(ids: np.ndarray, wanted: str) -> list[str]:
    """Ids that begin or end like the wanted one, or contain it: a few of many."""
    near = [text for text in ids if wanted in text][:SUGGESTED_FROM]
    for step in (1, -1):
        texts = sorted(text[::step] for text in ids)
        place = bisect_left(texts, wanted[::step])
        around = texts[max(0, place - SUGGESTED_FROM // 2) : place + SUGGESTED_FROM // 2]
        near += [text[::step] for text in around]
    return [*dict.fromkeys(near)]


def usable_rows(features: np.ndarray) -> np.ndarray:
    """The rows of galaxies whose images could be read: their features are numbers."""
    pieces = range(0, len(features), ROWS_AT_ONCE)
    finite = [np.isfinite(features[i : i + ROWS_AT_ONCE]).all(axis=1) for i in pieces]
    return np.flatnonzero(np.concatenate(finite)) if finite else np.array([], int)


def scale(features: np.ndarray) -> None:
    """Shift and scale features (N, D), in their place.

    Their mean becomes 0, and the root of the mean squared distance from it 1. All features are
    divided by the same number, so that those that hardly vary decide nothing.
    """
    features -= features.mean(axis=0, dtype=np.float64).astype(np.float32)
    pieces = range(0, len(features), ROWS_AT_ONCE)
    squares = sum(float(np.square(features[i : i + ROWS_AT_ONCE]).sum()) for i in pieces)
    if squares > 0:
        features /= np.float32(np.sqrt(squares / len(features)))


def most_similar(features: np.ndarray, row: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest galaxies to one, nearest first, without itself.

    Args:
        features: (N, D) float32.

    Returns:
        Their rows, and their Euclidean distances, of at most ``number`` galaxies.
    """
    query = features[row].copy()
    pieces = (features[i : i + ROWS_AT_ONCE] for i in range(0, len(features), ROWS_AT_ONCE))
    distances = np.concatenate([np.linalg.norm(piece - query, axis=1) for piece in pieces])
    distances[row] = np.inf
    nearest = np.argsort(distances, kind="stable")[: min(number, len(features) - 1)]
    return nearest, distances[nearest]


def oddness(features: np.ndarray) -> np.ndarray:
    """(N,) how unlike the others each galaxy is: the distance to its 5th neighbour.

    The neighbours are sought among 20,000 galaxies drawn from all, so that the time grows as N.
    Distances are those of the 40 principal components, and of how far each galaxy is from what they
    can describe.

    Args:
        features: (N, D) float32, of two galaxies or more.
    """
    from sklearn.decomposition import PCA
    from sklearn.neighbors import NearestNeighbors

    num_drawn, count = min(NUM_DRAWN, len(features)), min(NEIGHBOUR, len(features) - 1)
    drawn = np.sort(np.random.default_rng(0).permutation(len(features))[:num_drawn])
    fitted = PCA(min(NUM_COMPONENTS, num_drawn, features.shape[1]), random_state=0)
    fitted.fit(features[drawn])
    pieces = range(0, len(features), ROWS_AT_ONCE)
    reduced = np.concatenate([_reduced(features[i : i + ROWS_AT_ONCE], fitted) for i in pieces])
    nearest = NearestNeighbors(n_neighbors=min(count + 1, num_drawn), algorithm="brute")
    nearest.fit(reduced[drawn])
    found = (nearest.kneighbors(reduced[i : i + ROWS_AT_ONCE])[0] for i in pieces)
    distances = np.concatenate([*found])
    scores = distances[:, min(count, distances.shape[1]) - 1]
    scores[drawn] = distances[drawn, -1]  # they are their own first neighbours
    return scores


def _reduced(features: np.ndarray, fitted: Any) -> np.ndarray:
    """(N, C + 1) float32: the principal components, and the length of what they leave out."""
    components = fitted.transform(features)
    left = np.square(features - fitted.mean_).sum(axis=1) - np.square(components).sum(axis=1)
    return np.column_stack([components, np.sqrt(np.maximum(left, 0))]).astype(np.float32)


def need_sklearn() -> None:
    """ValueError if scikit-learn, which is optional, is not installed."""
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise UserError(
            "odd galaxies need scikit-learn: pip install 'zoobot-torch[similar]'"
        ) from None


def table_of(
    features: Predictions, rows: Sequence[int], name: str, values: np.ndarray, metadata: dict
) -> Predictions:
    """A table of some galaxies with one number each, and with their carried columns."""
    carried = None if features.carried is None else features.carried.take(np.asarray(rows))
    values = np.asarray(values, np.float32)[:, None, None]
    return Predictions(features.ids[rows], values, [name], None, metadata, carried)
