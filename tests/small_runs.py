"""Runs of a few numbers: folders, states and weights as the loop would save them."""

import torch

from zoobot.runs.folder import Run
from zoobot.runs.resume import Progress, find_state

CONFIG = {"lr": 0.1, "resume": "auto", "epochs": 9}


def open_run(folder, state=None, **arguments) -> Run:
    return Run(folder, CONFIG, {}, lambda split, name: name, state, **arguments)


def weights_of(epoch: int) -> dict:
    return {"w": torch.full((50,), float(epoch))}


def save_epochs(run: Run, losses: list[float], save_top_k: int = 1, progress=None) -> Progress:
    """Save the end of an epoch for each validation loss."""
    progress = progress or Progress()
    for loss in losses:
        before = Progress(**vars(progress))
        progress.step += 5
        progress.record(loss, save_top_k)
        weights = weights_of(progress.epoch)
        if not run.save({"progress": {**vars(progress)}, "model": weights}, weights):
            progress.rank_as(before)
    return progress


def find(folder, resume="auto", **changes):
    return find_state(folder, resume, CONFIG | changes, {"epochs", "resume"})
