"""Children that kill themselves at a named place or hold a lock; disks of a given size."""

import contextlib
import multiprocessing
import os
import pathlib
import resource
import signal
from collections.abc import Callable

from zoobot.system import locks

PLACES = ("fsync", "replace", "unlink", "rmdir")  # of os: the steps by which files come and go


def killed_before_step(number: int, run: Callable[[], object]) -> bool:
    """Run in a forked child that is killed (SIGKILL) before its ``number``-th step on files.

    Returns:
        Whether it was; False if it ended before.
    """

    def child() -> None:
        taken = 0

        def dying(step):
            def take(*arguments, **options):
                nonlocal taken
                taken += 1
                if taken == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return step(*arguments, **options)

            return take

        kept = getattr(pathlib, "_NormalAccessor", None)  # of os's functions, in Python 3.10
        for place in PLACES:
            if hasattr(kept, place):
                setattr(kept, place, staticmethod(dying(getattr(os, place))))
            setattr(os, place, dying(getattr(os, place)))
        run()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def in_another_process(run: Callable[[], object]) -> str:
    """Run in a forked child: the text of the ValueError that it ended with; empty if it did not."""
    told, tell = os.pipe()

    def child() -> None:
        try:
            run()
        except ValueError as error:
            os.write(tell, str(error).encode())

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    os.close(tell)
    with open(told) as answer:
        text = answer.read()
    process.join()
    assert process.exitcode == 0
    return text


@contextlib.contextmanager
def largest_file(num_bytes: int):
    """No file grows beyond so many bytes in a ``with`` block, as on a disk that is full then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def lock_of_another_process(path):
    """A lock held by a process with a worker; gives what kills that process, but not the worker."""
    told, tell = os.pipe()

    def hold() -> None:
        with locks.only_run(path):
            worker = os.fork()
            if worker:
                os.write(tell, str(worker).encode())
            while True:
                signal.pause()

    holder = multiprocessing.get_context("fork").Process(target=hold)
    holder.start()
    worker = int(os.read(told, 20))

    def kill_it() -> None:
        holder.kill()
        holder.join()

    try:
        yield kill_it
    finally:
        kill_it()
        os.kill(worker, signal.SIGKILL)
        os.close(told)
        os.close(tell)
