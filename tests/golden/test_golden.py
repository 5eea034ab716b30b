"""The losses of 30 optimiser steps, compared with those of a committed file.

The weights, pixels and votes are drawn by NumPy, so that the curve depends on this package alone:
loss, parameter groups, schedule, clipping, step. A change that means to change numbers writes the
file anew (``python tests/golden/test_golden.py``) and says why.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from zoobot import engine, optim
from zoobot.models import ZoobotTree
from zoobot.schemas import Schema

CURVE = Path(__file__).with_name("curve.txt")
NUM_STEPS, BATCH_SIZE = 30, 8


class Batches(list):
    """Batches in memory with what the loop asks of a loader."""

    num_steps = NUM_STEPS

    def set_epoch(self, epoch, first_step=0):
        pass


def steps_losses() -> list[float]:
    """The mean loss of each step's galaxies, before the step."""
    rng = np.random.default_rng(0)
    schema = Schema(
        {"smooth": ["_yes", "_no"], "bar": ["_strong", "_weak", "_no"], "merging": ["_yes", "_no"]},
        {"smooth": None, "bar": "smooth_no", "merging": None},
    )
    model = ZoobotTree(schema=schema, architecture_name="test_convnext", dropout_rate=0.0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                scale = weight[0].numel() ** -0.5
                weight.copy_(torch.from_numpy(rng.normal(0, scale, tuple(weight.shape))))
            else:
                weight.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    pixels = rng.integers(0, 256, (NUM_STEPS, BATCH_SIZE, 3, 32, 32), dtype=np.uint8)
    votes = rng.integers(0, 20, (NUM_STEPS, BATCH_SIZE, 7)) * (rng.random((1, 1, 7)) < 0.8)
    batches = Batches(
        {
            "image": torch.from_numpy(image),
            "labels": torch.from_numpy(labels),
            "step_galaxies": BATCH_SIZE,
            "ends_step": True,
        }
        for image, labels in zip(pixels, votes, strict=True)
    )
    found, losses = [], model.losses

    def recorded(outputs, labels):
        values = losses(outputs, labels)
        found.append(values.detach().double().sum(1).mean().item())
        return values

    model.losses = recorded
    settings = engine.Settings(torch.device("cpu"), epochs=1, grad_clip=0.3)
    optimizer = optim.adamw(optim.parameter_groups(model.encoder, model.head, 1e-3, 0.05, 0.75))
    schedule = optim.warm_then("cosine", 1, 0.2, 1e-3)
    scheduler = optim.make_scheduler(optimizer, schedule, 1, NUM_STEPS)
    scaler = settings.grad_scaler()
    engine.train_one_epoch(
        model, batches, optimizer, scheduler, scaler, settings, engine.Progress()
    )
    return found


def test_thirty_steps_have_the_losses_that_they_had():
    expected = [float(line) for line in CURVE.read_text().split()]
    assert steps_losses() == pytest.approx(expected, rel=1e-5)


if __name__ == "__main__":
    torch.set_num_threads(1)
    CURVE.write_text("".join(f"{loss:.9f}\n" for loss in steps_losses()))
    print(f"{CURVE} is written anew: say in the commit why the numbers change")
