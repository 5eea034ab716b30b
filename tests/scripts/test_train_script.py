import json
import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import torch
import yaml
from conftest import REPO, draw_galaxies

import predict
import train
from zoobot import create_shards, from_options, script
from zoobot.models.tree import ZoobotTree
from zoobot.runs import numerics
from zoobot.runs.folder import read_metrics
from zoobot.script import run_script
from zoobot.system import distributed


@pytest.fixture
def folder(tmp_path, tree, monkeypatch):
    """A folder with 60 galaxies, their tree, and options for a quick run."""
    draw_galaxies(tmp_path, tree, 60)
    (tmp_path / "tree.json").write_text(json.dumps(tree.to_dict()))
    monkeypatch.chdir(tmp_path)
    return tmp_path


QUICK = [
    "--schema", "tree.json", "--encoder", "test_resnet", "--image-size", "32", "--epochs", "2",
    "--batch-size", "16", "--num-workers", "0", "--save-dir", "run", "--no-report",
]  # fmt: skip


def run_train(*arguments):
    run_script(train.main, lambda: train.parse([str(a) for a in arguments]))


def refusal(capsys, *arguments):
    """The one line that the script leaves on stderr for a user's mistake."""
    with pytest.raises(SystemExit) as stop:
        run_train(*arguments)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def edit(folder, name="edited.csv", **columns):
    frame = pd.read_csv(folder / "catalog.csv")
    frame.assign(**columns).to_csv(folder / name, index=False)
    return name


def test_a_run_leaves_the_promised_files(folder, capsys):
    run_train("--catalog", "catalog.csv", *(word for word in QUICK if word != "--no-report"))
    run = folder / "run"
    names = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
    assert {"config.json", "metrics.jsonl", "best.safetensors", "checkpoints/last.ckpt"} <= names
    assert {"curves.png", "questions.png", "galaxies.png"} <= names
    assert {"test_predictions.parquet", "report/report.html", "report/temperatures.json"} <= names
    predicted = pd.read_parquet(run / "test_predictions.parquet")
    assert len(predicted) == 12
    assert len([n for n in names if n.startswith("checkpoints/epoch=")]) == 1
    assert any(n.startswith("tensorboard/events") for n in names)
    assert not [n for n in names if "/." in f"/{n}"]
    config = json.loads((run / "config.json").read_text())
    assert config["encoder"] == "test_resnet"
    assert config["environment"]["versions"]["torch"] == torch.__version__
    lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(x["epoch"], x["split"]) for x in lines] == [
        (1, "train"), (1, "validation"), (2, "train"), (2, "validation"), (2, "test"),
    ]  # fmt: skip
    names = ("supervised_loss", "question_loss/bar", "question_accuracy/bar")
    for line in lines:
        for name in names:
            assert {f"{line['split']}/{name}", f"{line['split']}/constant/{name}"} <= line.keys()
    out = capsys.readouterr().out
    assert "leading answer right" in out
    assert "42 galaxies to train on, 6 to validate" in out


def test_the_best_weights_rebuild_the_model(folder):
    run_train("--catalog", "catalog.csv", *QUICK)
    model = ZoobotTree.load_from_checkpoint(folder / "run" / "best.safetensors")
    assert model.images_seen.image_size == 32
    assert model.images_seen.view["random_affine"]["scale"] == [1.2, 1.2]
    assert model(torch.rand(1, 3, 32, 32)).shape == (1, 7)


def test_options_from_a_file_yield_to_the_command_line(folder):
    settings = {"catalog": "catalog.csv", "epochs": 7, "betas": [0.8, 0.9], "grad_clip": 1}
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    opt = train.parse(["--config", "run.yaml", "--epochs", "3"])
    assert (opt.catalog, opt.epochs, opt.betas, opt.grad_clip) == ("catalog.csv", 3, [0.8, 0.9], 1)


def test_the_configuration_of_a_run_is_taken_by_another(folder):
    run_train("--catalog", "catalog.csv", *QUICK, "--zoom", "1.1", "1.5", "--save-top-k", "-1")
    opt = train.parse(["--config", "run/config.json", "--save-dir", "again"])
    before = json.loads((folder / "run" / "config.json").read_text())
    differing = {key for key, value in vars(opt).items() if before[key] != value}
    assert differing == {"config", "save_dir"}


@pytest.mark.parametrize(
    ("words", "yaml_text", "compile_", "tf32"),
    [
        ([], "", "auto", "auto"),
        (["--compile"], "", "on", "auto"),
        (["--compile", "max", "--tf32", "off"], "compile: off\n", "max", "off"),
        ([], "compile: off\ntf32: on\n", "off", "on"),
        ([], "compile: true\n", "on", "auto"),
    ],
)
def test_on_and_off_are_what_they_say_in_a_file_too(folder, words, yaml_text, compile_, tf32):
    (folder / "run.yaml").write_text(yaml_text)
    opt = train.parse(["--config", "run.yaml", *words])
    assert (opt.compile, opt.tf32) == (compile_, tf32)


def test_scripts_choose_how_a_gpu_computes_before_they_start_it(folder, monkeypatch):
    calls = []
    choose_device = distributed.choose_device
    for module in (script, numerics):
        monkeypatch.setattr(module, "set_numerics", lambda *how: calls.append(how))
    monkeypatch.setattr(
        distributed, "choose_device", lambda *a: calls.append("device") or choose_device(*a)
    )
    words = ["--tf32", "off", "--deterministic", "--compile", "off", "--epochs", "1"]
    run_train("--catalog", "catalog.csv", *QUICK, *words)
    assert calls[:2] == [(True, "off"), "device"]
    assert calls.count((True, "off")) == 2  # the trainer's is the other


def test_zoom_is_that_of_the_training_views_and_its_middle_of_all_others(folder, tree):
    words = ["--config", "run.yaml", *QUICK, "--save-dir", "zoomed", "--catalog", "catalog.csv"]
    (folder / "run.yaml").write_text("zoom: [2.0, 3.0]\n")
    opt = train.parse(words)
    splits = from_options.load_galaxies(opt, opt.catalog, tree.label_cols)
    data = from_options.make_data(opt, splits, tree.label_cols)
    assert data.train_transform.config.random_affine["scale"] == (2.0, 3.0)
    assert data.test_transform.config.random_affine["scale"] == (2.5, 2.5)


@pytest.fixture
def shards(folder):
    """The catalog in 9 raw shards, 12 galaxies of them for tests."""
    create_shards.main(
        create_shards.parse(
            ["--labelled-catalog", "catalog.csv", "--shard-dir", "shards", "--schema", "tree.json",
             "--encoding", "raw", "--img-size", "40", "--eval-size", "12", "--num-workers", "0",
             "--galaxies-a-shard", "6"]
        )
    )  # fmt: skip
    return folder / "shards"


@pytest.mark.parametrize("augment", ["cpu", "device"])
def test_shards_train_and_end_with_a_report_of_their_test_galaxies(shards, augment, capsys):
    words = [word for word in QUICK if word != "--no-report"]
    run_train("--shards", "shards", "--augment", augment, *words)
    assert "43 galaxies to train on, 5 to validate" in capsys.readouterr().out
    assert len(pd.read_parquet("run/test_predictions.parquet")) == 12
    assert (shards.parent / "run" / "report" / "report.html").exists()
    assert (shards.parent / "run" / "galaxies.png").exists()


def test_shards_of_another_tree_or_beside_a_catalog_are_refused(shards, capsys):
    assert "not both" in refusal(capsys, "--shards", "shards", "--catalog", "catalog.csv", *QUICK)
    other = [word if word != "tree.json" else "gz_rings_schema" for word in QUICK]
    message = refusal(capsys, "--shards", "shards", *other)
    assert "have labels smooth_yes, smooth_no" in message
    assert "unfinished" in refusal(capsys, "--shards", "images", *QUICK)


def test_the_demo_has_defaults_of_its_own_that_options_override():
    assert train.parse([]).image_size == train.DEMO["image_size"]
    assert train.parse(["--image-size", "32"]).image_size == 32
    assert train.parse(["--catalog", "cat.csv"]).image_size == 224


@pytest.mark.parametrize("suffix", [".parquet", ".fits"])
def test_other_catalog_formats_and_embedded_images_train_too(folder, suffix):
    frame = pd.read_csv(folder / "catalog.csv")
    if suffix == ".parquet":
        locs = frame.pop("file_loc")
        frame["image"] = [(folder / loc).read_bytes() for loc in locs]
        frame.to_parquet(folder / "cat.parquet")
    else:
        table = pytest.importorskip("astropy.table")
        table.Table.from_pandas(frame).write(folder / "cat.fits")
    run_train("--catalog", f"cat{suffix}", *QUICK, "--epochs", "1")
    assert (folder / "run" / "best.safetensors").exists()


def test_fewer_galaxies_than_a_batch_train_with_a_smaller_batch(folder):
    edit(folder, "few.csv", split=["train"] * 5 + ["val"] * 1 + ["test"] * 54)
    run_train("--catalog", "few.csv", *QUICK, "--batch-size", "512", "--grad-accumulation", "4")
    state = torch.load(folder / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["progress"]["step"] == 2


def test_a_run_without_a_test_split_ends_well(folder):
    edit(folder, split=["train"] * 50 + ["val"] * 10)
    run_train("--catalog", "edited.csv", *QUICK, "--epochs", "1", "--channels", "1")
    assert len((folder / "run" / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"bar_weak": -1}, "column 'bar_weak' of id_str 'g"),
        ({"bar_weak": 0.5}, "which is no vote count"),
        ({"bar_weak": float("nan")}, "which is no vote count"),
        ({"id_str": "same"}, "'same' appears more than once (59 rows too many)"),
        ({"file_loc": "images/gone.png"}, "60 of 60 image files are missing"),
        ({"split": "train"}, "no galaxies in split 'val'"),
    ],
)
def test_a_faulty_catalog_is_one_line_and_exit_code_2(folder, capsys, columns, message):
    line = refusal(capsys, "--catalog", edit(folder, **columns), *QUICK)
    assert line.startswith("error: ")
    assert message in line


def test_missing_images_are_found_before_training_starts(folder, capsys):
    shutil.rmtree(folder / "images")
    line = refusal(capsys, "--catalog", "catalog.csv", *QUICK)
    assert "60 of 60 image files are missing" in line
    assert ".png, ...; all are listed in run/bad_images.csv" in line
    assert len(pd.read_csv(folder / "run" / "bad_images.csv")) == 60
    assert [path.name for path in (folder / "run").iterdir()] == ["bad_images.csv"]


def test_bad_images_stop_a_run_before_training_or_are_left_out(folder, capsys):
    for i in (3, 5, 59):
        (folder / "images" / f"g{i}.png").write_bytes(b"<html>504</html>")
    line = refusal(capsys, "--catalog", "catalog.csv", *QUICK)
    assert "3 of 60 images can't be read" in line
    assert len(pd.read_csv(folder / "run" / "bad_images.csv")) == 3
    run_train("--catalog", "catalog.csv", *QUICK, "--epochs", "1", "--on-bad-image", "drop")
    told = capsys.readouterr()
    assert "3 of 60 galaxies are left out" in told.err
    assert read_metrics(folder / "run")[-1]["split"] == "test"


def test_an_unreadable_image_is_named(folder, capsys):
    (folder / "images" / "g3.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    for num_workers in (0, 2):
        line = refusal(capsys, "--catalog", "catalog.csv", *QUICK, "--num-workers", num_workers)
        assert "g3.png" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--catalog", "absent.csv"], "error: no catalog absent.csv"),
        (["--catalog", "empty.csv"], "empty.csv is empty"),
        (["--catalog", "rowless.csv"], "has no rows"),
        (["--schema", "gz2_ortho_schema"], "no column 'smooth-or-featured-gz2_smooth'"),
        (["--schema", "other.json"], "no column 'smooth_yess'; did you mean 'smooth_yes'"),
        (["--schema", "gz2"], "no schema named 'gz2'; did you mean"),
        (["--encoder", "resnet19"], "no encoder 'resnet19'; did you mean"),
        (["--epoch", "3"], "unknown option '--epoch'; did you mean '--epochs'"),
        (["--epochs", "0"], "argument --epochs: 0 is less than 1"),
        (["--zoom", "3", "2"], "--zoom 3 2: give LOW and HIGH, above 0, low first"),
        (["--lr", "fast"], "argument --lr: invalid"),
        (["--config", "absent.yaml"], "config absent.yaml can't be read"),
        (["--config", "bad.yaml"], "unknown option 'epoch'; did you mean '--epochs'"),
        (["--resume", "absent.ckpt"], "no checkpoint absent.ckpt"),
        (["--device", "cuda"], "has no GPU"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(folder, capsys, arguments, message):
    if arguments == ["--device", "cuda"] and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    (folder / "empty.csv").write_text("")
    (folder / "rowless.csv").write_text("id_str,file_loc\n")
    (folder / "bad.yaml").write_text("epoch: 3\n")
    other = {"smooth": {"answers": ["_yess", "_no"], "asked_after": None}}
    (folder / "other.json").write_text(json.dumps(other))
    assert message in refusal(capsys, "--catalog", "catalog.csv", *QUICK, *arguments)


def test_a_mistake_shows_no_traceback_unless_asked_for(folder):
    command = [sys.executable, str(REPO / "train.py"), "--catalog", "absent.csv", *QUICK]
    plain = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert (plain.returncode, plain.stderr) == (2, "error: no catalog absent.csv\n")
    debug = subprocess.run([*command, "--debug"], capture_output=True, text=True, cwd=folder)
    assert debug.returncode == 2
    assert "Traceback" in debug.stderr


def test_a_fault_of_ours_keeps_its_traceback_and_exits_with_1(folder):
    code = (
        "import sys, train\n"
        "from zoobot.script import run_script\n"
        "train.make_model = lambda *_: {}['absent']\n"
        f"run_script(train.main, lambda: train.parse({['--catalog', 'catalog.csv', *QUICK]}))\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env={**os.environ, "PYTHONPATH": REPO}
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.strip().endswith("KeyError: 'absent'")


def test_debug_in_a_config_file_shows_tracebacks_too(folder):
    (folder / "run.yaml").write_text("debug: true\n")
    words = ["--catalog", "absent.csv", *QUICK, "--config", "run.yaml"]
    command = [sys.executable, str(REPO / "train.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("error: no catalog absent.csv\n")


def test_debug_names_the_operation_whose_gradient_is_nan(folder, monkeypatch):
    forward = ZoobotTree.forward

    def spoilt(self, images):
        outputs = forward(self, images)
        return outputs + 0 * torch.sqrt(outputs * 0)  # its gradient is 0 * infinity

    monkeypatch.setattr(ZoobotTree, "forward", spoilt)
    with pytest.raises(RuntimeError, match="SqrtBackward0"):
        run_train("--catalog", "catalog.csv", *QUICK, "--debug")
    torch.autograd.set_detect_anomaly(False)


def test_columns_named_as_the_codes_own_attributes_train_predict_and_make_shards(folder):
    columns = ["source", "fingerprint", "label_table", "galaxies", "index"]
    frame = pd.read_csv("catalog.csv").assign(**dict.fromkeys(columns, "text"))
    frame.to_csv("named.csv", index=False)
    run_train("--catalog", "named.csv", *QUICK, "--epochs", "1")
    weights = ["--checkpoint", "run/best.safetensors"]
    words = ["--catalog", "named.csv", "--save-loc", "p.csv", "--num-workers", "0"]
    predict.main(predict.parse([*weights, *words]))
    assert len(pd.read_csv("p.csv")) == 60
    words = ["--labelled-catalog", "named.csv", "--shard-dir", "s", "--schema", "tree.json"]
    create_shards.main(create_shards.parse([*words, "--num-workers", "0", "--eval-size", "10"]))
    run_train("--shards", "s", *QUICK, "--epochs", "1", "--save-dir", "of_shards")


def test_each_galaxy_goes_through_the_model_once_when_a_run_ends(folder, monkeypatch):
    forward, sizes = ZoobotTree.forward, []

    def counted(self, images):
        if not self.training and len(images) > 1:  # one: whether the model can be built again
            sizes.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(ZoobotTree, "forward", counted)
    words = [word for word in QUICK if word != "--no-report"]
    run_train("--catalog", "catalog.csv", *words, "--epochs", "1")
    num_val = len(pd.read_parquet("run/val_predictions.parquet"))
    num_test = len(pd.read_parquet("run/test_predictions.parquet"))
    assert (num_val, num_test) == (6, 12)
    assert sum(sizes) == num_val + (num_val + num_test)  # the epoch's end, then the run's


def test_help_groups_the_options_and_shows_defaults(capsys):
    with pytest.raises(SystemExit) as stop:
        train.parse(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for words in ("optimisation:", "hardware:", "output:", "(default: 0.001)", "torchrun"):
        assert words in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 5000, "can't be read"),
        ("lr: &a [&b [x, x], *b, *b]", "aliases are not read"),
        ("betas: &a [*a]", "aliases are not read"),
        ("lr: " + "x" * 2**18, "larger than the limit of 262,144 bytes"),
        ("seed: 2001-13-45", "can't be read: month must be"),
        ("seed: " + "9" * 5000, "can't be read: Exceeds the limit"),
        ("lr: {2001-01-01: 3}", "lr can't be"),
        ("lr: !!python/object/apply:os.system [ls]", "objects are not read, write plain values"),
        ("seed: 4294967296", "4294967296 is more than 4294967295"),
        ("seed: -1", "-1 is less than 0"),
        ("num_workers: -1", "-1 is less than 0"),
    ],
)
def test_a_hostile_config_is_one_line(folder, capsys, text, message):
    (folder / "run.yaml").write_text(text)
    assert message in refusal(capsys, "--config", "run.yaml")


def test_an_error_does_not_repeat_a_value_of_any_length(folder, capsys):
    assert len(refusal(capsys, "--epochs", "x" * 50_000)) < 1100


def test_a_run_says_what_it_keeps_and_takes_no_gpu_that_is_not_there(folder, capsys):
    run_train("--catalog", "catalog.csv", *QUICK, "--cache", "memory")
    told = capsys.readouterr().out
    assert "cache: 42 training images, 0.0002 GB of memory\n" in told
    assert "cache: 6 validation images, 2.9e-05 GB of memory\n" in told
    for option in (["--cache", "device"], ["--decode", "gpu"]):
        said = refusal(capsys, "--catalog", "catalog.csv", *QUICK, "--save-dir", "other", *option)
        assert said.startswith(f"error: {' '.join(option)} needs a GPU")
        assert not (folder / "other" / "config.json").exists()
