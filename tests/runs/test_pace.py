import pytest
import torch

from zoobot.runs import pace as module
from zoobot.runs.pace import Pace


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests set."""
    now = [5.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_an_epochs_pace_is_that_of_the_steps_that_were_taken_in_it(clock):
    pace = Pace(torch.device("cpu"))
    for _ in pace.shown("epoch 1", 4, 1, shown=False)(range(3)):
        clock[0] += 10
    pace.end_training(400)  # of which 300 in these steps
    clock[0] += 7
    paces = pace.end_epoch()
    assert paces["train"].pop("memory_gb") > 0
    assert paces == {
        "train": {"seconds": 30.0, "images_per_s": 10.0},
        "validation": {"seconds": 7.0},
    }


def test_an_epoch_of_which_only_validation_is_left_tells_no_rate(clock):
    pace = Pace(torch.device("cpu"))
    assert list(pace.shown("epoch 1", 4, 4, shown=False)([])) == []
    pace.end_training(400)
    assert "images_per_s" not in pace.end_epoch()["train"]
