import os
import sys
import tracemalloc

import pytest
from dying import largest_file

from zoobot.system import files


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_that_can_not_be_written_is_named_and_the_old_one_stays(tmp_path):
    path = tmp_path / "a"
    files.write_text(path, "old")
    with largest_file(3), pytest.raises(OSError, match="File too large: .*/a'"):
        files.write_text(path, "longer")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("has_links", [True, False])
def test_a_second_name_is_a_link_or_a_copy(tmp_path, monkeypatch, has_links):
    def no_link(*_):
        raise OSError(1, "Operation not permitted")

    if not has_links:
        monkeypatch.setattr(os, "link", no_link)
    files.write_text(tmp_path / "a", "text")
    for _ in range(2):
        files.duplicate_file(tmp_path / "a", tmp_path / "b")
        assert (tmp_path / "b").read_text() == "text"
        assert (tmp_path / "b").samefile(tmp_path / "a") == has_links
        assert names(tmp_path) == ["a", "b"]


def test_only_temporary_files_are_leftovers(tmp_path):
    for name in (f".a.0{files.LEFTOVER}", f"b{files.LEFTOVER}", ".c"):
        (tmp_path / name).write_text("")
    files.remove_leftovers(tmp_path)
    assert names(tmp_path) == [".c", f"b{files.LEFTOVER}"]


@pytest.mark.parametrize("platform", [sys.platform, "darwin"])
def test_reserved_space_is_on_the_disk_and_reads_as_zeros(tmp_path, monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    path, end = tmp_path / "a", 2 * files.ZEROS + 5
    path.write_bytes(b"abc")
    files.reserve_space(path, 3, end)
    assert path.read_bytes() == b"abc" + bytes(end - 3)
    assert path.stat().st_blocks * 512 >= end
    with largest_file(end), pytest.raises(OSError, match="File too large"):
        files.reserve_space(path, end, end + 1)


def test_text_is_not_added_to_what_a_link_leads_to(tmp_path):
    (tmp_path / "mine").write_text("kept")
    (tmp_path / "log").symlink_to(tmp_path / "mine")
    with pytest.raises(ValueError, match="log is a link to"):
        files.append_text(tmp_path / "log", "more")
    assert (tmp_path / "mine").read_text() == "kept"


def test_a_pipe_is_not_read_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "file").write_bytes(b"read")
    for use in (files.open_to_read, files.open_to_append):
        with pytest.raises(ValueError, match="pipe is a device or a pipe"):
            use(tmp_path / "pipe")
    with files.open_to_read(tmp_path / "link") as file:  # what is only read may be linked
        assert file.read() == b"read"


def test_no_memory_is_taken_for_bytes_that_a_file_does_not_have(tmp_path):
    (tmp_path / "a").write_bytes(b"0123456789")
    with files.open_to_read(tmp_path / "a") as file:
        tracemalloc.start()
        assert file.read(4) == b"0123"
        assert file.read(2**40) == b"456789"
        assert file.read(2**40) == b""
        file.seek(20)
        assert file.read(2**40) == b""
        assert tracemalloc.get_traced_memory()[1] < 2**20
        tracemalloc.stop()
        file.seek(8)
        assert (file.read(None), file.seek(1), file.read()) == (b"89", 1, b"123456789")
        assert file.name == str(tmp_path / "a") or file.name == tmp_path / "a"
