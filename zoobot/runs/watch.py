"""After every step: skip it if it is not finite, save, or stop; all ranks decide the same.

Each rank has flags: its step is not sound, a signal or Ctrl-C asked to stop, a save is due. Their
sum over ranks is the same everywhere. A GPU's sums are read two steps later, so that the host never
waits for the step that it has just launched.
"""

import math
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable

import torch

from zoobot.system import distributed
from zoobot.system.distributed import STOP_SIGNALS
from zoobot.system.errors import UserError
from zoobot.system.news import LostAnotherError

EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: the same command goes on
STEPS_IN_FLIGHT = 2
POLL_S = 0.0005
LONGEST_STOP_S = 45.0  # after a signal, until the GPU has done the steps in flight
FIRST_SCALE = 2.0**16  # of float16's gradient scaler
# A scaler halves its scale at each overflow. From this scale on, gradients overflow by themselves.
LEAST_SCALE = 1.0
SAVED, NOT_SAVED = "the state is saved", "the state could not be saved"


class Preempted(SystemExit):
    """A signal asked the run to stop: every rank exits with this code, once the state is saved."""

    def __init__(self):
        super().__init__(EXIT_PREEMPTED)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C asked the run to stop: every rank stops with this, once the state is saved."""

    def __init__(self, saved: bool = True):
        super().__init__(f"{_how_to_go_on(saved)}, or fit with ckpt_path='last'")


class Watch:
    """Checks each step, saves in time, and stops on a signal.

    It is a context manager. Within it SIGTERM, SIGUSR1 and the first SIGINT (Ctrl-C) only set a
    flag; a second SIGINT raises KeyboardInterrupt at once. A SIGINT that is ignored stays so.

    Args:
        device: of the model.
        save: saves the run's state as it is now; every rank calls it at the same step.
        save_every_s: seconds between two saves within an epoch.
        max_skipped: after so many steps in a row that are not sound the run ends.
        skipped: called on every rank for a step that is not sound. It is given the ids of the
            step's galaxies on all ranks, the ids of those whose loss is not finite, and how many
            steps ago the step was.
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
        self._process = os.getpid()
        self._stop_asked = self._interrupted = False
        self._give_up_at = math.inf
        self._saved_at, self._is_saved = time.monotonic(), True
        self._skipped_in_row = 0
        self._recorded: list[tuple[list[str], torch.Tensor]] = []
        self._pending: deque = deque()
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Watch":
        if threading.current_thread() is threading.main_thread():
            numbers = [*STOP_SIGNALS]
            if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
                numbers.append(signal.SIGINT)
            self._before = {number: signal.signal(number, self._ask) for number in numbers}
        return self

    def __exit__(self, error: type[BaseException] | None, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: not one of Python's
        if self._interrupted and error is None:  # after the last step, and before its save
            raise Interrupted(self._is_saved)

    def _ask(self, number: int, _) -> None:
        if os.getpid() != self._process:
            return  # a worker, to which this handler was handed down
        self._give_up_at = min(self._give_up_at, time.monotonic() + LONGEST_STOP_S)
        if number != signal.SIGINT:
            self._stop_asked = True
        elif self._interrupted:
            raise KeyboardInterrupt
        else:
            self._interrupted = True
            if distributed.is_main():  # not print, which can't be called within itself
                os.write(2, b"\nCtrl-C: this step ends, and all is saved; again: stop at once\n")

    def record_losses(self, batch: dict, losses: torch.Tensor) -> torch.Tensor:
        """Which galaxies of a micro-batch have a finite loss, (B,) bool, from losses (B, K)."""
        finite = torch.isfinite(losses.detach()).all(1)
        self._recorded.append((batch.get("id_str", []), finite))
        return finite

    def reduce_flags(
        self, gradient_norm: torch.Tensor | None = None, scale: torch.Tensor | float = LEAST_SCALE
    ) -> torch.Tensor:
        """Sum this step's flags over ranks. Call it once a step, on every rank.

        A step is sound if every galaxy's loss on every rank, and the norm of the gradient, are
        finite. A gradient that overflows while the scaler can still lower its scale is the scaler's
        business.

        Args:
            gradient_norm: a scalar, the same on all ranks.
            scale: of the gradient, when it was computed; 1 without a scaler.

        Returns:
            1.0 if the step is not sound, else 0.0: a scalar on the device, the same on all ranks.
        """
        finite = [finite.all() for _, finite in self._recorded]
        unsound = (~torch.stack(finite).all()).float() if finite else self._flag(False)
        save_due = distributed.is_main() and time.monotonic() - self._saved_at > self._save_every_s
        others = (self._stop_asked, self._interrupted, save_due)
        flags = torch.stack([unsound, *map(self._flag, others)])
        flags = distributed.all_reduce_sum(flags) > 0
        if gradient_norm is not None:
            flags[0] |= ~torch.isfinite(gradient_norm) & (scale <= LEAST_SCALE)
        on_cuda = self._device.type == "cuda"
        seen, ready = flags.to("cpu", non_blocking=on_cuda), None
        if on_cuda:
            ready = torch.cuda.current_stream(self._device).record_event()
        self._pending.append((seen, ready, self._recorded))
        self._recorded = []
        return flags[0].float()

    def _flag(self, raised: bool) -> torch.Tensor:
        return torch.full((), float(raised), device=self._device)

    def handle_flags(self, *, wait: bool = False) -> None:
        """Act on the sums: report skipped steps, save, stop.

        Args:
            wait: also for the steps in flight, as at an epoch's end.

        Raises:
            Preempted: a signal came; the state is saved.
            Interrupted: Ctrl-C came; the state is saved.
            ValueError: too many steps in a row were skipped; the state is saved.
            LostAnotherError: a signal came, and the steps in flight don't end.
        """
        due = stop = interrupted = False
        while len(self._pending) > (0 if wait or stop or interrupted else self._steps_in_flight):
            seen, ready, recorded = self._pending.popleft()
            if ready is not None:
                self._wait_for(ready)
            unsound, asked, broken_off, save_due = seen.tolist()
            stop, interrupted, due = stop or asked, interrupted or broken_off, due or save_due
            if recorded:
                self._skipped_in_row = self._skipped_in_row + 1 if unsound else 0
            if unsound:
                self._skipped(*_ids_of(recorded), len(self._pending))
        given_up = self._skipped_in_row >= self._max_skipped
        if due or stop or interrupted or given_up:
            self.save()
        if given_up:
            raise UserError(
                f"the loss or its gradient was not finite in {self._skipped_in_row} steps in a row "
                "(their galaxies: skipped_steps.jsonl): lower the learning rate or use "
                "--precision fp32, and go on with --allow-changes, or look at the galaxies; "
                f"{SAVED if self._is_saved else NOT_SAVED}, and none of these steps was taken"
            )
        if stop:
            if distributed.is_main():
                print(f"stopped: {_how_to_go_on(self._is_saved)}", file=sys.stderr, flush=True)
            raise Preempted
        if interrupted:
            raise Interrupted(self._is_saved)

    def _wait_for(self, ready: torch.cuda.Event) -> None:
        """Wait for the GPU, and hear signals meanwhile, which ``ready.synchronize()`` does not.

        A step has a part of every rank's. After the end of one the others' GPUs wait for ever, and
        torchrun sends those ranks SIGTERM.
        """
        while not ready.query():
            if time.monotonic() > self._give_up_at:
                raise LostAnotherError(f"no end of the step within {LONGEST_STOP_S:g} s")
            time.sleep(POLL_S)

    def save(self) -> bool:
        """Save now, and count the time to the next save from here."""
        self._is_saved = self._save()
        self._saved_at = time.monotonic()
        return self._is_saved


def _how_to_go_on(saved: bool) -> str:
    told, source = (SAVED, "it") if saved else (NOT_SAVED, "what was saved before")
    return (
        f"{told}: the same command goes on from {source} (after --resume never, with --resume auto)"
    )


def check_steps_taken(scaler: torch.amp.GradScaler, num_steps: int) -> None:
    """ValueError if float16's gradients overflowed in every step of a run: it has learned nothing.

    Args:
        scaler: its scale began at ``FIRST_SCALE``, and is lower by one factor an overflow.
        num_steps: of the whole run.
    """
    if not scaler.is_enabled() or num_steps == 0:
        return
    if scaler.get_scale() == FIRST_SCALE * scaler.get_backoff_factor() ** num_steps:
        raise UserError(
            f"none of the {num_steps} steps was taken: their gradients overflow in float16; use "
            "--precision bf16 or fp32"
        )


def _ids_of(recorded: list[tuple[list[str], torch.Tensor]]) -> tuple[list[str], list[str]]:
    """All ids of a step's micro-batches over all ranks, and those whose loss is not finite."""
    own = [
        (name, ok)
        for ids, finite in recorded
        for name, ok in zip(ids, finite.tolist(), strict=False)
    ]
    everywhere = [pair for rank in distributed.gather(own) for pair in rank]
    return [name for name, _ in everywhere], [name for name, ok in everywhere if not ok]
