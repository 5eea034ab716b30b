"""Labels of every type of column and shape of batch that holds numbers."""

import numpy as np
import pandas as pd
import pytest
import timm
import torch

from zoobot.data.classes import check_classes, number_classes
from zoobot.data.labels import check_numbers, label_array, votes
from zoobot.models.finetune import (
    FinetuneableZoobotClassifier,
    FinetuneableZoobotRegressor,
    FinetuneableZoobotTree,
)
from zoobot.models.heads import label_tensor

COLUMNS = {
    "objects": pd.Series([0, 1, 1, 0], dtype=object),
    "categories": pd.Series([0, 1, 1, 0], dtype="category"),
    "categories of numbers with a point": pd.Series([0.0, 1.0, 1.0, 0.0]).astype("category"),
    "objects of NumPy's": pd.Series(list(np.array([0, 1, 1, 0])), dtype=object),
    "true or false": pd.Series([False, True, True, False]),
    "objects true or false": pd.Series([False, True, True, False], dtype=object),
    "nullable": pd.Series([0, 1, 1, 0], dtype="Int8"),
}


def table(labels):
    return pd.DataFrame({"id_str": list("abcd"), "label": labels})


@pytest.mark.parametrize("kind", COLUMNS)
def test_numbers_in_a_column_of_any_type_are_labels(kind):
    frame = table(COLUMNS[kind])
    check_classes(frame, "label", 2)
    check_numbers(frame, "label", unit_interval=True)
    assert label_array(frame, ["label"]).tolist() == [[0], [1], [1], [0]]
    assert votes(frame, ["label", "label"]).tolist() == [[0, 0], [1, 1], [1, 1], [0, 0]]
    splits = {"train": frame, "val": table([0, 1, 1, 0])}
    assert number_classes(splits, "label", "here") == ["0", "1"]
    encoder = timm.create_model("test_resnet", num_classes=0)
    model = FinetuneableZoobotClassifier(2, class_weights="balanced", encoder=encoder)
    model.learn_from_labels(frame)
    assert model.arguments()["class_weights"] == [1.0, 1.0]


@pytest.mark.parametrize("dtype", [object, "category"])
def test_texts_among_labels_are_named(dtype):
    frame = table(pd.Series([0, 1, "ring", 0], dtype=dtype))
    for check in (check_numbers, check_classes):
        with pytest.raises(ValueError, match="'c' holds 'ring': no number"):
            check(frame, "label", 2)
    with pytest.raises(ValueError, match="label column 'label' holds 'ring', which is no number"):
        label_array(frame, ["label"])


def test_a_missing_label_among_objects_is_named():
    frame = table(pd.Series([0, 1, None, 0], dtype=object))
    with pytest.raises(ValueError, match="'c' holds nan"):
        check_classes(frame, "label", 2)


def test_names_and_numbers_in_one_column_are_classes_by_their_text():
    splits = {"train": table(pd.Series([0, "ring", 0, "ring"], dtype=object))}
    assert number_classes(splits, "label", "here") == ["0", "ring"]
    assert splits["train"]["label"].tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("value", [-np.inf, np.inf, np.nan, -3])
def test_labels_that_are_all_no_class_numbers_are_told(value):
    with pytest.raises(ValueError, match=f"holds {value}.*, which is no class number"):
        number_classes({"train": table(pd.Series([value] * 4, dtype=float))}, "label", "here")


def test_a_label_of_shape_b_1_is_one_of_shape_b():
    images, column = torch.zeros(3, 3, 8, 8), torch.tensor([[0], [1], [1]])
    for batch in ({"ring": column}, {"labels": column}, {"labels": column[:, 0]}):
        found = label_tensor({"image": images, **batch}, ["ring"])
        assert torch.equal(found, column)


def test_labels_of_other_shapes_are_told():
    images = torch.zeros(3, 3, 8, 8)
    with pytest.raises(ValueError, match=r"labels 'ring' of shape \(3, 2\): give one number"):
        label_tensor({"image": images, "ring": torch.zeros(3, 2)}, ["ring"])
    with pytest.raises(ValueError, match=r"shape \(3, 2\) for 1 label columns: ring"):
        label_tensor({"image": images, "labels": torch.zeros(3, 2)}, ["ring"])


def test_losses_of_labels_of_shape_b_1_are_those_of_shape_b(tree):
    encoder = timm.create_model("test_resnet", num_classes=0)
    labels = torch.tensor([0, 1, 1])
    for model, outputs in (
        (FinetuneableZoobotClassifier(2, encoder=encoder), torch.randn(3, 2)),
        (FinetuneableZoobotRegressor(encoder=encoder), torch.randn(3)),
        (FinetuneableZoobotRegressor(encoder=encoder, loss="mae"), torch.randn(3)),
    ):
        expected = model.losses(outputs, labels)
        assert torch.equal(model.losses(outputs, labels[:, None]), expected)
        measured, _ = model.measure(expected, outputs, labels[:, None])
        assert torch.equal(measured, model.measure(expected, outputs, labels)[0])
        with pytest.raises(ValueError, match=r"labels have shape \(3, 2\)"):
            model.losses(outputs, torch.zeros(3, 2))
    batch = {name: torch.ones(3, 1) for name in tree.label_cols}
    model = FinetuneableZoobotTree(schema=tree, encoder=encoder)
    _, found = model.batch_to_supervised_tuple({"image": torch.zeros(3, 3, 8, 8), **batch})
    assert found.shape == (3, 7)
