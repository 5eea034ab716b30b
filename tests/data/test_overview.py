import numpy as np
import pandas as pd
import pytest
from small_shards import in_memory, write

from zoobot.data.overview import class_overview, number_overview, vote_overview
from zoobot.data.shards.reader import open_splits


def test_classes_are_counted_by_split_and_empty_ones_named():
    splits = {
        "train": pd.DataFrame({"label": [1, 2, 2, 3]}),
        "val": pd.DataFrame({"label": [1.0, 3.0]}),
        "test": pd.DataFrame({"label": []}),
    }
    lines = class_overview(splits, "label", ["0", "1", "2", "3"]).splitlines()
    assert [line.split() for line in lines[:-1]] == [
        ["label", "train", "val"], ["0", "0", "0"], ["1", "1", "1"], ["2", "2", "0"],
        ["3", "1", "1"], ["all", "4", "2"],
    ]  # fmt: skip
    assert lines[-1] == (
        "no galaxy to train on has the class 0: the first label is 1, and classes count from 0"
    )
    assert len({len(line) for line in lines[:-1]}) == 1


def test_votes_are_counted_by_question_and_split(tree):
    row = dict(zip(tree.label_cols, [12, 8, 5, 3, 0, 0, 0], strict=True))
    empty = dict.fromkeys(tree.label_cols, 0)
    splits = {"train": pd.DataFrame([row] * 1000), "val": pd.DataFrame([row, empty])}
    lines = vote_overview(splits | {"test": None}, tree).splitlines()
    assert [line.split() for line in lines] == [
        ["question", "train", "votes", "val", "votes"],
        ["smooth", "1,000", "20,000", "1", "20"],
        ["bar", "1,000", "8,000", "1", "8"],
        ["merging", "0", "0", "0", "0"],
        ["all", "1,000", "28,000", "2", "28"],
    ]


def test_numbers_have_a_range_and_a_spread():
    sizes = {"train": [1.0, 2.0, 3.0, None], "val": [None]}
    splits = {split: pd.DataFrame({"size": some}) for split, some in sizes.items()}
    lines = number_overview(splits, "size").splitlines()
    assert lines[1].split() == ["train", "4", "1", "3", "2", "0.8165"]
    assert lines[2].split() == ["val", "1", "-", "-", "-", "-"]


@pytest.mark.parametrize("value", [-99.0, -1.0, 999.0, -9999.0])
def test_values_that_stand_for_a_missing_number_are_named(value):
    sizes = np.random.default_rng(0).uniform(0.5, 5, 50)
    sizes[[3, 7]] = value
    lines = number_overview({"train": pd.DataFrame({"size": sizes})}, "size").splitlines()
    assert lines[2].startswith(f"2 train galaxies have size {value:g}, which looks like a missing")


def test_several_values_for_a_missing_number_are_all_named():
    sizes = np.random.default_rng(0).uniform(14, 22, 50)
    sizes[:3] = [-9999, -99, 99]
    notes = number_overview({"train": pd.DataFrame({"mag": sizes})}, "mag").splitlines()[2:]
    assert [note.split()[5].rstrip(",") for note in notes] == ["-9999", "-99", "99"]


@pytest.mark.parametrize(
    "numbers", [np.linspace(-1, 1, 50), np.linspace(90, 99, 50), np.full(9, -99.0), [-1.0, -2.0]]
)
def test_such_values_among_others_are_numbers(numbers):
    table = pd.DataFrame({"size": numbers})
    assert len(number_overview({"train": table}, "size").splitlines()) == 2


def test_galaxies_in_shards_are_counted_too(tmp_path):
    write(in_memory(12), tmp_path, eval_size=2)
    splits = open_splits(tmp_path, ["a", "b"])
    lines = class_overview(splits, "b", [str(i) for i in range(8)]).splitlines()
    assert lines[8].split() == ["7", "9", "1", "2"]
    assert number_overview(splits, "b").splitlines()[1].split()[:4] == ["train", "9", "7", "7"]
