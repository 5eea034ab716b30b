"""Start worker processes so that signals and other threads do them no harm."""

import contextlib
import signal
import threading
from collections.abc import Iterator

from zoobot.system.distributed import STOP_SIGNALS
from zoobot.system.threads import wait_until_threads_rest

NOT_FOR_WORKERS = (signal.SIGINT, *STOP_SIGNALS)


@contextlib.contextmanager
def starting_workers() -> Iterator[None]:
    """In this ``with`` block, processes are started with SIGINT, SIGTERM and SIGUSR1 blocked.

    So what asks a whole run to stop leaves its workers alive until the step has ended. They are
    forked while this process's other threads rest.

    torch's handler of SIGCHLD is taken back: it raises wherever the main thread then is, also
    within a save. torch's loaders also notice dead workers while they wait for a batch.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (*NOT_FOR_WORKERS, signal.SIGCHLD))
    handler = signal.getsignal(signal.SIGCHLD) or signal.SIG_DFL
    try:
        wait_until_threads_rest()
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
