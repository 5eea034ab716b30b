"""Lock a folder, so that two runs do not write into it at the same time."""

import contextlib
import dataclasses
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from zoobot.system import windows
from zoobot.system.errors import UserError
from zoobot.system.files import open_to_append

if not windows.HERE:
    import fcntl

HELD = (errno.EACCES, errno.EAGAIN)  # the error of a lock that another process holds


@dataclasses.dataclass
class _Lock:
    """A lock of this process: the thread that holds it, and how many ``with`` blocks it is in."""

    thread: int
    file: BinaryIO
    num_blocks: int = 0


# A lock of the system belongs to the process, and closing any handle of its file frees it. So what
# this process holds is noted here, by process (a forked one holds nothing) and path, and a lock
# file is never opened twice.
_locks: dict[tuple[int, Path], _Lock] = {}
_guard = threading.RLock()


@contextlib.contextmanager
def only_run(path: str | Path) -> Iterator[None]:
    """Hold the lock file ``path`` during a ``with`` block, and delete it afterwards.

    So is its folder, if it was not there before and nothing else is in it. Within the block the
    same thread may lock it again. The system releases the lock when the
    process ends, also if it is killed. Worker processes do not inherit the lock. On a file system
    without locks, only the threads of one process are kept apart.

    Raises:
        ValueError: if another process, or another thread of this one, holds the lock; or the
            lock file is a link.
    """
    path = Path(path)
    is_new = not path.parent.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    key, thread = (os.getpid(), path.parent.resolve() / path.name), threading.get_ident()
    with _guard:
        lock = _locks.get(key)
        if lock is None:
            lock = _locks[key] = _Lock(thread, _lock_file(path))
        elif lock.thread != thread:
            raise UserError(_told(path))
        lock.num_blocks += 1
    try:
        yield
    finally:
        with _guard:
            lock.num_blocks -= 1
            if lock.num_blocks == 0:
                del _locks[key]
                if key[0] == os.getpid():  # not in a forked process that collects its garbage
                    _delete(path, lock.file)
                lock.file.close()
        if is_new:
            with contextlib.suppress(OSError):  # something is in it
                path.parent.rmdir()


def _lock_file(path: Path) -> BinaryIO:
    """The lock file, open and locked."""
    while True:
        file = _opened(path)
        try:
            _lock(file)
        except OSError as error:
            if error.errno in HELD:
                file.close()
                raise UserError(_told(path)) from error
        # Who held it may have deleted it after it was opened here: then it locks nobody out.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.lstat()):
                return file
        file.close()


def _opened(path: Path) -> BinaryIO:
    try:
        return open_to_append(path)
    except PermissionError as error:
        if windows.HERE and path.exists():  # while it is being deleted
            raise UserError(_told(path)) from error
        raise


def _lock(file: BinaryIO) -> None:
    if windows.HERE:
        windows.lock(file.fileno())
    else:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _delete(path: Path, file: BinaryIO) -> None:
    """Delete a lock file that this process holds."""
    if not windows.HERE:
        return path.unlink(missing_ok=True)
    file.close()  # before: an open file can't be deleted
    with contextlib.suppress(OSError):  # the next run has opened it meanwhile
        path.unlink()


def _told(path: Path) -> str:
    return f"{path.parent} is in use by another run: wait for its end, or save elsewhere"
