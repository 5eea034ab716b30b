"""Cores: how many this process may use, its number of workers, and threads of one core each."""

import os
import threading
from collections.abc import Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path

import torch

from zoobot.system import distributed
from zoobot.system.errors import UserError

WORKERS_ON_CPU = 2
MOST_WORKERS = 14  # of a GPU's process
NOT_FOR_WORKERS = 2  # cores: for the loop, and for the thread that pins memory
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def choose_num_workers(num_workers: int | str, on_gpu: bool) -> int:
    """The number of image-reading workers of this process, at most its cores.

    Args:
        num_workers: a number, or ``auto``: on a GPU the process's cores but two, 14 at most; on a
            CPU 2, because there the model needs the cores.
        on_gpu: whether batches are made for a GPU.

    Raises:
        ValueError: for anything else.
    """
    if num_workers == "auto":
        cores = num_cores() - NOT_FOR_WORKERS
        num_workers = min(MOST_WORKERS, max(1, cores)) if on_gpu else WORKERS_ON_CPU
    if not isinstance(num_workers, int) or isinstance(num_workers, bool) or num_workers < 0:
        raise UserError(f"num_workers={num_workers!r}: give 'auto', or a whole number of 0 or more")
    return min(num_workers, num_cores())


def num_cores() -> int:
    """Cores that this process may use, at least 1.

    Those that the system lets it run on, or as many as its containers pay for if that is less,
    divided by the number of processes on this node.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows
        cores = os.cpu_count() or 1
    return max(1, int(min([cores, *_quotas()])) // distributed.local_world_size())


def _quotas() -> Iterator[float]:
    """Limits of the control groups that this process is in, in cores."""
    try:
        lines = OWN_CGROUP.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        below = Path(path.lstrip("/"))
        for folder in (below, *below.parents):
            if controllers == "":  # version 2
                yield from _quota(CGROUPS / folder / "cpu.max")
            elif "cpu" in controllers.split(","):
                at = CGROUPS / controllers / folder
                yield from _quota(at / "cpu.cfs_quota_us", at / "cpu.cfs_period_us")


def _quota(*files: Path) -> Iterator[float]:
    """The limit that these files hold, quota and period in microseconds; nothing without one."""
    try:
        told = [file.read_text(encoding="utf-8") for file in files]
        quota, period = (int(word) for text in told for word in text.split())
    except (OSError, ValueError):  # no such file; 'max' stands for no limit
        return
    if quota > 0 and period > 0:
        yield quota / period


def pool_of_single_cores(num_threads: int) -> ThreadPool:
    """A pool of threads, in each of which torch computes on one core.

    ``torch.set_num_threads`` in a thread also sets what threads that are new to torch begin with.
    So this waits until all of the pool have called it, and sets that back.
    """
    usual, started = torch.get_num_threads(), threading.Semaphore(0)

    def start() -> None:
        torch.get_num_threads()  # else torch gives this thread its first number later
        torch.set_num_threads(1)
        started.release()

    pool = ThreadPool(num_threads, initializer=start)
    for _ in range(num_threads):
        started.acquire()
    torch.set_num_threads(usual)
    return pool
