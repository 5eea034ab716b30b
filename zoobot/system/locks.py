"""Lock a folder, so that two runs do not write into it at the same time."""

import contextlib
import errno
import fcntl
from collections.abc import Iterator
from pathlib import Path

from zoobot.system.errors import UserError

HELD = (errno.EACCES, errno.EAGAIN)  # the error of a lock that another process holds


@contextlib.contextmanager
def only_run(path: str | Path) -> Iterator[None]:
    """Hold the lock file ``path`` during a ``with`` block, and delete it afterwards.

    The system releases the lock when the process ends, also if it is killed. Worker processes do
    not inherit the lock. On a file system without locks, nothing is locked.

    Raises:
        ValueError: if another process holds the lock.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in HELD:
                raise UserError(
                    f"{path.parent} is in use by another run: wait for its end, or save elsewhere"
                ) from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
