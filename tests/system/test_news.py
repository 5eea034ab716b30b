"""A process that fails ends the others of its run, whatever they do."""

import os
import socket
import subprocess
import sys

import pytest
import torch.distributed as dist
from conftest import REPO

LONGEST_S = 60


def run_ranks(*doings, store=None):
    """Exit codes and stderr of ranks that do this, started by the environment's variables.

    ``store``: as torchrun has one, which outlives the ranks; by default it is the first rank's.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1] if store is None else store.port
    ranks = []
    for rank, what in enumerate(doings):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": len(doings)}
        at = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
        at["TORCHELASTIC_USE_AGENT_STORE"] = store is not None
        env = os.environ | {name: str(value) for name, value in (place | at).items()}
        words = [sys.executable, str(REPO / "tests" / "system" / "news_worker.py"), what]
        ranks.append(subprocess.Popen(words, env=env, stderr=subprocess.PIPE, text=True))
    try:
        told = [process.communicate(timeout=4 * LONGEST_S)[1] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    return [process.returncode for process in ranks], told


@pytest.mark.parametrize("doings", [("hang", "mistake"), ("mistake", "hang")])
def test_a_mistake_that_one_process_finds_is_said_and_ends_one_that_hears_nothing(doings):
    codes, told = run_ranks(*doings)
    other = doings.index("hang")
    assert codes[other] == 1
    assert codes[1 - other] == 2
    assert told[1 - other] == "error: this is a mistake of the user\n"
    line = "another process of this run has ended, and with it this one"
    assert told[other] == f"rank {other}: {line}\n"


def test_a_mistake_that_all_find_is_said_once():
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    codes, told = run_ranks("mistake", "mistake", "mistake", store=store)
    assert codes == [2, 2, 2]
    assert "".join(told) == "error: this is a mistake of the user\n"


def test_a_fault_of_one_process_keeps_its_traceback_and_ends_the_others():
    codes, told = run_ranks("hang", "fault")
    assert codes == [1, 1]
    assert told[1].count("AssertionError: this is a fault of ours") == 1
    assert told[1].count("Traceback") == 1
    assert "Traceback" not in told[0]


def test_processes_that_have_done_their_work_leave_in_any_order():
    assert run_ranks("end", "end", "end") == ([0, 0, 0], ["", "", ""])
