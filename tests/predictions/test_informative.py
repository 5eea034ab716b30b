import functools

import numpy as np
import pyarrow as pa
import pytest

from zoobot.predictions import informative
from zoobot.predictions.contents import Predictions
from zoobot.predictions.files import read_in_pieces, write_predictions


def entropy(p):
    return -(p * np.log(p)).sum(axis=0)


@pytest.fixture
def made(tree, tmp_path):
    """50 galaxies of 4 samples, the third unreadable, in a file, and as arrays."""
    rng = np.random.default_rng(0)
    values = rng.uniform(1, 20, (50, 7, 4)).astype(np.float32)
    values[2] = np.nan
    ids = np.array([f"g{i}" for i in range(50)], object)
    metadata = {"task": "tree", "schema": tree.to_dict()}
    carried = pa.table({"ra": np.arange(50.0)})
    path = tmp_path / "pool.parquet"
    write_predictions(path, Predictions(ids, values, tree.label_cols, None, metadata, carried))
    return path, values


def by_hand(values):
    """Of one galaxy (7, 4): the information of smooth, bar (asked after smooth_no), merging."""
    found = []
    for first, last in ((0, 2), (2, 5), (5, 7)):
        p = values[first:last] / values[first:last].sum(axis=0)
        found.append(entropy(p.mean(axis=1)) - entropy(p).mean())
    found[1] *= (values[1] / values[:2].sum(axis=0)).mean()
    return found


def test_a_question_counts_as_often_as_it_is_asked(made, tree):
    path, values = made
    pool = informative.most_informative(path, 49)
    expected = {f"g{i}": by_hand(values[i].astype(np.float64)) for i in range(50) if i != 2}
    order = sorted(expected, key=lambda name: -sum(expected[name]))
    assert pool.best.ids.tolist() == order
    assert pool.best.columns == [
        "expected-information",
        *(f"{name}_expected-information" for name in ("smooth", "bar", "merging")),
    ]
    wanted = [[sum(expected[name]), *expected[name]] for name in order]
    np.testing.assert_allclose(pool.best.values[..., 0], wanted, rtol=1e-5, atol=1e-8)
    assert (pool.num_galaxies, pool.num_unreadable, pool.num_left) == (50, 1, 49)


def test_one_question_alone_can_be_asked_about(made):
    path, values = made
    best = informative.most_informative(path, 3, questions=["bar"]).best
    scores = [by_hand(values[i].astype(np.float64))[1] for i in range(50)]
    scores[2] = -1
    assert best.columns == ["expected-information"]
    assert best.ids.tolist() == [f"g{i}" for i in np.argsort(scores)[::-1][:3]]


def test_pieces_give_what_the_whole_gives_and_only_the_best_are_kept(made, monkeypatch):
    path, _ = made
    whole = informative.most_informative(path, 5, ["g7", "elsewhere"])
    small, sizes, joined = functools.partial(read_in_pieces, num_rows=8), [], informative._joined
    monkeypatch.setattr(informative, "read_in_pieces", small)
    monkeypatch.setattr(
        informative, "_joined", lambda a, b: (sizes.append(len(a.ids)), joined(a, b))[1]
    )
    pieces = informative.most_informative(path, 5, ["g7", "elsewhere"])
    assert pieces.best.ids.tolist() == whole.best.ids.tolist()
    np.testing.assert_array_equal(pieces.best.values, whole.best.values)
    ra = [float(name[1:]) for name in whole.best.ids]
    assert pieces.best.carried["ra"].to_pylist() == ra
    assert sizes == [5] * 6
    assert pieces.unknown.tolist() == ["elsewhere"]
    assert pieces.num_labelled == 1


def test_classifiers_are_scored_by_their_probabilities(tmp_path):
    p = np.array([[[0.9, 0.1], [0.1, 0.9]], [[0.5, 0.5], [0.5, 0.5]]], np.float32)
    ids = np.array(["sure-each-time", "unsure-each-time"], object)
    made = Predictions(ids, p, ["ring", "none"], None, {"task": "classification"})
    write_predictions(tmp_path / "c.hdf5", made)
    best = informative.most_informative(tmp_path / "c.hdf5", 2).best
    assert best.ids.tolist() == ["sure-each-time", "unsure-each-time"]
    wanted = np.log(2) + 0.9 * np.log(0.9) + 0.1 * np.log(0.1)
    np.testing.assert_allclose(best.values[:, 0, 0], [wanted, 0], atol=1e-6)


def test_of_equal_galaxies_the_first_come_first(tree, tmp_path):
    values = np.tile(np.array([[1, 9.0]] * 7, np.float32) + np.eye(7, 2), (6, 1, 1))
    ids = np.array([f"g{i}" for i in range(6)], object)
    made = Predictions(ids, values.astype(np.float32), tree.label_cols)
    write_predictions(tmp_path / "p.csv", made)
    best = informative.most_informative(tmp_path / "p.csv", 4, ["g1"], schema=tree).best
    assert best.ids.tolist() == ["g0", "g2", "g3", "g4"]
