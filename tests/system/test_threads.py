import hashlib
import threading

import pytest

from zoobot.data import loaders
from zoobot.system import threads, workers


@pytest.fixture
def busy():
    """A thread that computes, without the interpreter's lock, until the event it gives is set."""
    started, enough = threading.Event(), threading.Event()

    def compute():
        while not enough.is_set():
            hashlib.sha256(bytes(2**22))
            started.set()

    thread = threading.Thread(target=compute)
    thread.start()
    started.wait()
    yield enough
    enough.set()
    thread.join()


def test_waiting_ends_when_the_last_thread_rests(busy):
    assert not threads.wait_until_threads_rest(0.05)
    threading.Timer(0.05, busy.set).start()
    assert threads.wait_until_threads_rest(60)


def test_a_system_that_does_not_tell_is_not_waited_for(busy, monkeypatch, tmp_path):
    monkeypatch.setattr(threads, "TASKS", tmp_path / "absent")
    assert threads.wait_until_threads_rest(0)


@pytest.mark.parametrize(("num_workers", "waits"), [(0, 0), (2, 1)])
def test_workers_are_forked_only_while_other_threads_rest(dataset, monkeypatch, num_workers, waits):
    rested = []
    monkeypatch.setattr(workers, "wait_until_threads_rest", lambda: rested.append(True))
    list(loaders.train_loader(dataset, 16, num_workers=num_workers))
    assert len(rested) == waits
