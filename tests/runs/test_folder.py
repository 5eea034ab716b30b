import contextlib
import errno
import json
import os
import threading

import dying
import pytest
from dying import in_another_process, killed_before_step, lock_of_another_process
from small_runs import find, open_run, save_epochs

from zoobot.runs.earlier import OTHERS, RESULTS, set_aside
from zoobot.system import files


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


def test_killed_while_a_run_is_set_aside_nothing_goes_on_from_it(tmp_path, monkeypatch):
    monkeypatch.setattr(dying, "PLACES", ("rename",))
    for number in range(1, 20):
        folder = tmp_path / str(number)
        with open_run(folder) as run:
            save_epochs(run, [1.0])
            run.log(1, "validation", {"loss": 1.0})
        if not killed_before_step(number, lambda folder=folder: set_aside(folder)):
            break
        assert (find(folder) is None) == (number > 1)
    assert number == 6  # checkpoints, best weights, metrics, config.json, TensorBoard


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
            run.log(1, "validation", {"loss": loss})
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
