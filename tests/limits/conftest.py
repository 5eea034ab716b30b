"""What tests of refusals share."""

import signal
import tracemalloc

import pytest

FEW_BYTES = 150_000_000  # what a test of refusals may use, libraries that it imports included


@pytest.fixture
def cheap():
    """The test takes little memory."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < FEW_BYTES


@pytest.fixture
def at_once():
    """A test that waits for a pipe fails."""

    def waited(*_):
        raise AssertionError("a pipe was waited for")

    before = signal.signal(signal.SIGALRM, waited)
    signal.setitimer(signal.ITIMER_REAL, 100)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
