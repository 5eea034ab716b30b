"""Runs on shards of bands: the shards say what the bands are, from training to prediction."""

import numpy as np
import pandas as pd
import pytest
from small_shards import in_memory, script, write

import finetune
import predict
from zoobot.script import run_script

QUICK = "--image-size 16 --batch-size 8 --num-workers 0 --epochs 1 --precision fp32".split()


@pytest.fixture
def folder(tmp_path, monkeypatch, capsys):
    """24 cubes of five bands, a catalog of classes, and shards of it."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(24):
        cube = rng.normal(size=(5, 20, 20)) + 9 * (i % 2) * np.hanning(20) * np.hanning(20)[:, None]
        np.save(f"g{i}.npy", cube.astype(np.float32))
        split = ["train", "train", "val", "test"][i // 2 % 4]
        rows.append((f"g{i}", f"g{i}.npy", i % 2, split))
    pd.DataFrame(rows, columns=["id_str", "file_loc", "bar", "split"]).to_csv("c.csv", index=False)
    words = (
        "--labelled-catalog c.csv --label-cols bar --img-size 20 --num-workers 0 --bands".split()
    )
    code, _, error = script(capsys, *words, *"grizy", "--shard-dir", "shards")
    assert code == 0, error
    return tmp_path


def run(main, parse, *words):
    run_script(main, lambda: parse([*words]))


def train(*words):
    run(finetune.main, finetune.parse, "--encoder", "test_resnet", "--from-scratch", "--label-col",
        "bar", "--save-dir", "run", *QUICK, *words)  # fmt: skip


def predicted(*source):
    words = (
        "--checkpoint run/best.safetensors --num-workers 0 --precision fp32 --save-loc p.parquet"
    )
    run(predict.main, predict.parse, *words.split(), *source)
    return pd.read_parquet("p.parquet").set_index("id_str")


@pytest.mark.parametrize("augment", ["cpu", "device"])
def test_a_model_of_shards_predicts_shards_and_files_alike(folder, augment):
    train("--shards", "shards", "--augment", augment, "--no-report")
    of_shards = predicted("--shards", "shards", "--split", "test")
    of_files = predicted("--catalog", "c.csv").loc[of_shards.index]
    columns = of_files.select_dtypes("number").columns
    np.testing.assert_allclose(of_shards[columns], of_files[columns], atol=0.02)


def refusal(capsys, main, parse, *words):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(main, parse, *words)
    assert stop.value.code == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "error: " in x]
    return line


def test_other_bands_than_those_of_shards_are_refused_in_one_line(folder, capsys):
    words = ["--label-col", "bar", "--encoder", "test_resnet", "--from-scratch", *QUICK]
    words += ["--save-dir", "run", "--shards", "shards", "--bands"]
    told = refusal(capsys, finetune.main, finetune.parse, *words, *"griz")
    assert "bands are g r i z, but the shards hold g r i z y" in told
    told = refusal(capsys, finetune.main, finetune.parse, *words, *"grizy", "--scaling", "linear")
    assert "scaling of bands is linear, but the shards were written with asinh" in told


def test_a_model_of_8_bit_images_refuses_shards_of_bands_and_the_reverse(folder, capsys):
    train("--shards", "shards")
    write(in_memory(12, bar=[0, 1] * 6), folder / "rgb", ["bar"], encoding="raw")
    words = ["--num-workers", "0", "--save-loc", "p.parquet", "--shards"]
    told = refusal(capsys, predict.main, predict.parse, "--checkpoint", "run/best.safetensors",
                   *words, "rgb", "--split", "train")  # fmt: skip
    assert "bands are g r i z y, but the shards hold 8-bit images" in told
    train("--shards", "rgb", "--no-report", "--save-dir", "other")
    told = refusal(capsys, predict.main, predict.parse, "--checkpoint", "other/best.safetensors",
                   *words, "shards", "--split", "test")  # fmt: skip
    assert "g r i z y" in told
    assert "8-bit images" in told
