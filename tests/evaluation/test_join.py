"""Predictions find their galaxy where ids differ in folder or suffix only, and nowhere else."""

import numpy as np
import pandas as pd
import pytest

from zoobot.evaluation.join import join
from zoobot.predictions.files import Predictions


def joined(predicted, ids):
    """Predictions whose value is their place, and labels that are the catalog's rows."""
    values = np.arange(len(predicted), dtype=np.float32).reshape(-1, 1, 1)
    metadata = {"task": "regression", "label_col": "row"}
    predictions = Predictions(np.array(predicted, dtype=object), values, ["row"], None, metadata)
    return join(predictions, pd.DataFrame({"id_str": ids, "row": range(len(ids))}))


@pytest.mark.parametrize(
    ("predicted", "ids"),
    [
        (["img/g0", "img/g1"], ["g1", "g0"]),
        (["g0", "g1"], ["img/g1.fits.fz", "img/g0.png"]),
        (["deep/img/g0", "g1.jpg"], ["g1", "img/g0"]),
    ],
)
def test_an_id_that_is_the_end_of_anothers_path_matches_it(predicted, ids):
    made = joined(predicted, ids)
    assert made.predictions.values[:, 0, 0].tolist() == [0, 1]
    assert made.table["row"].tolist() == [1, 0]
    assert any("2 of them by the name without folder and suffix" in note for note in made.notes)


def test_equal_ids_match_without_a_word_about_names():
    made = joined(["g0", "g1"], ["g1", "g0"])
    assert made.table["row"].tolist() == [1, 0]
    assert not any("name" in note for note in made.notes)


def test_a_name_of_several_matches_none_and_is_told():
    made = joined(["a/g0", "b/g0", "a/g1", "g2"], ["g0", "g1", "x/g2", "y/g2"])
    assert made.table["row"].tolist() == [1]
    (note,) = (note for note in made.notes if "names of several" in note)
    assert "a/g0, b/g0, g2" in note
    with pytest.raises(ValueError, match="the name of 'a/g0' is that of several"):
        joined(["a/g0", "b/g0"], ["g0"])


def test_another_folders_galaxy_of_that_name_is_no_match():
    with pytest.raises(ValueError, match="no prediction belongs to a galaxy"):
        joined(["a/g0"], ["b/g0"])


def test_an_equal_id_comes_before_an_equal_name():
    made = joined(["a/g0", "g0"], ["g0"])
    assert made.predictions.values[:, 0, 0].tolist() == [1]
