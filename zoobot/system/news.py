"""A process that fails tells the others, which then end, wherever they wait.

A process that waits for a GPU's work, of which another process has a part, waits in a call that
hears no signal, and learns of the other's end half an hour later. So each process has a thread that
sleeps until there is news for it in the processes' common store.
"""

import contextlib
import datetime
import hashlib
import os
import sys
import threading

import torch.distributed as dist

LAST_WORDS_S = 10.0  # for a process to end by itself after the news
FAILED, LEFT = b"failed", b"left"
LOST_ANOTHER = "another process of this run has ended, and with it this one"
LONGEST_RUN = datetime.timedelta(days=20)  # about as long as a connection can wait
# Parts of the texts of errors that gloo and nccl raise when a connection breaks.
CONNECTION_ERRORS = ("/gloo/", "ncclRemoteError", "remote process exited")


def connect(num_restarts: int, timeout: datetime.timedelta) -> dist.Store:
    """A connection to the store that all processes of a run share.

    torchrun keeps it over a restart, with the addresses of ended processes in it. So each start
    uses keys of its own.
    """
    store, _, _ = next(dist.rendezvous("env://", timeout=timeout))
    return dist.PrefixStore(f"start {num_restarts}", store)


class LostAnotherError(RuntimeError):
    """Another process does not answer: it has ended."""


def is_of_connection(error: RuntimeError) -> bool:
    """Whether the error tells of a connection that broke, or of another process that ended."""
    told = str(error)
    of_connection = isinstance(error, dist.DistNetworkError | LostAnotherError)
    return of_connection or any(part in told for part in CONNECTION_ERRORS)


class News:
    """The news between the processes of a run.

    Args:
        store: to tell with.
        listener: another connection to the same store, for the thread.
        rank, world_size: number of this process, and of all.

    Attributes:
        has_failed: whether this process or another has failed.
    """

    def __init__(self, store: dist.Store, listener: dist.Store, rank: int, world_size: int):
        self._store = store
        self._listener = listener
        listener.set_timeout(LONGEST_RUN)
        self._rank = rank
        self._world_size = world_size
        self._is_leaving = threading.Event()
        self.has_failed = False
        self._thread = threading.Thread(target=self._listen, name="news", daemon=True)
        self._thread.start()

    def tell_failure(self, what: str) -> bool:
        """Tell all others that this process has failed; see ``distributed.tell_failure``."""
        self.has_failed = True
        try:
            for other in range(self._world_size):
                if other != self._rank:
                    self._store.set(f"news for {other}", FAILED)
            said = hashlib.blake2b(what.encode(errors="replace")).hexdigest()
            return self._store.add(f"said {said}", 1) == 1
        except dist.DistError:  # the process that holds the store has ended
            return True

    def leave(self) -> None:
        """End the thread: it must not wake up while the interpreter ends."""
        self._is_leaving.set()
        with contextlib.suppress(dist.DistError):
            self._store.set(f"news for {self._rank}", LEFT)
        self._thread.join(LAST_WORDS_S)

    def _listen(self) -> None:
        try:
            news = self._listener.get(f"news for {self._rank}")
        except dist.DistError:  # the process that holds the store has left
            return
        if news != FAILED:
            return
        self.has_failed = True
        if not self._is_leaving.wait(LAST_WORDS_S):
            print(f"rank {self._rank}: {LOST_ANOTHER}", file=sys.stderr, flush=True)
            os._exit(1)
