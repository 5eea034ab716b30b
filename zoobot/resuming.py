"""Which state a run goes on from, and whether it may."""

import math
import sys
from pathlib import Path

from zoobot import checkpoint, distributed


def find_state(
    save_dir: str | Path,
    resume: str,
    config: dict,
    may_change: set[str],
    allow_changes: bool = False,
) -> dict | None:
    """The state to go on from, or None to start anew.

    A state from another folder is a branch: this run's folder ranks its own epochs only. Processes
    that torchrun has started again go on with what they had saved themselves.

    Args:
        resume: ``never``, ``auto`` (``last.ckpt`` of ``save_dir``, if there is one), or a path.
        config: this run's options; those not in ``may_change`` must be the state's own.
        allow_changes: let them differ all the same.

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
        state = checkpoint.load_checkpoint(path)
    if state is None:
        return None
    _compare_options(state.get("config", {}), config, path, may_change, allow_changes)
    if path.resolve().parent != folder.resolve():
        done = state["progress"]["epoch"]
        if done >= config["epochs"]:
            raise ValueError(f"{path} has all {done} epochs behind it; raise --epochs")
        state["progress"].update(best_loss=math.inf, best_epoch=done, kept=[])
        state["branch"] = True
    return state


def _last_state(folder: Path) -> tuple[Path | None, dict | None]:
    """The newest readable state of a run: ``last.ckpt``, or else ``previous.ckpt``."""
    path, state, faults = None, None, []
    if distributed.is_main():
        for path in (folder / "last.ckpt", folder / "previous.ckpt"):
            try:
                state = checkpoint.load_checkpoint(path) if path.exists() else None
            except ValueError as error:
                faults.append(str(error))
                path.replace(path.with_suffix(".unreadable"))
            if state is not None:
                break
        if faults and state is not None:
            print(f"warning: {faults[0]}; going on from {path.name}", file=sys.stderr)
    path, found, faults = distributed.from_main((path, state is not None, faults))
    if faults and not found:
        raise ValueError(
            f"no state to go on from: {'; '.join(faults)}; start anew with --resume never, or name "
            "a checkpoint with --resume PATH"
        )
    if not found:
        return None, None
    return path, state or checkpoint.load_checkpoint(path)


def _compare_options(before: dict, now: dict, path, may_change: set[str], allow_changes) -> None:
    changed = {
        key: f"{key} was {before[key]!r}, now {value!r}"
        for key, value in now.items()
        if key in before and before[key] != value and key not in ("config", "debug", "save_dir")
    }
    refused = [text for key, text in changed.items() if key not in may_change]
    if refused and not allow_changes:
        raise ValueError(
            f"{path} belongs to a run with other options ({'; '.join(refused)}): start anew "
            "(--resume never), or in another folder (--save-dir), or take them (--allow-changes)"
        )
    if changed and distributed.is_main():
        print(f"going on from {path} with other options: {'; '.join(changed.values())}")
