import numpy as np
import pandas as pd
import pytest

from zoobot.data.labels import label_array, number_classes, round_votes, votes


def table(counts):
    return pd.DataFrame({"id_str": [f"g{i}" for i in range(len(counts))], "a_x": counts})


@pytest.mark.parametrize("bad", [np.nan, -1, 2.5, np.inf, 1e12])
def test_a_bad_count_is_named_with_column_galaxy_and_value(bad):
    frame = table([1, 2, bad, 3.0])
    with pytest.raises(ValueError, match="column 'a_x' of id_str 'g2' holds .*no vote count"):
        votes(frame, ["a_x"])


def test_text_in_a_vote_column_is_named():
    with pytest.raises(ValueError, match="id_str 'g1' holds many"):
        votes(table(["1", "many", "3", "4"]), ["a_x"])


def test_whole_floats_are_counts():
    counts = votes(table([0.0, 12.0, 3.0, 0.0]), ["a_x", "a_x"])
    assert counts.dtype == np.int32
    assert counts.tolist() == [[0, 0], [12, 12], [3, 3], [0, 0]]


def test_weighted_counts_are_refused_until_they_are_rounded():
    frame = table([8.73, 0.5, 12.0, 0.49]).assign(a_y=[0, 3, 2.5, 1e-9])
    with pytest.raises(ValueError, match="'g0' holds 8.73, which is no vote count .*--round-votes"):
        votes(frame, ["a_x", "a_y"])
    rounded = round_votes(frame, ["a_x", "a_y"])
    assert votes(rounded, ["a_x", "a_y"]).tolist() == [[9, 0], [1, 3], [12, 3], [0, 0]]
    assert frame["a_x"].tolist() == [8.73, 0.5, 12.0, 0.49]
    assert label_array(rounded, ["a_x"]).ravel().tolist() == [9, 1, 12, 0]


@pytest.mark.parametrize("bad", [np.nan, -0.3, np.inf, 1e12])
def test_what_is_no_count_is_not_rounded_away(bad):
    rounded = round_votes(table([1.2, bad, 3]), ["a_x"])
    with pytest.raises(ValueError, match="id_str 'g1' holds"):
        votes(rounded, ["a_x"])


def test_text_is_not_rounded_away():
    with pytest.raises(ValueError, match="id_str 'g1' holds many"):
        votes(round_votes(table(["1.5", "many"]), ["a_x"]), ["a_x"])


def test_fractions_are_not_rounded_to_no_and_one_vote():
    with pytest.raises(ValueError, match="these are fractions, not counts; docs/catalogs.md"):
        round_votes(table([0.37, 1.0]).assign(a_y=[0.63, 0]), ["a_x", "a_y"], "cat.csv")
    assert votes(round_votes(table([0.0, 1.0]), ["a_x"]), ["a_x"]).ravel().tolist() == [0, 1]


def classes(*train, val=("disk",)):
    frames = {name: table([*labels]) for name, labels in (("train", train), ("val", val))}
    return frames, number_classes(frames, "a_x", "cat.csv")


def test_spaces_around_names_of_classes_are_left_out_and_told(capsys):
    frames, names = classes("round", "disk ", " round ", "disk", val=["round\t"])
    assert names == ["disk", "round"]
    assert frames["train"]["a_x"].tolist() == [1, 0, 1, 0]
    assert frames["val"]["a_x"].tolist() == [1]
    told = capsys.readouterr().out
    assert "column 'a_x': spaces around 3 labels are left out" in told
    assert "'disk ' is 'disk'" in told
    classes("round", "disk")
    assert capsys.readouterr().out == ""


def test_words_for_missing_numbers_are_names_of_classes():
    frames, names = classes("None", "NA", "disk", "nan")
    assert names == ["NA", "None", "disk", "nan"]
    assert frames["train"]["a_x"].tolist() == [1, 0, 2, 3]


@pytest.mark.parametrize("empty", ["", "  ", None])
def test_a_label_of_spaces_is_missing(empty):
    with pytest.raises(ValueError, match="'g1' holds nan; the classes of .* are disk"):
        classes("disk", empty)


@pytest.mark.parametrize("name", ["error", "id_str", "image", "split", "file_loc", " error "])
def test_a_class_called_like_a_column_of_predictions_is_refused(name):
    with pytest.raises(ValueError, match=f"class '{name.strip()}': .*rename it"):
        classes("disk", name)
