"""Mistakes at which a library raises a ValueError of its own: one line all the same."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from processes import script_error

import finetune
import predict
import train
from zoobot import evaluate
from zoobot.evaluation.number_figures import residuals
from zoobot.models.tree import ZoobotTree
from zoobot.predictions.files import read_predictions
from zoobot.runs import checkpoint
from zoobot.script import set_up_process

SMALL = [
    *("--encoder", "test_resnet", "--image-size", "32", "--epochs", "1", "--num-workers", "0"),
    *("--batch-size", "16", "--no-report", "--save-dir", "run", "--precision", "fp32"),
]


@pytest.fixture
def folder(small_catalog, tree, monkeypatch):
    frame = pd.read_csv(small_catalog)
    frame["label"] = (frame["smooth_yes"] > 10).astype(int)
    frame.to_csv(small_catalog, index=False)
    (small_catalog.parent / "tree.json").write_text(json.dumps(tree.to_dict()))
    monkeypatch.chdir(small_catalog.parent)
    return small_catalog.parent


def train_error(capsys, *words):
    return script_error(capsys, train, "--schema", "tree.json", *SMALL, *words)


def finetune_error(capsys, *words):
    return script_error(capsys, finetune, "--from-scratch", *SMALL, *words)


def test_betas_are_below_1(folder, capsys):
    assert "2 is not in [0, 1)" in train_error(capsys, "--catalog", "catalog.csv", "--betas", 2, 3)


def test_a_configuration_holds_no_nulls(folder, capsys):
    (folder / "run.yaml").write_text('save_dir: "a\\0b"\n')
    line = train_error(capsys, "--catalog", "catalog.csv", "--config", "run.yaml")
    assert "'save_dir' holds 'a\\x00b', which is not UTF-8 text, or has a null" in line


@pytest.mark.parametrize(
    "text",
    [
        f"epochs: 0x{'f' * 9000}",
        f"betas: [0x{'f' * 9000}]",
        '{"lr": 1e999}',
        '{"epochs": [1, 2]}',
        '{"epochs": 1e30}',
        '{"betas": {"a": 1}}',
        '{"lr":' + "[" * 60 + "]" * 60 + "}",
        '{"environment": {}, "lr": [[]]}',
        '{"epochs": 2020-99-99}',
        "{[1]: 2}",
        "7",
    ],
)
def test_a_hostile_configuration_is_one_line(folder, capsys, text):
    (folder / "run.json").write_text(text)
    assert train_error(capsys, "--catalog", "catalog.csv", "--config", "run.json")


def test_votes_may_not_be_missing(folder, capsys):
    frame = pd.read_csv("catalog.csv").convert_dtypes()
    frame.loc[3, "bar_weak"] = pd.NA
    frame.to_parquet("na.parquet")
    line = train_error(capsys, "--catalog", "na.parquet")
    assert "column 'bar_weak' of id_str 'g3' holds <NA>, which is no vote count" in line


@pytest.mark.parametrize(
    ("label", "told"),
    [
        ("0x", "of id_str 't0' holds '0x'; the classes of the training galaxies are 0, 1"),
        ([1], "holds list<element: int64>, not one value a galaxy"),
    ],
)
def test_labels_of_the_test_galaxies_are_those_of_training(folder, label, told, capsys):
    others = pd.read_csv("catalog.csv")[:5].assign(id_str=[f"t{i}" for i in range(5)])
    others.assign(label=[label] * 5).to_parquet("test.parquet")
    words = ["--catalog", "catalog.csv", "--test-catalog", "test.parquet"]
    line = finetune_error(capsys, *words)
    assert f"column 'label' {told}" in line


def test_a_schedule_that_has_no_rate_in_some_epoch_is_told_before_training(folder, capsys):
    schedule = json.dumps({"sched": "cosine", "num_epochs": 1, "cycle_mul": 0.5, "cycle_limit": 9})
    words = ["--catalog", "catalog.csv", "--scheduler-kwargs", schedule, "--epochs", "9"]
    line = finetune_error(capsys, *words)
    assert "no rate in epoch" in line
    assert not (folder / "run" / "metrics.jsonl").exists()


def test_one_galaxy_to_train_on_is_told_with_a_cure(folder, capsys):
    table = pd.read_csv("catalog.csv")
    table.assign(split=["train", *["val"] * (len(table) - 1)]).to_csv("one.csv", index=False)
    words = ["--catalog", "one.csv", "--encoder", "mobilenetv4_conv_small"]
    line = finetune_error(capsys, *words)
    assert "holds 0 in each of the 1 galaxies to train on, so there is nothing to learn" in line


def test_a_file_name_that_is_no_text_is_told(folder, tree, capsys):
    model = ZoobotTree(schema=tree, architecture_name="test_resnet")
    checkpoint.save_weights("m.safetensors", model.state_dict(), model.describe())
    (folder / "images" / "g0.png").rename(folder / "images" / "caf\udce9.png")
    words = ["--checkpoint", "m.safetensors", "--images", "images", "--save-loc", "p.csv"]
    assert "image 'caf\\udce9.png' in" in script_error(capsys, predict, *words)
    words[3:] = ["images", "--save-loc", "p\udce9.csv"]
    assert "which is not UTF-8 text" in script_error(capsys, predict, *words)


def test_predictions_without_numbers_are_told(folder, capsys):
    pd.DataFrame({"id_str": ["a"], "x": [[]]}).to_parquet("p.parquet")
    with pytest.raises(ValueError, match="p.parquet can't be read"):
        read_predictions("p.parquet")
    words = ["--predictions", "p.parquet", "--catalog", "catalog.csv", "--report-dir", "r"]
    assert "p.parquet can't be read" in script_error(capsys, evaluate, *words)


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e16, 1e300])
def test_residuals_of_any_size_are_drawn(scale):
    truth = np.array([1.0, 1.0, 1.0, 1.0])
    residuals(truth, truth + scale * np.array([1.0, 1.0, 1.0, 1 + 1e-16]), "mass")


def test_an_option_of_several_values_given_twice_is_told(folder, capsys):
    words = ["--catalog", "catalog.csv", "--label-col", "a", "--label-col=b"]
    assert "--label-col is given twice: give it once, with all its values" in finetune_error(
        capsys, *words
    )


def test_ids_from_files_are_not_asked_of_a_catalog(folder, capsys):
    words = ["--checkpoint", "m.safetensors", "--catalog", "catalog.csv", "--save-loc", "p.csv"]
    line = script_error(capsys, predict, *words, "--id-from", "stem")
    assert "--id-from is for --images" in line


def test_a_warning_for_users_is_one_line(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    set_up_process()
    told = warnings.formatwarning("two\nlines", UserWarning, "file.py", 3)
    assert told == "warning: two lines\n"
    assert "file.py:3" in warnings.formatwarning("old", DeprecationWarning, "file.py", 3)
