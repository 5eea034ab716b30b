import base64
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from conftest import draw_galaxies
from PIL import Image

from zoobot import evaluate
from zoobot.data.catalog import read_catalog
from zoobot.data.demo import DEMO_TREE, demo_catalog, true_probabilities
from zoobot.predictions.files import Predictions, open_writer, read_predictions
from zoobot.schemas import load_schema

CLASSES = ["smooth", "disk"]


def page_data(path):
    text = path.read_text()
    return json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', text, re.S)[1])


def predictions(ids, values, columns, **metadata):
    values = np.asarray(values, dtype=np.float32)
    values = values if values.ndim == 3 else values[..., None]
    return Predictions(np.array(ids, dtype=object), values, list(columns), None, metadata)


@pytest.fixture
def galaxies(tmp_path, tree):
    """30 galaxies with images and votes; ``label`` is 1 where most votes were not smooth."""
    table = read_catalog(draw_galaxies(tmp_path, tree, 30))
    table["label"] = (table["smooth_no"] > table["smooth_yes"]).astype(int)
    table["size"] = table["smooth_yes"] / 20
    return table


@pytest.fixture
def tree_predictions(galaxies, tree):
    rng = np.random.default_rng(0)
    values = rng.uniform(1, 30, (30, 7, 3))
    return predictions(
        galaxies["id_str"], values, tree.label_cols, task="tree", schema=tree.to_dict()
    )


def class_predictions(galaxies, **metadata):
    p = np.clip(galaxies["smooth_no"] / 20 + np.linspace(-0.3, 0.3, 30), 0.01, 0.99)
    metadata = {"task": "classification", "label_col": "label", "class_names": CLASSES} | metadata
    return predictions(galaxies["id_str"], np.stack([1 - p, p], 1), CLASSES, **metadata)


def test_classes_get_the_documented_figures_and_true_numbers(galaxies, tmp_path):
    made = class_predictions(galaxies)
    page = evaluate.evaluate(made, galaxies, tmp_path / "report")
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert {
        "report.html", "metrics.json", "confusion_matrix.png", "per_class_accuracy.png",
        "confidence_distribution.png", "top_5_predictions.png", "top_5_errors.png",
        "residual_distribution.png", "calibration.png", "completeness_purity.png",
    } == names  # fmt: skip
    for name in names - {"report.html", "metrics.json"}:
        assert np.asarray(Image.open(tmp_path / "report" / name).convert("L")).std() > 5
    numbers = json.loads((tmp_path / "report" / "metrics.json").read_text())
    right = made.values[..., 0].argmax(1) == galaxies["label"]
    assert 0 < right.mean() < 1
    assert numbers["accuracy"] == pytest.approx(right.mean())
    data = page_data(page)
    question = {"name": "label", "answers": CLASSES, "asked_after": []}
    assert data["questions"] == [question | {"beats_constant": True}]
    share = galaxies["label"].mean()
    assert numbers["majority class"]["accuracy"] == max(share, 1 - share)
    assert [galaxy["label"] for galaxy in data["galaxies"]] == galaxies["label"].tolist()
    assert all(galaxy["image"].startswith("data:image/jpeg") for galaxy in data["galaxies"])


def test_labels_may_be_names_and_numbered_classes_may_be_named(galaxies, tmp_path):
    made = class_predictions(galaxies)
    named = galaxies.assign(label=galaxies["label"].map(dict(enumerate(CLASSES))))
    numbers = []
    for i, (table, more) in enumerate(((galaxies, {"class_names": ["S", "D"]}), (named, {}))):
        evaluate.evaluate(made, table, tmp_path / str(i), **more)
        numbers.append(json.loads((tmp_path / str(i) / "metrics.json").read_text()))
    assert numbers[0]["accuracy"] == numbers[1]["accuracy"]
    assert numbers[0]["Scores by class"]["rows"][1][0] == "D"
    with pytest.raises(ValueError, match="holds 'irregular'; the classes are smooth, disk"):
        evaluate.evaluate(made, named.replace("disk", "irregular"), tmp_path / "x")
    with pytest.raises(ValueError, match="3 class names for 2 classes"):
        evaluate.evaluate(made, galaxies, tmp_path / "x", class_names=["a", "b", "c"])


def test_trees_get_figures_scores_and_galaxies_with_votes(
    tree_predictions, galaxies, tree, tmp_path
):
    page = evaluate.evaluate(tree_predictions, galaxies, tmp_path / "report")
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert {
        "report.html", "metrics.json", "scores_by_question.png", "confusion_matrices.png",
        "confusion_matrices_confident.png", "fractions.png", "coverage.png", "bias.png",
        "temperatures.png", "worth.png", "vote_trees.png",
    } == names  # fmt: skip
    rows = json.loads((tmp_path / "report" / "metrics.json").read_text())["Scores by question"]
    assert [row[0] for row in rows["rows"]] == ["smooth", "bar", "merging"]
    data = page_data(page)
    assert data["questions"][1]["asked_after"] == [1]
    galaxy = data["galaxies"][4]
    assert galaxy["votes"] == galaxies[tree.label_cols].iloc[4].tolist()
    alpha = tree_predictions.values[4]
    assert galaxy["fractions"][0] == pytest.approx((alpha[0] / alpha[:2].sum(0)).mean(), rel=1e-4)
    assert galaxy["lower"][0] < galaxy["fractions"][0] < galaxy["upper"][0]


def elsewhere(made):
    return Predictions("other-" + made.ids, made.values, made.columns, None, made.metadata)


def test_temperatures_are_fitted_to_other_galaxies(tree_predictions, galaxies, tmp_path):
    other = (elsewhere(tree_predictions), galaxies.assign(id_str="other-" + galaxies["id_str"]))
    evaluate.evaluate(tree_predictions, galaxies, tmp_path / "report", recalibrate_on=other)
    same = (tree_predictions, galaxies)
    with pytest.raises(ValueError, match="30 are in both, for example 'g0'"):
        evaluate.evaluate(tree_predictions, galaxies, tmp_path / "x", recalibrate_on=same)
    temperatures = json.loads((tmp_path / "report" / "temperatures.json").read_text())
    assert list(temperatures) == ["smooth", "bar", "merging"]
    rows = json.loads((tmp_path / "report" / "metrics.json").read_text())["Intervals by question"]
    used = rows["columns"].index("temperature used")
    assert rows["columns"][used + 1] == "recalibrated"
    assert rows["rows"][0][used] == pytest.approx(temperatures["smooth"])
    assert "fitted to other galaxies" in (tmp_path / "report" / "report.html").read_text()


def test_numbers_get_scatter_and_residuals(galaxies, tmp_path):
    made = predictions(galaxies["id_str"], galaxies[["size"]] + 0.1, ["size"], task="regression")
    page = evaluate.evaluate(made, galaxies, tmp_path / "report")
    numbers = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert numbers["bias"] == pytest.approx(0.1, abs=1e-6)
    assert {"scatter.png", "residuals.png"} <= {p.name for p in page.parent.iterdir()}
    assert page_data(page)["galaxies"][0]["predicted"] == pytest.approx(
        galaxies["size"][0] + 0.1, rel=1e-4
    )


def test_galaxies_are_joined_by_id_and_what_does_not_join_is_told(galaxies, tmp_path):
    made = class_predictions(galaxies)
    made.values[3] = np.nan
    made.ids[5] = "elsewhere"
    shuffled = galaxies.sample(frac=1, random_state=0)
    joined = evaluate.join(made, shuffled)
    assert list(joined.table["id_str"]) == list(joined.predictions.ids)
    assert len(joined.table) == 28
    told = " ".join(joined.notes)
    assert "29 of 30 predictions belong to a galaxy" in told
    assert "Not in the catalog: elsewhere." in told
    assert "1 galaxies of the catalog have no prediction" in told
    assert "Without a readable image: g3." in told
    made.ids[:] = [f"x{i}" for i in range(30)]
    with pytest.raises(ValueError, match="ids like 'x0', the catalog like 'g"):
        evaluate.join(made, shuffled)


def test_files_that_do_not_tell_their_task_are_guessed_or_asked_for(galaxies, tree, tmp_path):
    made = class_predictions(galaxies)
    made.metadata = {}
    path = tmp_path / "p.csv"
    with open_writer(path, ".csv", made, 30) as writer:
        writer.write(made)
    joined = evaluate.join(path, galaxies)
    assert (joined.task, joined.label_col, joined.class_names) == (
        "classification", "label", CLASSES,
    )  # fmt: skip
    votes = predictions(galaxies["id_str"], np.full((30, 7), 5.0), tree.label_cols)
    assert evaluate.join(votes, galaxies, schema=tree).task == "tree"
    with pytest.raises(ValueError, match="give --schema"):
        evaluate.join(votes, galaxies, task="tree")
    with pytest.raises(ValueError, match="give --schema or --task"):
        evaluate.join(votes, galaxies)
    one = predictions(galaxies["id_str"], galaxies[["size"]], ["size"])
    assert evaluate.join(one, galaxies).task == "regression"
    features = predictions(galaxies["id_str"], np.ones((30, 4)), "abcd", task="representations")
    with pytest.raises(ValueError, match="'representations' can't be evaluated"):
        evaluate.join(features, galaxies)


def test_a_galaxy_without_a_readable_image_is_reported_without_thumbnail(galaxies, tmp_path):
    table = galaxies.drop(columns="file_loc")
    page = evaluate.evaluate(class_predictions(galaxies), table, tmp_path / "report")
    assert page_data(page)["galaxies"][0]["image"] is None


def test_the_command_reports_on_files(galaxies, tree_predictions, tmp_path, capsys):
    galaxies.to_parquet(tmp_path / "cat.parquet")
    path = tmp_path / "p.hdf5"
    with open_writer(path, ".hdf5", tree_predictions, 30) as writer:
        writer.write(tree_predictions)
    assert read_predictions(path).metadata["task"] == "tree"
    evaluate.main(
        evaluate.parse(
            ["--predictions", str(path), "--catalog", str(tmp_path / "cat.parquet"),
             "--report-dir", str(tmp_path / "report"), "--title", "A & B"]
        )
    )  # fmt: skip
    told = capsys.readouterr().out
    assert "report.html" in told
    assert "accuracy, smooth" in told
    assert "always “" in told
    assert "<title>A &amp; B</title>" in (tmp_path / "report" / "report.html").read_text()


def test_votes_that_are_no_counts_are_refused(tree_predictions, galaxies, tmp_path):
    galaxies["bar_weak"] = galaxies["bar_weak"].astype(float)
    galaxies.loc[2, "bar_weak"] = 0.5
    with pytest.raises(ValueError, match="'bar_weak' of id_str 'g2' holds 0.5"):
        evaluate.evaluate(tree_predictions, galaxies, tmp_path / "report")
    assert pd.isna(galaxies["bar_weak"]).sum() == 0


@pytest.fixture
def in_bands(tmp_path):
    """Galaxies of the demo in bands, and predictions that say so."""
    schema = load_schema(DEMO_TREE)
    path = demo_catalog(20, size_px=32, cache_dir=tmp_path, bands=["g", "r", "z"])
    table = read_catalog(path, schema.label_cols)
    values = 20 * true_probabilities(table, schema.label_cols)
    said = {"schema": schema.to_dict(), "bands": {"bands": ["g", "r", "z"]}}
    return table, predictions(table["id_str"], values, schema.label_cols, task="tree", **said)


def test_galaxies_of_bands_are_shown_in_colours_and_the_page_says_which(in_bands, tmp_path):
    table, made = in_bands
    pages = {}
    for name, bands in (("default", None), ("turned", ["g", "r", "z"]), ("grey", ["r"])):
        page = evaluate.evaluate(made, table, tmp_path / name, rgb_bands=bands)
        pages[name] = page_data(page)
    assert pages["default"]["pictures"] == "red z, green r, blue g"
    assert pages["turned"]["pictures"] == "red g, green r, blue z"
    assert pages["grey"]["pictures"] == "band r in grey"
    colours = {}
    for name, data in pages.items():
        jpegs = [base64.b64decode(g["image"].partition(",")[2]) for g in data["galaxies"]]
        colours[name] = np.stack([np.asarray(Image.open(io.BytesIO(j))) for j in jpegs]).astype(int)
    assert np.abs(colours["default"] - colours["turned"][..., ::-1]).mean() < 3
    assert np.abs(colours["default"] - colours["turned"]).mean() > 5
    assert np.ptp(colours["grey"], axis=-1).max() <= 2
    with pytest.raises(ValueError, match="of bands z r i: give red"):
        evaluate.evaluate(made, table, tmp_path / "x", rgb_bands=["z", "r", "i"])


def test_bands_that_a_file_does_not_tell_are_given(in_bands, tmp_path, capsys):
    table, made = in_bands
    made.metadata.pop("bands")
    table.to_parquet(tmp_path / "cat.parquet")
    with open_writer(tmp_path / "p.parquet", ".parquet", made, 20) as writer:
        writer.write(made)
    words = ["--predictions", str(tmp_path / "p.parquet"), "--report-dir", str(tmp_path / "report")]
    words += ["--catalog", str(tmp_path / "cat.parquet")]
    told = "--bands g r z --rgb-bands z r g".split()
    for more, has_image in (([], False), (told, True)):
        evaluate.main(evaluate.parse([*words, *more]))
        data = page_data(tmp_path / "report" / "report.html")
        assert (data["galaxies"][0]["image"] is not None) == has_image
    assert data["pictures"] == "red z, green r, blue g"
    with pytest.raises(ValueError, match="these are 8-bit images: leave --rgb-bands out"):
        evaluate.main(evaluate.parse([*words, "--rgb-bands", "z", "r", "g"]))
    made.metadata["bands"] = 5
    with pytest.raises(ValueError, match="bands 5: that is no description"):
        evaluate.evaluate(made, table, tmp_path / "x")


def numbers_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_a_blind_model_is_told_to_be_no_better_than_a_constant(galaxies, tree, tmp_path):
    blind = predictions(
        galaxies["id_str"], np.tile([5.6, 4.4, 1, 1, 1, 1, 1], (30, 1)), tree.label_cols,
        task="tree", schema=tree.to_dict(),
    )  # fmt: skip
    page = evaluate.evaluate(blind, galaxies, tmp_path / "tree")
    assert not any(question["beats_constant"] for question in page_data(page)["questions"])
    numbers = numbers_of(tmp_path / "tree")
    assert numbers["loss a galaxy"] > numbers["loss of the best constant"]["within bounds"]
    (told,) = numbers["warnings"]
    assert told.startswith("This model is no better than a constant: its loss is")
    assert told in page.read_text()
    p = np.tile([0.4, 0.6], (30, 1))
    made = predictions(galaxies["id_str"], p, CLASSES, **class_predictions(galaxies).metadata)
    table = galaxies.assign(label=np.arange(30) % 3 > 0)
    evaluate.evaluate(made, table.astype({"label": int}), tmp_path / "classes")
    numbers = numbers_of(tmp_path / "classes")
    assert numbers["accuracy"] == numbers["majority class"]["accuracy"] == pytest.approx(2 / 3)
    assert "Always answering “disk” is right for 0.667" in numbers["warnings"][0]
    made = predictions(galaxies["id_str"], np.full((30, 1), 0.3), ["size"], task="regression")
    evaluate.evaluate(made, galaxies, tmp_path / "numbers")
    assert "Always predicting the mean" in numbers_of(tmp_path / "numbers")["warnings"][0]


def test_galaxies_that_were_trained_on_are_counted_and_left_out_by_split(galaxies, tmp_path):
    made = class_predictions(galaxies, checkpoint="away/best.safetensors")
    table = galaxies.assign(split=["train"] * 18 + ["val"] * 4 + ["test"] * 8)
    page = evaluate.evaluate(made, table, tmp_path / "all")
    told = "Of these 30 galaxies 18 were trained on and 4 chose the epoch"
    assert told in page.read_text()
    assert numbers_of(tmp_path / "all")["about"]["checkpoint"] == "away/best.safetensors"
    page = evaluate.evaluate(made, table, tmp_path / "test", split="test")
    assert len(page_data(page)["galaxies"]) == 8
    assert numbers_of(tmp_path / "test")["warnings"] == []
    assert "8 of 8 predictions belong to a galaxy" in page.read_text()
    with pytest.raises(ValueError, match="no galaxies in split 'val', but in test, train"):
        evaluate.evaluate(made, table[table["split"] != "val"], tmp_path / "x", split="val")
    with pytest.raises(ValueError, match="no column 'split'"):
        evaluate.evaluate(made, galaxies, tmp_path / "x", split="test")


def test_one_vote_a_galaxy_says_that_coverage_tells_nothing(galaxies, tree, tmp_path):
    one = galaxies.assign(**dict.fromkeys(tree.label_cols, 0))
    one.loc[one.index % 2 == 0, "smooth_yes"] = 1
    one.loc[one.index % 2 == 1, "smooth_no"] = 1
    made = predictions(
        galaxies["id_str"], np.full((30, 7), 5.0), tree.label_cols, task="tree",
        schema=tree.to_dict(),
    )  # fmt: skip
    page = evaluate.evaluate(made, one, tmp_path / "report").read_text()
    assert "coverage says nothing" in page
    assert "lies between 85% and 95%" not in page
    assert not (tmp_path / "report" / "coverage.png").exists()
