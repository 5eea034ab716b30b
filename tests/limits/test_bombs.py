"""A small file that would fill the memory is refused before, in a process of little memory."""

import multiprocessing
import multiprocessing.forkserver
import os
import sys

import bombs
import pytest

pytest.importorskip("astropy")
pytest.importorskip("h5py")


@pytest.fixture(scope="module")
def processes():
    """Of processes that begin with all that readers import."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bombs"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # the server has no other
        multiprocessing.forkserver.ensure_running()
    return context


def read_elsewhere(context, name, path):
    ours, theirs = context.Pipe()
    process = context.Process(target=bombs.read_bounded, args=(name, str(path), theirs))
    process.start()
    theirs.close()
    told = ours.recv()
    process.join()
    return told


@pytest.mark.parametrize("name", bombs.REFUSED)
def test_a_file_that_would_fill_the_memory_is_refused_before(processes, tmp_path, name):
    bombs.REFUSED[name][0](tmp_path / name)
    told = read_elsewhere(processes, name, tmp_path / name)
    assert name in told
    assert not told.startswith("too late")
    assert "\n" not in told
