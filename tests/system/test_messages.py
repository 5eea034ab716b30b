"""What processes send each other is plain data and tensors."""

import math
import pickle

import numpy as np
import pytest
import torch

from zoobot.system.messages import pack, unpack


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        2**63,
        -0.5,
        math.inf,
        "",
        "a\0\ud800é",
        [],
        {},
        [1, ["a", None], {"k": [2.5]}],
    ],
)
def test_plain_data_arrives_as_it_was(value):
    assert unpack(pack(value)) == value


def test_tensors_arrive_bitwise_wherever_they_are():
    base = torch.randn(4, 6)
    own = {
        "turned": base.T,
        "same": base,
        "part": base[1:, ::2],
        "bf16": base.bfloat16(),
        "whole": torch.tensor([2**62, -1]),
        "none": torch.empty(0, 3),
        "scalar": torch.tensor(True),
        "nan": torch.tensor([math.nan, -0.0], dtype=torch.float64),
    }
    seen = unpack(pack({"ranks": [own, "and a text"]}))["ranks"]
    assert seen[1] == "and a text"
    assert seen[0].keys() == own.keys()
    for name, tensor in own.items():
        torch.testing.assert_close(seen[0][name], tensor, rtol=0, atol=0, equal_nan=True)


def test_tuples_become_lists_and_arrays_tensors():
    ids, values = unpack(pack((["a"], np.arange(3, dtype=np.float32))))
    assert ids == ["a"]
    assert torch.equal(values, torch.arange(3.0))


@pytest.mark.parametrize("value", [{1: "a"}, [{"a": {2.5: None}}], object(), {1, 2}, b"bytes"])
def test_anything_else_is_refused(value):
    with pytest.raises(TypeError, match="can't be sent"):
        pack(value)


def test_a_pickle_is_not_read():
    data = torch.frombuffer(bytearray(pickle.dumps({"a": 1})), dtype=torch.uint8)
    with pytest.raises(Exception, match="(?i)header|metadata"):
        unpack(data)
