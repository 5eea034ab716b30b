"""The metrics of a run: ``metrics.jsonl``, TensorBoard's, and a line of text an epoch."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from zoobot.runs.lines import METRICS, keep_lines, text_of
from zoobot.system.files import write_text
from zoobot.system.progress import told_duration

CONSTANT = "constant/"  # before the name of a metric: what a constant prediction reaches
PACE = ("seconds", "images_per_s", "memory_gb")
Metrics = Mapping[str, float]


class MetricsLog:
    """Writes a run's metrics; the main process has it.

    Args:
        save_dir: the run's folder.
        metric_key: (split, name) -> the metric's name in the logs.
        num_epochs: of the run, at most; None: not known.

    Attributes:
        constants: split -> name -> what the best constant prediction reaches; it stands beside
            every metric of this name.
    """

    def __init__(
        self, save_dir: Path, metric_key: Callable[[str, str], str], num_epochs: int | None = None
    ):
        self.constants: dict[str, Metrics] = {}
        self._path = save_dir / METRICS
        self._metric_key = metric_key
        self._num_epochs = num_epochs
        self._lines: list[dict] = []

    def open(self, last_epoch: int) -> None:
        """Keep the lines up to an epoch, but those of test galaxies, and drop the others."""
        self._lines = keep_lines(
            self._path, lambda line: line["epoch"] <= last_epoch and line["split"] != "test"
        )
        folder = self._path.parent / "tensorboard"
        self._tensorboard = SummaryWriter(folder, purge_step=last_epoch + 1)

    def close(self) -> None:
        """Close TensorBoard's file."""
        self._tensorboard.close()

    @property
    def last_epoch(self) -> int:
        """The last epoch that was logged."""
        return max((line["epoch"] for line in self._lines), default=0)

    def is_unchanged(self) -> bool:
        """Whether the file is there and holds the lines of this log."""
        found = self._path.read_text(encoding="utf-8") if self._path.exists() else None
        return found == text_of(self._lines)

    def add(self, epoch: int, metrics: Mapping[str, Metrics], paces: Mapping[str, Metrics]) -> str:
        """Add a line to the file for each split, and scalars to TensorBoard's.

        Args:
            metrics: split -> name -> value; the first is the loss.
            paces: split -> ``seconds`` and the like.

        Returns:
            The same in one line of text.
        """
        told = []
        for split, values in metrics.items():
            beside = self.constants.get(split, {})
            named = {self._metric_key(split, name): value for name, value in values.items()}
            constants = {
                self._metric_key(split, CONSTANT + name): beside[name]
                for name in values
                if name in beside
            }
            pace = dict(paces.get(split, {}))
            self._lines = [x for x in self._lines if (x["epoch"], x["split"]) != (epoch, split)]
            self._lines.append({"epoch": epoch, "split": split, **named, **constants, **pace})
            for name, value in [*named.items(), *((f"{split}/{k}", v) for k, v in pace.items())]:
                self._tensorboard.add_scalar(name, value, epoch)
            told.append(f"{split}: {told_metrics(named, self.named_constants(split))}")
        write_text(self._path, text_of(self._lines))
        self._tensorboard.flush()
        return "  ".join(filter(None, [*told, self._told_pace(epoch, paces)]))

    def named_constants(self, split: str) -> dict[str, float]:
        """What constants reach, by the names that metrics have in the logs."""
        constants = self.constants.get(split, {})
        return {self._metric_key(split, name): value for name, value in constants.items()}

    def _told_pace(self, epoch: int, paces: Mapping[str, Metrics]) -> str:
        train = paces.get("train", {})
        if "images_per_s" not in train:
            return ""
        told = f"{train['images_per_s']:.4g} images/s"
        if "memory_gb" in train:
            told += f", {train['memory_gb']:.1f} GB"
        seconds = sum(pace["seconds"] for pace in paces.values())
        told += f", {told_duration(seconds)}"
        left = (self._num_epochs or epoch) - epoch
        return f"{told}; at most {told_duration(left * seconds)} left" if left > 0 else told

    def add_picture(self, name: str, pixels: np.ndarray, epoch: int) -> None:
        """Add a picture (H, W, 3) uint8 to TensorBoard's."""
        self._tensorboard.add_image(name, pixels, epoch, dataformats="HWC")

    def metrics_of(self, epoch: int) -> dict[str, float]:
        """The model's metrics of an epoch, of all splits."""
        lines = [line for line in self._lines if line["epoch"] == epoch]
        return {name: value for line in lines for name, value in model_metrics(line).items()}


def model_metrics(line: dict) -> dict[str, float]:
    """The metrics of the model in a line of ``metrics.jsonl``; the first is the loss."""
    left_out = ("epoch", "split", *PACE)
    return {k: v for k, v in line.items() if k not in left_out and CONSTANT not in k}


def constant_metrics(line: dict) -> dict[str, float]:
    """What constants reach, by the names of the model's metrics in the same line."""
    return {k.replace(CONSTANT, ""): v for k, v in line.items() if CONSTANT in k}


def told_metrics(named: Metrics, constants: Metrics) -> str:
    """Metrics in a line, those of single questions left out, each with what a constant reaches.

    Args:
        named, constants: by their names in the logs.
    """
    told = []
    for name, value in named.items():
        if name.count("/") == 1 and not name.endswith("learning_rate"):
            beside = f" ({constant_of(name)} {constants[name]:.5g})" if name in constants else ""
            told.append(f"{short_name(name)} {value:.5g}{beside}")
    return ", ".join(told)


def short_name(name: str) -> str:
    """``finetuning/val_acc`` without what says of which galaxies it is: ``acc``."""
    name = name.rpartition("/")[2]
    return name.removeprefix("train_").removeprefix("val_").removeprefix("test_")


def constant_of(name: str) -> str:
    """What a metric is compared with, in words."""
    return "most frequent class" if short_name(name) == "acc" else "constant"
