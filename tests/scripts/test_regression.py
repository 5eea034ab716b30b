"""Regression of radii that are known: blobs drawn here, under finetune.py's defaults."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from processes import script_error

import finetune
from zoobot.predictions.models import load_predictor
from zoobot.predictions.predict import predict_to_file

NUM_GALAXIES = 300
SMALL = ["--encoder", "resnet18", "--from-scratch", "--image-size", "32", "--num-workers", "0",
         "--precision", "fp32", "--task", "regression"]  # fmt: skip


@pytest.fixture(scope="module")
def blobs(tmp_path_factory):
    """A catalog of blobs of radius r pixels; ``mass`` is 8 + r / 3."""
    folder, rng = tmp_path_factory.mktemp("blobs"), np.random.default_rng(0)
    y, x = np.mgrid[:32, :32] - 15.5
    rows = []
    for i in range(NUM_GALAXIES):
        radius = rng.uniform(2.0, 6.8)
        pixels = 220 * np.exp(-(x**2 + y**2) / (2 * radius**2)) + rng.normal(0, 5, (32, 32))
        pixels = np.clip(pixels, 0, 255).astype(np.uint8)
        path = folder / f"{i}.png"
        Image.fromarray(np.stack([pixels] * 3, axis=2)).save(path)
        split = "train" if i < 200 else "val" if i < 250 else "test"
        rows.append([f"g{i}", str(path), split, 8 + radius / 3, 10 ** (8 + radius / 3), -radius])
    columns = ["id_str", "file_loc", "split", "mass", "solar_masses", "minus_radius"]
    path = folder / "blobs.csv"
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)
    return path


def run(blobs, folder, *words):
    torch.set_num_threads(1)
    finetune.main(
        finetune.parse(["--catalog", str(blobs), "--save-dir", str(folder), *SMALL, *words])
    )


def predicted_and_true(blobs, folder, columns):
    table = pd.read_csv(blobs, dtype={"id_str": str})
    table = table[table["split"] == "test"].reset_index(drop=True)
    model = load_predictor(folder / "best.safetensors")
    out = predict_to_file(
        table, model, folder / "p.parquet", precision="fp32", num_workers=0, batch_size=64
    )
    predicted = pd.read_parquet(out)
    assert list(predicted.columns) == ["id_str", *columns]
    return predicted[columns].to_numpy(), table[columns].to_numpy()


@pytest.mark.slow
def test_masses_are_learned_at_their_own_scale(blobs, tmp_path):
    run(blobs, tmp_path, "--label-col", "mass", "--no-report")
    predicted, truth = predicted_and_true(blobs, tmp_path, ["mass"])
    assert truth.std() == pytest.approx(0.46, abs=0.04)
    assert np.sqrt(((predicted - truth) ** 2).mean()) <= 0.15
    assert np.corrcoef(predicted[:, 0], truth[:, 0])[0, 1] >= 0.98


@pytest.mark.slow
def test_labels_over_decades_are_learned_as_logarithms(blobs, tmp_path):
    run(blobs, tmp_path, "--label-col", "solar_masses", "--no-report")
    predicted, truth = predicted_and_true(blobs, tmp_path, ["solar_masses"])
    assert (predicted > 0).all()
    assert np.sqrt((np.log10(predicted / truth) ** 2).mean()) <= 0.3


def test_several_numbers_are_learned_at_once_in_their_own_units(blobs, tmp_path, capsys):
    columns = ["solar_masses", "minus_radius"]
    run(blobs, tmp_path, "--label-col", *columns, "--epochs", "3", "--learning-rate", "1e-3")
    said = capsys.readouterr().out
    assert "label 'solar_masses': logarithms are learned" in said
    assert "label 'minus_radius': numbers are learned" in said
    predicted, truth = predicted_and_true(blobs, tmp_path, columns)
    for column in (0, 1):  # of the order of the labels, after three epochs
        spread = truth[:, column].std()
        assert np.abs(predicted[:, column].mean() - truth[:, column].mean()) < 2 * spread
    for column in columns:
        assert (tmp_path / "report" / column / "report.html").exists()
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    test = next(line for line in lines if line["split"] == "test")
    residuals = predicted - truth
    for i, column in enumerate(columns):
        rmse = np.sqrt((residuals[:, i] ** 2).mean())
        assert test[f"finetuning/test_rmse/{column}"] == pytest.approx(rmse, rel=1e-3)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--task", "classification", "--label-col", "mass", "solar_masses"], "takes one column"),
        (["--label-col", "mass", "mass"], "give one column, or several that differ"),
        (["--label-col", "minus_radius", "--label-scale", "log"], "which has no logarithm"),
        (["--label-col", "mass", "sizes"], "no column 'sizes'"),
    ],
)
def test_a_mistake_about_the_labels_is_one_line(blobs, tmp_path, capsys, words, told):
    words = ["--catalog", blobs, "--save-dir", tmp_path, *SMALL, *words]
    assert told in script_error(capsys, finetune, *words)
