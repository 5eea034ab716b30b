"""What Windows does otherwise: locks, free memory, and files that can't be replaced while open."""

import ctypes
import errno
import os
import sys
import time
from pathlib import Path

HERE = sys.platform == "win32"
REPLACE_TRIES, REPLACE_WAIT_S = 10, 0.1


class _MemoryStatus(ctypes.Structure):
    """``MEMORYSTATUSEX`` of the Windows API."""

    _fields_ = [
        ("length", ctypes.c_uint32),
        ("load_percent", ctypes.c_uint32),
        ("total_physical", ctypes.c_uint64),
        ("free_physical", ctypes.c_uint64),
        ("total_committed", ctypes.c_uint64),
        ("free_committed", ctypes.c_uint64),
        ("total_virtual", ctypes.c_uint64),
        ("free_virtual", ctypes.c_uint64),
        ("free_extended", ctypes.c_uint64),
    ]


def free_bytes() -> int:
    """Memory that processes may still take; what is promised to them already is not free."""
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        raise ctypes.WinError()
    return min(status.free_physical, status.free_committed)


def lock(descriptor: int) -> None:
    """Lock the first byte of an open file, until it is closed.

    Raises:
        OSError: another process holds it (``EACCES``), or there are no locks.
    """
    import msvcrt

    os.lseek(descriptor, 0, os.SEEK_SET)
    msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)


def replace(path: str | Path, new: str | Path) -> None:
    """``os.replace``, which waits up to a second for another program that has the file open.

    Such are virus scanners and editors: they open a new file for a moment.

    Raises:
        OSError: if it can't be moved.
    """
    for tries_left in reversed(range(REPLACE_TRIES)):
        try:
            return os.replace(path, new)
        except OSError as error:
            if error.errno != errno.EACCES or not tries_left:
                raise
            time.sleep(REPLACE_WAIT_S)
