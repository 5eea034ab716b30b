"""One run at a time in a folder."""

import contextlib
import errno
import fcntl
from collections.abc import Iterator
from pathlib import Path

from zoobot.system.errors import UserError

HELD = (errno.EACCES, errno.EAGAIN)


@contextlib.contextmanager
def only_run(path: str | Path) -> Iterator[None]:
    """Hold the lock file ``path`` for a ``with`` block, and delete it afterwards.

    A process frees its locks as it ends, however it ends; its worker processes don't inherit them.
    Where the file system has no locks there is none.

    Raises:
        ValueError: another process holds it.
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
