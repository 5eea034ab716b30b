"""Pictures of galaxies with their trees."""

import numpy as np
import pytest
from PIL import Image

from zoobot.evaluation import vote_trees
from zoobot.schemas import Schema

SCHEMA = Schema(
    {"smooth": ["_yes", "_no"], "edge-on": ["_yes", "_no"], "arms": ["_1", "_2", "_3"]},
    {"smooth": None, "edge-on": "smooth_no", "arms": "edge-on_no"},
)
SMOOTH = [0.9, 0.1, 0.5, 0.5, 0.4, 0.3, 0.3]
EDGE_ON = [0.1, 0.9, 0.8, 0.2, 0.4, 0.3, 0.3]
SPIRAL = [0.1, 0.9, 0.1, 0.9, 0.1, 0.8, 0.1]
FAINT_SPIRAL = [0.2, 0.8, 0.2, 0.8, 0.2, 0.6, 0.2]
UNREADABLE = [np.nan] * 7
ALL = np.array([UNREADABLE, FAINT_SPIRAL, SMOOTH, EDGE_ON, SPIRAL, SMOOTH])


def test_a_path_has_the_leading_answers_of_questions_that_most_are_asked():
    def names(p):
        return [SCHEMA.label_cols[a] for a in vote_trees.leading_paths(SCHEMA, np.array([p]))[0]]

    assert names(SMOOTH) == ["smooth_yes"]
    assert names(EDGE_ON) == ["smooth_no", "edge-on_yes"]
    assert names(SPIRAL) == ["smooth_no", "edge-on_no", "arms_2"]


@pytest.mark.parametrize(
    ("number", "rows"), [(1, [4]), (2, [4, 2]), (3, [4, 2, 3]), (9, [4, 2, 3])]
)
def test_of_each_path_the_clearest_galaxy_is_shown_and_none_twice(number, rows):
    assert vote_trees.different_galaxies(SCHEMA, ALL, number) == rows


def test_without_a_readable_galaxy_none_is_chosen():
    assert vote_trees.different_galaxies(SCHEMA, ALL[:1]) == []


def test_bars_have_the_predicted_shares_and_thin_ones_the_volunteers():
    image = Image.new("RGB", (8, 8))
    votes = np.array([[1, 3, 4, 0, 0, 0, 0]])
    figure = vote_trees.vote_trees(SCHEMA, ["g"], [image], ALL[3:4], votes)
    axis = figure.axes[1]
    widths = [bar.get_width() for bar in axis.patches]
    np.testing.assert_allclose(widths, [0.9, 0.1, 0.75, 0.25, 0.8, 0.2, 1, 0])
    told = [text.get_text() for text in axis.texts]
    assert told == ["smooth", "no 0.90", "edge on", "yes 0.80"]


def test_a_question_without_votes_has_no_thin_bar():
    image = Image.new("RGB", (8, 8))
    figure = vote_trees.vote_trees(SCHEMA, ["g"], [image], ALL[2:3], np.zeros((1, 7)))
    assert len(figure.axes[1].patches) == 2


def test_on_a_phone_galaxies_stand_below_each_other_and_long_ids_show_their_end():
    images, ids = [Image.new("RGB", (8, 8))] * 3, ["g" * 44, "folder/" + "x" * 44, "s"]
    figure = vote_trees.vote_trees(SCHEMA, ids, images, ALL[2:5], columns=1)
    assert figure.get_size_inches()[0] == pytest.approx(3.1)
    assert len(figure.axes) == 6
    assert [axis.get_title() for axis in figure.axes[::2]] == ["g" * 44, "…" + "x" * 43, "s"]
    wide = vote_trees.vote_trees(SCHEMA, ids, images, ALL[2:5], columns=2)
    assert [bool(axis.get_title()) for axis in wide.axes].count(True) == 3
