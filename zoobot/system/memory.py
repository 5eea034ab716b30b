"""Memory: keep what is freed for the next batch, and tell how much has been used."""

import ctypes
import os
import platform
from functools import cache
from pathlib import Path

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # constants of malloc.h
OF_THE_USER = ("MALLOC_", "GLIBC_TUNABLES")  # environment variables with which users tune malloc


@cache
def keep_freed_memory() -> bool:
    """Set glibc's malloc to keep freed memory, in this process and those it forks afterwards.

    A training step on a CPU allocates and frees gigabytes. By default glibc returns each large
    block to the system, which must map and clear it again, page by page, for the next batch. That
    takes a fifth to a third of the time. With this setting the highest memory use grows by a few
    percent and does not fall until the process ends.

    Returns:
        True if it is set. False if malloc is not glibc's, or if the user tunes it by environment
        variables, for example with ``MALLOC_MMAP_MAX_=65536``, glibc's default.
    """
    if platform.libc_ver()[0] != "glibc" or any(key.startswith(OF_THE_USER) for key in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))


def peak_memory_gb(device: torch.device) -> float | None:
    """The most memory that this process has taken, in GB (10^9 bytes); None where it is unknown.

    It is the GPU's if the device is one (on Apple's, what is taken now), else the computer's.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 1e9
    if device.type == "mps" and torch.backends.mps.is_available():
        return torch.mps.driver_allocated_memory() / 1e9
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if platform.system() == "Darwin" else 1024  # bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def free_bytes() -> int | None:
    """How much more memory this process may take; None where the system does not tell.

    It is the least of what the computer has, and of the limits of this process and, on Linux, of
    its group (of a container or a job).
    """
    found = [_of_proc("/proc/meminfo", "MemAvailable"), _left_of_limit(), _left_of_group()]
    return min((number for number in found if number is not None), default=None)


def _of_proc(path: str, name: str) -> int | None:
    """An entry in kilobytes of a file of Linux, in bytes."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(found[0]) * 1024 if found else None


def _left_of_limit() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    left = []
    for limit, name in ((resource.RLIMIT_DATA, "VmData"), (resource.RLIMIT_AS, "VmSize")):
        most, taken = resource.getrlimit(limit)[0], _of_proc("/proc/self/status", name)
        if most != resource.RLIM_INFINITY:
            left.append(max(0, most - (taken or 0)))
    return min(left, default=None)


def _left_of_group() -> int | None:
    folder = Path("/sys/fs/cgroup")
    try:
        most, taken = (
            (folder / f"memory.{name}").read_text(encoding="utf-8").strip()
            for name in ("max", "current")
        )
        stat = dict(
            line.split()
            for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
        )
        cached = int(stat.get("inactive_file", 0))  # is given back when others need it
        return max(0, int(most) - int(taken) + cached)
    except (OSError, ValueError):  # there is no group, or it has no limit ("max")
        return None
