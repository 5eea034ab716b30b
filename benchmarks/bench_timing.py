"""How the benchmarks time: in turn, from the third step on, by a GPU's own clock."""

import math
import statistics
import time
from collections.abc import Callable, Collection, Iterable, Iterator

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

FIRST_TIMED = 2  # step of an epoch, from 0; before it kernels are chosen and code is compiled


def synchronize(device: str) -> None:
    """Wait for a GPU's work."""
    if device == "cuda":
        torch.cuda.synchronize()


def images_per_s(work: Callable, num_images: int, device: str) -> Callable[[], float]:
    """A function that does the work once and returns its images a second."""

    def timed() -> float:
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        return num_images / (time.perf_counter() - start)

    return timed


class FromThird:
    """Times steps from the third on: the ``show`` of an epoch, or a loader's batches alone."""

    def __init__(self, device: str):
        self._device = device
        self._start = math.nan
        self._num_steps = 0

    def __call__(self, steps: Iterable) -> Iterator:
        self._num_steps = 0
        for step in steps:
            if self._num_steps == FIRST_TIMED:
                synchronize(self._device)
                self._start = time.perf_counter()
            yield step
            self._num_steps += 1
        synchronize(self._device)
        self._seconds = time.perf_counter() - self._start

    def steps_per_s(self) -> float:
        """Of the iteration that has ended."""
        return (self._num_steps - FIRST_TIMED) / self._seconds


def microseconds(work: Callable, device: str, repeats: int) -> float:
    """Mean microseconds a call, back to back; on a GPU by its own clock (CUDA events)."""
    for _ in range(3):
        work()
    if device == "cpu":
        start = time.perf_counter()
        for _ in range(repeats):
            work()
        return 1e6 * (time.perf_counter() - start) / repeats
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for _ in range(repeats):
        work()
    end.record()
    end.synchronize()
    return 1e3 * begin.elapsed_time(end) / repeats


def alternate(
    cases: dict[str, Callable[[], float]], rounds: int, fresh: Collection[str] = ()
) -> dict[str, float]:
    """Median figure of each case; they are called in turn: A B A B.

    Args:
        cases: name -> function that returns a figure.
        fresh: those that start anew at each call and so are not called to warm up.
    """
    for name, measure in cases.items():
        if name not in fresh:
            measure()
    figures = {name: [] for name in cases}
    for _ in range(rounds):
        for name, measure in cases.items():
            figures[name].append(measure())
    return {name: statistics.median(values) for name, values in figures.items()}


def flops_a_step(model: nn.Module, images: torch.Tensor) -> float:
    """Floating-point operations of a training step on these images: 3 times the forward pass's."""
    counter = FlopCounterMode(display=False)
    was_training = model.training
    model.eval()
    with torch.no_grad(), counter:
        model(images[:1])
    model.train(was_training)
    return 3.0 * counter.get_total_flops() * len(images)


def matmul_flops_per_s(device: str, dtype: torch.dtype, smoke: bool = False) -> float:
    """FLOP/s of a large matrix product: what the device reaches, not what its maker tells."""
    side = 256 if smoke else 8192 if device == "cuda" else 1024
    a, b = torch.randn(2, side, side, device=device).to(dtype).unbind(0)
    repeats = 3 if device == "cpu" else 30
    times = [microseconds(lambda: a @ b, device, repeats) for _ in range(3)]
    return 2 * side**3 / (1e-6 * statistics.median(times))
