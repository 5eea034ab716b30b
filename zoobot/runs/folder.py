"""The files of a run: config.json, metrics.jsonl, TensorBoard, checkpoints, best weights."""

import contextlib
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm.auto import tqdm

from zoobot.runs import checkpoint
from zoobot.runs.best import NEXT, keep_best, restore_best
from zoobot.runs.data_digest import DIGEST_FILE, DataDigest
from zoobot.runs.earlier import set_aside
from zoobot.runs.environment import environment
from zoobot.runs.epoch_names import check_template, epoch_name
from zoobot.runs.lines import METRICS, SKIPPED_STEPS, keep_lines, read_lines, text_of
from zoobot.runs.log import MetricsLog
from zoobot.runs.pace import Pace
from zoobot.runs.save_dir import only_run_in, refused_in_words
from zoobot.system import distributed
from zoobot.system.errors import UserError
from zoobot.system.files import (
    append_text,
    check_no_link,
    delete_files,
    duplicate_file,
    move_file,
    remove_leftovers,
    write_text,
)

FOLDERS = ("checkpoints", "checkpoints/best", "tensorboard", "report")  # that a run writes to


class Run:
    """Writes a run's files, on the main process only.

    It holds the folder from its making to the end of its ``with`` block, alone.

    Args:
        save_dir: the run's folder.
        config: every option of the run, as plain types.
        description: how to build the model again (``model.describe()`` and the image size).
        metric_key: (split, name) -> the metric's name in the logs.
        resume_from: the state that is continued, if any; log lines after its epoch are dropped.
            Without it, or if it is another run's, an earlier run's files are moved to
            ``earlier-1``, ``earlier-2``, ... Its progress is changed if its best weights are lost.
        data: what is known of the galaxies, on the main process; every state tells it.
        file_template: names checkpoints, see ``epoch_names.epoch_name``.
        show_progress: draw progress bars.
        on_save_error: what to do if the disk is full: ``stop``, or ``continue`` and try again next
            time. What was saved before is whole in any case.
        num_epochs: of the run, at most; by default it is not told how long an epoch's rest takes.
        device: whose memory is told; by default the CPU.

    Attributes:
        log: writes the metrics; on other ranks than the main one it is not open.

    Raises:
        ValueError: if ``file_template`` lacks the epoch or names a folder; if another process
            or thread has a run at work in ``save_dir``; if nothing can be written to it; or if a
            folder in it is a link, through which other files would be written and deleted.
    """

    def __init__(
        self,
        save_dir: str | Path,
        config: dict,
        description: dict,
        metric_key: Callable[[str, str], str],
        resume_from: dict | None = None,
        *,
        data: DataDigest | None = None,
        file_template: str = "{epoch}",
        show_progress: bool = True,
        on_save_error: str = "stop",
        num_epochs: int | None = None,
        device: torch.device | None = None,
    ):
        self.save_dir = Path(save_dir)
        self._on_save_error = on_save_error
        self._template = file_template
        self._show_progress = show_progress
        check_template(file_template)
        self.checkpoint_dir = self.save_dir / "checkpoints"
        self._config = config
        self._description = description
        self.log = MetricsLog(self.save_dir, metric_key, num_epochs)
        self._num_epochs = num_epochs
        self._pace = Pace(device or torch.device("cpu"))
        self._data = None if data is None else data.summary
        self._is_main = distributed.is_main()
        self._best_weights: str | None = None  # SHA-256
        self._unsaved: list[int] = []  # epochs
        self.resume_from = resume_from
        self._resources = contextlib.ExitStack()
        if self._is_main:
            with contextlib.ExitStack() as resources:
                resources.enter_context(only_run_in(self.save_dir))
                with refused_in_words(self.save_dir):
                    self._open(resume_from, data)
                resources.callback(self.log.close)
                self._resources = resources.pop_all()
        if resume_from is not None:
            told = distributed.from_main((resume_from["progress"], self._best_weights))
            resume_from["progress"], self._best_weights = told
        self._progress = None if resume_from is None else resume_from["progress"]  # last saved

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_) -> None:
        self._resources.close()

    def _open(self, resume_from: dict | None, data: DataDigest | None) -> None:
        """Make the folder that of this run, as it was when the state was saved."""
        resumed_epoch = resumed_step = 0
        for name in FOLDERS:
            check_no_link(self.save_dir / name)
        if resume_from is None or resume_from.get("branch"):
            set_aside(self.save_dir)
        self.checkpoint_dir.mkdir(parents=True, exist_ok=True)
        for folder in (self.save_dir, self.checkpoint_dir, self.checkpoint_dir / "best"):
            remove_leftovers(folder)
        if resume_from is not None:
            progress = resume_from["progress"]
            resumed_epoch, resumed_step = progress["epoch"], progress["step"]
        self.log.open(resumed_epoch)
        if resume_from is not None:  # once the lines are read, which checkpoints' names may tell
            self._best_weights = restore_best(
                self.save_dir, resume_from, self._epoch_path, self._description
            )
        keep_lines(self.save_dir / SKIPPED_STEPS, lambda line: line["step"] <= resumed_step)
        if data is not None:
            data.save(self.save_dir / DIGEST_FILE)
        text = json.dumps({**self._config, "environment": environment()}, indent=2)
        write_text(self.save_dir / "config.json", text + "\n")

    def progress_bar(self, text: str, total: int, done: int = 0) -> Callable:
        """Wraps the steps of an epoch, which begins here, in a bar: on the main process only.

        Where there is no terminal it is a line now and then; see ``system.progress``.
        """
        return self._pace.shown(text, total, done, self._is_main and self._show_progress)

    def end_training(self, num_galaxies: int) -> None:
        """The epoch has trained on so many galaxies, of all ranks, and goes on to validate."""
        self._pace.end_training(num_galaxies)

    def say(self, text: str) -> None:
        """Print on the main process only, without tearing a progress bar."""
        if self._is_main:
            tqdm.write(text)
            sys.stdout.flush()  # a log file shows it at once

    def warn(self, text: str) -> None:
        """Print a warning to stderr, on the main process only."""
        if self._is_main:
            tqdm.write(f"warning: {text}", file=sys.stderr)

    @property
    def last_epoch(self) -> int:
        """The last epoch that was logged."""
        return self.log.last_epoch

    def log_epoch(self, epoch: int, train: dict, validation: dict, loss_name: str) -> float:
        """Log an epoch's metrics, and print them in a line; returns its validation loss.

        Every rank must call it, so that all stop if they can't be written.

        Raises:
            ValueError: if a loss is not finite.
        """
        metrics = {"train": train, "validation": validation}
        for split, values in metrics.items():
            loss = values.get(loss_name, math.nan)
            if not math.isfinite(loss):
                before = "nothing is saved yet"
                if self._progress is not None:
                    before = "the checkpoints hold the state before"
                raise UserError(
                    f"the {split} loss of epoch {epoch} is {loss}: lower the learning rate or use "
                    f"--precision fp32; {before}"
                )
        paces = self._pace.end_epoch()
        of = f" of {self._num_epochs}" if self._num_epochs else ""
        self._write(
            METRICS,
            lambda: self.say(f"epoch {epoch:3d}{of}  {self.log.add(epoch, metrics, paces)}"),
        )
        return loss

    def log_later(self, split: str, metrics: dict[str, float]) -> None:
        """Log metrics of the last epoch after the run's end, unless another run has the folder.

        Every rank must call it.
        """

        def write() -> None:
            try:
                with only_run_in(self.save_dir):
                    if self.log.is_unchanged():
                        return self.say(self.log.add(self.last_epoch, {split: metrics}, {}))
                    told = f"{self.save_dir} is another run's by now"
            except UserError as error:
                told = str(error)
            self.warn(f"the {split} metrics are not logged: {told}")

        self._write(METRICS, write)

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
        path = self.save_dir / SKIPPED_STEPS
        self._write(SKIPPED_STEPS, lambda: append_text(path, text_of([line])))
        what = "its gradient is not finite"
        if bad_galaxies:
            more = ", ..." if len(bad_galaxies) > 5 else ""
            what = f"the loss of {', '.join(bad_galaxies[:5])}{more} is not finite"
        self.warn(f"step {step} skipped: {what} (skipped_steps.jsonl)")

    def save(self, state: dict, weights: dict) -> bool:
        """Write the state: ``last.ckpt``; what it was before becomes ``previous.ckpt``.

        At an epoch's end it is ``epoch=N.ckpt`` as well if it is among the best. ``last.ckpt``
        comes last: a run killed before repeats what followed the one before and writes the same
        files. Then the best epoch's ``weights`` become ``best.safetensors`` (see ``runs.best``),
        and epochs go that are no longer among the best. Every rank must call it.

        Returns:
            Whether it was written.

        Raises:
            ValueError: if it can't be, on every rank, unless ``on_save_error`` is ``continue``.
        """
        saved = self._write("the state", lambda: self._save(state, weights))
        if saved:
            self._best_weights = distributed.from_main(self._best_weights)
            self._progress = state["progress"]
        elif state["progress"]["epoch_step"] == 0:
            self._unsaved.append(state["progress"]["epoch"])
        return saved

    def _save(self, state: dict, weights: dict) -> None:
        progress, best_weights = state["progress"], self._best_weights
        epoch, is_epoch_end = progress["epoch"], progress["epoch_step"] == 0
        is_best = is_epoch_end and epoch == progress["best_epoch"]
        kept = [kept_epoch for _, kept_epoch in progress["kept"]]
        last, aside = self.checkpoint_dir / "last.ckpt", self.checkpoint_dir / "next.ckpt"
        newest = self._epoch_path(epoch) if is_epoch_end and epoch in kept else aside
        next_best = self.checkpoint_dir / NEXT
        try:
            if is_best:
                best_weights = checkpoint.save_weights(next_best, weights, self._description)
            told = {"description": self._description, "config": self._config, "data": self._data}
            checkpoint.save_checkpoint(newest, {**state, **told, "best_weights": best_weights})
            if last.exists():
                duplicate_file(last, self.checkpoint_dir / "previous.ckpt")
            duplicate_file(newest, last)
        except OSError:
            delete_files([aside, next_best])
            raise
        if is_best:
            move_file(next_best, self.save_dir / "best.safetensors")
        self._best_weights = best_weights
        outranked = [self._epoch_path(n) for n in range(1, epoch + 1) if n not in kept]
        delete_files([aside, *outranked])

    def keep_best(self, *, together: bool = True) -> str:
        """``runs.best.keep_best`` of the best epoch so far; empty if there is none.

        Args:
            together: every rank calls it. Otherwise it is empty on other ranks than the main one.
        """
        path = ""
        if self._is_main and self._best_weights is not None:
            path = keep_best(self.save_dir, self._epoch_path(self._progress["best_epoch"]))
        return distributed.from_main(path) if together else path

    def check_saved(self) -> None:
        """Warn of epochs that could not be saved.

        Raises:
            ValueError: if the last one could not be, or none is saved as the best.
        """
        epochs = f"epoch{'s' * (len(self._unsaved) > 1)} {', '.join(map(str, self._unsaved))}"
        told = f"{epochs} could not be saved in {self.save_dir}"
        saved = 0 if self._progress is None else self._progress["epoch"]
        if self._unsaved and saved < self._unsaved[-1]:
            goes_on = f"goes on from epoch {saved}" if saved else "begins anew"
            raise UserError(
                f"training has ended, but {told}: make room, and run the same command again, "
                f"which {goes_on}"
            )
        if self._best_weights is None:
            raise UserError(f"no epoch of {self.save_dir} is saved as the best: train further")
        if self._unsaved:
            self.warn(f"{told}, and can't be the best")

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

    def _epoch_path(self, epoch: int) -> Path:
        name = epoch_name(self._template, epoch, self.log.metrics_of(epoch))
        return self.checkpoint_dir / f"{name}.ckpt"


def read_metrics(save_dir: str | Path) -> list[dict]:
    """The lines of a run's metrics.jsonl, oldest first; empty if there is none."""
    return read_lines(Path(save_dir) / METRICS)
