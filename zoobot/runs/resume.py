"""Resume a run: its progress, which saved state to go on from, and how to restore it."""

import dataclasses
import math
import sys
import time
from pathlib import Path

import torch
from torch import nn

from zoobot import optim
from zoobot.metrics import Means
from zoobot.runs import checkpoint
from zoobot.runs.changes import compare_options
from zoobot.runs.checkpoint import NoCheckpoint, NotReadNow, load_exactly
from zoobot.system import distributed
from zoobot.system.errors import UserError

WAITS_S = (1.0, 5.0, 20.0)  # before a state that can't be read now is tried again


@dataclasses.dataclass
class Progress:
    """Where a run stands: with model, optimiser and scaler, all that resuming needs."""

    epoch: int = 0  # finished epochs
    step: int = 0  # optimiser steps taken, skipped ones too
    epoch_step: int = 0  # those of the epoch that is not finished
    num_steps: int = 0  # of an epoch
    skipped: int = 0  # steps of the epoch that is not finished
    best_loss: float = math.inf
    best_epoch: int = 0
    kept: list[list] = dataclasses.field(default_factory=list)  # [loss, epoch] of saved epochs
    losses: list[float] = dataclasses.field(default_factory=list)  # validation loss of each epoch

    def record(self, loss: float, save_top_k: int) -> None:
        """Count a finished epoch, and rank it."""
        self.epoch, self.epoch_step, self.skipped = self.epoch + 1, 0, 0
        self.losses.append(loss)
        if loss < self.best_loss:
            self.best_loss, self.best_epoch = loss, self.epoch
        ranked = sorted([*self.kept, [loss, self.epoch]])
        num_kept = len(ranked) if save_top_k < 0 else save_top_k
        self.kept = ranked[:num_kept]

    def rank_as(self, before: "Progress") -> None:
        """Rank epochs as before the last one, which could not be saved."""
        self.best_loss, self.best_epoch, self.kept = (
            before.best_loss,
            before.best_epoch,
            before.kept,
        )

    def told(self) -> str:
        """Where the run stands, in words."""
        if self.epoch_step:
            return (
                f"within epoch {self.epoch + 1}, after {self.epoch_step} of {self.num_steps} steps"
            )
        return f"after epoch {self.epoch}" if self.epoch else "from its beginning"

    def told_end(self, epochs: int) -> str:
        """How a run of at most so many epochs has ended, in a line."""
        done = f"finished: {self.epoch} of {epochs} epochs"
        if self.epoch < epochs:
            waited = self.epoch - self.best_epoch
            done = (
                f"stopped early: {self.epoch} of {epochs} epochs; the last {waited} brought no "
                "lower validation loss (--patience)"
            )
        return (
            f"{done}; best weights: epoch {self.best_epoch}, validation loss {self.best_loss:.5g}"
        )

    def is_going_on(self, epochs: int, patience: int, frozen_epochs: int) -> bool:
        """Whether there is another epoch to train, or to finish; see ``engine.Settings``."""
        waited = self.epoch - max(self.best_epoch, frozen_epochs)
        return self.epoch < epochs and waited < patience


def rank_state(model: nn.Module, means: Means) -> dict:
    """What differs between ranks within an epoch: sums of metrics, and BatchNorm's statistics."""
    floats = {name: b.cpu() for name, b in model.named_buffers() if b.is_floating_point()}
    return {"totals": means.totals.cpu(), "buffers": floats}


def restore(
    state: dict,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: optim.Scheduler,
    scaler: torch.amp.GradScaler,
    means: Means,
    num_steps: int,
) -> Progress:
    """Restore model, optimiser, schedule, scaler and sums from a saved state.

    Returns:
        The progress that was saved.

    Raises:
        ValueError: the state is that of another model, or within an epoch of other steps.
    """
    progress = Progress(**state["progress"])
    if progress.epoch_step and progress.num_steps != num_steps:
        raise UserError(
            f"the state was saved at step {progress.epoch_step} of an epoch of "
            f"{progress.num_steps} steps, now an epoch has {num_steps}: keep galaxies and "
            "--batch-size, or go on from the end of an epoch, --resume checkpoints/epoch=N.ckpt"
        )
    load_exactly(model, state["model"], "the saved state")
    if state["scaler"]:
        scaler.load_state_dict(state["scaler"])
    for epoch, loss in enumerate(progress.losses):
        scheduler.step(epoch + 1, loss)
    optim.load_state(optimizer, state["optimizer"])
    if ranks := state.get("ranks"):
        same_ranks = len(ranks) == distributed.world_size()
        mine = ranks[distributed.rank()] if same_ranks else merged(ranks)
        means.totals.copy_(mine["totals"])
        for name, buffer in model.named_buffers():
            if name in mine["buffers"]:
                buffer.copy_(mine["buffers"][name])
    progress.num_steps = num_steps
    return progress


def merged(ranks: list[dict]) -> dict:
    """The state of a rank if the number of ranks has changed: the main rank takes all sums."""
    totals = sum(rank["totals"] for rank in ranks)
    buffers = {
        name: torch.stack([rank["buffers"][name] for rank in ranks]).mean(0)
        for name in ranks[0]["buffers"]
    }
    return {"totals": totals if distributed.is_main() else 0 * totals, "buffers": buffers}


def restore_finite_buffers(statistics: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Restore BatchNorm's statistics that a step has made NaN or infinite.

    Args:
        statistics: buffers as they are, and what they were when the epoch began.
    """
    for buffer, before in statistics:
        buffer.copy_(torch.where(torch.isfinite(buffer), buffer, before))


def find_state(
    save_dir: str | Path,
    resume: str,
    config: dict,
    may_change: set[str],
    allow_changes: bool = False,
) -> dict | None:
    """The state to go on from, with its ``path``; or None to start anew.

    A state of another run is a ``branch``: this run ranks its own epochs only. Processes that
    torchrun has started again go on with what they had saved themselves.

    Args:
        resume: ``never``, ``auto`` (``last.ckpt`` of ``save_dir``, if there is one), or a path.
        config, may_change: this run's options, and those that may be other than the state's; see
            ``changes.compare_options``.
        allow_changes: let any differ.

    Raises:
        ValueError: for an unreadable checkpoint, or options that differ (all are listed).
    """
    folder = Path(save_dir) / "checkpoints"
    path = state = None
    if resume == "auto" or distributed.num_restarts():
        path, state = _last_state(folder)
        if resume != "auto" and (not state or state["config"].get("resume") != resume):
            path = state = None  # saved by an earlier run
    if state is None and resume not in ("auto", "never"):
        path = Path(resume)
        if path.suffix == ".safetensors" and path.exists():
            raise UserError(
                f"{path} holds weights only, and no state of training to go on from: give a .ckpt "
                "of checkpoints/ (--save-top-k 1 or more keeps the best epochs'), or the newest "
                "state (--resume auto; of fit ckpt_path='last'), or begin a new run from them"
            )
        state = _read_state(path)
    if state is None:
        return None
    state["path"] = str(path)
    compare_options(state, config, may_change, allow_changes)
    if not any(path.samefile(own) for own in folder.glob("*.ckpt")):
        done = state["progress"]["epoch"]
        if done >= config["epochs"]:
            raise UserError(f"{path} has all {done} epochs behind it; raise --epochs")
        state["progress"].update(best_loss=math.inf, best_epoch=done, kept=[])
        state |= {"branch": True, "best_weights": None}
    return state


def _last_state(folder: Path) -> tuple[Path | None, dict | None]:
    """The newest readable state of a run: ``last.ckpt``, or else ``previous.ckpt``."""
    path = state = told = None
    if distributed.is_main():
        try:
            path, state = _newest_sound(folder)
        except UserError as error:
            told = str(error)
    path, told = distributed.from_main((path and str(path), told))
    if told is not None:
        raise UserError(told)
    if path is None:
        return None, None
    return Path(path), state or _read_state(Path(path))


def _newest_sound(folder: Path) -> tuple[Path | None, dict | None]:
    """The newest sound state. A spoilt one is set aside only if there is another to go on from."""
    faults = {}
    for path in (folder / "last.ckpt", folder / "previous.ckpt"):
        try:
            state = _read_state(path)
        except NoCheckpoint:
            continue
        except NotReadNow:
            raise
        except ValueError as error:
            faults[path] = str(error)
            continue
        for spoilt, fault in faults.items():
            print(f"warning: {fault}; going on from {path.name}", file=sys.stderr)
            spoilt.replace(spoilt.with_suffix(".unreadable"))
        return path, state
    if faults:
        raise UserError(
            f"no state to go on from: {'; '.join(faults.values())}; start anew with --resume "
            "never, or name a checkpoint with --resume PATH"
        )
    return None, None


def _read_state(path: Path) -> dict:
    """``load_checkpoint``, which is tried again if a disk fails or memory is short."""
    for wait_s in (*WAITS_S, None):
        try:
            return checkpoint.load_checkpoint(path)
        except (NotReadNow, OSError, MemoryError) as error:
            told = f"{path} can't be read now: {error!r}"
            if isinstance(error, NotReadNow):
                told = str(error)
            if wait_s is None:
                cure = "it is left as it is: see to disk, permissions and memory, and try again"
                raise NotReadNow(f"{told}; {cure}") from error
            print(f"warning: {told}; trying again in {wait_s:g} s", file=sys.stderr)
            time.sleep(wait_s)
