import errno
import fcntl
import os

import pytest
from dying import in_another_process, lock_of_another_process

from zoobot.system.locks import only_run


def test_a_lock_is_for_one_process_and_its_file_is_deleted(tmp_path):
    path = tmp_path / "folder" / "lock"
    with lock_of_another_process(path) as kill_it:
        with pytest.raises(ValueError, match="folder is in use by another run"), only_run(path):
            pass
        kill_it()
        with only_run(path):
            assert path.exists()
    assert not path.exists()


def test_a_thread_may_lock_again_what_it_holds_and_only_the_last_frees_it(tmp_path):
    path = tmp_path / "folder" / "lock"
    with only_run(path):
        with only_run(path):
            pass
        assert "in use by another run" in in_another_process(lambda: only_run(path).__enter__())
    assert list(tmp_path.iterdir()) == []  # the folder was new


def test_a_lock_file_that_was_deleted_meanwhile_locks_nobody_out(tmp_path, monkeypatch):
    path, lock = tmp_path / "lock", fcntl.lockf

    def deleted_before(*arguments):
        path.unlink()  # by the run that has just ended
        monkeypatch.setattr(fcntl, "lockf", lock)
        lock(*arguments)

    monkeypatch.setattr(fcntl, "lockf", deleted_before)
    with only_run(path):
        assert "in use by another run" in in_another_process(lambda: only_run(path).__enter__())


def test_a_file_system_without_locks_locks_nothing(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    with only_run(tmp_path / "lock"):
        pass
    assert not (tmp_path / "lock").exists()


def test_a_link_at_the_lock_files_name_is_refused_and_leads_to_no_file_that_is_changed(tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("kept")
    for target in (mine, tmp_path / "absent"):
        (tmp_path / "lock").symlink_to(target)
        with pytest.raises(ValueError, match="lock is a link to .*delete the link"):
            only_run(tmp_path / "lock").__enter__()
        (tmp_path / "lock").unlink()
    assert mine.read_text() == "kept"
    assert not (tmp_path / "absent").exists()


def test_a_pipe_at_the_lock_files_name_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "lock")
    with pytest.raises(ValueError, match="lock is a device or a pipe"):
        only_run(tmp_path / "lock").__enter__()
