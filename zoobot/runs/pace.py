"""How fast a run's epochs are, and how much memory they take."""

import functools
import time
from collections.abc import Callable, Iterable, Iterator

import torch

from zoobot.system.memory import peak_memory_gb
from zoobot.system.progress import Bar, open_bar


class Pace:
    """How fast the epochs of a run are.

    Args:
        device: whose memory is told.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._since = time.monotonic()
        self._share = 1.0  # of the epoch that is trained now; less if it was begun before
        self._paces: dict[str, dict[str, float]] = {}

    def shown(self, text: str, total: int, done: int, shown: bool) -> Callable:
        """Wraps the steps of an epoch, which begins here, in a progress bar.

        Args:
            done: steps that were taken before.
        """
        self._since, self._paces = time.monotonic(), {}
        self._share = (total - done) / total if total else 0.0
        return functools.partial(_show, bar=open_bar(text, total, "step", done, shown=shown))

    def end_training(self, num_galaxies: int) -> None:
        """The epoch has trained on so many galaxies, and goes on to validate."""
        pace = {"seconds": self._lap()}
        if self._share:
            pace["images_per_s"] = num_galaxies * self._share / max(pace["seconds"], 1e-9)
        memory_gb = peak_memory_gb(self._device)
        if memory_gb is not None:
            pace["memory_gb"] = memory_gb
        self._paces["train"] = pace

    def end_epoch(self) -> dict[str, dict[str, float]]:
        """The paces of training and validation."""
        self._paces["validation"] = {"seconds": self._lap()}
        return self._paces

    def _lap(self) -> float:
        before, self._since = self._since, time.monotonic()
        return self._since - before


def _show(steps: Iterable, bar: Bar) -> Iterator:
    with bar:
        for step in steps:
            yield step
            bar.update(1)
