"""The files of a run: config.json, metrics.jsonl, TensorBoard, checkpoints, best weights."""

import contextlib
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

from zoobot.limits.text import parse_json
from zoobot.runs import checkpoint
from zoobot.system import distributed, locks
from zoobot.system.errors import UserError
from zoobot.system.files import (
    delete_files,
    duplicate_file,
    remove_leftovers,
    write_text,
)

PACKAGES = ("torchvision", "timm", "numpy", "pandas", "pyarrow", "pillow", "safetensors")
RUN_FILES = (
    "config.json metrics.jsonl skipped_steps.jsonl best.safetensors checkpoints tensorboard report "
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
        on_save_error: what to do if the disk is full: ``stop``, or ``continue`` and try again next
            time. What was saved before is whole in any case.

    Raises:
        ValueError: if ``file_template`` lacks the epoch or names something else.
            Or if another process has a run at work in ``save_dir``.
        OSError: if nothing can be written to ``save_dir``.
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
        on_save_error: str = "stop",
    ):
        self.save_dir = Path(save_dir)
        self._on_save_error = on_save_error
        self._template = file_template
        self._show_progress = show_progress
        if self._file_name(1) == self._file_name(2):
            raise UserError(f"file_template {file_template!r} lacks {{epoch}}")
        self.checkpoint_dir = self.save_dir / "checkpoints"
        self._config = config
        self._description = description
        self._metric_key = metric_key
        self._is_main = distributed.is_main()
        self._lines: list[dict] = []
        if not self._is_main:
            return
        self._lock = contextlib.ExitStack()
        self._lock.enter_context(locks.only_run(self.save_dir / ".lock"))
        resumed_epoch = resumed_step = 0
        if resume_from is None or resume_from.get("branch"):
            self._set_earlier_run_aside()
        if resume_from is not None:
            resumed_epoch = resume_from["progress"]["epoch"]
            resumed_step = resume_from["progress"]["step"]
        self.checkpoint_dir.mkdir(parents=True, exist_ok=True)
        for folder in (self.save_dir, self.checkpoint_dir):
            remove_leftovers(folder)
        self._lines = [
            line
            for line in read_metrics(self.save_dir)
            if line["epoch"] <= resumed_epoch and line["split"] != "test"
        ]
        skipped = _read_lines(self.save_dir / "skipped_steps.jsonl")
        self._skipped = [line for line in skipped if line["step"] <= resumed_step]
        text = json.dumps({**config, "environment": environment()}, indent=2)
        write_text(self.save_dir / "config.json", text + "\n")
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

    def progress_bar(self, text: str, total: int | None = None, done: int = 0) -> Callable:
        """Wraps an iterable in a tqdm bar: on the main process and in a terminal only."""
        shown = self._is_main and self._show_progress
        disable = None if shown else True  # None: where stderr is no terminal
        return functools.partial(
            tqdm, desc=text, total=total, initial=done, disable=disable, leave=False
        )

    def say(self, text: str) -> None:
        """Print on the main process only, without tearing a progress bar."""
        if self._is_main:
            tqdm.write(text)

    def warn(self, text: str) -> None:
        """Print a warning to stderr, on the main process only."""
        if self._is_main:
            tqdm.write(f"warning: {text}", file=sys.stderr)

    @property
    def last_epoch(self) -> int:
        """The last epoch that was logged."""
        return max((line["epoch"] for line in self._lines), default=0)

    def log_epoch(self, epoch: int, train: dict, validation: dict, loss_name: str) -> float:
        """Log an epoch's metrics; returns its validation loss.

        Raises:
            ValueError: if a loss is not finite.
        """
        for split, metrics in (("train", train), ("validation", validation)):
            loss = metrics.get(loss_name, math.nan)
            if not math.isfinite(loss):
                raise UserError(
                    f"the {split} loss of epoch {epoch} is {loss}: lower the learning rate or use "
                    "--precision fp32; the checkpoints hold the state before"
                )
            self.log(epoch, split, metrics)
        return loss

    def log(self, epoch: int, split: str, metrics: dict[str, float]) -> None:
        """Add one line to metrics.jsonl, write TensorBoard's scalars, print the loss.

        Every rank must call it, so that all stop if it can't be written.
        """
        self._write("metrics.jsonl", lambda: self._log(epoch, split, metrics))

    def _log(self, epoch: int, split: str, metrics: dict[str, float]) -> None:
        named = {self._metric_key(split, name): value for name, value in metrics.items()}
        self._lines = [x for x in self._lines if (x["epoch"], x["split"]) != (epoch, split)]
        self._lines.append({"epoch": epoch, "split": split, **named})
        _write_lines(self.save_dir / "metrics.jsonl", self._lines)
        for name, value in named.items():
            self._tensorboard.add_scalar(name, value, epoch)
        self._tensorboard.flush()
        told = [f"{name} {value:.5g}" for name, value in named.items() if name.count("/") == 1]
        self.say(f"epoch {epoch:3d}  {'  '.join(told)}")

    def log_skipped(
        self, epoch: int, step: int, step_galaxies: list[str], bad_galaxies: list[str]
    ) -> None:
        """Add a step that was not taken to skipped_steps.jsonl, and say so; on every rank."""
        line = {
            "epoch": epoch,
            "step": step,
            "galaxies_not_finite": bad_galaxies,
            "galaxies": step_galaxies,
        }

        def write() -> None:
            self._skipped.append(line)
            _write_lines(self.save_dir / "skipped_steps.jsonl", self._skipped)

        self._write("skipped_steps.jsonl", write)
        what = "its gradient is not finite"
        if bad_galaxies:
            more = ", ..." if len(bad_galaxies) > 5 else ""
            what = f"the loss of {', '.join(bad_galaxies[:5])}{more} is not finite"
        self.warn(f"step {step} skipped: {what} (skipped_steps.jsonl)")

    def metrics_of(self, epoch: int) -> dict[str, float]:
        """The metrics that were logged for an epoch, of all splits."""
        lines = [line for line in self._lines if line["epoch"] == epoch]
        return {k: v for line in lines for k, v in line.items() if k not in ("epoch", "split")}

    def save(self, state: dict, weights: dict) -> bool:
        """Write the state: ``last.ckpt``; what it was before becomes ``previous.ckpt``.

        At an epoch's end it is ``epoch=N.ckpt`` as well if it is among the best, and the best
        epoch's ``weights`` become ``best.safetensors``. ``last.ckpt`` comes last: a run killed
        before repeats what followed the one before and writes the same files. Then epochs go that
        are no longer among the best. Every rank must call it.

        Returns:
            Whether it was written.

        Raises:
            ValueError: if it can't be, on every rank, unless ``on_save_error`` is ``continue``.
        """
        return self._write("the state", lambda: self._save(state, weights))

    def _save(self, state: dict, weights: dict) -> None:
        state = {**state, "description": self._description, "config": self._config}
        progress = state["progress"]
        epoch, is_epoch_end = progress["epoch"], progress["epoch_step"] == 0
        last = self.checkpoint_dir / "last.ckpt"
        if is_epoch_end and epoch == progress["best_epoch"]:
            best = self.save_dir / "best.safetensors"
            checkpoint.save_weights(best, weights, self._description)
        kept = [kept_epoch for _, kept_epoch in progress["kept"]]
        is_kept = is_epoch_end and epoch in kept
        aside = self.checkpoint_dir / "next.ckpt"
        newest = self._epoch_path(epoch) if is_kept else aside
        checkpoint.save_checkpoint(newest, state)
        if last.exists():
            duplicate_file(last, self.checkpoint_dir / "previous.ckpt")
        duplicate_file(newest, last)
        outranked = [self._epoch_path(n) for n in range(1, epoch + 1) if n not in kept]
        delete_files([aside, *outranked])

    def _write(self, what: str, write: Callable[[], None]) -> bool:
        """Let the main process write; if it can't, all ranks stop, or go on, together."""
        error = None
        if self._is_main:
            try:
                write()
            except OSError as failure:
                error = str(failure)
        error = distributed.from_main(error)
        if error is None:
            return True
        text = f"{what} can't be written to {self.save_dir}: {error}"
        if self._on_save_error == "stop":
            raise UserError(
                f"{text}; what was saved before is whole: make room, and run the same command again"
            )
        self.warn(f"{text}; what was saved before is whole, and training goes on")
        return False

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
            raise UserError(f"file_template {self._template!r} may name {{epoch}} only") from error


def read_metrics(save_dir: str | Path) -> list[dict]:
    """The lines of a run's metrics.jsonl, oldest first; empty if there is none."""
    return _read_lines(Path(save_dir) / "metrics.jsonl")


def _read_lines(path: Path) -> list[dict]:
    try:
        return [parse_json(line) for line in path.read_text().splitlines()] if path.exists() else []
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): move it away") from error


def _write_lines(path: Path, lines: list[dict]) -> None:
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
