import shutil

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from conftest import draw_galaxies

import predict as script
from zoobot.evaluation.join import join
from zoobot.models.finetune import (
    FinetuneableZoobotClassifier,
    FinetuneableZoobotRegressor,
    FinetuneableZoobotTree,
)
from zoobot.models.tree import ZoobotTree
from zoobot.predictions.files import read_predictions
from zoobot.predictions.models import load_predictor
from zoobot.runs import checkpoint
from zoobot.script import run_script
from zoobot.system.errors import UserError


@pytest.fixture
def folder(tmp_path, tree, monkeypatch):
    """12 galaxies, and the checkpoint of a tree model that was validated at 32 px."""
    draw_galaxies(tmp_path, tree, 12)
    torch.manual_seed(0)
    model = ZoobotTree(schema=tree, architecture_name="test_resnet")
    description = model.describe() | {"image_size": 32, "view": {"output_size": 32}}
    checkpoint.save_weights(tmp_path / "tree.safetensors", model.state_dict(), description)
    monkeypatch.chdir(tmp_path)
    return tmp_path


MODEL = ["--checkpoint", "tree.safetensors"]
QUICK = ["--num-workers", "0", "--precision", "fp32"]
WORDS = [*MODEL, *QUICK]


def run(*arguments):
    model = [] if "--checkpoint" in arguments else MODEL
    words = [*model, *QUICK, "--save-loc", "p.parquet", *arguments]
    run_script(script.main, lambda: script.parse(words))
    return pd.read_parquet("p.parquet")


def refusal(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def test_a_catalog_is_predicted_with_summary(folder, tree, capsys):
    table = run("--catalog", "catalog.csv", "--n-samples", "4", "--summary")
    assert list(table.columns) == ["id_str", *tree.label_cols]
    assert len(table["smooth_yes"][0]) == 4
    summary = pd.read_parquet("p_summary.parquet")
    assert {"bar_weak_90pc-upper", "bar_proportion-asked"} <= set(summary.columns)
    assert "predictions p.parquet\nsummary p_summary.parquet" in capsys.readouterr().out


def test_a_summary_is_recalibrated_on_the_way_out_and_the_predictions_are_not(folder, tree):
    before = run("--catalog", "catalog.csv", "--summary")
    summary = pd.read_parquet("p_summary.parquet")
    (folder / "t.json").write_text('{"smooth": 4.0, "merging": 1.0, "bar": 1.0}')
    after = run("--catalog", "catalog.csv", "--summary", "--temperatures", "t.json")
    pd.testing.assert_frame_equal(before, after)
    recalibrated = pd.read_parquet("p_summary.parquet")
    width = "smooth_yes_90pc-upper", "smooth_yes_90pc-lower"
    narrower = recalibrated[width[0]] - recalibrated[width[1]]
    assert (narrower < 0.7 * (summary[width[0]] - summary[width[1]])).all()
    rest = [name for name in summary if not name.startswith("smooth_")]
    pd.testing.assert_frame_equal(summary[rest], recalibrated[rest])


@pytest.mark.parametrize(
    ("text", "words", "line"),
    [
        ('{"smooth": 1, "bar": 1, "merging": 1}', [], "recalibrate a summary: ask for it too"),
        ('{"smooth": 1, "bar": 1}', ["--summary"], "t.json are not one a question (smooth, bar,"),
        ('{"smooth": 1, "bar": 0, "merging": 1}', ["--summary"], "t.json: 'bar' is 0, not above"),
        ("[", ["--summary"], "temperatures t.json can't be read"),
        ("[" * 100_000, ["--summary"], "can't be read: nested too deeply"),
        (f'{{"smooth": {"9" * 5000}}}', ["--summary"], "temperatures t.json can't be read"),
        ('{"smooth": 1e999, "bar": 1, "merging": 1}', ["--summary"], "'smooth' is inf, not above"),
        ('{"smooth": NaN, "bar": 1, "merging": 1}', ["--summary"], "'smooth' is nan, not above"),
        ('{"smooth": [1], "bar": 1, "merging": 1}', ["--summary"], "'smooth' is [1], not above"),
    ],
)
def test_what_are_no_temperatures_of_the_tree_is_refused(folder, capsys, text, words, line):
    (folder / "t.json").write_text(text)
    told = refusal(capsys, "--catalog", "catalog.csv", "--temperatures", "t.json", *words)
    assert line in told


def test_of_several_views_the_first_is_the_one_and_all_repeat(folder):
    one, several, again = (
        run("--catalog", "catalog.csv", "--n-views", views)["smooth_yes"] for views in "133"
    )
    several, again = np.stack(several), np.stack(again)
    assert several.shape == (12, 3)
    np.testing.assert_allclose(one, several[:, 0], rtol=1e-5)
    assert not np.allclose(several[:, 0], several[:, 1], rtol=1e-5)
    np.testing.assert_array_equal(several, again)


def test_several_checkpoints_are_an_ensemble_and_those_of_other_trees_one_line(folder, capsys):
    torch.manual_seed(1)
    model = load_predictor("tree.safetensors")
    torch.nn.init.normal_(model.head.linear.weight)
    description = model.describe() | {"image_size": 32, "view": {"output_size": 32}}
    checkpoint.save_weights(folder / "other.safetensors", model.state_dict(), description)
    both = ["--checkpoint", "tree.safetensors", "other.safetensors"]
    made = np.stack(run("--catalog", "catalog.csv", *both)["smooth_yes"])
    for i, path in enumerate(both[1:]):
        alone = run("--catalog", "catalog.csv", "--checkpoint", path)["smooth_yes"]
        np.testing.assert_allclose(made[:, i], alone, rtol=1e-5)
    told = refusal(capsys, "--catalog", "catalog.csv", *both, "--representations")
    assert "features of several models can't be mixed" in told


def test_a_folder_is_predicted_with_paths_as_ids(folder):
    (folder / "images" / "more").mkdir()
    shutil.copy("images/g3.png", "images/more/again.png")
    table = run("--images", "images").set_index("id_str")
    assert len(table) == 13
    np.testing.assert_array_equal(table.loc["more/again"], table.loc["g3"])


def test_a_folder_of_parquet_files_is_predicted_as_a_catalog(folder):
    frame = pd.read_csv("catalog.csv", dtype={"id_str": str})
    frame["file_loc"] = [str(folder / x) for x in frame["file_loc"]]
    (folder / "parts").mkdir()
    frame[:5].to_parquet("parts/a.parquet")
    frame[5:].to_parquet("parts/b.parquet")
    assert run("--catalog", "parts")["id_str"].tolist() == frame["id_str"].tolist()


def test_shards_are_predicted_as_their_catalog_is(folder):
    from zoobot.create_shards import write_shards
    from zoobot.data.catalog import read_catalog

    write_shards(read_catalog("catalog.csv"), ["smooth_yes"], "shards", eval_size=5,
                 encoding="raw", img_size=40, num_workers=0, show_progress=False)  # fmt: skip
    table = run("--shards", "shards").set_index("id_str")
    assert len(table) == 5
    assert len(run("--shards", "shards", "--split", "train")) == 7
    whole = run("--catalog", "catalog.csv").set_index("id_str")
    np.testing.assert_allclose(table, whole.loc[table.index], rtol=1e-3)


@pytest.mark.parametrize("suffix", [".fits", ".vot", ".parquet", ".csv", ".hdf5"])
def test_columns_of_the_catalog_are_carried_into_predictions_and_summary(folder, tree, suffix):
    catalog = pd.read_csv("catalog.csv")
    ids = [str(1237648720693755918 + i) for i in range(12)]
    catalog = catalog.assign(id_str=ids, ra=np.linspace(0, 360, 12), objid=[*range(12)])
    catalog["name"] = ["NGC 1", "[HB89] 3"] * 6
    catalog.to_parquet("sky.parquet")
    carry = ["--carry", "ra", "objid", "name"]
    save = ["--save-loc", f"p{suffix}", "--summary"]
    run_script(
        script.main, lambda: script.parse([*WORDS, "--catalog", "sky.parquet", *carry, *save])
    )
    made = read_predictions(f"p{suffix}")
    summary = read_predictions(f"p_summary{suffix if suffix in ('.fits', '.vot') else '.parquet'}")
    for read in (made, summary):
        assert read.ids.tolist() == ids
        table = read.to_frame()
        np.testing.assert_allclose(table["ra"], catalog["ra"])
        assert table["objid"].tolist() == [*range(12)]
        if suffix != ".csv" or read is summary:
            assert table.columns[1:4].tolist() == carry[1:]
            assert table["name"].tolist() == catalog["name"].tolist()
    joined = join(made, "sky.parquet", schema=tree)
    plain = run("--catalog", "sky.parquet")[tree.label_cols].to_numpy()
    np.testing.assert_array_equal(joined.predictions.values[..., 0], plain)


def test_columns_that_can_not_be_carried_are_refused_in_one_line(folder, capsys):
    from zoobot.create_shards import write_shards
    from zoobot.data.catalog import read_catalog

    told = refusal(capsys, "--catalog", "catalog.csv", "--carry", "smooth_yess")
    assert "no column 'smooth_yess'; did you mean 'smooth_yes'" in told
    assert "also a column of the predictions" in refusal(
        capsys, "--catalog", "catalog.csv", "--carry", "smooth_yes"
    )
    assert "images have none" in refusal(capsys, "--images", ".", "--carry", "ra")
    write_shards(read_catalog("catalog.csv"), ["smooth_yes"], "shards", eval_size=5,
                 encoding="raw", img_size=40, num_workers=0, show_progress=False)  # fmt: skip
    told = refusal(capsys, "--shards", "shards", "--carry", "ra")
    assert "shards hold no such column, only ids, images and labels (smooth_yes)" in told
    assert not (folder / "p.parquet").exists()


def test_representations_come_from_a_checkpoint_or_a_named_encoder(folder):
    from zoobot.models.encoders import save_encoder

    table = run("--catalog", "catalog.csv", "--representations")
    width = timm.create_model("test_resnet", num_classes=0).num_features
    assert list(table.columns) == ["id_str", *(f"feat_{i}" for i in range(width))]
    model = load_predictor("tree.safetensors")
    save_encoder(model.encoder, folder / "encoder")
    again = run(
        "--checkpoint", "local-dir:encoder", "--catalog", "catalog.csv", "--representations",
        "--image-size", "32",
    )  # fmt: skip
    assert again.shape == table.shape


def test_only_one_split_is_predicted(folder):
    frame = pd.read_csv("catalog.csv").assign(split=["train", "test"] * 6)
    frame.to_csv("split.csv", index=False)
    assert len(run("--catalog", "split.csv", "--split", "test")) == 6


def test_every_class_of_checkpoint_is_known_lightnings_too(folder, tree):
    encoder = {"encoder": timm.create_model("test_resnet", num_classes=0)}
    models = [
        FinetuneableZoobotClassifier(num_classes=3, **encoder),
        FinetuneableZoobotRegressor(label_col="size", **encoder),
        FinetuneableZoobotTree(tree, **encoder),
        ZoobotTree(schema=tree, architecture_name="test_resnet"),
    ]
    pairs = {"question_answer_pairs": tree.question_answer_pairs, "dependencies": tree.dependencies}
    lightning = [
        {"num_classes": 3}, {"unit_interval": False, "label_col": "size"},
        {"training_mode": "full", **pairs}, pairs,
    ]  # fmt: skip
    images = torch.rand(2, 3, 32, 32)
    for model, arguments in zip(models, lightning, strict=True):
        description = {**model.describe(), "image_size": 32}
        state = {"model": model.state_dict(), "description": description}
        checkpoint.save_checkpoint("ours.ckpt", state)
        arguments = {"architecture_name": "test_resnet", **arguments}
        theirs = {"state_dict": model.state_dict(), "hyper_parameters": arguments}
        torch.save(theirs, "theirs.ckpt")
        for path in ("ours.ckpt", "theirs.ckpt"):
            again = load_predictor(path)
            assert type(again) is type(model)
            assert torch.equal(again(images), model.eval()(images))


def test_misuse_is_one_line(folder, capsys):
    assert "--catalog --shards --images is required" in refusal(capsys)
    assert "no catalog none.csv" in refusal(capsys, "--catalog", "none.csv")
    message = refusal(capsys, "--checkpoint", "none.ckpt", "--catalog", "catalog.csv")
    assert "no checkpoint none.ckpt" in message
    message = refusal(capsys, "--catalog", "catalog.csv", "--representations", "--summary")
    assert "a summary is made of decision trees, not of representations" in message
    (folder / "images" / "g5.png").write_bytes(b"")
    assert "g5.png: empty file" in refusal(capsys, "--catalog", "catalog.csv")
    checkpoint.save_weights("x.safetensors", {}, {"class": "MyModel", "arguments": {}})
    message = refusal(capsys, "--checkpoint", "x.safetensors", "--catalog", "catalog.csv")
    assert "holds a MyModel, not one of ZoobotTree" in message


def test_the_number_of_workers_is_auto_or_a_number():
    def parsed(*words):
        return script.parse(["--checkpoint", "a", "--images", "b", "--save-loc", "c.csv", *words])

    assert parsed().num_workers == "auto"
    assert parsed("--num-workers", "auto").num_workers == "auto"
    assert parsed("--num-workers", "0").num_workers == 0
    for wrong in ("-1", "all", "1.5"):
        with pytest.raises(UserError, match="--num-workers"):
            parsed("--num-workers", wrong)
