import numpy as np
import pytest

from zoobot.predictions import spread
from zoobot.predictions.contents import Predictions
from zoobot.predictions.files import write_predictions
from zoobot.system.errors import UserError


def groups_of(sizes, rng):
    """Features of groups that are far from each other, and the group of each galaxy."""
    groups = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centres = 10 * np.eye(len(sizes), 60)
    noise = rng.normal(0, 0.1, (len(groups), 60))
    return (centres[groups] + noise).astype(np.float32), groups


def test_the_best_galaxies_of_few_groups_do_not_crowd_out_the_others():
    features, groups = groups_of([40, 5, 5], np.random.default_rng(0))
    order = np.argsort(groups, kind="stable")  # the large group is the most informative
    rows = spread.one_of_each_group(features[order], 12)
    assert len(rows) == len({*rows}) == 12
    assert (np.diff(rows) > 0).all()
    assert rows[0] == 0
    assert {*groups[order][rows]} == {0, 1, 2}


def test_galaxies_with_the_same_features_are_chosen_only_to_fill_up():
    features = np.repeat(np.array([[0.0, 1], [1, 0], [5, 5]], np.float32), [4, 3, 3], axis=0)
    assert spread.one_of_each_group(features, 10).tolist() == [*range(10)]
    rows = spread.one_of_each_group(features, 3)
    assert len({*rows}) == 3
    assert rows[0] == 0


@pytest.fixture
def features(tmp_path):
    values = np.arange(60, dtype=np.float32).reshape(20, 3, 1)
    values[4] = np.nan
    ids = np.array([f"g{i}" for i in range(20)], object)
    columns = [f"feat_{i}" for i in range(3)]
    made = Predictions(ids, values, columns, None, {"task": "representations"})
    path = tmp_path / "features.parquet"
    write_predictions(path, made)
    return path, made


def test_features_are_found_by_id_in_the_order_of_the_ids(features):
    path, made = features
    ids = np.array(["g9", "none", "g4", "g1"], object)
    places, found = spread.features_of(path, ids)
    assert places.tolist() == [0, 3]
    np.testing.assert_array_equal(found, made.values[[9, 1], :, 0])


def test_features_of_other_galaxies_or_twice_are_refused(features):
    path, made = features
    with pytest.raises(UserError, match="none of the 1 most informative galaxies, such as 'x'"):
        spread.features_of(path, np.array(["x"], object))
    made.ids[3] = "g1"
    write_predictions(path, made)
    with pytest.raises(UserError, match="has galaxy 'g1' more than once"):
        spread.features_of(path, np.array(["g0", "g1"], object))
