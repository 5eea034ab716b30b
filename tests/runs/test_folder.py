import contextlib
import errno
import json
import os
import threading
from pathlib import Path

import dying
import pytest
from dying import in_another_process, killed_before_step, lock_of_another_process
from ranks import as_ranks
from small_runs import find, open_run, save_epochs

from zoobot.runs import best, checkpoint
from zoobot.runs import folder as folder_module
from zoobot.runs.earlier import OTHERS, RESULTS, set_aside
from zoobot.system import distributed, files


@pytest.mark.parametrize("left", ["checkpoints/last.ckpt", *RESULTS[1:]])
def test_any_result_that_a_run_has_left_is_set_aside_before_another_begins(tmp_path, left):
    (tmp_path / left).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / left).write_text("an earlier run's")
    with open_run(tmp_path) as run:
        save_epochs(run, [1.0, 2.0])
    assert (tmp_path / "earlier-1" / left).read_text() == "an earlier run's"


def test_runs_that_died_before_any_result_are_not_set_aside_one_by_one(tmp_path):
    for _ in range(3):
        with open_run(tmp_path):
            pass
    assert all((tmp_path / name).exists() for name in OTHERS)
    assert not (tmp_path / "earlier-1").exists()


def test_a_run_that_died_in_its_first_epoch_leaves_no_state_to_the_next(tmp_path):
    with open_run(tmp_path) as run:
        progress = {**vars(save_epochs(run, [])), "step": 3, "epoch_step": 3}
        run.save({"progress": progress, "model": {}}, {})
    assert not (tmp_path / "metrics.jsonl").exists()
    with open_run(tmp_path) as run:
        save_epochs(run, [1.0])
    assert not (tmp_path / "checkpoints" / "previous.ckpt").exists()
    assert (tmp_path / "earlier-1" / "checkpoints" / "last.ckpt").exists()


def test_killed_while_a_run_is_set_aside_nothing_older_goes_on_and_returned_paths_stay(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(dying, "PLACES", ("rename", "mkdir"))
    epochs = []
    for number in range(1, 30):
        folder = tmp_path / str(number)
        with open_run(folder) as run:
            save_epochs(run, [1.0, 2.0])
            run.log.add(1, {"validation": {"loss": 1.0}}, {})
            kept = run.keep_best()
        contents = Path(kept).read_bytes()
        was_killed = killed_before_step(number, lambda folder=folder: set_aside(folder))
        state = find(folder)
        epochs.append(None if state is None else state["progress"]["epoch"])
        assert Path(kept).read_bytes() == contents
        assert find(folder, kept)["progress"]["epoch"] == 1
        with open_run(folder) as run:
            save_epochs(run, [3.0])
        assert Path(kept).read_bytes() == contents
        assert len([*folder.glob("earlier-*/checkpoints/last.ckpt")]) == 1
        if not was_killed:
            break
    num_newest = epochs.count(2)
    assert 3 <= num_newest <= len(epochs) - 5
    assert epochs == [2] * num_newest + [None] * (len(epochs) - num_newest)
    assert not (folder / "earlier-1" / "checkpoints" / "best").exists()


def test_a_run_holds_its_folder_until_its_end_whatever_becomes_of_an_earlier_one(tmp_path):
    def begin():
        with open_run(tmp_path):
            pass

    first = open_run(tmp_path)
    with first:
        assert "in use by another run" in in_another_process(begin)
    assert in_another_process(begin) == ""  # although ``first`` is still there
    with open_run(tmp_path, find(tmp_path)):
        del first
        assert "in use by another run" in in_another_process(begin)
    with pytest.raises(RuntimeError), open_run(tmp_path):
        raise RuntimeError("a fault")
    assert in_another_process(begin) == ""


def test_a_run_that_can_not_begin_frees_its_folder(tmp_path):
    (tmp_path / "report").mkdir()  # an earlier run's, whose first name is taken
    (tmp_path / "earlier-1").write_text("")
    with lock_of_another_process(tmp_path / ".lock"), pytest.raises(ValueError, match="in use"):
        open_run(tmp_path)
    with pytest.raises(ValueError, match="lacks"):
        open_run(tmp_path, file_template="best")
    assert in_another_process(lambda: open_run(tmp_path)) == ""


def test_threads_of_one_process_do_not_share_a_folder(tmp_path):
    told = []

    def begin():
        try:
            with open_run(tmp_path):
                told.append("")
        except ValueError as error:
            told.append(str(error))

    def in_a_thread():
        thread = threading.Thread(target=begin)
        thread.start()
        thread.join()

    with open_run(tmp_path):
        in_a_thread()
    in_a_thread()
    assert "in use by another run" in told[0]
    assert told[1] == ""


def test_metrics_are_logged_after_the_end_unless_the_folder_is_anothers_by_then(tmp_path, capsys):
    runs = []
    for loss in (1.0, 2.0):
        with open_run(tmp_path) as run:
            run.log.add(1, {"validation": {"loss": loss}}, {})
        runs.append(run)
    runs[0].log_later("test", {"loss": 7.0})
    assert "test metrics are not logged" in capsys.readouterr().err
    runs[1].log_later("test", {"loss": 8.0})
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines] == [2.0, 8.0]
    with lock_of_another_process(tmp_path / ".lock"):
        runs[1].log_later("test", {"loss": 9.0})
    assert "not logged" in capsys.readouterr().err


def test_skipped_steps_are_added_to_their_file_and_a_line_that_was_cut_off_is_dropped(
    tmp_path, monkeypatch
):
    path = tmp_path / "skipped_steps.jsonl"
    with open_run(tmp_path) as run:
        save_epochs(run, [1.0])  # 5 steps
        run.log_skipped(1, 4, ["a", "b"], ["b"])
        inode = path.stat().st_ino
        run.log_skipped(2, 6, ["c"], [])
        assert path.stat().st_ino == inode
    with open(path, "a") as file:
        file.write('{"epoch": 2, "st')
    with open_run(tmp_path, find(tmp_path)):
        assert [json.loads(x)["step"] for x in path.read_text().splitlines()] == [4]


def test_text_that_can_not_be_added_whole_is_not_added(tmp_path, monkeypatch):
    path = tmp_path / "lines"
    files.append_text(path, "one\n")

    def fails(*_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch, contextlib.suppress(OSError):
        patch.setattr(os, "fsync", fails)
        files.append_text(path, "two\n")
    assert path.read_text() == "one\n"
    with dying.largest_file(6), contextlib.suppress(OSError):
        files.append_text(path, "two\n")
    assert path.read_text() == "one\n"
    files.append_text(path, "two\n")
    assert path.read_text() == "one\ntwo\n"


def test_links_to_the_best_weights_stay_when_a_run_is_set_aside(tmp_path):
    kept = []
    for losses in ([2.0, 1.0], [3.0], [1.0, 2.0]):
        with open_run(tmp_path) as run:
            save_epochs(run, losses)
            kept.append(run.keep_best())
    contents = [open(path, "rb").read() for path in kept]
    with open_run(tmp_path) as run:
        save_epochs(run, [9.0, 8.0])
        run.keep_best()
    assert [open(path, "rb").read() for path in kept] == contents
    assert len({*kept}) == 3
    assert find(tmp_path, kept[0])["branch"]  # it is not this run's
    assert not find(tmp_path, run.keep_best()).get("branch")


def test_the_best_weights_are_hashed_by_the_main_rank_and_named_alike_by_all(tmp_path, monkeypatch):
    hashed = []
    monkeypatch.setattr(best, "hash_file", lambda path: hashed.append(path) or "abc")
    with open_run(tmp_path) as run:
        save_epochs(run, [2.0, 1.0])
    weights = run._best_weights

    def keep():
        monkeypatch.setattr(distributed, "from_main", lambda value: distributed.gather(value)[0])
        run = open_run(tmp_path, find_twice())
        run._best_weights = weights
        return run.keep_best()

    state = find(tmp_path)

    def find_twice():
        return {**state, "progress": dict(state["progress"])}

    assert as_ranks(2, keep) == [str(tmp_path / "checkpoints" / "best" / "epoch=2-abc.ckpt")] * 2
    assert len(hashed) == 1


def test_a_loss_that_is_not_finite_tells_what_is_saved(tmp_path):
    def diverge(run):
        run.log_epoch(1, {"loss": float("nan")}, {"loss": 1.0}, "loss")

    with open_run(tmp_path) as run:
        with pytest.raises(ValueError, match="train loss of epoch 1 is nan.*nothing is saved yet"):
            diverge(run)
        save_epochs(run, [1.0])
        with pytest.raises(ValueError, match="the checkpoints hold the state before"):
            diverge(run)


def save_without(run, lost, num_epochs):
    """Save so many epochs, with no room on the disk in the ``lost`` ones."""
    progress = None
    for epoch in range(1, num_epochs + 1):
        with pytest.MonkeyPatch.context() as patch:
            if epoch in lost:
                full = OSError(errno.ENOSPC, "No space left on device")
                patch.setattr(checkpoint, "save_checkpoint", raising(full))
            progress = save_epochs(run, [1 / epoch], progress=progress)


def raising(error):
    def fails(*_, **__):
        raise error

    return fails


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        ([3, 4], "training has ended, but epochs 3, 4 could not be saved.*goes on from epoch 2"),
        ([1, 2, 3, 4], "epochs 1, 2, 3, 4 could not be saved.*which begins anew"),
    ],
)
def test_a_run_whose_last_epoch_could_not_be_saved_ends_with_an_error(tmp_path, lost, told):
    with open_run(tmp_path, on_save_error="continue") as run:
        save_without(run, lost, 4)
        with pytest.raises(ValueError, match=told):
            run.check_saved()


def test_epochs_that_could_not_be_saved_are_told_at_the_end(tmp_path, capsys):
    with open_run(tmp_path, on_save_error="continue") as run:
        save_without(run, [2, 3], 4)
        capsys.readouterr()
        run.check_saved()
        assert "warning: epochs 2, 3 could not be saved" in capsys.readouterr().err
    with open_run(tmp_path / "other") as run:
        save_without(run, [], 2)
        capsys.readouterr()
        run.check_saved()
        assert capsys.readouterr().err == ""


def test_a_folder_in_which_nothing_can_be_kept_is_told_with_a_cure(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ValueError, match="no run can be kept in .*file is no folder: choose"):
            open_run(folder)
    hidden = tmp_path / "run" / "checkpoints" / ".data.safetensors.74eb.partial"
    refused = PermissionError(errno.EACCES, "Permission denied", str(hidden))
    monkeypatch.setattr(folder_module, "write_text", raising(refused))
    with pytest.raises(ValueError, match="no run can be kept in .*--save-dir") as error:
        open_run(tmp_path / "run")
    assert f"Permission denied ({hidden.parent})" in str(error.value)
    assert ".partial" not in str(error.value)


@pytest.mark.parametrize("name", ["checkpoints", "checkpoints/best", "tensorboard", "report"])
def test_a_run_does_not_reach_through_a_link_into_another_folder(tmp_path, name):
    with open_run(tmp_path / "mine") as run:
        save_epochs(run, [1.0, 2.0])
    before = sorted(tmp_path.rglob("*"))
    link = tmp_path / "theirs" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "mine" / "checkpoints")
    with pytest.raises(ValueError, match=f"theirs/{name} is a link to .*delete the link"):
        open_run(tmp_path / "theirs")
    link.unlink()
    assert [path for path in sorted(tmp_path.rglob("*")) if "theirs" not in str(path)] == before
