import os
import signal
import subprocess
import sys

import pandas as pd
import predict_worker
import pytest
import torch
from conftest import REPO, draw_galaxies
from killing import contents
from processes import torchrun
from torch import nn

import predict as script
from zoobot.data.dataset import CatalogDataset, ImagesSeen
from zoobot.models.architectures import get_pytorch_encoder
from zoobot.models.finetune import FinetuneableZoobotClassifier
from zoobot.models.tree import ZoobotTree
from zoobot.predictions import parts as parts_file
from zoobot.predictions import passes, predict
from zoobot.predictions.files import read_predictions
from zoobot.predictions.models import ZoobotEncoder
from zoobot.pytorch.predictions import predict_on_catalog
from zoobot.runs import checkpoint
from zoobot.script import run_script

WORKER = "tests/predict_worker.py"
QUICK = {"batch_size": 4, "num_workers": 0, "show_progress": False, "precision": "fp32"}
SEEN = {"image_size": 32, "view": {"output_size": 32, "random_affine": {"degrees": 0}}}


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def models(tree):
    """Two trees of one kind, with classes between them."""
    torch.manual_seed(0)
    made = [
        ZoobotTree(schema=tree, architecture_name="test_resnet", dropout_rate=0.5),
        FinetuneableZoobotClassifier(
            num_classes=3, label_col="ring", encoder=get_pytorch_encoder("test_resnet")
        ),
        ZoobotTree(schema=tree, architecture_name="test_resnet", dropout_rate=0.5),
    ]
    for model in made:
        nn.init.normal_(model.head.linear.weight, std=0.5)
        model.images_seen = ImagesSeen.from_dict(SEEN)
    return made


@pytest.fixture
def catalog(tmp_path, tree):
    """10 galaxies, one of which can't be read: 3 parts with batches of 4."""
    path = draw_galaxies(tmp_path, tree, 10)
    (tmp_path / "images" / "g6.png").write_bytes(b"")
    return path


def saved(models, folder):
    paths = [folder / f"{i}.safetensors" for i in range(len(models))]
    for path, model in zip(paths, models, strict=True):
        checkpoint.save_weights(path, model.state_dict(), model.describe() | SEEN)
    return paths


def folders(tmp_path, *names):
    for name in names:
        (tmp_path / name).mkdir()
    return [tmp_path / name for name in names]


def alone(catalog, models, folder, names, **options):
    """The files of two predictions: of the trees, and of the classes."""
    votes, rings = names
    predict.predict_to_file(catalog, [models[0], models[2]], folder / votes, **options)
    options.pop("summary", None)
    predict.predict_to_file(catalog, models[1], folder / rings, **options)
    return contents(folder)


@pytest.mark.parametrize(
    "names",
    [
        ("votes.parquet", "rings.parquet"),
        ("votes.csv", "rings.hdf5"),
        ("votes.fits", "rings.vot"),
    ],
)
def test_files_of_one_pass_are_those_of_a_prediction_each_and_images_are_read_once(
    models, catalog, tmp_path, monkeypatch, names
):
    options = QUICK | {"num_views": 2, "num_samples": 3, "on_bad_image": "record"}
    options |= {"summary": True, "carry": ["file_loc"]}
    apart, together = folders(tmp_path, "apart", "together")
    expected = alone(catalog, models, apart, names, **options)
    read, decoded = [], CatalogDataset._decoded
    monkeypatch.setattr(
        CatalogDataset, "_decoded", lambda self, i, *more: read.append(i) or decoded(self, i, *more)
    )
    save_locs = [together / name for name in names]
    assert predict.predict_to_file(catalog, models, save_locs, **options) == save_locs
    assert read == [*range(10)]
    assert len(expected) == 3  # the trees have a summary
    assert contents(together) == expected


def test_a_list_of_files_gives_a_list_of_tables_and_encoders_have_a_file_each(catalog, tmp_path):
    names = ("test_resnet", "test_convnext")
    encoders = [ZoobotEncoder(get_pytorch_encoder(name)) for name in names]
    for encoder in encoders:
        encoder.images_seen = ImagesSeen.from_dict(SEEN)
    options = QUICK | {"on_bad_image": "record"}
    save_locs = [tmp_path / "a.csv", tmp_path / "b.csv"]
    tables = predict_on_catalog.predict(catalog, encoders, save_locs, **options)
    for table, encoder in zip(tables, encoders, strict=True):
        expected = predict_on_catalog.predict(catalog, encoder, tmp_path / "c.csv", **options)
        pd.testing.assert_frame_equal(table, expected)


def test_a_killed_pass_goes_on_in_two_processes_and_leaves_the_files_of_one(
    models, catalog, tmp_path
):
    (tmp_path / "images" / "g6.png").write_bytes((tmp_path / "images" / "g5.png").read_bytes())
    checkpoints = os.pathsep.join(map(str, saved(models, tmp_path)))
    whole, killed = folders(tmp_path, "whole", "killed")

    def words(folder, parts_to_write=0):
        names = os.pathsep.join(str(folder / name) for name in ("votes.parquet", "rings.parquet"))
        return [checkpoints, str(catalog), names, str(parts_to_write)]

    predict_worker.main(*words(whole))
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
    command = [sys.executable, str(REPO / WORKER), *words(killed, 3)]
    died = subprocess.run(command, env=env, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr[-2000:]
    assert len(list(killed.glob("*.parts/part-*"))) == 3
    done = torchrun(2, WORKER, *words(killed), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    assert len(contents(whole)) == 3
    assert contents(killed) == contents(whole)


def stop_before_joining(monkeypatch, *arguments, **options):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(predict, "join_parts", stop)
        with pytest.raises(KeyboardInterrupt):
            predict.predict_to_file(*arguments, **options)


@pytest.fixture
def predicted(monkeypatch):
    """Fills with the number of models of each batch that is predicted."""
    numbers, predict_batch = [], passes._predict_batch

    def spy(members, *more):
        numbers.append(len(members))
        return predict_batch(members, *more)

    monkeypatch.setattr(passes, "_predict_batch", spy)
    return numbers


def test_what_one_file_has_of_a_killed_run_is_kept_by_a_pass_of_several_and_the_other_way_round(
    models, catalog, tmp_path, monkeypatch, predicted
):
    options = QUICK | {"on_bad_image": "record"}
    names = ("votes.csv", "rings.csv")
    apart, together = folders(tmp_path, "apart", "together")
    save_locs = [together / name for name in names]
    expected = alone(catalog, models, apart, names, **options)
    stop_before_joining(monkeypatch, catalog, models[1], save_locs[1], **options)
    (save_locs[1].with_name("rings.csv.parts") / "part-0000002.safetensors").unlink()
    predicted.clear()
    stop_before_joining(monkeypatch, catalog, models, save_locs, **options)
    assert predicted == [2, 2, 2, 1]
    predicted.clear()
    assert alone(catalog, models, together, names, **options) == expected
    assert predicted == []


def test_parts_of_other_groups_are_not_taken_and_no_folder_is_changed(
    models, catalog, tmp_path, monkeypatch
):
    options = QUICK | {"on_bad_image": "record"}
    (out,) = folders(tmp_path, "out")
    rings, votes = out / "rings.csv", out / "votes.csv"
    stop_before_joining(monkeypatch, catalog, models[:2], [votes, rings], **options)
    left = {name for name in contents(out) if "galaxies" not in name}
    with pytest.raises(ValueError, match="rings.csv.parts holds parts of another .*task, .*differ"):
        predict.predict_to_file(catalog, models[:2][::-1], [out / "new.csv", rings], **options)
    assert {name for name in contents(out) if "galaxies" not in name} == left


def test_all_files_of_a_pass_have_the_same_parts_whose_size_is_bounded_by_all(
    models, catalog, tmp_path, monkeypatch
):
    options = QUICK | {"on_bad_image": "record"}
    monkeypatch.setattr(parts_file, "PARTS_AIMED_AT", 1)
    monkeypatch.setattr(parts_file, "LARGEST_PART_VALUES", 80)
    (out,) = folders(tmp_path, "out")
    save_locs = [out / "votes.csv", out / "rings.csv"]
    stop_before_joining(monkeypatch, catalog, models[1], save_locs[1], **options)
    assert len(list(out.glob("rings.csv.parts/part-*"))) == 2  # of 8 galaxies
    with pytest.raises(ValueError, match="another prediction: part_rows differ"):
        predict.predict_to_file(catalog, models, save_locs, **options)
    stop_before_joining(monkeypatch, catalog, models, save_locs, resume=False, **options)
    assert [len(list(out.glob(f"{p.name}.parts/part-*"))) for p in save_locs] == [3, 3]


def test_misuse_of_several_files_is_told_before_anything_is_written(models, catalog, tmp_path):
    (out,) = folders(tmp_path, "out")
    (tmp_path / "t.json").write_text("{}")

    def refused(match, names, using=models, **options):
        with pytest.raises(ValueError, match=match):
            predict.predict_to_file(
                catalog, using, [out / name for name in names], **QUICK | options
            )
        assert contents(out) == {}

    two = ["a.csv", "b.csv"]
    refused("the same tasks: .*one for models 1, 3 .tree., one for model 2 .classif", ["a.csv"])
    refused("two files would be .*a.csv: give", ["a.csv", "a.csv"])
    names = ["votes.parquet", "votes_summary.parquet"]
    refused("two files would be .*votes_summary.parquet", names, summary=True)
    refused("2 checkpoints are told of 3 models", two, checkpoint=["a", "b"])
    files = [tmp_path / "t.json"] * 2
    refused("2 files of temperatures for 1 trees", two, summary=True, temperatures=files)
    classes = models[1]
    refused("of decision trees, not of classification", ["a.csv"], [classes], summary=True)
    refused("--carry smooth_yes: that is also", two, models[::-1], carry=["smooth_yes"])


def test_the_script_gives_models_of_different_things_a_file_each_and_names_them(
    models, catalog, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    words = ["--checkpoint", *(path.name for path in saved(models, tmp_path)), "--catalog"]
    words += [str(catalog), "--save-loc", "votes.parquet", "rings.csv", "--summary"]
    words += ["--on-bad-image", "record", "--num-workers", "0"]
    run_script(script.main, lambda: script.parse(words))
    told = capsys.readouterr().out
    assert "votes.parquet\nsummary votes_summary.parquet\npredictions rings.csv\n" in told
    assert read_predictions("votes.parquet").metadata["checkpoints"] == [
        "0.safetensors",
        "2.safetensors",
    ]
    assert list(pd.read_csv("rings.csv").columns) == [
        *("id_str", "ring_0", "ring_1", "ring_2", "error")
    ]
