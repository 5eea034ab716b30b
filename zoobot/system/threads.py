"""Wait until the other threads of this process rest: before it forks workers, and before it ends.

Threads of torch call Python for an instant, for example to let go of a tensor after ranks have
exchanged gradients. They then take a lock of the interpreter. A process that is forked at that
moment waits for that lock for ever, and one that ends at that moment aborts (seen with CPython
3.11).
"""

import os
import threading
import time
from pathlib import Path

LONGEST_WAIT_S = 1.0
POLL_S = 0.001
TASKS = Path("/proc/self/task")


def wait_until_threads_rest(most_s: float = LONGEST_WAIT_S) -> bool:
    """Wait until no other thread of this process runs.

    Returns:
        Whether they rest. False: some still ran after ``most_s`` seconds. True on systems that
        don't tell, where Python does not fork workers by default.
    """
    if not TASKS.is_dir():
        return True
    end = time.monotonic() + most_s
    while _is_another_running():
        if time.monotonic() > end:
            return False
        time.sleep(POLL_S)  # which also hands over the interpreter, for them to come to an end
    return True


def _is_another_running() -> bool:
    """Whether another thread is in a state other than S, asleep (``man proc_pid_stat``)."""
    own = str(threading.get_native_id())
    return any(_state(task) not in ("S", None) for task in os.listdir(TASKS) if task != own)


def _state(task: str) -> str | None:
    """The letter of a thread's state; None if it has ended."""
    try:
        told = (TASKS / task / "stat").read_text(encoding="utf-8", errors="replace")
        return told.rpartition(") ")[2][:1]
    except OSError:
        return None
