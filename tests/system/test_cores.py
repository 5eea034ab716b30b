import os
import threading

import pytest
import torch

from zoobot.system import cores

OF_JOB = "cpu,cpuacct/job/cpu.cfs_{}_us"  # control groups, version 1


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A function that sets cores, processes and control groups of a machine."""
    monkeypatch.setattr(cores, "CGROUPS", tmp_path)
    monkeypatch.setattr(cores, "OWN_CGROUP", tmp_path / "cgroup")

    def set_up(num_cores, local_ranks=1, groups="", files=()):
        allowed = lambda _: set(range(num_cores))  # noqa: E731
        monkeypatch.setattr(os, "sched_getaffinity", allowed, raising=False)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local_ranks))
        (tmp_path / "cgroup").write_text(groups)
        for name, text in dict(files).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)

    return set_up


@pytest.mark.parametrize(
    ("num_cores", "local_ranks", "on_gpu", "wanted"),
    [(64, 1, True, 14), (16, 1, True, 14), (8, 1, True, 6), (2, 1, True, 1), (1, 1, True, 1),
     (64, 8, True, 6), (64, 1, False, 2), (1, 1, False, 1)],
)  # fmt: skip
def test_auto_takes_the_cores_of_a_process_but_two_on_a_gpu(
    machine, num_cores, local_ranks, on_gpu, wanted
):
    machine(num_cores, local_ranks)
    assert cores.choose_num_workers("auto", on_gpu) == wanted


def test_a_number_of_workers_is_at_most_that_of_the_cores_and_anything_else_refused(machine):
    machine(4)
    assert [cores.choose_num_workers(n, on_gpu=True) for n in (0, 3, 40)] == [0, 3, 4]
    for wrong in (-1, 2.0, True, "many", None):
        with pytest.raises(ValueError, match=r"num_workers=.*: give 'auto', or a whole number"):
            cores.choose_num_workers(wrong, on_gpu=True)


@pytest.mark.parametrize(
    ("groups", "files", "wanted"),
    [
        ("0::/\n", {"cpu.max": "400000 100000\n"}, 4),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 32),
        ("0::/job/step\n", {"job/cpu.max": "600000 100000", "job/step/cpu.max": "max 100000"}, 6),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {}, 32),
        (
            "5:memory:/job\n4:cpu,cpuacct:/job\n",
            {OF_JOB.format("quota"): "300000", OF_JOB.format("period"): "100000"},
            3,
        ),
        (
            "4:cpu,cpuacct:/job\n",
            {OF_JOB.format("quota"): "-1", OF_JOB.format("period"): "100000"},
            32,
        ),
    ],
)  # fmt: skip
def test_a_container_has_the_cores_that_its_groups_allow(machine, groups, files, wanted):
    machine(32, groups=groups, files=files)
    assert cores.num_cores() == wanted


def test_cores_are_shared_by_the_processes_of_a_node(machine):
    machine(64, 4, "0::/\n", {"cpu.max": "4000000 100000"})
    assert cores.num_cores() == 10


@pytest.fixture
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_two_threads")
def test_threads_of_a_pool_compute_on_one_core_and_all_others_as_before():
    with cores.pool_of_single_cores(3) as pool:
        assert pool.map(lambda _: torch.get_num_threads(), range(12), chunksize=1) == [1] * 12
        assert torch.get_num_threads() == 2
        others = []
        thread = threading.Thread(target=lambda: others.append(torch.get_num_threads()))
        thread.start()
        thread.join()
    assert others == [2]
    assert torch.get_num_threads() == 2
