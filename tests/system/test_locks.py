import errno
import fcntl

import pytest
from dying import lock_of_another_process

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


def test_a_file_system_without_locks_locks_nothing(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    with only_run(tmp_path / "lock"):
        pass
    assert not (tmp_path / "lock").exists()
