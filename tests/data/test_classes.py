from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from zoobot.data.classes import check_classes, class_numbers, number_classes, one_class_notes
from zoobot.data.labels import as_numbers
from zoobot.data.splits import strata_of
from zoobot.evaluation.join import _class_numbers


def table(labels):
    return pd.DataFrame({"id_str": [f"g{i}" for i in range(len(labels))], "a_x": labels})


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


SAME_CLASSES = {
    "text": ["a", "b ", "a", " b"] * 3,
    "NumPy's text": [np.str_("a"), np.str_("b"), "a", "b"] * 3,
    "bytes": [b"a", b"b", b"a", b"b"] * 3,
    "categories": pd.Categorical(["a", "b", "a", "b"] * 3, categories=["z", "b", "a"]),
    "text and numbers": [1, "x", 1.0, "x"] * 3,
    "true or false": [False, True, False, True] * 3,
    "decimals": [Decimal(0), Decimal(1), Decimal(0), Decimal(1)] * 3,
    "numbers with a point": [0.0, 1.0, 0.0, 1.0] * 3,
}


@pytest.mark.parametrize("kind", SAME_CLASSES)
def test_training_splitting_and_evaluating_take_the_same_labels_for_one_class(kind):
    labels = SAME_CLASSES[kind]
    if not isinstance(labels, pd.Categorical):
        labels = pd.Series(labels, dtype=object)
    frame = table(labels)
    splits = {"train": frame}
    names = number_classes(splits, "a_x", "cat.csv")
    expected = [0, 1, 0, 1] * 3
    assert as_numbers(splits["train"]["a_x"]).tolist() == expected
    assert class_numbers(frame["a_x"], names).tolist() == expected
    assert _class_numbers(frame["a_x"], names).tolist() == expected
    assert np.unique(strata_of(frame, ["a_x"]), return_inverse=True)[1].tolist() == expected


def test_text_and_numbers_of_two_splits_are_compared_by_their_text():
    frames, names = classes(0, 1, 1, val=["1", "0 "])
    assert (names, frames["val"]["a_x"].tolist()) == (["0", "1"], [1, 0])
    frames, names = classes("3", "7", val=[7.0, 3.0])
    assert (names, frames["val"]["a_x"].tolist()) == (["3", "7"], [1, 0])
    with pytest.raises(
        ValueError, match=r"\(val\): .* of id_str 'g0' holds 2; the classes .* 3, 7"
    ):
        classes("3", "7", val=[2])


@pytest.mark.parametrize("label", ["ring", 0, 1, 0.0, True])
def test_a_single_class_is_refused(label):
    told = repr(label) if isinstance(label, str) else int(label)
    with pytest.raises(
        ValueError, match=f"cat.csv: column 'a_x' holds {told} in each of the 3 gal"
    ):
        classes(label, label, label, val=[label])


def test_text_that_names_no_classes_is_refused():
    with pytest.raises(ValueError, match="another text for each of the 11 galaxies"):
        classes(*(f"n{i}" for i in range(11)))
    for one_hot in ([1, 0], np.array([1, 0])):
        with pytest.raises(ValueError, match="'g1' holds .*1, 0.*: give one class a galaxy"):
            number_classes({"train": table(pd.Series(["a", one_hot], dtype=object))}, "a_x", "")


def test_classes_that_differ_in_capitals_only_are_told(capsys):
    classes("ring", "disk", "Ring", "disk")
    assert "differ in capitals only, for example 'Ring'" in capsys.readouterr().err
    classes("ring", "disk")
    assert capsys.readouterr().err == ""


def test_a_split_of_one_class_is_told():
    tables = {"train": table([1, 1]), "val": table([1, 1, 1]), "test": table([0, 1])}
    (note,) = one_class_notes(tables, "a_x", ["disk", "ring"])
    assert "split 'val' has galaxies of the class 'ring' only (3)" in note


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (["a", "b"], "'g0' holds 'a': no number; zoobot.data.classes.number_classes"),
        ([1j, 0j], "no number"),
        ([0.5, 1], "holds 0.5, .* whole numbers 0 to 1; .* fractions are for regression"),
        ([np.nan, 1], "holds nan, .*; leave out galaxies without a label"),
        ([np.inf, 1], "holds inf"),
    ],
)
def test_what_is_no_class_number_is_told_with_a_cure(labels, told):
    with pytest.raises(ValueError, match=told):
        check_classes(table(labels), "a_x", 2)
