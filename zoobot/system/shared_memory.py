"""Memory that several processes share, and how much memory is free.

The memory has no name in any folder: the system frees it when the last process that uses it has
ended, however it ended.
"""

import contextlib
import mmap
import os
import secrets
import sys
import tempfile
import weakref
from multiprocessing import reduction
from pathlib import Path
from typing import Any

import numpy as np

from zoobot.system import distributed, windows

CGROUPS = Path("/sys/fs/cgroup")
CGROUP_FILES = (  # of version 2 and 1: limit, use, and the key of what can be freed
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


_IN_USE: weakref.WeakSet["SharedBytes"] = weakref.WeakSet()


class SharedBytes:
    """Bytes that a process shares with its workers, forked or spawned, and with other processes.

    They are 0 at first. A page takes memory once it is written.

    Args:
        num_bytes: at least 1.
        handle: of another process's bytes: a descriptor, open in this process, or on Windows their
            name; by default the bytes are new.
    """

    def __init__(self, num_bytes: int, handle: int | str | None = None):
        self._num_bytes = num_bytes
        if windows.HERE:
            self._handle = handle or f"zoobot-{secrets.token_hex(16)}"
            self._map = mmap.mmap(-1, num_bytes, tagname=self._handle)
        else:
            self._handle = _new_file(num_bytes) if handle is None else handle
            weakref.finalize(self, os.close, self._handle)
            self._map = mmap.mmap(self._handle, num_bytes)
        _IN_USE.add(self)

    def __reduce__(self):
        """For a worker that is being spawned: what it opens the same bytes by."""
        handle = self._handle if windows.HERE else reduction.DupFd(self._handle)
        return _opened, (self._num_bytes, handle)

    def array(self, dtype: type | str, shape: tuple[int, ...], offset: int = 0) -> np.ndarray:
        """The bytes from ``offset`` on as an array, which is not a copy."""
        return np.ndarray(shape, dtype, self._map, offset)

    @property
    def num_promised(self) -> int:
        """How many of the bytes do not take memory yet; 0 on Windows, which counts all at once."""
        if windows.HERE:
            return 0
        return max(0, self._num_bytes - 512 * os.fstat(self._handle).st_blocks)

    @property
    def address(self) -> tuple[int, int, int | str]:
        """What another process of this user on this node needs for ``at``."""
        return self._num_bytes, os.getpid(), self._handle

    @classmethod
    def at(cls, address: tuple[int, int, int | str]) -> "SharedBytes":
        """The bytes of another process, by their ``address``; OSError if the system says no."""
        num_bytes, process, handle = address
        if windows.HERE:
            return cls(num_bytes, handle)
        return cls(num_bytes, os.open(f"/proc/{process}/fd/{handle}", os.O_RDWR))


def share_on_node(own: SharedBytes | None) -> SharedBytes | None:
    """The bytes of this node's first process, in all processes of the node.

    All processes of the run call it together. Each gets None if the first process has None, or if
    the system keeps processes apart.

    Args:
        own: the bytes of the first process; those of the others are not used.
    """
    if distributed.world_size() == 1:
        return own
    local_rank = distributed.local_rank()
    own = None if local_rank else own
    address = distributed.gather(own and own.address)[distributed.rank() - local_rank]
    with contextlib.suppress(OSError):
        own = SharedBytes.at(address) if local_rank and address else own
    distributed.barrier()  # the first process keeps them until all have opened them
    return own


def free_bytes() -> int:
    """Memory that processes may still take: of the machine, and of this process's cgroups.

    What this process's ``SharedBytes`` are going to take is not free.
    """
    return max(0, _free_now() - sum(memory.num_promised for memory in _IN_USE))


def _free_now() -> int:
    if windows.HERE:
        return windows.free_bytes()
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        found = {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        groups = left_in_cgroups(Path("/proc/self/cgroup").read_text(encoding="utf-8"), CGROUPS)
        return min([found["MemAvailable"], *groups])
    except (OSError, KeyError):  # macOS
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def left_in_cgroups(groups: str, folder: Path) -> list[int]:
    """Bytes that are left below the limits of these groups and of those above them.

    Args:
        groups: lines as in ``/proc/self/cgroup``.
        folder: where the system shows groups.
    """
    left = []
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = folder / controllers
        inner = top / path.lstrip("/")
        left += [_left_in(group) for group in (inner, *inner.parents) if group.is_relative_to(top)]
    return [num_bytes for num_bytes in left if num_bytes is not None]


def _left_in(group: Path) -> int | None:
    """Bytes that are left below the limit of a group; None if it has none."""
    for limit, use, inactive in CGROUP_FILES:
        try:
            most, used, told = (
                (group / name).read_text(encoding="utf-8") for name in (limit, use, "memory.stat")
            )
            stat = dict(line.split() for line in told.splitlines())
            return int(most) - int(used) + int(stat.get(inactive, 0))
        except (OSError, ValueError):  # "max", or of the other version
            continue
    return None


def _new_file(num_bytes: int) -> int:
    """A descriptor of a new file of zeros that has no name."""
    if sys.platform == "linux":  # where a container's /dev/shm is often small
        descriptor = os.memfd_create("zoobot")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, num_bytes)
    return descriptor


def _opened(num_bytes: int, handle: Any) -> SharedBytes:
    return SharedBytes(num_bytes, handle if windows.HERE else handle.detach())
