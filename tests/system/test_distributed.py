"""What the environment tells of a run's processes, checked before anything relies on it."""

import atexit
import datetime
import sys
import types

import pytest
import torch
import torch.distributed as dist

from zoobot.data.samplers import EvalSampler, TrainSampler
from zoobot.script import run_script
from zoobot.system import distributed, news
from zoobot.system.errors import OneProcessError

WHOLE = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
         "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}  # fmt: skip
HALVES = [
    ({"RANK": "3"}, "RANK=3 and no WORLD_SIZE"),
    ({"LOCAL_RANK": "1"}, "LOCAL_RANK=1 and no WORLD_SIZE"),
    ({"RANK": "1", "WORLD_SIZE": "1"}, "RANK=1 and WORLD_SIZE=1"),
    ({"WORLD_SIZE": "0"}, "no RANK and WORLD_SIZE=0"),
    ({"WORLD_SIZE": ""}, "WORLD_SIZE=''"),
    ({"RANK": ""}, "RANK=''"),
    ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK='-1'"),
    ({"LOCAL_RANK": "x"}, "LOCAL_RANK='x'"),
    ({"TORCHELASTIC_RESTART_COUNT": "many"}, "TORCHELASTIC_RESTART_COUNT='many'"),
    ({"WORLD_SIZE": "2"}, "no RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"),
    ({**WHOLE, "RANK": "2"}, "RANK=2 and WORLD_SIZE=2"),
    ({**WHOLE, "LOCAL_WORLD_SIZE": "1"}, "LOCAL_RANK=1 and LOCAL_WORLD_SIZE=1"),
    ({**WHOLE, "RANK": None}, "WORLD_SIZE=2 but no RANK"),
    ({**WHOLE, "LOCAL_RANK": None}, "WORLD_SIZE=2 but no LOCAL_RANK"),
    ({**WHOLE, "MASTER_ADDR": ""}, "WORLD_SIZE=2 but no MASTER_ADDR"),
    ({**WHOLE, "MASTER_PORT": None}, "WORLD_SIZE=2 but no MASTER_PORT"),
]


def set_environment(monkeypatch, variables):
    for name in (*WHOLE, "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        if value is not None:
            monkeypatch.setenv(name, value)


@pytest.mark.parametrize(("variables", "told"), HALVES)
def test_half_a_distributed_environment_is_one_line_and_nothing_runs(
    monkeypatch, capsys, variables, told
):
    set_environment(monkeypatch, variables)
    monkeypatch.setattr(sys, "argv", ["train.py"])

    def never(*_):
        raise AssertionError("it ran")

    with pytest.raises(SystemExit) as leaving:
        run_script(never, lambda: types.SimpleNamespace(debug=False))
    assert leaving.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert told in line
    assert "torchrun" in line or "unset" in line


@pytest.mark.parametrize(
    "variables", [{}, WHOLE, {"RANK": "0"}, {"LOCAL_RANK": "0"}, {"RANK": "0", "WORLD_SIZE": "1"}]
)
def test_a_whole_environment_or_none_is_taken(monkeypatch, variables):
    set_environment(monkeypatch, variables)
    distributed.check_environment()


def test_processes_that_are_not_found_are_one_line_that_names_the_address(monkeypatch):
    set_environment(monkeypatch, {**WHOLE, "MASTER_PORT": "no port"})
    with pytest.raises(OneProcessError, match="process 1 can't find .* 127.0.0.1, port no port"):
        distributed.join(torch.device("cpu"))


def test_a_rank_that_can_not_be_deals_no_galaxies(monkeypatch):
    set_environment(monkeypatch, {"RANK": "3"})
    for sampler in (TrainSampler, EvalSampler):
        with pytest.raises(OneProcessError, match="RANK=3 and no WORLD_SIZE"):
            list(sampler(12, 4))


@pytest.fixture
def gpus(monkeypatch):
    """Joined as rank 0 of two GPUs, but that nothing is sent: fills with how it was to be."""
    told = {"groups": []}
    set_environment(monkeypatch, {**WHOLE, "RANK": "0", "LOCAL_RANK": "0"})
    monkeypatch.setattr(dist, "init_process_group", lambda name, **how: told.update(how, name=name))
    monkeypatch.setattr(dist, "new_group", lambda **how: told.update(others=how) or "between CPUs")
    for name in ("all_reduce", "broadcast", "barrier"):
        monkeypatch.setattr(dist, name, lambda *_, group=None, src=0: told["groups"].append(group))
    store = dist.HashStore()
    monkeypatch.setattr(news, "connect", lambda *_: store)
    monkeypatch.setattr(atexit, "register", lambda leave: None)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(distributed, "_news", None)
    monkeypatch.setattr(distributed, "_between_cpus", None)
    distributed.join(torch.device("cuda", 0))
    yield told
    distributed._news.leave()


def test_gpus_are_joined_by_nccl_with_half_an_hour_and_cpus_by_gloo_with_a_day(gpus):
    assert gpus["name"] == "cpu:gloo,cuda:nccl"
    assert gpus["device_id"] == torch.device("cuda", 0)
    assert gpus["timeout"] == datetime.timedelta(minutes=30)
    assert gpus["others"] == {"backend": "gloo", "timeout": datetime.timedelta(hours=24)}


def test_values_barriers_and_sums_on_cpus_never_go_over_nccl(gpus):
    distributed.barrier()
    assert distributed.from_main({"path": "a", "loss": float("inf")})["path"] == "a"
    distributed.all_reduce_sum(torch.zeros(3))
    assert gpus["groups"] == ["between CPUs"] * 4
    distributed.all_reduce_sum(torch.zeros(3, device="meta"))  # as one on a GPU
    assert gpus["groups"][4:] == [None]


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        (RuntimeError("[/x/gloo/transport/tcp/pair.cc:5] Connection closed by peer"), True),
        (dist.DistNetworkError("recv failed"), True),
        (dist.DistBackendError("ncclRemoteError: A call failed possibly due to a network"), True),
        (news.LostAnotherError("no end of the step"), True),
        (dist.DistBackendError("ncclInvalidUsage: Duplicate GPU detected"), False),
        (RuntimeError("CUDA out of memory"), False),
    ],
)
def test_only_errors_of_a_connection_are_taken_for_the_end_of_another(monkeypatch, error, is_lost):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    assert distributed.has_lost_another(error) == is_lost
