import pytest
import torch
from torch import nn

from zoobot.runs.mistakes import told_as_mistakes
from zoobot.system.errors import OneProcessError, UserError


def test_a_batch_of_one_under_batchnorm_is_told():
    with pytest.raises(OneProcessError, match="a batch had one galaxy"), told_as_mistakes():
        nn.BatchNorm1d(3)(torch.ones(1, 3))


def test_an_operation_that_cannot_be_deterministic_is_named():
    told = "put_ does not have a deterministic implementation, but you set 'torch.use_..."
    with pytest.raises(UserError, match="put_ gives other bits each time"), told_as_mistakes():
        raise RuntimeError(told)


@pytest.mark.parametrize("error", [ValueError("other"), RuntimeError("other"), KeyError("other")])
def test_other_errors_pass_as_they_are(error):
    with pytest.raises(type(error)) as caught, told_as_mistakes():
        raise error
    assert caught.value is error
