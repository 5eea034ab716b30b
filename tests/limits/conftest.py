"""What tests of refusals share."""

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
