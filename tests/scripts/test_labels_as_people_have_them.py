"""What the scripts say of labels before they train."""

import json

import pandas as pd
import pytest
from processes import script_error

import finetune
import train
from zoobot import create_shards
from zoobot.data.catalog import RESERVED

SMALL = [
    *("--encoder", "test_resnet", "--image-size", "32", "--epochs", "1", "--num-workers", "0"),
    *("--batch-size", "16", "--save-dir", "run", "--precision", "fp32", "--catalog", "cat.csv"),
]
NO_REPORT = ["--no-report"]


@pytest.fixture
def frame(small_catalog, tree, monkeypatch):
    """60 galaxies, of which 15 are round."""
    monkeypatch.chdir(small_catalog.parent)
    (small_catalog.parent / "tree.json").write_text(json.dumps(tree.to_dict()))
    frame = pd.read_csv(small_catalog)
    frame["kind"] = ["round" if i % 4 == 0 else "disk" for i in range(60)]
    return frame.assign(size=frame["smooth_yes"] / 20)


def lines(capsys, script, *words):
    capsys.readouterr()
    script.main(script.parse([str(word) for word in words]))
    return capsys.readouterr().out.splitlines()


def finetuned(capsys, *words):
    return lines(capsys, finetune, "--from-scratch", *SMALL, *NO_REPORT, *words)


def test_training_begins_with_votes_by_question_and_split(frame, capsys):
    frame.to_csv("cat.csv", index=False)
    told = lines(capsys, train, "--schema", "tree.json", *SMALL, *NO_REPORT)
    assert told[0].split() == ["question", "train", "votes", "val", "votes", "test", "votes"]
    assert told[1].split()[:3] == ["smooth", "42", "840"]
    assert told[4].split()[0] == "all"


def test_finetuning_begins_with_galaxies_by_class_and_split(frame, capsys):
    frame.to_csv("cat.csv", index=False)
    told = finetuned(capsys, "--label-col", "kind")
    rows = [line.split() for line in told[:4]]
    assert rows[0] == ["kind", "train", "val", "test"]
    assert sum(map(int, rows[2][1:])) == 15
    assert [int(row[1]) for row in rows[1:]] == [32, 10, 42]


def test_classes_numbered_from_one_are_told_to_leave_class_0_empty(frame, capsys):
    frame.assign(label=1 + (frame["kind"] == "disk")).to_csv("cat.csv", index=False)
    told = finetuned(capsys)
    assert told[1].split() == ["0", "0", "0", "0"]
    assert told[5] == (
        "no galaxy to train on has the class 0: the first label is 1, and classes count from 0"
    )


def test_regression_begins_with_range_and_spread(frame, capsys):
    frame.to_csv("cat.csv", index=False)
    told = finetuned(capsys, "--task", "regression", "--label-col", "size")
    assert told[0].split() == ["size", "galaxies", "lowest", "highest", "mean", "spread"]
    assert told[1].split()[:2] == ["train", "42"]


def test_classes_called_like_missing_numbers_train_and_are_reported(frame, capsys):
    frame["kind"] = frame["kind"].map({"round": "None", "disk": "NA "})
    frame.to_csv("cat.csv", index=False)
    told = lines(capsys, finetune, "--from-scratch", *SMALL, "--label-col", "kind")
    assert told[0].startswith("column 'kind': spaces around 45 labels are left out")
    assert [line.split()[0] for line in told[2:4]] == ["NA", "None"]
    columns = pd.read_parquet("run/test_predictions.parquet").columns.tolist()
    assert columns == ["id_str", "NA", "None"]
    assert json.loads(open("run/report/metrics.json").read())["Scores by class"]["rows"][1][1] >= 1


@pytest.mark.parametrize("name", RESERVED)
def test_reserved_names_are_refused_before_training(frame, name, capsys):
    frame.assign(error=1, image="x", split=["train", "val"] * 30).to_csv("cat.csv", index=False)
    line = script_error(capsys, finetune, "--from-scratch", *SMALL, "--label-col", name)
    assert f"label column {name!r}" in line
    assert "rename it" in line
    frame.assign(kind=frame["kind"].replace("round", name)).to_csv("cat.csv", index=False)
    line = script_error(capsys, finetune, "--from-scratch", *SMALL, "--label-col", "kind")
    assert f"class {name!r}" in line


def test_an_answer_called_error_is_refused_before_training(frame, capsys):
    frame.rename(columns={"bar_weak": "error"}).to_csv("cat.csv", index=False)
    tree = {"smooth": {"answers": ["_yes", "_no"], "asked_after": None},
            "err": {"answers": ["or", "_no"], "asked_after": "smooth_no"}}  # fmt: skip
    open("tree.json", "w").write(json.dumps(tree))
    line = script_error(capsys, train, "--schema", "tree.json", *SMALL)
    assert "label column 'error'" in line


@pytest.mark.parametrize("script", ["train", "finetune", "create_shards"])
def test_weighted_votes_are_rounded_if_asked_for(frame, tree, script, capsys):
    frame[tree.label_cols] = frame[tree.label_cols].astype(float)
    frame.loc[frame["bar_weak"] > 0, "bar_weak"] += 0.27
    frame.to_csv("cat.csv", index=False)
    words = {
        "train": [train, *SMALL, *NO_REPORT],
        "finetune": [finetune, *SMALL, *NO_REPORT, "--task", "tree", "--from-scratch"],
        "create_shards": [create_shards, "--labelled-catalog", "cat.csv", "--shard-dir", "shards",
                          "--eval-size", "5", "--num-workers", "0"],
    }[script]  # fmt: skip
    words += ["--schema", "tree.json"]
    line = script_error(capsys, *words)
    assert ".27, which is no vote count" in line
    assert "--round-votes" in line
    told = lines(capsys, *words, "--round-votes")
    assert script == "create_shards" or told[1].split()[:3] == ["smooth", "42", "840"]


@pytest.mark.parametrize("task", ["classification", "regression", "tree"])
def test_labels_from_which_nothing_can_be_learned_are_refused_by_catalog_and_column(
    frame, tree, task, capsys
):
    frame[tree.label_cols] = 0
    frame.assign(kind="ring", size=3.5).to_csv("cat.csv", index=False)
    words, told = {
        "classification": (["--label-col", "kind"], "cat.csv: column 'kind' holds 'ring' in each"),
        "regression": (["--label-col", "size"], "cat.csv: column 'size' holds 3.5 in each"),
        "tree": (["--schema", "tree.json"], "none of the 42 galaxies to train on has a vote"),
    }[task]
    line = script_error(capsys, finetune, "--from-scratch", *SMALL, "--task", task, *words)
    assert told in line


def test_more_classes_than_a_report_has_are_refused_before_training(frame, capsys):
    frame.assign(label=[0, 1] * 30).to_csv("cat.csv", index=False)
    words = ["--from-scratch", *SMALL, "--num-classes", "201"]
    line = script_error(capsys, finetune, *words)
    assert "201 classes, but a report has at most 200: give --no-report" in line


def test_only_votes_are_rounded(frame, capsys):
    frame.to_csv("cat.csv", index=False)
    words = ["--from-scratch", *SMALL, "--label-col", "kind", "--round-votes"]
    assert "--round-votes is for vote counts" in script_error(capsys, finetune, *words)
