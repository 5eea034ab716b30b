"""Images of bands through train.py, finetune.py and predict.py."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

import finetune
import predict
import train
from zoobot.data import datamodule
from zoobot.data.catalog import read_catalog
from zoobot.models import ZoobotTree, spec_of
from zoobot.models.finetune import FinetuneableZoobotClassifier
from zoobot.runs import checkpoint
from zoobot.script import run_script

QUICK = "--image-size 16 --batch-size 12 --num-workers 0 --epochs 1 --precision fp32".split()
BANDS = ("--bands", "g", "r", "z")


def write_cubes(folder, num_galaxies=24, seed=0):
    """Cubes (3, 20, 20) of g, r and z in nanomaggies; those of class 1 are brighter in z."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:20j, -1:1:20j]
    blob = np.exp(-(x**2 + y**2) / 0.1)
    rows = []
    for i in range(num_galaxies):
        flux = np.array([1.0, 2.0, 3.0 + 20 * (i % 2)])[:, None, None]
        cube = flux * blob + rng.normal(0, [[[0.1]], [[0.2]], [[0.3]]], (3, 20, 20))
        np.save(folder / f"g{i}.npy", cube.astype(np.float32))
        split = ["train", "train", "val", "test"][i // 2 % 4]
        rows.append([f"g{i}", f"g{i}.npy", "no" if i % 2 else "yes", 5 + i, 30 - i, split])
    columns = ["id_str", "file_loc", "bar", "smooth_yes", "smooth_no", "split"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "catalog.csv", index=False)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_cubes(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_finetune(*arguments):
    words = ["--catalog", "catalog.csv", "--label-col", "bar", "--save-dir", "run", *QUICK]
    words = words if "--encoder" in arguments else [*words, "--from-scratch"]
    words = words if "--encoder" in arguments else [*words, "--encoder", "test_resnet"]
    run_script(finetune.main, lambda: finetune.parse([*words, "--no-report", *arguments]))


def run_predict(*arguments, source=("--catalog", "catalog.csv")):
    words = ["--checkpoint", "run/best.safetensors", "--num-workers", "0", "--precision", "fp32"]
    words = [*words, "--save-loc", "p.parquet", *source, *arguments]
    run_script(predict.main, lambda: predict.parse(words))
    return pd.read_parquet("p.parquet").set_index("id_str")


def refusal(capsys, run, *arguments, **sources):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(*arguments, **sources)
    assert stop.value.code == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "error: " in x]
    return line.partition("error: ")[2]


def save_untrained(path, num_bands, bands=None):
    torch.manual_seed(0)
    model = FinetuneableZoobotClassifier(
        2, name="test_resnet", timm_kwargs={"pretrained": False}, channels=num_bands
    )
    told = {"image_size": 16, "view": {"output_size": 16}} | ({"bands": bands} if bands else {})
    checkpoint.save_weights(path, model.state_dict(), model.describe() | told)


def test_a_model_of_bands_predicts_what_it_was_tested_with(folder, capsys):
    run_finetune(*BANDS, "--scaling", "linear")
    spec = spec_of(FinetuneableZoobotClassifier.load_from_checkpoint("run/best.safetensors"))
    assert (spec.bands, spec.scaling) == (("g", "r", "z"), "linear")
    assert spec.mean[2] > 2 * max(spec.mean[:2]) > 0
    assert "bands of the training galaxies: g " in capsys.readouterr().out
    config = json.loads((folder / "run" / "config.json").read_text())
    assert config["bands"] == ["g", "r", "z"]
    assert config["channels"] is None

    table = run_predict()
    catalog = read_catalog("catalog.csv").set_index("id_str")
    tested = table[catalog["split"] == "test"]
    metrics = json.loads((folder / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    named = catalog["bar"][tested.index]
    right = [np.log(tested.loc[i, named[i]]) for i in tested.index]
    assert metrics["finetuning/test_loss"] == pytest.approx(-np.mean(right), rel=1e-4)

    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    for i in range(2):
        z, g, r = np.load(f"g{i}.npy")[[2, 0, 1]]
        np.savez(elsewhere / f"g{i}.npz", cube=np.stack([z, g, r]), rms=r)
    places = ("--bands", "g=cube[1]", "r=cube[2]", "z=cube[0]")
    moved = run_predict(*places, source=("--images", "elsewhere"))
    np.testing.assert_allclose(moved, table.loc[["g0", "g1"]], rtol=1e-5)


def test_a_model_of_bands_refuses_others(folder, capsys):
    spec = {"bands": ["g", "r", "z"], "mean": [0, 0, 0], "std": [1, 1, 1], "scaling": "linear"}
    (folder / "run").mkdir()
    save_untrained("run/best.safetensors", 3, spec)
    assert len(run_predict()) == 24
    for bands in ("g r i", "z r g"):
        line = refusal(capsys, run_predict, "--bands", *bands.split())
        assert line == f"bands are {bands}, but the model was trained on g r z"
        line = refusal(
            capsys, run_finetune, "--bands", *bands.split(), "--encoder", "run/best.safetensors",
            "--save-dir", "other",
        )  # fmt: skip
        assert line.startswith(f"bands are {bands}, but the model was trained on g r z: give these")
        assert "--fresh-stem" in line
    line = refusal(capsys, run_predict, "--fits-scaling", "linear")
    assert "fits_scaling is for 8-bit images" in line
    (folder / "spec.json").write_text(json.dumps({"bands": ["g", "r", "z"], "scaling": "none"}))
    line = refusal(capsys, run_predict, "--image-spec", "spec.json")
    assert line == (
        "scaling none is asked for, but the model was trained with linear: leave it out"
    )
    save_untrained("run/best.safetensors", 3)
    line = refusal(capsys, run_predict, *BANDS)
    assert line == "bands are g r z, but the model was trained on 8-bit images"
    save_untrained("run/best.safetensors", 4)
    line = refusal(capsys, run_predict, *BANDS)
    assert line == "3 bands, g r z, are asked for, but the model takes 4 channels"


def test_an_encoder_of_other_bands_may_start_with_a_fresh_stem(folder, capsys):
    spec = {"bands": ["g", "r", "z"], "mean": [0, 0, 0], "std": [1, 1, 1]}
    save_untrained("first.safetensors", 3, spec)
    words = ("--encoder", "first.safetensors", "--fresh-stem", "--stem-learning-rate", "0.01")
    run_finetune(*words, "--bands", "z=[2]", "g=[0]")
    told = capsys.readouterr().out
    assert "loaded from first.safetensors, its stem fresh" in told
    (line,) = [line for line in told.splitlines() if line.startswith("stem ")]
    assert line.split()[1:] == ["288", "0.01", "0.05"]
    model = FinetuneableZoobotClassifier.load_from_checkpoint("run/best.safetensors")
    assert model.channels == 2
    assert spec_of(model).bands == ("z", "g")


def test_resuming_takes_the_saved_mean_and_spread(folder, monkeypatch, capsys):
    run_finetune(*BANDS)
    before = spec_of(FinetuneableZoobotClassifier.load_from_checkpoint("run/best.safetensors"))
    monkeypatch.setattr(datamodule, "with_statistics", None)
    run_finetune(*BANDS, "--epochs", "2")
    again = spec_of(FinetuneableZoobotClassifier.load_from_checkpoint("run/best.safetensors"))
    assert again == before
    line = refusal(capsys, run_finetune, "--bands", "r", "g", "z", "--epochs", "3")
    assert "belongs to a run with other options (bands was ['g', 'r', 'z'], now ['r', " in line


def test_a_spec_that_has_changed_is_not_resumed(folder, capsys):
    spec = {"bands": ["g", "r", "z"], "softening": 2.0}
    (folder / "spec.json").write_text(json.dumps(spec))
    run_finetune("--image-spec", "spec.json")
    (folder / "spec.json").write_text(json.dumps(spec | {"softening": 3.0}))
    line = refusal(capsys, run_finetune, "--image-spec", "spec.json", "--epochs", "2")
    assert "model with other outputs (model.bands.softening was 2.0, now 3.0)" in line


def test_a_tree_trains_from_scratch_on_bands_of_a_spec(folder, monkeypatch):
    monkeypatch.setattr(train.run_figures, "plot_galaxies", lambda *_, **__: None)
    tree = {"smooth": {"answers": ["_yes", "_no"], "asked_after": None}}
    (folder / "tree.json").write_text(json.dumps(tree))
    spec = {"bands": ["g", "z"], "places": {"g": "[0]", "z": "[2]"}, "softening": 3.0}
    (folder / "spec.json").write_text(json.dumps(spec))
    words = ["--catalog", "catalog.csv", "--schema", "tree.json", "--encoder", "test_resnet"]
    words += ["--image-spec", "spec.json", "--scaling", "linear", "--save-dir", "run", *QUICK]
    run_script(train.main, lambda: train.parse([*words, "--no-report"]))
    model = ZoobotTree.load_from_checkpoint("run/best.safetensors")
    assert model.channels == 2
    spec = spec_of(model)
    assert (spec.bands, spec.softening, spec.scaling) == (("g", "z"), 3.0, "linear")
    assert len(run_predict()) == 24


def test_a_file_without_a_band_is_named_and_may_be_recorded(folder, capsys):
    (folder / "run").mkdir()
    save_untrained("run/best.safetensors", 3, {"bands": ["g", "r", "z"]})
    (folder / "stamps").mkdir()
    for galaxy in ("a", "b"):
        for band, pixels in zip("grz", np.load("g0.npy"), strict=True):
            np.save(folder / "stamps" / f"{galaxy}_{band}.npy", pixels)
    (folder / "stamps" / "b_r.npy").unlink()
    source = ("--images", "stamps/{id}_{band}.npy")
    line = refusal(capsys, run_predict, source=source)
    assert line == f"{folder}/stamps/b_r.npy: no such file"
    table = run_predict("--on-bad-image", "record", source=source)
    assert table.index.tolist() == ["a", "b"]
    assert table["error"].isna().tolist() == [True, False]
    np.testing.assert_allclose(table.loc["a", "label_0":"label_1"].sum(), 1, rtol=1e-5)
    columns = {f"file_loc_{band}": [f"stamps/a_{band}.npy"] for band in "zgr"}
    pd.DataFrame({"id_str": ["c"], **columns}).to_csv("columns.csv", index=False)
    again = run_predict(source=("--catalog", "columns.csv"))
    assert again.loc["c", "label_0"] == pytest.approx(table.loc["a", "label_0"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--bands g r z --channels 3", "--channels is for 8-bit images"),
        ("--image-spec s.json --fits-scaling asinh", "--fits-scaling is for 8-bit images"),
        ("--scaling linear", "--scaling is for bands: give --bands too"),
        ("--bands g g", "bands g g: give 1 to 100, each once"),
        ("--bands g r z --scaling asin", "argument --scaling: invalid choice: 'asin'"),
        ("--bands g r z --image-spec s.json", "--bands are g r z, but s.json describes z r g"),
        ("--bands g r z --image-spec none.json", "image spec none.json can't be read"),
        ("--bands g r z --fresh-stem", "with --from-scratch all are fresh"),
        ("--bands g r", "is not for 2 bands; say its planes"),
    ],
)
def test_options_that_do_not_go_together_are_told_in_one_line(folder, capsys, words, told):
    (folder / "s.json").write_text('{"bands": ["z", "r", "g"]}')
    assert told in refusal(capsys, run_finetune, *words.split())


def test_hsc_cubes_are_predicted_by_a_model_of_five_bands(real_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    save_untrained("run/best.safetensors", 5)
    for name in ("hsc_cosmos.npz", "hsc_ra=150.24071_dec=2.06514.fits"):
        shutil.copy(real_data / "survey_images" / "hsc_grizy" / name, tmp_path)
    with pytest.warns(UserWarning, match="does not tell the mean and spread"):
        table = run_predict("--bands", *"grizy", source=("--images", "."))
    assert table.index.tolist() == ["hsc_cosmos", "hsc_ra=150.24071_dec=2.06514"]
    assert table.notna().all().all()


def test_a_model_of_four_bands_trains_on_a_file_a_band(real_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stamps = real_data / "survey_images" / "ps1_des_sdss_griz"
    rows = [[s, f"{stamps}/{s}_{{band}}.fits", s != "SDSS"] for s in ("PS1", "DES", "SDSS")]
    table = pd.DataFrame(rows, columns=["id_str", "file_loc", "bar"])
    table.assign(split=["train", "val", "train"]).to_csv("catalog.csv", index=False)
    run_finetune("--bands", *"griz", "--batch-size", "2")
    table = run_predict(source=("--images", f"{stamps}/{{id}}_{{band}}.fits"))
    assert table.index.tolist() == ["DES", "PS1", "SDSS"]
