import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from processes import script_error

from zoobot import select
from zoobot.predictions.contents import Predictions
from zoobot.predictions.files import read_predictions, write_predictions
from zoobot.script import run_script


@pytest.fixture
def pool(tree, tmp_path, monkeypatch):
    """40 galaxies; samples disagree the more, the higher their number; g39 is unreadable."""
    monkeypatch.chdir(tmp_path)
    spread = np.linspace(0, 0.9, 40)
    values = np.stack([5 + 4 * spread, 5 - 4 * spread], axis=1)[:, None].repeat(7, axis=1)
    values[:, ::2] = values[:, ::2, ::-1]
    values[39] = np.nan
    ids = np.array([f"g{i}" for i in range(40)], object)
    metadata = {"task": "tree", "schema": tree.to_dict()}
    errors = np.array([None] * 39 + ["no file"], object)
    made = Predictions(ids, values.astype(np.float32), tree.label_cols, errors, metadata)
    write_predictions("pool.parquet", made)
    return made


def run(*words):
    words = ["--predictions", "pool.parquet", "--save-loc", "next.csv", *map(str, words)]
    run_script(select.main, lambda: select.parse(words))


def refusal(capsys, *words):
    given = dict([("--predictions", "pool.parquet"), ("--save-loc", "x.csv")])
    given |= dict(zip(words[::2], words[1::2], strict=True))
    line = script_error(capsys, select, *(w for pair in given.items() for w in pair if w != ""))
    return line


def chosen(path="next.csv"):
    return pd.read_csv(path, dtype={"id_str": str})["id_str"].tolist()


def test_those_on_which_samples_disagree_most_are_chosen_but_for_labelled_ones(pool, capsys):
    pd.DataFrame({"id_str": ["g38", "g36", "far", "g38"]}).to_csv("labelled.csv", index=False)
    run("--number", 4, "--already", "labelled.csv")
    assert chosen() == ["g37", "g35", "g34", "g33"]
    told = capsys.readouterr()
    assert told.out.splitlines() == [
        "40 galaxies of pool.parquet, 2 of them in labelled.csv, 1 without predictions "
        "(unreadable images)",
        "1 of the 3 galaxies of labelled.csv are not among them, such as 'far'",
        "table next.csv",
    ]
    assert told.err == ""
    pd.DataFrame({"id_str": ["far"]}).to_csv("labelled.csv", index=False)
    run("--number", 1, "--already", "labelled.csv")
    assert "warning: no galaxy of labelled.csv is in pool.parquet" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".csv", ".hdf5", ".fits", ".vot"])
def test_predictions_of_any_format_give_the_same(pool, tree, suffix):
    pytest.importorskip({".hdf5": "h5py", ".csv": "csv"}.get(suffix, "astropy"))
    write_predictions(f"p{suffix}", pool)
    with open("tree.json", "w", encoding="utf-8") as file:
        json.dump(tree.to_dict(), file)
    words = ["--schema", "tree.json"] if suffix == ".csv" else []
    run("--predictions", f"p{suffix}", "--number", 5, "--save-loc", f"out{suffix}", *words)
    assert read_predictions(f"out{suffix}").ids.tolist() == ["g38", "g37", "g36", "g35", "g34"]


def test_a_diverse_choice_has_galaxies_of_each_kind(pool, capsys):
    kinds = np.where(np.arange(40) >= 30, 0, np.arange(40) % 3 + 1)
    features = 10 * np.eye(4, dtype=np.float32)[kinds] + 0.01 * np.eye(40, 4, dtype=np.float32)
    columns = [f"feat_{i}" for i in range(4)]
    made = Predictions(pool.ids, features[..., None], columns, None, {"task": "representations"})
    write_predictions("features.parquet", made.take(np.arange(1, 40)))
    run("--number", 4)
    assert {kinds[int(name[1:])] for name in chosen()} == {0}
    run("--number", 4, "--diverse", "--representations", "features.parquet")
    assert chosen()[0] == "g38"
    assert {kinds[int(name[1:])] for name in chosen()} == {0, 1, 2, 3}
    assert "warning: 1 of the 39 most informative galaxies have no features" in (
        capsys.readouterr().err
    )


def test_the_page_shows_the_chosen_and_what_would_be_learned(pool, capsys):
    Image.new("RGB", (20, 20), "navy").save("a.png")
    catalog = pd.DataFrame({"id_str": pool.ids[:38], "file_loc": "a.png"})
    catalog.to_csv("catalog.csv", index=False)
    run("--number", 3, "--catalog", "catalog.csv")
    told = capsys.readouterr()
    assert "page next.html" in told.out
    assert "warning: 1 of 3 galaxies have no picture" in told.err
    text = open("next.html", encoding="ascii").read()
    assert text.count("<figure") == 3
    assert text.index("g38</figcaption>") < text.index("g37</figcaption>")
    score = pd.read_csv("next.csv")["expected-information"][0]
    assert f"{score:.3f} " in text


def test_mistakes_are_one_line(pool, tree, capsys):
    assert "did you mean 'bar'" in refusal(capsys, "--question", "bars")
    told = refusal(capsys, "--number", 40)
    assert "--number 40: only 39 are left of 40 galaxies of pool.parquet" in told
    assert "go together" in refusal(capsys, "--diverse", "")
    assert "go together" in refusal(capsys, "--representations", "features.parquet")
    assert "no catalog none.csv" in refusal(capsys, "--already", "none.csv")
    assert refusal(capsys, "--predictions", "none.parquet") == "error: no predictions none.parquet"
    assert "has no column 'id_str'" in refusal(capsys, "--already", write_csv("a.csv", {"ra": [1]}))
    told = refusal(capsys, "--already", write_csv("b.csv", {"id_str": ["1.2E+18"]}))
    assert "a rounded number" in told
    told = refusal(capsys, "--already", write_csv("c.csv", {"id_str": ["g1", None], "ra": 1}))
    assert told == "error: c.csv: column 'id_str' is empty in row 1"


def write_csv(path, columns):
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda p: setattr(p, "values", p.values[..., :1]), "one sample of each galaxy"),
        (lambda p: p.values.__setitem__((..., 0), p.values[..., 1]), "are equal"),
        (lambda p: p.ids.__setitem__(5, "g6"), "has galaxy 'g6' more than once (1 rows too many)"),
        (lambda p: p.values.__setitem__((3, 0, 0), -1), "a concentration is -1"),
        (lambda p: p.metadata.update(task="summary"), "is a summary"),
        (lambda p: setattr(p, "metadata", {"task": "regression"}), "which have no mutual inform"),
        (lambda p: setattr(p, "metadata", {"task": "representations"}), "of representations"),
        (lambda p: setattr(p, "metadata", {}), "give --schema"),
        (lambda p: setattr(p, "columns", ["x", *p.columns[1:]]), "no column 'smooth_yes' of the"),
        (lambda p: p.values.fill(np.nan), "--number 5: only 0 are left"),
    ],
)
def test_what_has_no_mutual_information_is_refused(pool, capsys, change, told):
    change(pool)
    write_predictions("pool.parquet", pool)
    line = refusal(capsys, "--number", 5)
    assert told in line
    assert "pool.parquet" in line


def test_views_alone_are_told_of(pool, capsys):
    pool.metadata["samples"] = {"models": 1, "views": 2, "passes": 1}
    write_predictions("pool.parquet", pool)
    run("--number", 1)
    assert "warning: the samples of pool.parquet are views of one model" in capsys.readouterr().err


def test_a_question_of_classes_is_refused(pool, capsys):
    pool.metadata = {"task": "classification"}
    write_predictions("pool.parquet", pool)
    assert "holds classes, which have no question" in refusal(capsys, "--question", "bar")
