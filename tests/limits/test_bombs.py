"""A small file that would fill the memory is refused before, in a process of little memory."""

import multiprocessing
import multiprocessing.forkserver
import os
import subprocess
import sys
import types

import bombs
import pytest

from zoobot.limits import memory
from zoobot.system.errors import UserError

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


def test_an_image_that_would_fill_the_memory_is_refused_in_a_worker_too(tmp_path):
    name = "of_worker.png"
    bombs.IN_WORKER[name][0](tmp_path / name)
    words = [f"bombs.read_bounded({name!r}, {str(tmp_path / name)!r}, types.SimpleNamespace("]
    code = "import bombs, types; " + words[0] + "send=lambda told: print(told, flush=True)))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=200
    )
    assert "its decoding takes 2,000,000,000 bytes" in done.stdout
    assert done.stdout.count("\n") == 1
    assert "too late" not in done.stdout


def test_workers_that_may_meet_such_files_at_once_share_what_is_free(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 800)
    memory.check_memory(800, "it")
    worker = types.SimpleNamespace(num_workers=4)
    monkeypatch.setattr(memory, "get_worker_info", lambda: worker)
    memory.check_memory(200, "it")
    with pytest.raises(UserError, match="201 bytes; 200 .* a worker's share, with --num-workers 4"):
        memory.check_memory(201, "it")
