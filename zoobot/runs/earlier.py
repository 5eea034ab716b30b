"""Set the files of an earlier run aside, when a new run begins in its folder."""

import itertools
from pathlib import Path

RESULTS = (
    "checkpoints best.safetensors metrics.jsonl skipped_steps.jsonl report "
    "val_predictions.parquet test_predictions.parquet curves.png questions.png galaxies.png"
).split()
OTHERS = ["config.json", "tensorboard"]  # what a run leaves that died before its first result
# States come first, the newest last of them: a process that is killed meanwhile leaves the newest,
# or none from which the next could go on.
STATES = ["previous.ckpt", "last.ckpt"]


def set_aside(save_dir: Path) -> None:
    """Move an earlier run's files, if it has results, to ``earlier-1``, ``earlier-2``, ...

    Files in ``checkpoints/best`` stay where they are, at every moment: ``fit`` has returned their
    paths, and their names are never those of another run.
    """
    checkpoints = save_dir / "checkpoints"
    states = checkpoints.glob("*.ckpt")
    if not any(states) and not any((save_dir / name).exists() for name in RESULTS[1:]):
        return
    numbered = (save_dir / f"earlier-{number}" for number in itertools.count(1))
    aside = next(folder for folder in numbered if not folder.exists())
    aside.mkdir()
    inside = {path.name for path in checkpoints.glob("*")} - {"best", *STATES}
    names = [f"checkpoints/{name}" for name in [*STATES, *sorted(inside)]]
    for name in [*names, *RESULTS[1:], *OTHERS]:
        if (save_dir / name).exists():
            (aside / name).parent.mkdir(exist_ok=True)
            (save_dir / name).rename(aside / name)
