"""Encoders by the scripts' options: what finetune.py writes, predict.py reads, or one line."""

import pandas as pd
import pytest
from processes import script_error

import finetune
import predict

SMALL = [
    *("--epochs", "1", "--num-workers", "0", "--batch-size", "16", "--no-report"),
    *("--save-dir", "run", "--precision", "fp32", "--catalog", "catalog.csv"),
]


@pytest.fixture
def folder(small_catalog, monkeypatch):
    frame = pd.read_csv(small_catalog)
    frame["label"] = (frame["smooth_yes"] > 10).astype(int)
    frame["endless"] = -float("inf")
    frame.to_csv(small_catalog, index=False)
    monkeypatch.chdir(small_catalog.parent)
    return small_catalog.parent


def words_of(module, *words):
    return module.parse([*map(str, words)])


@pytest.mark.parametrize("name", ["test_coatnet", "test_vit_relpos"])
def test_what_is_finetuned_at_another_size_is_predicted_with(folder, name):
    words = ["--encoder", name, "--from-scratch", "--image-size", 64, *SMALL]
    finetune.main(words_of(finetune, *words))
    finetune.main(words_of(finetune, *words, "--epochs", 2))  # resumed
    words = ["--checkpoint", "run/best.safetensors", "--catalog", "catalog.csv"]
    predict.main(words_of(predict, *words, "--save-loc", "p.csv", "--num-workers", 0))
    assert len(pd.read_csv("p.csv")) == 60


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--encoder", "test_resnet.nope"], "no pretrained weights 'test_resnet.nope'; did you"),
        (["--encoder", "test_vit", "--image-size", 8], "can't take images of 8 px"),
        (["--encoder", "test_vit", "--image-size", 100], "divisible by patch size (16)"),
        (["--layer-decay", "1e300"], "layer_decay is 1e+300: give 0"),
        (["--num-classes", 1000000000], "num_classes is 1000000000: a classifier has 2 to 100000"),
        (["--label-col", "endless"], "holds -inf, which is no class number"),
    ],
)
def test_a_mistake_about_the_encoder_is_one_line(folder, capsys, words, told):
    usual = ["--encoder", "test_resnet", "--image-size", 32]
    line = script_error(capsys, finetune, *usual, *SMALL, "--from-scratch", *words)
    assert told in line
    assert not (folder / "run" / "metrics.jsonl").exists()


def test_images_of_a_size_that_the_model_cannot_take_are_one_line(folder, capsys):
    words = ["--encoder", "test_coatnet", "--from-scratch", "--image-size", 64, *SMALL]
    finetune.main(words_of(finetune, *words))
    words = ["--checkpoint", "run/best.safetensors", "--catalog", "catalog.csv"]
    words += ["--save-loc", "p.csv", "--image-size", 40, "--num-workers", 0]
    assert "can't take images of shape (3, 40, 40)" in script_error(capsys, predict, *words)


@pytest.mark.usefixtures("folder")
def test_weights_that_cannot_be_had_are_told_with_the_option_for_fresh_ones(capsys, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("timm.models._builder.load_pretrained", refuse)
    usual = ["--encoder", "test_resnet", "--image-size", 32, *SMALL]
    line = script_error(capsys, finetune, *usual)
    assert "the pretrained weights of 'test_resnet' can't be had: no network" in line
    assert line.endswith("or start from fresh weights with --from-scratch")
    assert "timm_kwargs" not in line
