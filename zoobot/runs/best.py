"""The best weights of a run: ``best.safetensors`` is that of the state's best epoch, or made so.

A state tells the SHA-256 of the best weights of its run. New best weights are written to
``checkpoints/next.safetensors`` before the state, and moved to ``best.safetensors`` after it. So
whenever a process is killed, the weights that the last state tells are in one of the two.
"""

import math
import sys
from collections.abc import Callable
from pathlib import Path

from zoobot.runs import checkpoint
from zoobot.runs.checkpoint import NotReadNow
from zoobot.system.files import delete_files, duplicate_file, hash_file, move_file

NEXT = "next.safetensors"


def restore_best(
    save_dir: Path, state: dict, path_of: Callable[[int], Path], description: dict
) -> str | None:
    """Make ``best.safetensors`` that of a state's best epoch.

    If it can't be had any more (a spoilt last state was newer), the state's ``progress`` is changed
    to rank the coming epochs only.

    Args:
        state: one that is resumed.
        path_of: where an epoch's checkpoint is, if it is kept.
        description: of the model, to write it.

    Returns:
        Its SHA-256; None if there are no best weights yet.

    Raises:
        NotReadNow: a file can't be read now.
    """
    best, prepared = save_dir / "best.safetensors", save_dir / "checkpoints" / NEXT
    if "best_weights" not in state:  # saved by an earlier version
        return _digest_of(best)
    wanted = state["best_weights"]
    if wanted is not None and wanted == _digest_of(prepared):
        move_file(prepared, best)
    delete_files([prepared])
    if wanted is None or wanted == _digest_of(best):
        return wanted
    progress = state["progress"]
    for weights in (state["model"], _weights_of(path_of(progress["best_epoch"]))):
        if checkpoint.weights_digest(weights) == wanted:
            return checkpoint.save_weights(best, weights, description)
    told = f"the best weights of epoch {progress['best_epoch']} are lost"
    print(f"warning: {told}: later epochs are ranked anew", file=sys.stderr)
    kept = [[loss, epoch] for loss, epoch in progress["kept"] if path_of(epoch).exists()]
    progress.update(best_loss=math.inf, best_epoch=progress["epoch"], kept=kept)
    return None


def keep_best(save_dir: Path, epoch_path: Path) -> str:
    """Give the best weights, and their epoch's checkpoint if it is kept, names of their own.

    The names tell a checksum of the contents. So they are never those of another run, and the files
    stay where they are when the run is set aside. They are hard links in ``checkpoints/best/``. The
    main process calls it.

    Args:
        epoch_path: where the checkpoint is, if it is kept.

    Returns:
        The path of the checkpoint, or else of the weights, which has the same stem.
    """
    weights = save_dir / "best.safetensors"
    best = epoch_path if epoch_path.exists() else weights
    stem = save_dir / "checkpoints" / "best" / f"{epoch_path.stem}-{hash_file(best)[:12]}"
    for path in {weights, best}:
        duplicate_file(path, f"{stem}{path.suffix}")
    return f"{stem}{best.suffix}"


def _digest_of(path: Path) -> str | None:
    """SHA-256 of a file of weights; None if there is none that is whole."""
    try:
        return checkpoint.weights_digest(checkpoint.load_weights(path)[0])
    except NotReadNow:
        raise
    except ValueError:
        return None


def _weights_of(path: Path) -> dict:
    """The model's weights in a state; empty if there is none that is whole."""
    try:
        return checkpoint.load_checkpoint(path)["model"]
    except NotReadNow:
        raise
    except ValueError:
        return {}
