import errno

import pytest
import torch
from dying import killed_before_step
from small_runs import find, open_run, save_epochs, weights_of

from zoobot.runs import checkpoint
from zoobot.runs.resume import Progress


@pytest.fixture(autouse=True)
def _without_asking_git(monkeypatch):
    monkeypatch.setattr("zoobot.runs.folder.environment", dict)


def best_of(folder) -> float:
    return checkpoint.load_weights(folder / "best.safetensors")[0]["w"][0].item()


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("on_save_error", ["stop", "continue"])
def test_best_weights_stay_those_of_the_state_if_this_can_not_be_saved(
    tmp_path, monkeypatch, on_save_error
):
    with open_run(tmp_path, on_save_error=on_save_error) as run:
        progress = save_epochs(run, [3.0])
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "save_checkpoint", full_disk)
            if on_save_error == "continue":
                progress = save_epochs(run, [2.0], progress=progress)
            else:
                with pytest.raises(ValueError, match="No space left"):
                    save_epochs(run, [2.0], progress=progress)
        assert best_of(tmp_path) == 1
        assert sorted(p.name for p in tmp_path.glob("checkpoints/next*")) == []
        if on_save_error == "continue":
            save_epochs(run, [2.5, 2.7], progress=progress)
            assert best_of(tmp_path) == 3
    state = find(tmp_path)
    assert best_of(tmp_path) == state["progress"]["best_epoch"]


@pytest.mark.parametrize("save_top_k", [0, 1])
def test_killed_before_any_step_of_a_save_the_best_weights_are_those_of_the_state(
    tmp_path, save_top_k
):
    for number in range(1, 50):
        folder = tmp_path / str(number)
        with open_run(folder) as run:
            progress = save_epochs(run, [3.0, 4.0], save_top_k)

        def better(run=run, progress=progress):
            save_epochs(run, [2.0], save_top_k, progress)

        was_killed = killed_before_step(number, better)
        state = find(folder)
        with open_run(folder, state):
            assert best_of(folder) == state["progress"]["best_epoch"]
            assert state["progress"]["best_epoch"] in (1, 3)
        if not was_killed:
            break
    assert number > 5
    assert state["progress"]["best_epoch"] == 3


def test_an_earlier_epoch_brings_its_best_weights_back(tmp_path):
    with open_run(tmp_path) as run:
        save_epochs(run, [3.0, 2.0, 2.5, 1.0], save_top_k=-1)
    for epoch, best in ((3, 2), (1, 1), (4, 4), (2, 2)):
        state = find(tmp_path, str(tmp_path / "checkpoints" / f"epoch={epoch}.ckpt"))
        with open_run(tmp_path, state) as run:
            assert best_of(tmp_path) == state["progress"]["best_epoch"] == best
            assert f"epoch={best}-" in run.keep_best()


def test_best_weights_that_are_spoilt_are_written_anew_from_their_epoch(tmp_path):
    with open_run(tmp_path) as run:
        save_epochs(run, [3.0, 4.0])
    good = (tmp_path / "best.safetensors").read_bytes()
    for spoilt in (b"", good[:-9], None):
        (tmp_path / "best.safetensors").unlink()
        if spoilt is not None:
            (tmp_path / "best.safetensors").write_bytes(spoilt)
        with open_run(tmp_path, find(tmp_path)):
            assert (tmp_path / "best.safetensors").read_bytes() == good


def test_if_the_best_weights_are_lost_the_epochs_to_come_are_ranked(tmp_path, capsys):
    with open_run(tmp_path) as run:
        save_epochs(run, [3.0, 4.0, 2.0])
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(b"spoilt")
    state = find(tmp_path)  # of epoch 2; its best weights, the first's, were replaced in epoch 3
    with open_run(tmp_path, state) as run:
        assert "best weights of epoch 1 are lost" in capsys.readouterr().err
        assert run.keep_best() == ""
        progress = Progress(**state["progress"])
        assert (progress.epoch, progress.best_loss) == (2, float("inf"))
        save_epochs(run, [5.0], progress=progress)
        assert best_of(tmp_path) == 3
        assert torch.equal(
            checkpoint.load_checkpoint(run.keep_best())["model"]["w"], weights_of(3)["w"]
        )


def test_a_state_of_an_earlier_version_goes_on_with_the_best_weights_that_there_are(tmp_path):
    with open_run(tmp_path) as run:
        save_epochs(run, [3.0, 4.0])
    state = find(tmp_path)
    del state["best_weights"]
    with open_run(tmp_path, state) as run:
        assert torch.equal(
            checkpoint.load_checkpoint(run.keep_best())["model"]["w"], weights_of(1)["w"]
        )
