"""How far a piece of work is: a bar in a terminal or a notebook, else a line now and then."""

import sys
import time
from typing import Protocol

from tqdm.auto import tqdm

FIRST_LINE_S, LINE_EVERY_S = 10.0, 60.0  # where there is no terminal
IS_NOTEBOOK = any(kind.__module__ == "tqdm.notebook" for kind in tqdm.__mro__)


class Bar(Protocol):
    """Shows how far some work is; a context manager."""

    def update(self, n: int = 1) -> None:
        """So many more are done."""

    def __enter__(self) -> "Bar": ...

    def __exit__(self, *_) -> None: ...


class Lines:
    """Says in a line now and then how much is done, how fast it goes, and how long it takes.

    Args:
        text: what is done.
        total: how many there are.
        unit: one of them, in words.
        done: how many were done before.
        leave: also say in the end how many there were.
    """

    def __init__(self, text: str, total: int, unit: str, done: int = 0, leave: bool = False):
        self._text, self._total = text, total
        self._units = f"{unit[:-1]}ies" if unit.endswith("y") else f"{unit}s"
        self._before = self._done = done
        self._leave = leave
        self._start = time.monotonic()
        self._next = self._start + FIRST_LINE_S

    def update(self, n: int = 1) -> None:
        """So many more are done; a line, if it is time for one."""
        self._done += n
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + LINE_EVERY_S
        rate = self._rate(now)
        left = told_duration((self._total - self._done) / rate) if rate else "unknown"
        far = f"{self._done:,} of {self._total:,} {self._units}"
        self._say(f"{far}, {rate:.3g} a second, {left} left")

    def _rate(self, now: float) -> float:
        return (self._done - self._before) / max(now - self._start, 1e-9)

    def _say(self, told: str) -> None:
        print(f"{self._text}: {told}", flush=True)

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, error: type[BaseException] | None, *_) -> None:
        if self._leave and error is None:
            now = time.monotonic()
            number, seconds = self._done - self._before, told_duration(now - self._start)
            self._say(f"{number:,} {self._units} in {seconds}, {self._rate(now):.3g} a second")


def open_bar(
    text: str, total: int, unit: str, done: int = 0, *, shown: bool = True, leave: bool = False
) -> Bar:
    """A bar on stderr in a terminal or notebook; elsewhere lines on stdout, for logs.

    Args:
        text: what is done.
        total, unit, done: how many there are, of what, and how many were done before.
        shown: False shows nothing.
        leave: the bar stays when the work is done, and a last line is said.
    """
    if shown and not (IS_NOTEBOOK or sys.stderr.isatty()):
        return Lines(text, total, unit, done, leave)
    return tqdm(
        total=total, desc=text, unit=unit, unit_scale=True, initial=done, disable=not shown,
        leave=leave, file=sys.stderr,
    )  # fmt: skip


def told_duration(seconds: float) -> str:
    """Seconds in words: ``31 s``, ``12 min``, ``3.2 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
