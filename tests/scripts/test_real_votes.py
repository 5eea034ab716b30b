import json
import sys

import numpy as np
import pandas as pd
import pytest
import real_votes

from zoobot.data.demo.catalog import encode_jpeg
from zoobot.predictions.files import read_predictions
from zoobot.schemas import get_schema

SCHEMA = get_schema(real_votes.SCHEMA)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder like DATA, with 24 grey galaxies; and a recipe that takes seconds."""
    folder = tmp_path / "data" / "gz2_votes"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    ids = [str(587739505552785605 + i) for i in range(24)]
    for i in ids:
        pixels = rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)
        (folder / "images" / f"{i}.jpg").write_bytes(encode_jpeg(pixels))
    votes = rng.integers(3, 20, (24, len(SCHEMA.label_cols)))
    catalog = pd.DataFrame(votes, columns=SCHEMA.label_cols)
    catalog.insert(0, "id_str", ids)
    catalog.insert(1, "file_loc", [f"images/{i}.jpg" for i in ids])
    catalog.insert(2, "split", ["train"] * 18 + ["val"] * 6)
    catalog.to_csv(folder / "catalog.csv", index=False)
    monkeypatch.setattr(real_votes, "EPOCHS", {8: 1, 700: 1})
    monkeypatch.setattr(real_votes, "ENCODER", "test_resnet")
    small = real_votes.RECIPE.replace("--image-size 96", "--image-size 32")
    monkeypatch.setattr(real_votes, "RECIPE", small)
    return tmp_path / "data"


def call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["real_votes.py", *map(str, words)])
    real_votes.main()


def test_a_run_learns_from_so_many_galaxies_and_is_scored_on_others(data, tmp_path, monkeypatch):
    out = tmp_path / "out"
    words = ("--data", data, "--out", out, "--labels", 8, "--seeds", 1)
    call(monkeypatch, "fresh", *words)
    (line,) = [json.loads(x) for x in (out / "results.jsonl").read_text().splitlines()]
    assert (line["start"], line["labels"], line["seed"]) == ("fresh", 8, 1)
    folder = out / "runs" / "fresh-8-1"
    assert len(pd.read_csv(folder / "train.csv")) == 8
    predicted = read_predictions(folder / "val.parquet")
    assert predicted.values.shape == (6, len(SCHEMA.label_cols), real_votes.NUM_VIEWS)
    votes = pd.read_csv(folder / "val.csv")[SCHEMA.label_cols].to_numpy()
    means = predicted.values / np.add.reduceat(predicted.values, starts(), axis=1)[:, of_question()]
    first = means.mean(axis=2)[:, :3].argmax(axis=1) == votes[:, :3].argmax(axis=1)
    assert line["accuracy"] == pytest.approx(first.mean())  # no ties among these
    assert line["free_constant_loss"] <= line["constant_loss"]


def starts():
    return [question.start_index for question in SCHEMA.questions]


def of_question():
    return np.repeat(np.arange(len(SCHEMA.questions)), SCHEMA.question_sizes)


def test_best_calibrates_on_galaxies_left_out_and_predicts_a_catalog(data, tmp_path, monkeypatch):
    monkeypatch.setattr(real_votes, "BEST", "fresh")
    monkeypatch.setattr(real_votes, "MEMBERS", 2)
    monkeypatch.setattr(real_votes, "HELD_OUT", 6)
    out, save_loc = tmp_path / "out", tmp_path / "new.parquet"
    new = pd.read_csv(data / "gz2_votes" / "catalog.csv", dtype={"id_str": str})
    new = new[["id_str", "file_loc"]].head(3)
    new["file_loc"] = [str(data / "gz2_votes" / file) for file in new["file_loc"]]
    new.to_csv(tmp_path / "new.csv", index=False)
    call(
        monkeypatch, "best", "--data", data, "--out", out,
        "--catalog", tmp_path / "new.csv", "--save-loc", save_loc,
    )  # fmt: skip
    left_out = pd.read_csv(out / "best" / "held_out.csv")
    calibrating, learned = (
        pd.read_csv(out / "best" / part / "train.csv") for part in ("calibration", "members")
    )
    assert (len(left_out), len(calibrating), len(learned)) == (6, 12, 18)
    assert not {*left_out["id_str"]} & {*calibrating["id_str"]}
    assert (out / "best" / "report" / "temperatures.json").exists()
    predicted = read_predictions(save_loc)
    assert list(predicted.ids) == list(new["id_str"])
    assert predicted.values.shape[2] == 2 * real_votes.NUM_VIEWS
    assert len(pd.read_parquet(tmp_path / "new_summary.parquet")) == 3


def test_results_make_a_table_and_a_figure(tmp_path, monkeypatch, capsys):
    keys = "accuracy edge_on_accuracy rmse mae coverage worth".split()
    marks = {"constant_loss": 28.0, "free_constant_loss": 25.0}
    lines = [
        {"start": "imagenet", "labels": n, "seed": s, "loss": 20.0 + s} | dict.fromkeys(keys, 0.5)
        for n in (50, 700)
        for s in (0, 1)
    ]
    text = "".join(json.dumps(line | marks) + "\n" for line in lines)
    (tmp_path / "results.jsonl").write_text(text)
    call(monkeypatch, "table", "--out", tmp_path)
    assert (tmp_path / "real_votes.png").exists()
    assert "| ImageNet | 50 | 2 | 20.50 ± 0.71 | 0.500 ± 0.000 |" in capsys.readouterr().out
