import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoobot.data import CatalogDataModule
from zoobot.data.splits import load_splits, overlap, split_catalog, strata_of
from zoobot.schemas import Schema


def table(**columns):
    longest = max(map(len, columns.values()))
    return pd.DataFrame(
        {"id_str": [f"g{i}" for i in range(longest)], "file_loc": "x.png", **columns}
    )


def split(frame, label_cols, seed=0, schema=None):
    return split_catalog(frame, seed=seed, strata=strata_of(frame, label_cols, schema))


def rare_classes(seed):
    """60 to 200 galaxies of a common, a rarer and a rarest class."""
    rng = np.random.default_rng(seed)
    rarest = int(rng.integers(1, 5))
    kinds = ["a"] * int(rng.integers(40, 150)) + ["b"] * 20 + ["c"] * rarest
    return table(kind=rng.permutation(kinds))


@pytest.mark.parametrize("as_numbers", [False, True])
def test_the_rarest_class_is_always_trained_on_and_every_class_in_proportion(as_numbers):
    for seed in range(40):
        frame = rare_classes(seed)
        if as_numbers:
            frame["kind"] = frame["kind"].map({"a": 0, "b": 1, "c": 2})
        splits = split(frame, ["kind"], seed)
        for kind, number in frame["kind"].value_counts().items():
            counts = {s: int((part["kind"] == kind).sum()) for s, part in splits.items()}
            assert counts["train"] >= 1
            assert abs(counts["train"] - 0.7 * number) <= 1.7  # 1, and the rarest's first galaxy
            assert abs(counts["val"] - 0.1 * number) <= 1.2
        assert abs(len(splits["train"]) - 0.7 * len(frame)) <= 0.5


def test_a_data_module_and_a_catalog_file_are_split_by_class_too(tmp_path):
    (tmp_path / "x.png").write_bytes(b"")
    path, test = tmp_path / "cat.csv", tmp_path / "test.csv"
    for seed in range(8):
        frame = rare_classes(seed)
        numbered = frame.assign(label=frame["kind"].map(ord))
        data = CatalogDataModule(["label"], catalog=numbered, seed=seed)
        assert (data.catalogs["train"]["label"] == ord("c")).any()
        frame.to_csv(path, index=False)
        frame.assign(id_str="t" + frame["id_str"]).to_csv(test, index=False)
        for test_catalog in (None, test):
            splits = load_splits(path, None, test_catalog, ["kind"], seed)
            assert (splits["train"]["kind"] == "c").any()


@settings(deadline=None)  # a busy machine is no fault
@given(st.integers(2, 120), st.integers(0, 5), st.randoms(use_true_random=False))
def test_a_stratified_split_does_not_depend_on_row_order_and_loses_nothing(number, seed, random):
    rng = np.random.default_rng(number)
    frame = table(kind=rng.choice(["a", "b", "c"], number), size=rng.random(number))
    order = [*range(number)]
    random.shuffle(order)
    for column in ("kind", "size"):
        first, second = (split(some, [column], seed) for some in (frame, frame.iloc[order]))
        for s in first:
            assert set(first[s]["id_str"]) == set(second[s]["id_str"])
        assert sum(map(len, first.values())) == number
        assert abs(len(first["train"]) - 0.7 * number) <= 0.5 + 1e-9


def test_seeds_split_in_other_ways():
    frame = rare_classes(0).assign(size=np.random.default_rng(0).random(len(rare_classes(0))))
    for column in ("kind", "size"):
        first, second = (set(split(frame, [column], s)["val"]["id_str"]) for s in (0, 1))
        assert first != second


def test_votes_are_split_by_the_leading_answer_of_the_first_question_that_was_asked():
    tree = Schema(
        {"a": ["_x", "_y"], "bar": ["_yes", "_no"], "b": ["_x", "_y", "_z"]},
        {"a": None, "bar": "a_y", "b": None},
    )
    of_survey_b = table(b_x=[3, 1, 0], b_y=[2, 5, 0], b_z=[2, 0, 0])
    frame = table(a_x=[9, 1, 0, 0, 0], a_y=[1, 9, 0, 0, 0], bar_yes=[0] * 5, bar_no=[0] * 5)
    for column in ("b_x", "b_y", "b_z"):
        frame[column] = [5, 0, *of_survey_b[column]]
    strata = strata_of(frame, tree.label_cols, tree)
    assert len(set(strata.tolist())) == 5
    assert strata_of(frame, ["a_x", "a_y", "bar_yes", "bar_no"]).tolist() == [1, 2, 0, 0, 0]
    assert strata_of(frame, ["bar_length", "angle"]) is None


def test_numbers_are_split_by_quantile():
    size = np.random.default_rng(0).lognormal(size=400)
    splits = split(table(size=size), ["size"])
    edges = np.quantile(size, [0.05, 0.5, 0.95])
    for below, edge in zip((0.05, 0.5, 0.95), edges, strict=True):
        for part in splits.values():
            assert (part["size"] <= edge).mean() == pytest.approx(below, abs=0.02)


@pytest.mark.parametrize("labels", [[None] * 30, ["x"] * 29 + [None], [np.nan, *range(29)]])
def test_labels_that_are_refused_later_do_not_stop_the_split(labels):
    assert sum(map(len, split(table(label=labels), ["label"]).values())) == 30


def test_galaxies_in_two_splits_are_refused(tmp_path):
    (tmp_path / "x.png").write_bytes(b"")
    frame = table(label=[0, 1] * 20)
    paths = {name: tmp_path / f"{name}.csv" for name in ("main", "apart", "shared", "last")}
    frame.to_csv(paths["main"], index=False)
    frame[36:].to_csv(paths["shared"], index=False)
    frame.assign(id_str="h" + frame["id_str"]).to_csv(paths["apart"], index=False)
    frame[:3].assign(id_str="h" + frame["id_str"]).to_csv(paths["last"], index=False)
    for val, test, message in (
        (None, "shared", "galaxies are in both (train|val) and test, for example 'g3"),
        ("shared", None, "4 galaxies are in both train and val, for example 'g36'"),
        ("apart", "shared", "4 galaxies are in both train and test"),
        ("apart", "last", "3 galaxies are in both val and test, for example 'hg0'"),
    ):
        others = [paths[name] if name else None for name in (val, test)]
        with pytest.raises(ValueError, match=message):
            load_splits(paths["main"], *others, ["label"], seed=0)
    splits = load_splits(paths["main"], None, paths["apart"], ["label"], seed=0)
    assert overlap(splits) == ""
    with pytest.raises(ValueError, match="40 galaxies are in both train and val"):
        CatalogDataModule(["label"], train_catalog=frame, val_catalog=frame)


def test_a_tenth_of_training_validates_if_a_catalog_marks_train_and_test_only(tmp_path):
    (tmp_path / "x.png").write_bytes(b"")
    marks = ["Train "] * 30 + ["test"] * 10
    table(label=[0, 1] * 20, split=marks).to_csv(tmp_path / "a.csv", index=False)
    splits = load_splits(tmp_path / "a.csv", None, None, ["label"], seed=0)
    assert [len(splits[s]) for s in ("train", "val", "test")] == [27, 3, 10]
