"""Start worker processes so that signals and other threads do them no harm."""

import contextlib
import multiprocessing
import pickle
import signal
import threading
from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler

from zoobot.system import windows
from zoobot.system.distributed import STOP_SIGNALS
from zoobot.system.errors import UserError
from zoobot.system.threads import wait_until_threads_rest

NOT_FOR_WORKERS = (signal.SIGINT, *STOP_SIGNALS)


@contextlib.contextmanager
def starting_workers() -> Iterator[None]:
    """In this ``with`` block, processes are started with SIGINT, SIGTERM and SIGUSR1 blocked.

    So what asks a whole run to stop leaves its workers alive until the step has ended. They are
    forked while this process's other threads rest.

    torch's handler of SIGCHLD is taken back: it raises wherever the main thread then is, also
    within a save. torch's loaders also notice dead workers while they wait for a batch.

    Windows has neither: there workers hear signals until they have started.
    """
    if windows.HERE:
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (*NOT_FOR_WORKERS, signal.SIGCHLD))
    handler = signal.getsignal(signal.SIGCHLD) or signal.SIG_DFL
    try:
        wait_until_threads_rest()
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def check_sent(what: str, value: object) -> None:
    """Check that workers can be given a value, where they are started anew and not forked.

    Raises:
        ValueError: it can't be pickled.
    """
    if multiprocessing.get_start_method() == "fork":
        return
    try:
        ForkingPickler.dumps(value)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UserError(
            f"{what} can't be given to worker processes ({error}): make it of functions and "
            "classes at the top level of a module, not of lambdas, or use num_workers=0"
        ) from error
