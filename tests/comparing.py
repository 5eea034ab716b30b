"""Compares runs, bit by bit."""

import torch

from zoobot.runs.folder import read_metrics
from zoobot.runs.log import PACE


def last_state(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def assert_bitwise_equal(first, second):
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_bitwise_equal(first[key], second[key])
    elif isinstance(first, list | tuple):
        for a, b in zip(first, second, strict=True):
            assert_bitwise_equal(a, b)
    else:
        assert first == second


def metrics_without_pace(folder):
    """The lines of ``metrics.jsonl`` without seconds and the like, which no two runs have alike."""
    return [
        {name: value for name, value in line.items() if name not in PACE}
        for line in read_metrics(folder)
    ]


def have_same_metrics(first, second):
    return metrics_without_pace(first) == metrics_without_pace(second)


def assert_same_run(first, second):
    a, b = last_state(first), last_state(second)
    for part in ("model", "optimizer", "scaler", "progress"):
        assert_bitwise_equal(a[part], b[part])
    assert have_same_metrics(first, second)
    assert (first / "best.safetensors").read_bytes() == (second / "best.safetensors").read_bytes()
