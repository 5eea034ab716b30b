import multiprocessing

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
