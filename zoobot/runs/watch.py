"""Watch over training: what all ranks must agree on after every step.

Was the step sound, is it time to save, has somebody asked us to stop? Every rank hands in its
flags, and their sum over ranks is the same on all of them. A GPU's sums are read two steps later,
so that the host never waits for the step that it has just launched.
"""

import math
import signal
import threading
import time
from collections import deque
from collections.abc import Callable

import torch

from zoobot.system import distributed
from zoobot.system.distributed import STOP_SIGNALS
from zoobot.system.errors import UserError

EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: the same command goes on
STEPS_IN_FLIGHT = 2


class Preempted(SystemExit):
    """A signal asked the run to stop; every rank does, with this exit code, and all is saved."""

    def __init__(self):
        super().__init__(EXIT_PREEMPTED)


class Watch:
    """Flags of steps, signals and a clock; a context, in which signals only raise a flag.

    Args:
        device: of the model.
        save: saves the run's state as it is now; every rank calls it at the same step.
        save_every_s: seconds between two saves within an epoch.
        max_skipped: so many steps in a row that are not sound end the run.
        skipped: called on every rank for a step that is not sound, with the ids of its galaxies on
            all ranks, of those whose own loss is not finite, and how many steps ago it was.
    """

    def __init__(
        self,
        device: torch.device,
        save: Callable[[], bool] = lambda: True,
        save_every_s: float = math.inf,
        max_skipped: int = 10,
        skipped: Callable[[list[str], list[str], int], None] = lambda *_: None,
    ):
        self._device = device
        self._save = save
        self._save_every_s = save_every_s
        self._max_skipped = max_skipped
        self._skipped = skipped
        self._steps_in_flight = STEPS_IN_FLIGHT if device.type == "cuda" else 0
        self._stop_asked = False
        self._saved_at = time.monotonic()
        self._skipped_in_row = 0
        self._galaxies: list[tuple[list[str], torch.Tensor]] = []
        self._pending: deque = deque()
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Watch":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, *_) -> None:
        self._stop_asked = True

    def look_at(self, batch: dict, losses: torch.Tensor) -> torch.Tensor:
        """Which galaxies of a micro-batch have a finite loss, (B,) bool, from losses (B, K)."""
        finite = torch.isfinite(losses.detach()).all(1)
        self._galaxies.append((batch.get("id_str", []), finite))
        return finite

    def agree(self, gradient_norm: torch.Tensor | None = None) -> torch.Tensor:
        """1.0 if the step is not sound, else 0.0: a scalar on the device, the same on all ranks.

        A step is sound if every galaxy's loss on every rank, and the norm of the gradient, are
        finite. Call it once a step, on every rank.
        """
        finite = [finite.all() for _, finite in self._galaxies]
        unsound = (~torch.stack(finite).all()).float() if finite else self._flag(False)
        save_due = distributed.is_main() and time.monotonic() - self._saved_at > self._save_every_s
        word = torch.stack([unsound, self._flag(self._stop_asked), self._flag(save_due)])
        word = distributed.all_reduce_sum(word) > 0
        if gradient_norm is not None:
            word[0] |= ~torch.isfinite(gradient_norm)
        seen, ready = word.to("cpu", non_blocking=True), None
        if self._device.type == "cuda":
            ready = torch.cuda.current_stream(self._device).record_event()
        self._pending.append((seen, ready, self._galaxies))
        self._galaxies = []
        return word[0].float()

    def _flag(self, raised: bool) -> torch.Tensor:
        return torch.full((), float(raised), device=self._device)

    def act(self, *, wait: bool = False) -> None:
        """Do what the ranks agreed on: report skipped steps, save, stop.

        Args:
            wait: for the steps in flight as well, as at an epoch's end.

        Raises:
            Preempted: a signal came; the state is saved.
            ValueError: too many steps in a row were skipped; the state is saved.
        """
        due = stop = False
        while len(self._pending) > (0 if wait or stop else self._steps_in_flight):
            seen, ready, galaxies = self._pending.popleft()
            if ready is not None:
                ready.synchronize()
            unsound, asked, save_due = seen.tolist()
            stop, due = stop or asked, due or save_due
            if galaxies:
                self._skipped_in_row = self._skipped_in_row + 1 if unsound else 0
            if unsound:
                self._skipped(*_ids_of(galaxies), len(self._pending))
        given_up = self._skipped_in_row >= self._max_skipped
        if due or stop or given_up:
            self.save()
        if given_up:
            raise UserError(
                f"the loss or its gradient was not finite in {self._skipped_in_row} steps in a row "
                "(their galaxies: skipped_steps.jsonl): lower the learning rate or use "
                "--precision fp32, and go on with --allow-changes, or look at the galaxies; the "
                "state is saved, and none of these steps was taken"
            )
        if stop:
            raise Preempted

    def save(self) -> bool:
        """Save now, and count the time to the next save from here."""
        saved = self._save()
        self._saved_at = time.monotonic()
        return saved


def _ids_of(galaxies: list[tuple[list[str], torch.Tensor]]) -> tuple[list[str], list[str]]:
    """All ids of a step's micro-batches over all ranks, and those whose loss is not finite."""
    own = [
        (name, ok)
        for ids, finite in galaxies
        for name, ok in zip(ids, finite.tolist(), strict=False)
    ]
    everywhere = [pair for rank in distributed.gather(own) for pair in rank]
    return [name for name, _ in everywhere], [name for name, ok in everywhere if not ok]
