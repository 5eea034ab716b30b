import pytest
import torch

from zoobot.models.heads import label_tensor

LABELS = torch.tensor([[1, 2], [3, 4]])


def test_labels_are_taken_in_the_columns_order_from_either_form_of_batch():
    one_tensor = {"image": torch.zeros(2, 3, 4, 4), "labels": LABELS, "label_cols": ["a", "b"]}
    by_column = {"image": torch.zeros(2, 3, 4, 4), "a": LABELS[:, 0], "b": LABELS[:, 1]}
    for batch in (one_tensor, by_column):
        assert torch.equal(label_tensor(batch, ["a", "b"]), LABELS)
        assert torch.equal(label_tensor(batch, ["b", "a"]), LABELS.flip(1))
        assert torch.equal(label_tensor(batch, ["b"]), LABELS[:, 1:])
        with pytest.raises(ValueError, match=r"no label column 'c'; they have \['a', 'b'\]"):
            label_tensor(batch, ["c"])


@pytest.mark.parametrize("name", ["labels", "label_cols", "matrix", "errors"])
def test_a_label_column_may_have_a_name_that_the_loop_uses(name):
    batch = {"image": torch.zeros(2, 3, 4, 4), "id_str": ["a", "b"], name: LABELS[:, 0]}
    assert torch.equal(label_tensor(batch, [name]), LABELS[:, :1])


def test_doubles_become_float32():
    assert label_tensor({"labels": LABELS.double()}, ["a", "b"]).dtype == torch.float32
