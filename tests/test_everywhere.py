"""Linux, macOS and Windows: what runs on one runs on the others."""

import ast
import io
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler

import as_on_windows
import pandas as pd
import pytest
from conftest import REPO, draw_galaxies
from small_shards import in_memory, write

from zoobot.data import CatalogDataset
from zoobot.data.loaders import eval_loader
from zoobot.data.shards.reader import open_shards
from zoobot.data.views.config import minimal_view_config
from zoobot.data.views.cpu import GalaxyView
from zoobot.schemas import Schema
from zoobot.script import print_anything

STARTING = ("run", "Popen", "check_output")
SOURCES = sorted([*REPO.glob("*.py"), *(REPO / "zoobot").rglob("*.py")])


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_training_and_predicting_need_nothing_that_windows_lacks(tmp_path):
    folder = tmp_path / "galaxies"
    folder.mkdir()
    tree = {
        "smooth": {"answers": ["_yes", "_no"], "asked_after": None},
        "bar": {"answers": ["_strong", "_weak", "_β"], "asked_after": "smooth_no"},
        "merging": {"answers": ["_yes", "_no"], "asked_after": None},
    }
    (folder / "tree.json").write_text(json.dumps(tree))
    path = draw_galaxies(folder, Schema.from_dict(tree), 24)
    table = pd.read_csv(path)
    table["file_loc"] = table["file_loc"].str.replace("/", "\\")
    table["id_str"] = "NGC: α?*" + table["id_str"]  # what no file can be named after there
    table.to_csv(path, index=False)
    # Text is ASCII unless said otherwise, on disk and in the terminal.
    locale = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, as_on_windows.__file__, str(folder)],
        env={**os.environ, **locale}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "GB of memory" in done.stdout  # which is shared with a spawned worker
    assert "locked" in done.stdout
    predicted = pd.read_csv(folder / "p.csv")
    assert predicted["id_str"].tolist() == table["id_str"].tolist()
    assert predicted["bar_β"].notna().all()
    kept = {path.name for path in folder.iterdir()}
    assert kept == {"catalog.csv", "images", "p.csv", "p_summary.parquet", "run", "tree.json"}


def text_calls(tree):
    """Calls that open text, or start a program and read its text."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        words = {word.arg: word.value for word in call.keywords}
        name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        name = call.func.id if isinstance(call.func, ast.Name) else name
        owner = ast.unparse(call.func).rpartition(".")[0]
        if name in STARTING and owner == "subprocess":
            if {"text", "universal_newlines"} & {*words}:
                yield call, words, "r"
        elif name in ("read_text", "write_text") and owner:
            yield call, words, name[0]
        elif name in ("open", "fdopen") and owner in ("", "os", "io", "gzip", "bz2"):
            mode = words.get("mode", call.args[1] if len(call.args) > 1 else ast.Constant("r"))
            if (name, owner) != ("open", "os") and "b" not in ast.literal_eval(mode):
                if owner not in ("gzip", "bz2") or "t" in ast.literal_eval(mode):
                    yield call, words, ast.literal_eval(mode)


def test_text_is_opened_with_its_encoding_and_written_with_its_line_ends():
    wrong = []
    for path in SOURCES:
        for call, words, mode in text_calls(ast.parse(path.read_text(encoding="utf-8"))):
            told = ast.unparse(call)
            says_encoding = "encoding" in words or told.endswith("read_text('utf-8')")
            if not says_encoding or (mode[0] != "r" and "newline" not in words):
                wrong.append(f"{path}:{call.lineno}: {told}")
    assert not wrong


def datasets(folder):
    """Of a table, and of shards that are mapped already."""
    view = GalaxyView(minimal_view_config())
    write(in_memory(8), folder / "shards", eval_size=0)
    shards = open_shards(folder / "shards", "train")
    shards.id_str(0)
    for galaxies in (in_memory(4), shards):
        yield CatalogDataset(galaxies, ["a", "b"], view)


def test_what_workers_are_given_can_be_pickled(tmp_path):
    for dataset in datasets(tmp_path):
        copy = pickle.loads(ForkingPickler.dumps(dataset))
        assert (copy[2]["image"] == dataset[2]["image"]).all()


def test_a_transform_that_workers_can_not_be_given_is_one_line(monkeypatch):
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: "spawn")
    dataset = CatalogDataset(in_memory(4), ["a", "b"], lambda image: image)
    with pytest.raises(ValueError, match="^the transform can't be given to worker processes .*la"):
        next(iter(eval_loader(dataset, 2, num_workers=1)))


def test_letters_that_a_terminal_lacks_are_escaped(monkeypatch):
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", stdout)
    print_anything()
    print("± α", flush=True)
    assert stdout.buffer.getvalue() == b"\xb1 \\u03b1\n"
