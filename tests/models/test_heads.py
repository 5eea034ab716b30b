import pytest
import torch

from zoobot.models.heads import DirichletHead, label_tensor

LABELS = torch.tensor([[1, 2], [3, 4]])


FAR = torch.tensor([[-1e3, -2.0, 0.0, 2.0, 1e3]])  # features of a head that passes them on


@pytest.mark.parametrize(
    ("activation", "lowest", "largest"), [("sigmoid", 1.0, 101.0), ("softplus", 0.01, 10000.01)]
)
def test_concentrations_keep_to_the_heads_bounds_and_start_near_nine(activation, lowest, largest):
    head = DirichletHead(5, 5, dropout_rate=0.0, activation=activation)
    assert head(torch.zeros(1, 5)).tolist()[0] == pytest.approx([9.0] * 5, rel=0.1)
    torch.nn.init.eye_(head.linear.weight)
    torch.nn.init.zeros_(head.linear.bias)
    outputs = head(FAR)[0]
    assert outputs[[0, -1]].tolist() == pytest.approx([lowest, largest])
    assert (outputs.diff() > 0).all()
    assert head.bounds[0] == lowest
    assert head.bounds[1] >= largest


def test_a_head_of_no_known_kind_is_refused():
    with pytest.raises(ValueError, match="head_activation='exp': use one of sigmoid, softplus"):
        DirichletHead(5, 5, activation="exp")


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
