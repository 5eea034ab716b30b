import errno

import pytest
import torch
from small_runs import find, open_run, save_epochs

from zoobot.runs import checkpoint, resume


@pytest.fixture
def folder(tmp_path):
    """A run's folder with the states of two epochs."""
    with open_run(tmp_path) as run:
        save_epochs(run, [2.0, 1.0], save_top_k=0)
    return tmp_path


def files(folder):
    return {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()}


@pytest.mark.parametrize("spoilt", [["last", "previous"], ["last"]])
def test_a_run_without_a_sound_state_is_refused_however_often_it_is_asked(folder, spoilt):
    for name in ("last", "previous"):
        path = folder / "checkpoints" / f"{name}.ckpt"
        if name in spoilt:
            path.write_bytes(path.read_bytes()[:-50])
        else:
            path.unlink()
    before = files(folder)
    for _ in range(3):
        with pytest.raises(ValueError, match="no state to go on from.*last.ckpt.*--resume never"):
            find(folder)
        assert files(folder) == before


FAULTS = [
    OSError(errno.EIO, "Input/output error"),
    OSError(errno.ESTALE, "Stale file handle"),
    PermissionError(errno.EACCES, "Permission denied"),
    MemoryError(),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
]


def failing(monkeypatch, fault, times):
    """Let reading a state fail so often; returns the seconds that are waited."""
    load, waits, failed = torch.load, [], []

    def fail_first(*arguments, **options):
        if len(failed) < times:
            failed.append(1)
            raise fault
        return load(*arguments, **options)

    monkeypatch.setattr(torch, "load", fail_first)
    monkeypatch.setattr(resume.time, "sleep", waits.append)
    return waits


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
@pytest.mark.parametrize("name", ["auto", "named"])
def test_a_state_that_can_not_be_read_for_a_moment_is_tried_again(folder, monkeypatch, fault, name):
    waits = failing(monkeypatch, fault, times=2)
    chosen = "auto" if name == "auto" else str(folder / "checkpoints" / "last.ckpt")
    assert find(folder, chosen)["progress"]["epoch"] == 2
    assert waits == list(resume.WAITS_S[:2])


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
def test_a_state_that_can_still_not_be_read_stops_the_run_and_stays(folder, monkeypatch, fault):
    before = files(folder)
    with monkeypatch.context() as patch:
        waits = failing(patch, fault, times=99)
        with pytest.raises(ValueError, match="last.ckpt can't be read now.*left as it is"):
            find(folder)
        assert waits == list(resume.WAITS_S)
    assert files(folder) == before
    assert find(folder)["progress"]["epoch"] == 2


def test_a_folder_given_as_a_state_is_refused_without_waiting(folder, monkeypatch):
    monkeypatch.setattr(resume.time, "sleep", lambda _: pytest.fail("waited"))
    with pytest.raises(ValueError, match="checkpoints is not a readable checkpoint"):
        find(folder, str(folder / "checkpoints"))


def test_weights_that_can_not_be_read_for_a_moment_are_not_taken_for_lost(folder, monkeypatch):
    state = find(folder)

    def fails(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "read_safetensors", fails)
        with pytest.raises(checkpoint.NotReadNow, match="safetensors can't be read now"):
            open_run(folder, state)
    with open_run(folder, find(folder)):
        assert checkpoint.load_weights(folder / "best.safetensors")[0]["w"][0] == 2


def test_two_spoilt_states_are_told_in_short(folder):
    for name in ("last", "previous"):
        path = folder / "checkpoints" / f"{name}.ckpt"
        path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="no state to go on from") as refused:
        find(folder)
    assert len(str(refused.value).replace(str(folder), "")) < 400
    assert "miniz" not in str(refused.value)


def test_weights_are_no_state_to_go_on_from(folder):
    weights = folder / "best.safetensors"
    with pytest.raises(ValueError, match="holds weights only.*ckpt_path='last'"):
        find(folder, str(weights))
    with pytest.raises(ValueError, match="no checkpoint .*absent.safetensors"):
        find(folder, str(folder / "absent.safetensors"))
