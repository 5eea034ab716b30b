import json
import os
import signal
import subprocess
import sys

import pytest
from comparing import assert_bitwise_equal, assert_same_run, last_state
from conftest import REPO, draw_galaxies

import train
from zoobot.runs.resume import Progress


@pytest.fixture
def arguments(tmp_path, tree):
    catalog = draw_galaxies(tmp_path, tree, 60)
    (tmp_path / "tree.json").write_text(json.dumps(tree.to_dict()))
    return [
        "--catalog", str(catalog), "--schema", str(tmp_path / "tree.json"),
        "--encoder", "test_resnet", "--image-size", "32", "--batch-size", "16", "--dropout", "0.5",
        "--num-workers", "2", "--grad-accumulation", "2", "--precision", "fp32", "--seed", "3",
        "--no-report", "--device", "cpu",
    ]  # fmt: skip


def run_train(*arguments):
    train.main(train.parse([str(a) for a in arguments]))


def test_four_epochs_are_two_and_two_more_bitwise(arguments, tmp_path, precision):
    constant = [*arguments, "--scheduler", "constant", "--precision", precision]
    run_train(*constant, "--epochs", 4, "--save-dir", tmp_path / "whole")
    run_train(*constant, "--epochs", 2, "--save-dir", tmp_path / "parts")
    run_train(*constant, "--epochs", 4, "--save-dir", tmp_path / "parts")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_run_killed_in_mid_epoch_goes_on_as_if_never_killed(arguments, tmp_path):
    arguments = [*arguments, "--epochs", "3"]
    run_train(*arguments, "--save-dir", tmp_path / "whole")
    command = [
        sys.executable,
        str(REPO / "train.py"),
        *arguments,
        "--save-dir",
        tmp_path / "killed",
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}  # sums depend on the number of threads
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        for line in process.stdout:
            if line.startswith("epoch   1"):
                while not (tmp_path / "killed" / "best.safetensors").exists():
                    assert process.poll() is None
                process.send_signal(signal.SIGKILL)
                break
    assert process.wait() == -signal.SIGKILL
    assert last_state(tmp_path / "killed")["progress"]["epoch"] in (1, 2)
    run_train(*arguments, "--save-dir", tmp_path / "killed")
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_a_finished_run_is_not_trained_again_and_never_starts_anew(arguments, tmp_path, capsys):
    arguments = [*arguments, "--epochs", "1", "--save-dir", tmp_path / "run"]
    run_train(*arguments)
    before = last_state(tmp_path / "run")
    run_train(*arguments)
    assert_bitwise_equal(before["model"], last_state(tmp_path / "run")["model"])
    with pytest.raises(ValueError, match="other options .lr was 0.001, now 0.1"):
        run_train(*arguments, "--lr", 0.1)
    run_train(*arguments, "--lr", 0.1, "--resume", "never")
    assert last_state(tmp_path / "run")["config"]["lr"] == 0.1
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3


def test_resuming_from_a_named_checkpoint(arguments, tmp_path):
    arguments = [*arguments, "--scheduler", "constant"]
    run_train(*arguments, "--epochs", 1, "--save-dir", tmp_path / "first")
    last = tmp_path / "first" / "checkpoints" / "last.ckpt"
    run_train(*arguments, "--epochs", 2, "--save-dir", tmp_path / "second", "--resume", last)
    run_train(*arguments, "--epochs", 2, "--save-dir", tmp_path / "whole")
    assert_bitwise_equal(
        last_state(tmp_path / "second")["model"], last_state(tmp_path / "whole")["model"]
    )
    with pytest.raises(ValueError, match="no checkpoint absent.ckpt"):
        run_train(*arguments, "--save-dir", tmp_path / "third", "--resume", "absent.ckpt")


def test_where_a_run_stands_and_how_it_ended_are_said_in_words():
    progress = Progress(epoch=7, num_steps=40, best_epoch=4, best_loss=0.5)
    assert progress.told() == "after epoch 7"
    progress.epoch_step = 12
    assert progress.told() == "within epoch 8, after 12 of 40 steps"
    assert progress.told_end(7) == (
        "finished: 7 of 7 epochs; best weights: epoch 4, validation loss 0.5"
    )
    assert progress.told_end(9).startswith(
        "stopped early: 7 of 9 epochs; the last 3 brought no lower validation loss"
    )
