import os
import select
import signal

import pytest
from damages import DAMAGES, flipped
from dying import killed_before_step, largest_file, lock_of_another_process
from killing import contents
from processes import script_error
from small_shards import in_memory, write

from zoobot import create_shards
from zoobot.data.shards import file as shard_file
from zoobot.data.shards import images as shard_images
from zoobot.data.shards.file import _write_tensors
from zoobot.data.shards.reader import open_shards, read_index, verify
from zoobot.data.shards.writer import tqdm
from zoobot.script import run_script

LONGEST_S = 60


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def whole(tmp_path):
    """A folder of 3 shards, and its files."""
    write(in_memory(9), tmp_path / "whole")
    return tmp_path / "whole", contents(tmp_path / "whole")


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_killed_before_any_step_on_files_the_rerun_leaves_the_same_files_and_no_others(
    tmp_path, encoding
):
    table = in_memory(9, split=["train", "test", "train"] * 3)
    write(table, tmp_path / "whole", encoding=encoding)
    expected = contents(tmp_path / "whole")
    kills = 0
    while True:
        folder = tmp_path / f"out{kills}"
        if not killed_before_step(kills + 1, lambda: write(table, folder, encoding=encoding)):  # noqa: B023
            break
        for name, content in contents(folder).items():
            assert name.rpartition("/")[2].startswith(".") or content == expected[name]
        if not (folder / "index.json").exists():
            with pytest.raises(ValueError, match="no index.json"):
                open_shards(folder, "train")
        write(table, folder, encoding=encoding)
        assert contents(folder) == expected
        kills += 1
    assert kills > 15


def unfinished(folder):
    """As a run leaves it that was killed before its index was written."""
    (folder / "index.json").unlink()


@pytest.mark.parametrize("damage", [*DAMAGES, "missing"])
def test_a_damaged_shard_of_a_killed_run_is_written_again_and_no_other(whole, monkeypatch, damage):
    folder, expected = whole
    unfinished(folder)
    name = "train/shard-00001.safetensors"
    if damage == "missing":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(DAMAGES[damage](expected[name]))
    written, write_tensors = [], _write_tensors
    monkeypatch.setattr(
        shard_file, "_write_tensors", lambda *a: written.append(a[0]) or write_tensors(*a)
    )
    write(in_memory(9), folder)
    assert contents(folder) == expected
    assert [path.name.startswith(".shard-00001") for path in written] == [True]


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_no_byte_of_a_shard_can_be_altered_unnoticed_before_the_index_is_written(
    tmp_path, encoding
):
    table = in_memory(3)
    write(table, tmp_path, encoding=encoding)
    expected = contents(tmp_path)
    name = "train/shard-00000.safetensors"
    for place in range(0, len(expected[name]), 17):
        unfinished(tmp_path)
        (tmp_path / name).write_bytes(flipped(expected[name], place))
        write(table, tmp_path, encoding=encoding)
        assert contents(tmp_path) == expected


def test_shards_whose_plan_is_gone_are_not_taken_for_other_galaxies(whole, tmp_path):
    folder, _ = whole
    unfinished(folder)
    (folder / "plan.json").unlink()
    others = in_memory(9).assign(id_str=[f"h{i}" for i in range(9)], a=3)
    write(others, folder)
    write(others, tmp_path / "fresh")
    assert contents(folder) == contents(tmp_path / "fresh")
    assert open_shards(folder, "train").id_str(0).startswith("h")


def test_a_catalog_that_changed_is_refused_and_nothing_is_mixed(whole):
    folder, expected = whole
    unfinished(folder)
    for changed in (in_memory(8), in_memory(9, a=1), in_memory(9, split="train")[::-1].assign(b=2)):
        with pytest.raises(ValueError, match="was begun with other .*: delete the folder, or give"):
            write(changed, folder)
    write(in_memory(9), folder)
    assert contents(folder) == expected


@pytest.mark.parametrize(
    "damage", [name for name in DAMAGES if "flipped" not in name and name != "zeros"] + ["missing"]
)
def test_a_torn_shard_of_a_finished_folder_is_named_and_the_rerun_writes_it_again(whole, damage):
    folder, expected = whole
    path = folder / "train/shard-00001.safetensors"
    path.unlink() if damage == "missing" else path.write_bytes(DAMAGES[damage](path.read_bytes()))
    told = (
        "shard-00001.safetensors is (torn: [0-9]+ bytes, not [0-9]+|missing): rerun create_shards"
    )
    for read in (lambda: open_shards(folder, "train"), lambda: verify(folder)):
        with pytest.raises(ValueError, match=told.split(": rerun")[0]):
            read()
    write(in_memory(9), folder)
    assert contents(folder) == expected


@pytest.mark.parametrize(
    "damage", [name for name in DAMAGES if "flipped" in name or name == "zeros"]
)
def test_an_altered_shard_of_a_finished_folder_is_named_and_written_again_once_deleted(
    whole, damage
):
    folder, expected = whole
    names = [f"train/shard-0000{i}.safetensors" for i in range(3)]
    for name in names[:2]:
        (folder / name).write_bytes(DAMAGES[damage](expected[name]))
    with pytest.raises(ValueError, match="shard-00000.*shard-00001.*: delete these files") as error:
        verify(folder)
    assert "shard-00002" not in str(error.value)
    (folder / names[0]).unlink()  # the other one is found by the writer
    write(in_memory(9), folder)
    assert contents(folder) == expected


def test_an_index_cut_anywhere_is_told_by_readers_and_written_again(whole):
    folder, expected = whole
    text = expected["index.json"]
    for length in [*range(0, len(text) - 2, 10), len(text) - 2]:
        (folder / "index.json").write_bytes(text[:length])
        with pytest.raises(ValueError, match="index.json is damaged .*: rerun create_shards"):
            read_index(folder)
        write(in_memory(9), folder)
        assert contents(folder) == expected


def words_for(catalog, tree, folder, *more):
    sizes = ["--img-size", 40, "--galaxies-a-shard", 9, "--eval-size", 20, "--encoding", "raw"]
    labels = ["--label-cols", *tree.label_cols]
    return ["--labelled-catalog", catalog, "--shard-dir", folder, *labels, *sizes, *more]


def shard(*words):
    run_script(create_shards.main, lambda: create_shards.parse([str(word) for word in words]))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_full_disk_is_one_line_and_the_rerun_completes(
    tmp_path, tree, small_catalog, capsys, num_workers
):
    words = words_for(small_catalog, tree, tmp_path / "out", "--num-workers", num_workers)
    shard(*words_for(small_catalog, tree, tmp_path / "whole", "--num-workers", 0))
    expected = contents(tmp_path / "whole")
    largest = max(map(len, expected.values()))
    for num_bytes in (0, 100, len(expected["plan.json"]), largest // 2, largest - 1):
        with largest_file(num_bytes):
            line = script_error(capsys, create_shards, *words)
        assert "File too large: " in line
        assert ("plan.json'" if num_bytes <= 100 else ".safetensors'") in line
        assert contents(tmp_path / "out").items() <= expected.items()
    shard(*words)
    assert contents(tmp_path / "out") == expected


def test_a_folder_that_can_not_be_written_to_is_refused_before_any_image_is_read(
    tmp_path, tree, small_catalog, capsys, monkeypatch
):
    read = []
    monkeypatch.setattr(shard_images, "read_image", lambda *a, **k: read.append(a))
    (tmp_path / "file").write_text("")
    words = words_for(small_catalog, tree, tmp_path / "file" / "out", "--num-workers", 0)
    assert "Not a directory" in script_error(capsys, create_shards, *words)
    assert read == []


def test_a_second_run_into_the_same_folder_is_refused_until_the_first_one_ends_or_is_killed(
    whole, tmp_path
):
    _, expected = whole
    with lock_of_another_process(tmp_path / "out" / ".lock") as kill_it:
        with pytest.raises(ValueError, match="out is in use by another run: wait"):
            write(in_memory(9), tmp_path / "out")
        assert list(contents(tmp_path / "out")) == [".lock"]
        kill_it()
        write(in_memory(9), tmp_path / "out")
    assert contents(tmp_path / "out") == expected


def test_a_writing_process_that_is_killed_is_one_line_and_the_rerun_completes(
    whole, tmp_path, monkeypatch
):
    _, expected = whole
    ours, encode = os.getpid(), shard_images.encode_jpeg

    def die(source, description, quality, name, *options):
        if "g7" in name and os.getpid() != ours:
            os.kill(os.getpid(), signal.SIGKILL)
        return encode(source, description, quality, name, *options)

    with monkeypatch.context() as patched:
        patched.setattr(shard_images, "encode_jpeg", die)
        with pytest.raises(ValueError, match="a writing process was killed, perhaps for lack of"):
            write(in_memory(9), tmp_path / "out", num_workers=2)
    assert not (tmp_path / "out" / "index.json").exists()
    write(in_memory(9), tmp_path / "out", num_workers=2)
    assert contents(tmp_path / "out") == expected


def test_writing_processes_end_when_the_one_that_started_them_is_killed(tmp_path, monkeypatch):
    ended, alive = os.pipe()  # read ends when no process is left that could write
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(tqdm, "update", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        write(in_memory(9), tmp_path, num_workers=3)
        os._exit(1)
    os.close(alive)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    readable, _, _ = select.select([ended], [], [], LONGEST_S)
    assert readable
    assert os.read(ended, 1) == b""
    os.close(ended)


def test_a_clock_that_was_set_back_changes_nothing(whole):
    folder, expected = whole
    unfinished(folder)
    files = [folder / name for name in expected if name != "index.json"]
    for path, seconds in zip(files, (2**33, 0, 2**32, 1), strict=True):
        os.utime(path, (seconds, seconds))
    times = [path.stat().st_mtime_ns for path in files if path.name != "plan.json"]
    write(in_memory(9), folder)
    assert contents(folder) == expected
    assert [path.stat().st_mtime_ns for path in files if path.name != "plan.json"] == times
