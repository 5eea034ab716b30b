import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from zoobot import similar
from zoobot.predictions import neighbours
from zoobot.predictions.contents import Predictions
from zoobot.predictions.files import read_predictions, write_predictions
from zoobot.script import run_script

pytest.importorskip("sklearn")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """60 galaxies in two groups, one far from both, one unreadable; with images and ra."""
    rng = np.random.default_rng(0)
    values = rng.normal(0, 0.1, (62, 8)).astype(np.float32)
    values[:30] += 1
    values[60] = [9, -9, 9, -9, 9, -9, 9, -9]
    values[61] = np.nan
    values[5] = values[3] + 0.001
    ids = [str(1237648720693755900 + i) for i in range(62)]
    frame = pd.DataFrame(values, columns=[f"feat_{i}" for i in range(8)])
    frame.insert(0, "id_str", ids)
    monkeypatch.chdir(tmp_path)
    made = Predictions(frame["id_str"].to_numpy(object), values[..., None], [*frame.columns[1:]])
    made.metadata = {"task": "representations"}
    made.carried = pa.table({"ra": np.arange(62.0)})
    write_predictions("features.parquet", made)
    for i in range(8):
        Image.new("RGB", (20, 20), (0, 20 * i, 200)).save(f"{i}.png")
    files = [f"{i % 8}.png" for i in range(62)]
    pd.DataFrame({"id_str": ids, "file_loc": files})[:40].to_csv("catalog.csv", index=False)
    return ids


def run(*words):
    words = ["--representations", "features.parquet", *words]
    run_script(similar.main, lambda: similar.parse(words))


def refusal(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        run(*words, "--save-loc", "x.csv")
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_the_nearest_galaxies_come_first_without_the_galaxy_itself(folder):
    run("--to", folder[3], "--number", "20", "--save-loc", "like.parquet")
    table = pd.read_parquet("like.parquet")
    assert list(table.columns) == ["id_str", "ra", "distance"]
    assert table["id_str"][0] == folder[5]
    assert len(table) == 20
    assert set(table["id_str"]) <= set(folder[:30]) - {folder[3]}
    assert table["distance"].is_monotonic_increasing
    assert table["ra"].tolist() == [folder.index(name) for name in table["id_str"]]


def test_distances_are_those_of_all_pairs_in_units_of_a_typical_galaxy(folder):
    features = neighbours.read_features("features.parquet")
    values = features.values[:61, :, 0].astype(np.float64)
    values -= values.mean(axis=0)
    values /= np.sqrt(np.square(values).sum(axis=1).mean())
    expected = np.sort(np.linalg.norm(values - values[7], axis=1))[1:]
    found = similar.find_similar(features, folder[7], 100)
    np.testing.assert_allclose(found.values[:, 0, 0], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("num_drawn", [20_000, 20])
def test_the_galaxy_far_from_all_others_is_the_oddest(folder, num_drawn, monkeypatch):
    monkeypatch.setattr(neighbours, "NUM_DRAWN", num_drawn)
    run("--odd", "--number", "4", "--save-loc", "odd.csv")
    table = pd.read_csv("odd.csv", dtype={"id_str": str})
    assert table["id_str"][0] == folder[60]
    assert table["oddness"].is_monotonic_decreasing
    assert len(table) == 4


@pytest.mark.parametrize("suffix", [".csv", ".hdf5", ".fits", ".vot"])
def test_representations_of_any_format_give_the_same(folder, suffix):
    pytest.importorskip({".hdf5": "h5py", ".csv": "csv"}.get(suffix, "astropy"))
    write_predictions(f"f{suffix}", read_predictions("features.parquet"))
    tables = []
    for path in ("features.parquet", f"f{suffix}"):
        run("--representations", path, "--to", folder[0], "--save-loc", f"out{suffix}")
        tables.append(read_predictions(f"out{suffix}"))
    assert tables[0].ids.tolist() == tables[1].ids.tolist()
    index = tables[0].columns.index("distance")
    np.testing.assert_allclose(tables[0].values[:, index], tables[1].values[:, -1], rtol=1e-5)


def test_mistakes_are_one_line(folder, capsys):
    told = refusal(capsys, "--to", folder[7][:-1] + "x")
    assert told.startswith(f"error: no galaxy '{folder[7][:-1]}x' among the 62; did you mean '")
    assert "has no features: its image could not be read" in refusal(capsys, "--to", folder[61])
    answers = read_predictions("features.parquet")
    answers.metadata = {"task": "tree"}
    write_predictions("answers.parquet", answers)
    told = refusal(capsys, "--representations", "answers.parquet", "--odd")
    assert "answers.parquet holds predictions of tree: predict with --representations" in told
    told = refusal(capsys, "--representations", "none.parquet", "--odd")
    assert told == "error: no predictions none.parquet"


def test_the_page_shows_the_galaxy_and_those_like_it(folder, capsys):
    run("--to", folder[3], "--catalog", "catalog.csv", "--number", "35", "--save-loc", "like.fits")
    told = capsys.readouterr()
    assert "table like.fits\npage like.html" in told.out
    assert "warning: " in told.err
    assert "of 36 galaxies have no picture" in told.err
    text = open("like.html", encoding="ascii").read()
    assert text.count("<figure") == 36
    assert text.index(folder[3] + "</figcaption>") < text.index(folder[5] + "</figcaption>")
    assert "data:image/jpeg" in text
    assert "<script" not in text
    assert "no image" in text
