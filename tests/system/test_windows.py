import errno
import os
import time

import pytest

from zoobot.system import windows


@pytest.fixture
def scanner(monkeypatch):
    """A virus scanner that has files open for so many tries; gives the waits between them."""
    waited, usual = [], os.replace

    def busy_for(num_tries):
        def replace(path, new):
            if len(waited) < num_tries:
                raise PermissionError(errno.EACCES, "Access is denied", str(new))
            usual(path, new)

        monkeypatch.setattr(os, "replace", replace)
        monkeypatch.setattr(time, "sleep", waited.append)
        return waited

    return busy_for


def test_a_file_is_replaced_once_who_reads_it_has_closed_it(tmp_path, scanner):
    (tmp_path / "new").write_text("new")
    waited = scanner(3)
    windows.replace(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old").read_text() == "new"
    assert len(waited) == 3


def test_a_file_that_stays_open_is_an_error_that_names_it(tmp_path, scanner):
    waited = scanner(99)
    with pytest.raises(PermissionError, match="old"):
        windows.replace(tmp_path / "new", tmp_path / "old")
    assert sum(waited) < 2


def test_another_error_is_not_waited_for(tmp_path, scanner):
    waited = scanner(0)
    with pytest.raises(FileNotFoundError):
        windows.replace(tmp_path / "none", tmp_path / "old")
    assert not waited
