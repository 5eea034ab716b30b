"""What a run leaves behind: config.json, metrics.jsonl, TensorBoard, checkpoints, a table."""

import functools
import importlib.metadata
import itertools
import json
import math
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from zoobot import checkpoint, distributed

PACKAGES = ("torchvision", "timm", "numpy", "pandas", "pyarrow", "pillow", "safetensors")
RUN_FILES = (
    "config.json metrics.jsonl best.safetensors checkpoints tensorboard report "
    "val_predictions.parquet test_predictions.parquet"
).split()


def environment() -> dict:
    """Versions, machine and git commit: what is needed to know where a number came from."""
    return {
        "python": platform.python_version(),
        "machine": platform.platform(),
        "processor": processor(),
        "versions": {"torch": torch.__version__}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "git_commit": git_commit(),
        "num_processes": distributed.world_size(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def processor() -> str:
    """The processor's name, from the kernel where it tells."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def git_commit() -> str | None:
    """The commit of this checkout, with ``+changes`` if files differ; None outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        status = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True
        )
    except OSError:
        return None
    if commit.returncode != 0:
        return None
    return commit.stdout.strip() + ("+changes" if status.stdout.strip() else "")


class Run:
    """Writes a run's files, on the main process only.

    Args:
        save_dir: the run's folder.
        config: every option of the run, as plain types.
        description: how to build the model again (``model.describe()`` and the image size).
        metric_key: (split, name) -> the metric's name in the logs.
        resume_from: the state that is continued, if any; log lines after its epoch are dropped.
            Without it, or if it is another folder's, an earlier run's files are moved to
            ``earlier-1``, ``earlier-2``, ...
        file_template: names checkpoints; ``{epoch}`` becomes ``epoch=N``.
        show_progress: draw progress bars.

    Raises:
        ValueError: if ``file_template`` lacks the epoch or names something else.
    """

    def __init__(
        self,
        save_dir: str | Path,
        config: dict,
        description: dict,
        metric_key: Callable[[str, str], str],
        resume_from: dict | None = None,
        *,
        file_template: str = "{epoch}",
        show_progress: bool = True,
    ):
        self.save_dir = Path(save_dir)
        self._template = file_template
        self._show_progress = show_progress
        if self._file_name(1) == self._file_name(2):
            raise ValueError(f"file_template {file_template!r} lacks {{epoch}}")
        self.checkpoint_dir = self.save_dir / "checkpoints"
        self._config = config
        self._description = description
        self._metric_key = metric_key
        self._is_main = distributed.is_main()
        self._lines: list[dict] = []
        if not self._is_main:
            return
        resumed_epoch = 0
        if resume_from is None or resume_from.get("branch"):
            self._set_earlier_run_aside()
        if resume_from is not None:
            resumed_epoch = resume_from["progress"]["epoch"]
        self.checkpoint_dir.mkdir(parents=True, exist_ok=True)
        self._lines = [
            line
            for line in read_metrics(self.save_dir)
            if line["epoch"] <= resumed_epoch and line["split"] != "test"
        ]
        text = json.dumps({**config, "environment": environment()}, indent=2)
        checkpoint.write_text(self.save_dir / "config.json", text + "\n")
        self._tensorboard = SummaryWriter(
            self.save_dir / "tensorboard", purge_step=resumed_epoch + 1
        )

    def _set_earlier_run_aside(self) -> None:
        if not (self.save_dir / "metrics.jsonl").exists():
            return
        aside = next(
            folder
            for number in itertools.count(1)
            if not (folder := self.save_dir / f"earlier-{number}").exists()
        )
        aside.mkdir()
        for name in RUN_FILES:
            if (self.save_dir / name).exists():
                (self.save_dir / name).rename(aside / name)

    def progress_bar(self, text: str, total: int | None = None) -> Callable:
        """Wraps an iterable in a tqdm bar: on the main process and in a terminal only."""
        shown = self._is_main and self._show_progress
        disable = None if shown else True  # None: where stderr is no terminal
        return functools.partial(tqdm, desc=text, total=total, disable=disable, leave=False)

    def say(self, text: str) -> None:
        """Print on the main process only, without tearing a progress bar."""
        if self._is_main:
            tqdm.write(text)

    @property
    def last_epoch(self) -> int:
        """The last epoch that was logged."""
        return max((line["epoch"] for line in self._lines), default=0)

    def log(self, epoch: int, split: str, metrics: dict[str, float]) -> None:
        """Add one line to metrics.jsonl, write TensorBoard's scalars, print the loss."""
        if not self._is_main:
            return
        named = {self._metric_key(split, name): value for name, value in metrics.items()}
        self._lines = [x for x in self._lines if (x["epoch"], x["split"]) != (epoch, split)]
        self._lines.append({"epoch": epoch, "split": split, **named})
        lines = "".join(json.dumps(line) + "\n" for line in self._lines)
        checkpoint.write_text(self.save_dir / "metrics.jsonl", lines)
        for name, value in named.items():
            self._tensorboard.add_scalar(name, value, epoch)
        self._tensorboard.flush()
        told = [f"{name} {value:.5g}" for name, value in named.items() if name.count("/") == 1]
        self.say(f"epoch {epoch:3d}  {'  '.join(told)}")

    def metrics_of(self, epoch: int) -> dict[str, float]:
        """The metrics that were logged for an epoch, of all splits."""
        lines = [line for line in self._lines if line["epoch"] == epoch]
        return {k: v for line in lines for k, v in line.items() if k not in ("epoch", "split")}

    def save(self, state: dict, weights: dict, outranked: list[int]) -> None:
        """Write the state after an epoch: ``epoch=N.ckpt`` if it is among the best, ``last.ckpt``.

        The best epoch's ``weights`` become ``best.safetensors``. ``last.ckpt`` comes last: a run
        killed before repeats the epoch and writes the same files. Then ``outranked`` epochs go.
        """
        if not self._is_main:
            return
        state = {**state, "description": self._description, "config": self._config}
        progress = state["progress"]
        epoch, last = progress["epoch"], self.checkpoint_dir / "last.ckpt"
        if epoch == progress["best_epoch"]:
            best = self.save_dir / "best.safetensors"
            checkpoint.save_weights(best, weights, self._description)
        if epoch in [kept_epoch for _, kept_epoch in progress["kept"]]:
            checkpoint.save_checkpoint(self._epoch_path(epoch), state)
            checkpoint.duplicate(self._epoch_path(epoch), last)
        else:
            checkpoint.save_checkpoint(last, state)
        checkpoint.remove([self._epoch_path(dropped) for dropped in outranked])

    def best_path(self, epoch: int) -> Path:
        """The best epoch's checkpoint, or its weights where no checkpoint is kept."""
        path = self._epoch_path(epoch)
        return path if path.exists() else self.save_dir / "best.safetensors"

    def _epoch_path(self, epoch: int) -> Path:
        return self.checkpoint_dir / self._file_name(epoch)

    def _file_name(self, epoch: int) -> str:
        try:
            return self._template.format(epoch=f"epoch={epoch}") + ".ckpt"
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(f"file_template {self._template!r} may name {{epoch}} only") from error


def find_state(
    save_dir: str | Path, resume: str, config: dict, may_change: set[str]
) -> dict | None:
    """The state to go on from, or None to start anew.

    A state from another folder is a branch: this run's folder ranks its own epochs only.

    Args:
        resume: ``never``, ``auto`` (``last.ckpt`` of ``save_dir``, if there is one), or a path.
        config: this run's options; those not in ``may_change`` must be the state's own.

    Raises:
        ValueError: for an unreadable checkpoint, or options that differ (all are listed).
    """
    if resume == "never":
        return None
    last = Path(save_dir) / "checkpoints" / "last.ckpt"
    if resume == "auto" and not distributed.from_main(last.exists()):
        return None
    path = last if resume == "auto" else Path(resume)
    state = checkpoint.load_checkpoint(path)
    before = state.get("config", {})
    changed = [
        f"{key} was {before[key]!r}, now {value!r}"
        for key, value in config.items()
        if key not in may_change and key in before and before[key] != value
    ]
    if changed:
        raise ValueError(
            f"{path} belongs to a run with other options ({'; '.join(changed)}): "
            "start anew (--resume never), or in another folder (--save-dir)"
        )
    if path.resolve().parent != last.resolve().parent:
        done = state["progress"]["epoch"]
        if done >= config["epochs"]:
            raise ValueError(f"{path} has all {done} epochs behind it; raise --epochs")
        state["progress"].update(best_loss=math.inf, best_epoch=done, kept=[])
        state["branch"] = True
    return state


def read_metrics(save_dir: str | Path) -> list[dict]:
    """The lines of a run's metrics.jsonl, oldest first; empty if there is none."""
    path = Path(save_dir) / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
