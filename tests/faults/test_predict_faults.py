import argparse
import os

import numpy as np
import pandas as pd
import predict_worker
import pytest
import torch
from conftest import draw_galaxies
from damages import DAMAGES
from dying import killed_before_step, largest_file, lock_of_another_process
from killing import contents
from processes import script_error, torchrun
from torch import nn

import predict as script
from zoobot.data.dataset import ImagesSeen
from zoobot.models.tree import ZoobotTree
from zoobot.predictions import parts as parts_file
from zoobot.predictions import passes, predict
from zoobot.predictions.files import Predictions, open_writer, read_predictions
from zoobot.predictions.parts import read_part, tempfile
from zoobot.runs import checkpoint
from zoobot.script import run_script
from zoobot.system.files import write_whole

SEEN = {"image_size": 32, "view": {"output_size": 32, "random_affine": {"degrees": 0}}}
QUICK = {"batch_size": 4, "num_workers": 0, "show_progress": False, "precision": "fp32"}


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def model(tree):
    torch.manual_seed(0)
    model = ZoobotTree(schema=tree, architecture_name="test_resnet", dropout_rate=0.5)
    nn.init.normal_(model.head.linear.weight, std=0.5)
    model.images_seen = ImagesSeen.from_dict(SEEN)
    return model.eval()


@pytest.fixture
def catalog(tmp_path, tree):
    """10 galaxies: 3 parts with batches of 4."""
    return draw_galaxies(tmp_path, tree, 10)


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def run(catalog, model, save_loc, **more):
    return predict.predict_to_file(catalog, model, save_loc, **QUICK | more)


def fresh(catalog, model, tmp_path, name="p.csv", **more):
    """The files of a run that nothing happened to."""
    (tmp_path / "fresh").mkdir()
    run(catalog, model, tmp_path / "fresh" / name, **more)
    return contents(tmp_path / "fresh")


class Stopped(BaseException):
    pass


def stop_before_joining(catalog, model, save_loc, monkeypatch, **more):
    """All parts are there; returns their files."""

    def stop(*_):
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(predict, "join_parts", stop)
        with pytest.raises(Stopped):
            run(catalog, model, save_loc, **more)
    return sorted(save_loc.with_name(save_loc.name + ".parts").glob("part-*"))


@pytest.fixture
def predicted(monkeypatch):
    """Fills with the number of galaxies of each batch that is predicted."""
    sizes, predict_batch = [], passes._predict_batch

    def spy(members, batch, rows, *more):
        sizes.append(len(rows))
        return predict_batch(members, batch, rows, *more)

    monkeypatch.setattr(passes, "_predict_batch", spy)
    return sizes


def test_killed_before_any_step_on_files_the_rerun_leaves_the_same_files_and_no_others(
    model, catalog, tmp_path, monkeypatch
):
    monkeypatch.setattr(passes, "WRITERS", 1)  # its steps then come in one order
    expected = fresh(catalog, model, tmp_path, "p.parquet", summary=True)
    kills = 0
    while True:
        folder = tmp_path / f"out{kills}"
        folder.mkdir()
        save_loc = folder / "p.parquet"
        if not killed_before_step(
            kills + 1,
            lambda: run(catalog, model, save_loc, summary=True),  # noqa: B023
        ):
            break
        for path in (save_loc, folder / "p_summary.parquet"):
            assert not path.exists() or path.read_bytes() == expected[path.name]
        run(catalog, model, save_loc, summary=True)
        assert contents(folder) == expected
        kills += 1
    assert kills > 20


def test_a_part_that_is_torn_altered_or_missing_is_predicted_again_and_no_other(
    model, catalog, tmp_path, out, monkeypatch, predicted
):
    expected = fresh(catalog, model, tmp_path, summary=True)
    parts = stop_before_joining(catalog, model, out / "p.csv", monkeypatch, summary=True)
    whole = [path.read_bytes() for path in parts]
    for damage in [*DAMAGES.values(), None]:
        stop_before_joining(catalog, model, out / "p.csv", monkeypatch, summary=True)
        for path, content in zip(parts, whole, strict=True):
            path.write_bytes(content)
        parts[1].unlink() if damage is None else parts[1].write_bytes(damage(whole[1]))
        predicted.clear()
        run(catalog, model, out / "p.csv", summary=True)
        assert predicted == [4]
        assert contents(out) == expected


def work_of(save_loc, model, catalog, monkeypatch, **more):
    """The work and the finished parts of a run that was stopped before joining."""
    works, open_folder = [], predict.open_parts
    monkeypatch.setattr(
        predict, "open_parts", lambda work, *rest: works.append(work) or open_folder(work, *rest)
    )
    parts = stop_before_joining(catalog, model, save_loc, monkeypatch, **more)
    return works[0], parts


def test_no_bit_of_a_part_can_flip_unnoticed(model, catalog, out, monkeypatch):
    work, parts = work_of(out / "p.csv", model, catalog, monkeypatch)
    tensors, errors = read_part(work, 1)
    whole = parts[1].read_bytes()
    noticed = 0
    for bit in range(8 * len(whole)):
        altered = bytearray(whole)
        altered[bit // 8] ^= 1 << bit % 8
        parts[1].write_bytes(altered)
        try:
            again, told = read_part(work, 1)
        except ValueError:
            noticed += 1
            continue
        assert again.keys() == tensors.keys()
        assert all((again[name] == tensors[name]).all() for name in tensors)
        assert told == errors
    assert noticed > 7.5 * len(whole)  # but for the padding of the header


def test_a_part_of_other_galaxies_or_of_another_model_is_not_taken(
    model, catalog, tmp_path, out, monkeypatch, predicted
):
    expected = fresh(catalog, model, tmp_path)
    ours = stop_before_joining(catalog, model, out / "p.csv", monkeypatch)
    (tmp_path / "other").mkdir()
    with torch.no_grad():
        model.head.linear.bias += 1
    theirs = stop_before_joining(catalog, model, tmp_path / "other" / "p.csv", monkeypatch)
    with torch.no_grad():
        model.head.linear.bias -= 1
    ours[0].write_bytes(theirs[0].read_bytes())  # of a process that outlived its run
    ours[1].write_bytes(ours[2].read_bytes())
    predicted.clear()
    run(catalog, model, out / "p.csv")
    assert predicted == [4, 4]
    assert contents(out) == expected


@pytest.mark.parametrize("damage", [*DAMAGES, "missing"])
def test_a_part_that_is_damaged_while_others_are_predicted_is_refused_by_name(
    model, catalog, tmp_path, out, monkeypatch, damage
):
    parts = stop_before_joining(catalog, model, out / "p.csv", monkeypatch)
    with monkeypatch.context() as patched:
        patched.setattr(parts_file, "_is_whole", lambda *_: True)
        if damage == "missing":
            parts[2].unlink()
        else:
            parts[2].write_bytes(DAMAGES[damage](parts[2].read_bytes()))
        with pytest.raises(ValueError, match="part-0000002.* missing or damaged: rerun the same"):
            run(catalog, model, out / "p.csv")
    assert not (out / "p.csv").exists()
    run(catalog, model, out / "p.csv")
    assert contents(out) == fresh(catalog, model, tmp_path)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".hdf5"])
def test_a_full_disk_is_one_line_and_leaves_the_earlier_files_until_there_is_space(
    model, catalog, tmp_path, out, capsys, suffix
):
    save_loc, weights = out / f"p{suffix}", tmp_path / "best.safetensors"
    run(catalog, model, save_loc, summary=True)
    earlier = contents(out)
    with torch.no_grad():
        model.head.linear.bias += 1
    checkpoint.save_weights(weights, model.state_dict(), model.describe() | SEEN)
    words = [
        "--checkpoint", weights, "--catalog", catalog, "--save-loc", save_loc, "--summary",
        "--batch-size", 4, "--num-workers", 0, "--precision", "fp32", "--n-samples", 100,
    ]  # fmt: skip
    options = {"summary": True, "num_samples": 100, "checkpoint": weights}
    expected = fresh(catalog, model, tmp_path, f"p{suffix}", **options)
    largest = max(len(content) for content in expected.values())
    told = set()
    for num_bytes in range(0, largest, largest // 10):
        with largest_file(num_bytes):
            line = script_error(capsys, script, *words)
        assert "File too large" in line or "errno = 27" in line
        told |= {name for name in ("galaxies.arrow", "part-", f"/p{suffix}") if name in line}
        left = contents(out)
        assert {name: left.pop(name) for name in earlier} == earlier
        assert not [name for name in left if "/." in name]
    assert len(told) == 3
    run_script(script.main, lambda: script.parse([str(word) for word in words]))
    assert contents(out) == expected


def test_wherever_in_an_hdf5_file_a_disk_is_full_it_is_told_as_such(tmp_path):
    pytest.importorskip("h5py")
    ids = np.array([f"J{i:030d}" for i in range(200)], dtype=object)
    errors = np.array([None if i % 3 else "damaged" * i for i in range(200)], dtype=object)
    values = np.random.default_rng(0).random((200, 20, 3)).astype(np.float32)
    whole = Predictions(ids, values, [f"c{i}" for i in range(20)], errors)

    def write(aside):
        with open_writer(aside, ".hdf5", whole, 200) as writer:
            for rows in (slice(0, 70), slice(70, 200)):
                writer.write(Predictions(ids[rows], values[rows], whole.columns, errors[rows]))

    path = tmp_path / "p.hdf5"
    write_whole(path, write)
    assert (read_predictions(path).values == values).all()
    size = path.stat().st_size
    for num_bytes in range(0, size, size // 60):
        with largest_file(num_bytes), pytest.raises(OSError, match="File too large: .*again.hdf5"):
            write_whole(tmp_path / "again.hdf5", write)
    assert list(contents(tmp_path)) == ["p.hdf5"]


def test_hdf5_uses_no_more_space_than_is_reserved_however_long_the_texts(tmp_path):
    pytest.importorskip("h5py")
    lengths = np.random.default_rng(0).permutation([0, 20, 700, 1360, 2030, 4060, 4100, 33000] * 90)
    texts = np.array(["x" * length for length in lengths], dtype=object)
    whole = Predictions(texts, np.ones((720, 2, 1), np.float32), ["a", "b"], texts[::-1])
    path = tmp_path / "p.hdf5"
    with open_writer(path, ".hdf5", whole, 720) as writer:
        for i in range(0, 720, 40):
            rows = slice(i, i + 40)
            part = Predictions(texts[rows], whole.values[rows], ["a", "b"], whole.errors[rows])
            writer.write(part)
            assert writer._file.id.get_filesize() < path.stat().st_size == writer._reserved
    assert list(read_predictions(path).ids) == list(texts)
    assert path.stat().st_size < 2.2 * lengths.sum()


def test_a_full_disk_of_any_process_is_told(monkeypatch, capsys):
    def full(_):
        raise OSError(28, "No space left on device", "p.csv.parts/part-0000003.safetensors")

    second = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
              "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}  # fmt: skip
    for name, value in second.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match="2"):
        run_script(full, lambda: argparse.Namespace(debug=False))
    told = "error: [Errno 28] No space left on device: 'p.csv.parts/part-0000003.safetensors'\n"
    assert capsys.readouterr().err == told


def test_a_folder_that_can_not_be_written_to_is_refused_before_any_galaxy_is_predicted(
    model, catalog, tmp_path, out, monkeypatch, predicted, capsys
):
    (tmp_path / "file").write_text("")
    weights = tmp_path / "best.safetensors"
    checkpoint.save_weights(weights, model.state_dict(), model.describe() | SEEN)
    words = ["--checkpoint", weights, "--catalog", catalog, "--num-workers", 0]
    line = script_error(capsys, script, *words, "--save-loc", tmp_path / "file" / "p.csv")
    assert "Not a directory" in line

    def read_only(dir):
        raise OSError(30, "Read-only file system", str(dir))

    stop_before_joining(catalog, model, out / "p.csv", monkeypatch)
    (out / "p.csv.parts" / "part-0000000.safetensors").unlink()
    predicted.clear()
    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    with pytest.raises(OSError, match="Read-only file system: .*out"):
        run(catalog, model, out / "p.csv")
    assert predicted == []


def test_a_catalog_that_changed_is_refused_and_nothing_is_mixed(
    model, catalog, tmp_path, out, monkeypatch
):
    frame = pd.read_csv(catalog)
    stop_before_joining(catalog, model, out / "p.csv", monkeypatch)
    for changed in (frame[::-1], frame[:9], frame.assign(id_str=frame["id_str"] + "x")):
        changed.to_csv(catalog, index=False)
        with pytest.raises(ValueError, match="of another prediction: galaxies differ; delete"):
            run(catalog, model, out / "p.csv")
    assert not (out / "p.csv").exists()
    frame.to_csv(catalog, index=False)
    run(catalog, model, out / "p.csv")
    assert contents(out) == fresh(catalog, model, tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00"])
def test_a_damaged_plan_is_refused_by_name(model, catalog, out, monkeypatch, text):
    stop_before_joining(catalog, model, out / "p.csv", monkeypatch)
    (out / "p.csv.parts" / "plan.json").write_text(text)
    with pytest.raises(ValueError, match="plan.json is damaged: delete .*p.csv.parts to start"):
        run(catalog, model, out / "p.csv")


def test_a_clock_that_was_set_back_changes_nothing(
    model, catalog, tmp_path, out, monkeypatch, predicted
):
    parts = stop_before_joining(catalog, model, out / "p.csv", monkeypatch)
    for path, seconds in ((parts[0], 0), (parts[1], 2**32), (parts[0].parent / "plan.json", 2**33)):
        os.utime(path, (seconds, seconds))
    predicted.clear()
    run(catalog, model, out / "p.csv")
    assert predicted == []
    assert contents(out) == fresh(catalog, model, tmp_path)


def test_a_second_run_into_the_same_file_is_refused_until_the_first_one_ends_or_is_killed(
    model, catalog, tmp_path, out
):
    with lock_of_another_process(out / "p.csv.parts" / "lock") as kill_it:
        with pytest.raises(ValueError, match="p.csv.parts is in use by another run: wait"):
            run(catalog, model, out / "p.csv")
        assert not (out / "p.csv").exists()
        kill_it()
        run(catalog, model, out / "p.csv")
    assert contents(out) == fresh(catalog, model, tmp_path)


def test_a_rank_that_is_killed_ends_the_others_and_the_rerun_completes(model, catalog, tmp_path):
    weights = tmp_path / "best.safetensors"
    checkpoint.save_weights(weights, model.state_dict(), model.describe() | SEEN)
    words = [weights, catalog, tmp_path / "p.parquet"]
    died = torchrun(2, "tests/predict_worker.py", *words, 1, 1, cwd=tmp_path)
    assert died.returncode == 1
    assert "Signal 9 (SIGKILL) received" in died.stderr
    assert not (tmp_path / "p.parquet").exists()
    assert (tmp_path / "p.parquet.parts").exists()
    predict_worker.main(*map(str, words), 0)
    predict_worker.main(*map(str, words[:2]), str(tmp_path / "q.parquet"), 0)
    assert (tmp_path / "p.parquet").read_bytes() == (tmp_path / "q.parquet").read_bytes()
    assert not (tmp_path / "p.parquet.parts").exists()
