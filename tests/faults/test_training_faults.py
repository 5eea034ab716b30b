"""Training that is told to stop, killed, starved of disk space, and given spoilt files."""

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from comparing import assert_bitwise_equal, assert_same_run, last_state
from conftest import REPO, draw_galaxies
from dying import largest_file

import train
from zoobot import engine
from zoobot.runs.changes import check_same_run
from zoobot.runs.folder import Run
from zoobot.runs.resume import find_state
from zoobot.runs.watch import EXIT_PREEMPTED
from zoobot.script import run_script

SMALL = [
    "--encoder", "test_resnet", "--image-size", "32", "--batch-size", "8", "--dropout", "0.5",
    "--num-workers", "1", "--precision", "fp32", "--seed", "3", "--no-report", "--epochs", "2",
]  # fmt: skip


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    from zoobot.schemas import Schema

    folder = tmp_path_factory.mktemp("galaxies")
    tree = Schema(
        {"smooth": ["_yes", "_no"], "bar": ["_strong", "_weak", "_no"], "merging": ["_yes", "_no"]},
        {"smooth": None, "bar": "smooth_no", "merging": None},
    )
    catalog = draw_galaxies(folder, tree, 50)
    (folder / "tree.json").write_text(json.dumps(tree.to_dict()))
    return ["--catalog", str(catalog), "--schema", str(folder / "tree.json"), *SMALL]


def run_train(*arguments):
    train.main(train.parse([str(a) for a in arguments]))


@pytest.fixture(scope="module")
def whole(arguments, tmp_path_factory):
    """The folder of a run that nothing ever happened to: 2 epochs of 5 steps."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    torch.set_num_threads(1)
    run_train(*arguments, "--save-dir", folder)
    return folder


def at_call(monkeypatch, name, number, do):
    """Let ``do()`` happen before the ``number``-th call of a function of the engine."""
    real, calls = getattr(engine, name), []

    def wrapped(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            do()
        return real(*args, **kwargs)

    monkeypatch.setattr(engine, name, wrapped)


def signal_everybody(number):
    """As a cluster does it: the process and its image-reading workers."""
    for process in multiprocessing.active_children():
        os.kill(process.pid, number)
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize(
    ("place", "call", "position"),
    [("seed_step", 3, (0, 3)), ("seed_step", 10, (1, 5)), ("evaluate", 1, (0, 5))],
    ids=["mid-epoch", "last step", "validation"],
)
def test_a_signal_saves_at_once_and_the_rest_of_the_epoch_follows_bitwise(
    arguments, whole, tmp_path, monkeypatch, number, place, call, position
):
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)]
    with monkeypatch.context() as patch:
        at_call(patch, place, call, lambda: signal_everybody(number))
        with pytest.raises(SystemExit) as leaving:
            run_train(*arguments, "--save-dir", tmp_path / "run")
    assert leaving.value.code == EXIT_PREEMPTED
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)] == handlers
    progress = last_state(tmp_path / "run")["progress"]
    assert (progress["epoch"], progress["epoch_step"]) == position
    run_train(*arguments, "--save-dir", tmp_path / "run")
    assert_same_run(whole, tmp_path / "run")


def test_ctrl_c_saves_within_the_epoch_and_the_same_command_goes_on_bitwise(
    arguments, whole, tmp_path, monkeypatch, capsys
):
    words = [*arguments, "--save-dir", str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        at_call(patch, "seed_step", 8, lambda: signal_everybody(signal.SIGINT))
        with pytest.raises(SystemExit) as leaving:
            run_script(train.main, lambda: train.parse(words))
    assert leaving.value.code == 130
    assert "interrupted: the state is saved: the same command goes on" in capsys.readouterr().err
    progress = last_state(tmp_path / "run")["progress"]
    assert (progress["epoch"], progress["epoch_step"]) == (1, 3)
    run_train(*words)
    assert_same_run(whole, tmp_path / "run")


def test_mended_labels_are_noticed_in_a_run_that_has_ended(arguments, tmp_path, capsys):
    catalog, folder = Path(arguments[1]), tmp_path / "run"
    mended = tmp_path / "catalog.csv"
    frame = pd.read_csv(catalog)
    frame["file_loc"] = [str(catalog.parent / loc) for loc in frame["file_loc"]]
    frame.to_csv(mended, index=False)
    words = ["--catalog", str(mended), *arguments[2:], "--save-dir", folder, "--epochs", 1]
    run_train(*words)
    votes = frame.columns[2]
    frame.loc[:2, votes] += 1
    frame.to_csv(mended, index=False)
    for more in ([], ["--epochs", 2]):
        with pytest.raises(ValueError, match="other data .galaxies: 3 relabelled.*--allow-changes"):
            run_train(*words, *more)
    run_train(*words, "--epochs", 2, "--allow-changes")
    assert last_state(folder)["progress"]["epoch"] == 2
    frame.to_parquet(tmp_path / "moved.parquet")  # the same galaxies
    run_train(*words, "--epochs", 2, "--catalog", tmp_path / "moved.parquet")


def test_saving_within_epochs_changes_nothing_also_if_the_clock_goes_back(
    arguments, whole, tmp_path, monkeypatch
):
    clock = iter(range(10**9, 0, -60))
    monkeypatch.setattr(time, "time", lambda: next(clock))
    saved, save = [], Run.save
    monkeypatch.setattr(Run, "save", lambda *a: saved.append(1) or save(*a))
    run_train(*arguments, "--save-dir", tmp_path / "run", "--save-every", "1e-9")
    assert len(saved) > 10  # every step, some evaluations, both epochs
    assert_same_run(whole, tmp_path / "run")


def torchrun(num_restarts, faults, *arguments):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "--max-restarts", str(num_restarts), str(REPO / "tests" / "faults" / "train_worker.py"),
        json.dumps(faults), *map(str, arguments),
    ]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)


def test_ranks_stop_skip_and_recover_together_under_torchrun(arguments, tmp_path):
    nan = ["nan", 0, 1, 1]
    whole = torchrun(0, [nan], *arguments, "--save-dir", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr[-3000:]
    faults = [nan, ["SIGUSR1", 0, 1, 2], ["SIGKILL", 1, 0, 6], ["SIGINT", 2, 1, 8]]
    again = [*arguments, "--save-dir", tmp_path / "again", "--save-every", "1e-9"]
    done = torchrun(3, faults, *again)
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in (0, 1):
        assert f"start 0 rank {rank}: exit {EXIT_PREEMPTED}" in done.stdout
        assert f"start 2 rank {rank}: exit 130" in done.stdout
    assert_same_run(tmp_path / "whole", tmp_path / "again")
    assert "rank 1: another process of this run has ended" in done.stderr
    assert "[rank1]: Traceback" not in done.stderr
    told = [(tmp_path / run / "skipped_steps.jsonl").read_text() for run in ("whole", "again")]
    assert told[0] == told[1]
    line = json.loads(told[0])
    assert (line["epoch"], line["step"]) == (1, 2)
    assert len(line["galaxies"]) == 7
    assert set(line["galaxies_not_finite"]) < set(line["galaxies"])  # those of one rank
    assert "step 2 skipped: the loss of g" in whole.stderr


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_full_disk_stops_the_run_with_one_line_and_it_goes_on_when_there_is_room(
    arguments, whole, tmp_path, capsys, monkeypatch
):
    folder = tmp_path / "run"
    arguments = [*arguments, "--save-dir", folder]
    at_call(monkeypatch, "seed_step", 7, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit):
        run_train(*arguments)
    before = files(folder / "checkpoints")
    room = len(before[Path("last.ckpt")]) // 2
    words = [str(a) for a in arguments]
    with pytest.raises(SystemExit) as leaving, largest_file(room):
        run_script(train.main, lambda: train.parse(words))
    assert leaving.value.code == 2
    said = capsys.readouterr().err
    assert said.count("error:") == 1
    assert "File too large" in said
    assert "make room" in said
    assert "Traceback" not in said
    assert files(folder / "checkpoints") == before
    run_train(*arguments)
    assert_same_run(whole, folder)


def test_a_full_disk_need_not_stop_training(arguments, whole, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = (whole / "checkpoints" / "last.ckpt").stat().st_size // 2
    at_call(
        monkeypatch,
        "seed_step",
        2,
        lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard)),
    )
    at_call(
        monkeypatch, "seed_step", 6, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    )
    try:
        run_train(*arguments, "--save-dir", folder, "--on-save-error", "continue")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "warning: the state can't be written" in capsys.readouterr().err
    state = last_state(folder)
    assert_bitwise_equal(state["model"], last_state(whole)["model"])
    assert state["progress"]["kept"] == [[state["progress"]["losses"][1], 2]]
    assert state["progress"]["best_epoch"] == 2  # the first was not saved, so can't be the best
    names = sorted(p.name for p in (folder / "checkpoints").iterdir())
    assert names == ["best", "data.safetensors", "epoch=2.ckpt", "last.ckpt"]


def test_a_folder_that_cannot_be_written_is_said_in_one_line(arguments, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    words = [*arguments, "--save-dir", str(tmp_path / "file" / "run")]
    with pytest.raises(SystemExit) as leaving:
        run_script(train.main, lambda: train.parse(words))
    assert leaving.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error:")
    assert said.count("\n") == 1


def torn(contents: bytes) -> dict[str, bytes]:
    """Every kind of place at which a file may end or differ."""
    middle = len(contents) // 2
    flipped = bytearray(contents)
    flipped[middle] ^= 1
    cut = {f"cut at {n}": contents[:n] for n in (0, 1, 4, 30, 100, middle, len(contents) - 22)}
    cut |= {"last byte missing": contents[:-1], "flipped": bytes(flipped)}
    return cut | {"zeros": bytes(len(contents)), "doubled": contents + contents}


@pytest.fixture
def two_generations(tmp_path):
    """A run's folder with states of steps 1 and 2, and its options."""
    config = {"lr": 0.1, "resume": "auto", "epochs": 5}
    run = Run(tmp_path / "run", config, {}, lambda split, name: name)
    for step in (1, 2):
        progress = {**vars(engine.Progress()), "step": step, "epoch_step": step}
        weights = {"w": torch.full((500,), float(step))}
        run.save({"progress": progress, "model": weights}, weights)
    return tmp_path / "run", config


def find(folder, config, **changes):
    return find_state(folder, "auto", config | changes, {"epochs"})


def test_a_spoilt_state_is_named_and_the_one_before_is_used(two_generations, capsys):
    folder, config = two_generations
    last = folder / "checkpoints" / "last.ckpt"
    good, previous = last.read_bytes(), last.with_name("previous.ckpt").read_bytes()
    assert find(folder, config)["progress"]["step"] == 2
    for kind, contents in torn(good).items():
        last.write_bytes(contents)
        if kind == "doubled":  # a zip within a zip: what counts is what comes out
            continue
        assert find(folder, config)["progress"]["step"] == 1, kind
        said = capsys.readouterr().err
        assert f"warning: {last}" in said
        assert "going on from previous.ckpt" in said
        assert last.with_suffix(".unreadable").read_bytes() == contents
        assert not last.exists()
    assert last.with_name("previous.ckpt").read_bytes() == previous


def test_two_spoilt_states_are_refused_not_started_anew(two_generations):
    folder, config = two_generations
    for name in ("last.ckpt", "previous.ckpt"):
        path = folder / "checkpoints" / name
        path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"last.ckpt.*previous.ckpt.*--resume never"):
        find(folder, config)


def test_changed_options_are_listed_and_refused_unless_allowed(two_generations, capsys):
    folder, config = two_generations
    with pytest.raises(ValueError, match=r"lr was 0.1, now 0.2.*--allow-changes"):
        find(folder, config, lr=0.2, epochs=9)
    state = find_state(folder, "auto", config | {"lr": 0.2, "epochs": 9}, {"epochs"}, True)
    assert state["progress"]["step"] == 2
    assert capsys.readouterr().out == ""  # until the galaxies are compared too
    check_same_run(state, {}, None, allow_changes=True)
    assert "lr was 0.1, now 0.2; epochs was 5, now 9" in capsys.readouterr().out


def test_a_restarted_run_goes_on_with_its_own_state_only(two_generations, monkeypatch):
    folder, config = two_generations
    assert find_state(folder, "never", config | {"resume": "never"}, {"resume"}) is None
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    never = config | {"resume": "never"}
    assert find_state(folder, "never", never, {"resume"}) is None  # an earlier run's
    run = Run(folder, never, {}, lambda split, name: name)
    run.save({"progress": {**vars(engine.Progress()), "step": 7}, "model": {}}, {})
    assert find_state(folder, "never", never, {"resume"})["progress"]["step"] == 7


def test_what_killed_processes_left_is_removed(two_generations):
    folder, config = two_generations
    for place in (folder, folder / "checkpoints"):
        (place / ".last.ckpt.abcdefgh.partial").write_bytes(b"half")
    Run(folder, config, {}, lambda split, name: name, find(folder, config))
    assert not list(folder.rglob("*.partial"))


def test_epochs_that_a_killed_process_did_not_delete_are_deleted_later(two_generations):
    folder, config = two_generations
    run = Run(folder, config, {}, lambda split, name: name, find(folder, config))
    left = folder / "checkpoints" / "epoch=1.ckpt"
    left.write_bytes(b"outranked")
    progress = vars(engine.Progress(epoch=2, step=9, best_epoch=2, kept=[[0.5, 2]]))
    run.save({"progress": progress, "model": {}}, {})
    assert not left.exists()
    assert (folder / "checkpoints" / "epoch=2.ckpt").exists()


def test_a_changed_batch_size_is_refused_within_an_epoch_only(arguments, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    changed = [*arguments, "--save-dir", folder, "--batch-size", 10, "--allow-changes"]
    with monkeypatch.context() as patch:
        at_call(patch, "seed_step", 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit):
            run_train(*arguments, "--save-dir", folder)
    with pytest.raises(ValueError, match="at step 3 of an epoch of 5 steps, now .* 4"):
        run_train(*changed)
    run_train(*arguments, "--save-dir", folder, "--epochs", 1)
    run_train(*changed, "--lr", 0.5, "--weight-decay", 0.7)
    state = last_state(folder)
    assert state["progress"]["epoch"] == 2
    assert {g["weight_decay"] for g in state["optimizer"]["param_groups"]} == {0.0, 0.7}
    assert np.isclose(state["config"]["lr"], 0.5)
