"""What becomes of memory that is freed: kept for the next batch, not handed back to the system."""

import ctypes
import os
import platform
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
OF_THE_USER = ("MALLOC_", "GLIBC_TUNABLES")  # environment variables that tune glibc's malloc


@cache
def keep_freed_memory() -> bool:
    """Have this process, and those it forks from now on, use the memory of one batch for the next.

    A step on a CPU frees and asks for gigabytes. By default glibc returns each large piece to the
    system, which has to map and clear it again page by page: a fifth to a third of the time.
    The peak grows by some percent, and is kept till the end.

    Returns:
        True if it was arranged. False where malloc is not glibc's, or where the environment tunes
        it, as with ``MALLOC_MMAP_MAX_=65536``, glibc's default.
    """
    if platform.libc_ver()[0] != "glibc" or any(key.startswith(OF_THE_USER) for key in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))
