"""Set the files of an earlier run aside, when a new run begins in its folder."""

import itertools
from pathlib import Path

# Checkpoints come first: a process that is killed meanwhile leaves none in their place, from which
# the next could go on.
RUN_FILES = (
    "checkpoints best.safetensors metrics.jsonl skipped_steps.jsonl config.json tensorboard report "
    "val_predictions.parquet test_predictions.parquet curves.png questions.png galaxies.png"
).split()


def set_aside(save_dir: Path) -> None:
    """Move what a run has left, if anything, to ``earlier-1``, ``earlier-2``, ...

    Files in ``checkpoints/best`` stay: their names are never those of another run.
    """
    earlier = [name for name in RUN_FILES if (save_dir / name).exists()]
    if not earlier:
        return
    numbered = (save_dir / f"earlier-{number}" for number in itertools.count(1))
    aside = next(folder for folder in numbered if not folder.exists())
    aside.mkdir()
    for name in earlier:
        (save_dir / name).rename(aside / name)
    if (aside / "checkpoints" / "best").exists():
        (save_dir / "checkpoints").mkdir()
        (aside / "checkpoints" / "best").rename(save_dir / "checkpoints" / "best")
