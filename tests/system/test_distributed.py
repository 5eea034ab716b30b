"""What the environment tells of a run's processes, checked before anything relies on it."""

import sys
import types

import pytest
import torch

from zoobot.data.samplers import EvalSampler, TrainSampler
from zoobot.script import run_script
from zoobot.system import distributed
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
