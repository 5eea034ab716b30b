import json
import subprocess
import sys

import pandas as pd
import pytest
import torch
from conftest import REPO
from small_models import go_offline

import finetune as script
from zoobot.data.catalog import read_catalog
from zoobot.models.encoders import save_encoder
from zoobot.models.finetune import FinetuneableZoobotClassifier, FinetuneableZoobotTree


@pytest.fixture
def catalog(small_catalog):
    frame = read_catalog(small_catalog)
    frame["label"] = (frame["smooth_yes"] > 10).astype(int)
    frame["kind"] = frame["label"].map({0: "spiral", 1: "elliptical"})
    frame["huge"] = 5.9e17
    frame["fraction"] = frame["smooth_yes"] / 20
    path = small_catalog.parent / "labelled.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.fixture
def run(catalog, tmp_path):
    def run(*arguments, report=False):
        words = [] if report else ["--no-report"]
        words += [
            "--catalog", catalog, "--encoder", "test_resnet",
            "--image-size", "32", "--batch-size", "16", "--num-workers", "0", "--epochs", "2",
            "--precision", "fp32", "--save-dir", tmp_path / "run", *arguments,
        ]  # fmt: skip
        if "--encoder" not in arguments:
            words.append("--from-scratch")
        script.main(script.parse([str(word) for word in words]))
        return tmp_path / "run"

    return run


def test_text_labels_are_classes_by_name(run, precision):
    folder = run("--label-col", "kind", "--precision", precision)
    files = {path.name for path in folder.iterdir()}
    assert files == {
        "config.json", "metrics.jsonl", "tensorboard", "checkpoints", "best.safetensors",
        "curves.png",
    }  # fmt: skip
    model = FinetuneableZoobotClassifier.load_from_checkpoint(folder / "best.safetensors")
    assert model.class_names == ["elliptical", "spiral"]
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["split"] for line in lines] == ["train", "validation"] * 2 + ["test"]
    assert "finetuning/test_acc" in lines[-1]


def test_numbered_classes_are_named(run):
    folder = run("--label-col", "label", "--class-names", "spiral", "elliptical", "odd")
    model = FinetuneableZoobotClassifier.load_from_checkpoint(folder / "best.safetensors")
    assert model.class_names == ["spiral", "elliptical", "odd"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--label-col", "kind", "--class-names", "a", "b"], "has the names elliptical, spiral"),
        (["--label-col", "label", "--class-names", "a"], "1 --class-names for 2 classes"),
        (["--task", "regression", "--class-names", "a"], "are of --task classification"),
        (["--head", "softplus"], "--head is of --task tree, not classification"),
    ],
)
def test_names_and_heads_that_classes_can_not_have_are_refused(run, words, line):
    with pytest.raises(ValueError, match=line):
        run(*words)


def test_layer_groups_and_the_head_are_those_asked_for(tree):
    words = ["--task", "tree", "--head", "softplus", "--layer-groups", "fine"]
    opt = script.parse([*words, "--encoder", "test_convnext", "--from-scratch"])
    model = script.make_model(opt, script.encoder_arguments(opt), tree, None)
    assert (model.head.activation, model.layer_groups) == ("softplus", "fine")


def test_training_from_scratch_has_rates_of_its_own_and_says_so(run, capsys):
    opt = script.parse(["--from-scratch", "--layer-decay", "0.5"])
    assert (opt.learning_rate, opt.layer_decay) == (1e-3, 0.5)
    opt = script.parse([])
    assert (opt.learning_rate, opt.layer_decay) == (1e-4, 0.75)
    run("--label-col", "kind", "--epochs", "1")
    assert "--learning-rate 0.001, --layer-decay 1\n" in capsys.readouterr().out


def test_a_run_ends_with_predictions_and_a_report_of_the_test_galaxies(run):
    folder = run("--label-col", "kind", report=True)
    predicted = pd.read_parquet(folder / "test_predictions.parquet")
    assert list(predicted.columns) == ["id_str", "elliptical", "spiral"]
    numbers = json.loads((folder / "report" / "metrics.json").read_text())
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    assert numbers["accuracy"] == pytest.approx(lines[-1]["finetuning/test_acc"])
    assert numbers["cross-entropy"] == pytest.approx(lines[-1]["finetuning/test_loss"], rel=1e-4)
    assert (folder / "report" / "confusion_matrix.png").exists()


def test_regression_and_trees(run, tree, tmp_path):
    run("--task", "regression", "--label-col", "fraction", "--unit-interval", "--loss", "mae")
    (tmp_path / "tree.json").write_text(json.dumps(tree.to_dict()))
    folder = run("--task", "tree", "--schema", tmp_path / "tree.json", "--resume", "never")
    model = FinetuneableZoobotTree.load_from_checkpoint(folder / "best.safetensors")
    assert model.schema.label_cols == tree.label_cols
    assert (folder / "earlier-1" / "best.safetensors").exists()


def test_a_second_run_starts_from_the_encoder_of_the_first(run, tmp_path):
    first = run("--label-col", "kind").rename(tmp_path / "first")
    folder = run(
        "--label-col", "label", "--encoder", first / "best.safetensors", "--training-mode",
        "head_only", "--class-weights", "balanced", "--scheduler-kwargs",
        '{"sched": "cosine", "warmup_epochs": 1}',
    )  # fmt: skip
    before = FinetuneableZoobotClassifier.load_from_checkpoint(first / "best.safetensors")
    after = FinetuneableZoobotClassifier.load_from_checkpoint(folder / "best.safetensors")
    expected = before.encoder.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in after.encoder.state_dict().items())
    assert after.scheduler_kwargs == {"sched": "cosine", "warmup_epochs": 1}
    assert len(after.class_weights) == 2


def test_a_folder_of_timm_is_an_encoder(run, tmp_path):
    from zoobot.models.architectures import get_pytorch_encoder

    save_encoder(get_pytorch_encoder("test_resnet"), tmp_path / "encoder")
    words = ("--encoder", f"local-dir:{tmp_path / 'encoder'}", "--epochs", "1")
    options = script.parse(["--catalog", "a.csv", *words])
    assert script.encoder_arguments(options)["name"] == words[1]


def test_resuming_goes_on_bit_for_bit(run, tmp_path):
    words = ("--label-col", "kind", "--unfreeze-after", "2")
    whole = run(*words, "--epochs", "4").rename(tmp_path / "whole")
    run(*words, "--epochs", "3")
    parts = run(*words, "--epochs", "4")
    states = [
        torch.load(f / "checkpoints" / "last.ckpt", weights_only=True) for f in (whole, parts)
    ]
    first, second = (state["model"] for state in states)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_table_of_groups_is_printed(run, capsys):
    run("--label-col", "kind", "--epochs", "1", "--layer-decay", "0.75", "--learning-rate", "1e-4")
    told = capsys.readouterr().out
    assert "group" in told
    assert "block 3, norms and biases" in told
    assert "7.5e-05" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--num-classes", "2", "--label-col", "fraction"], "classes found: 0, 0.05"),
        (["--label-col", "kinds"], "no column 'kinds'; did you mean 'kind'"),
        (["--task", "tree"], "needs --schema"),
        (["--label-col", "huge"], "holds 5.9e.17, which is no class number"),
        (["--scheduler-kwargs", "5"], "must be a dict"),
        (["--class-weights", "5"], "use 'balanced', or numbers"),
        (["--unfreeze-after", "-1"], "-1 is less than 0"),
        (["--training-mode", "head"], "invalid choice: 'head'"),
        (["--scheduler-kwargs", "{sched: cosine}"], "--scheduler-kwargs .* is not JSON"),
        (["--scheduler-kwargs", '{"sched": "cos"}'], "cos"),
        (["--encoder", "nowhere.safetensors"], "no weights file nowhere.safetensors"),
        (["--encoder", "nowhere.ckpt"], "no checkpoint nowhere.ckpt"),
        (["--encoder", "restnet18"], "no encoder 'restnet18'; did you mean"),
        (["--class-weights", "[1, 2, 3]", "--label-col", "kind"], "3 class_weights"),
        (["--task", "regression", "--label-col", "smooth_yes", "--unit-interval"], "outside 0-1"),
    ],
)
def test_misuse_is_told_before_anything_is_written(run, tmp_path, words, told):
    with pytest.raises(ValueError, match=told):
        run(*words)
    assert not (tmp_path / "run").exists()


def test_a_users_error_is_one_line_and_exit_code_2(catalog, tmp_path):
    command = [sys.executable, REPO / "finetune.py", "--catalog", catalog, "--label-col", "kinds"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_without_a_network_the_default_is_the_encoder_that_comes_along(
    catalog, tmp_path, monkeypatch, capsys
):
    go_offline(monkeypatch, tmp_path / "home")
    words = "--label-col label --image-size 32 --num-workers 0 --epochs 1 --no-report"
    paths = ["--catalog", str(catalog), "--save-dir", str(tmp_path / "run")]
    script.main(script.parse([*words.split(), *paths]))
    told = capsys.readouterr().out
    assert (
        "the pretrained weights of 'hf_hub:mwalmsley/zoobot-encoder-convnext_nano' can't be had"
        in told
    )
    assert "instead: --encoder simulated" in told
    assert json.loads((tmp_path / "run" / "config.json").read_text())["encoder"] == "simulated"
    model = FinetuneableZoobotClassifier.load_from_checkpoint(tmp_path / "run" / "best.safetensors")
    assert type(model.encoder).__name__ == "EfficientNet"


def test_fresh_weights_need_the_name_of_an_encoder(catalog):
    with pytest.raises(ValueError, match="--from-scratch needs --encoder, a timm name"):
        script.main(script.parse(["--catalog", str(catalog), "--from-scratch"]))
    opt = script.parse(["--catalog", str(catalog), "--encoder", "simulated", "--from-scratch"])
    with pytest.raises(ValueError, match="--from-scratch needs a timm name, not simulated"):
        script.encoder_arguments(opt)
