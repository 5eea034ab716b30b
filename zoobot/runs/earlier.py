"""Set the files of an earlier run aside, when a new run begins in its folder."""

import itertools
from pathlib import Path

# Checkpoints come first: a process that is killed meanwhile leaves none in their place, from which
# the next could go on.
RESULTS = (
    "checkpoints best.safetensors metrics.jsonl skipped_steps.jsonl report "
    "val_predictions.parquet test_predictions.parquet curves.png questions.png galaxies.png"
).split()
OTHERS = ["config.json", "tensorboard"]  # what a run leaves that died before its first result


def set_aside(save_dir: Path) -> None:
    """Move an earlier run's files, if it has results, to ``earlier-1``, ``earlier-2``, ...

    Files in ``checkpoints/best`` stay: their names are never those of another run.
    """
    states = (save_dir / "checkpoints").glob("*.ckpt")
    if not any(states) and not any((save_dir / name).exists() for name in RESULTS[1:]):
        return
    earlier = [name for name in RESULTS + OTHERS if (save_dir / name).exists()]
    numbered = (save_dir / f"earlier-{number}" for number in itertools.count(1))
    aside = next(folder for folder in numbered if not folder.exists())
    aside.mkdir()
    for name in earlier:
        (save_dir / name).rename(aside / name)
    if (aside / "checkpoints" / "best").exists():
        (save_dir / "checkpoints").mkdir()
        (aside / "checkpoints" / "best").rename(save_dir / "checkpoints" / "best")
