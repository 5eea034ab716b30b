import multiprocessing
import weakref

import numpy as np
import pytest

from zoobot.system import shared_memory
from zoobot.system.shared_memory import SharedBytes, free_bytes


def write(memory: SharedBytes, value: int) -> None:
    memory.array(np.uint8, (4,), offset=8)[:] = value


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_sees_what_its_workers_write(method):
    memory = SharedBytes(100)
    worker = multiprocessing.get_context(method).Process(target=write, args=(memory, 7))
    worker.start()
    worker.join(60)
    assert memory.array(np.uint8, (100,)).tolist() == [0] * 8 + [7] * 4 + [0] * 88


def test_another_process_opens_the_same_bytes_by_their_address():
    memory = SharedBytes(100)
    other = SharedBytes.at(memory.address)
    del memory
    write(other, 5)
    assert other.array(np.uint8, (100,)).sum() == 20


@pytest.fixture(autouse=True)
def _none_in_use(monkeypatch):
    """What other tests have not given back yet is not counted."""
    monkeypatch.setattr(shared_memory, "_IN_USE", weakref.WeakSet())


def test_free_memory_ends_at_the_limit_of_a_cgroup_above(tmp_path, monkeypatch):
    group = tmp_path / "job"
    group.mkdir()
    (group / "memory.max").write_text("3000\n")
    (group / "memory.current").write_text("2500\n")
    (group / "memory.stat").write_text("anon 10\ninactive_file 100\n")
    (group / "step").mkdir()
    (group / "step" / "memory.max").write_text("max\n")
    assert shared_memory.left_in_cgroups("0::/job/step\n1:cpu:/\n", tmp_path) == [600]
    monkeypatch.setattr(shared_memory, "left_in_cgroups", lambda *_: [600])
    assert free_bytes() == 600


def test_what_is_promised_is_not_free(monkeypatch):
    monkeypatch.setattr(shared_memory, "_free_now", lambda: 100 * 2**20)
    memory = SharedBytes(40 * 2**20)
    assert free_bytes() == 60 * 2**20
    memory.array(np.uint8, (30 * 2**20,))[:] = 1
    assert free_bytes() == 90 * 2**20  # the rest the system has counted
    del memory
    assert free_bytes() == 100 * 2**20
