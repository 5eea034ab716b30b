"""What is read is what was looked at, whatever takes its name meanwhile."""

import os

import numpy as np
import pandas as pd
import pytest
import torch

from zoobot.data.catalog import read_catalog
from zoobot.limits.text import read_json
from zoobot.predictions.files import Predictions, read_predictions, write_predictions
from zoobot.runs import checkpoint
from zoobot.system import files

table = pytest.importorskip("astropy.table")
pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no pipes among files")
CATALOG = pd.DataFrame({"id_str": ["a", "b"], "file_loc": ["a.png", "b.png"], "size": [1.5, 2.5]})


def write_astropy(path):
    forms = {".fits": "fits", ".ecsv": "ascii.ecsv", ".vot": "votable"}
    table.Table.from_pandas(CATALOG).write(path, format=forms[path.suffix])


def write_csv(path):
    CATALOG.to_csv(path, index=False)


def write_predicted(path):
    ids = np.array(["a", "b"], dtype=object)
    write_predictions(path, Predictions(ids, np.ones((2, 1, 1), np.float32), ["x"], None, {}))


def write_state(path):
    torch.save({"format_version": 1, "model": {"a": torch.zeros(2)}}, path)


def write_weights(path):
    checkpoint.save_weights(path, {"a": torch.zeros(2)}, {})


READERS = {  # name -> how it is written and read
    "c.csv": (write_csv, read_catalog),
    "c.csv.gz": (write_csv, read_catalog),
    "c.parquet": (lambda path: CATALOG.to_parquet(path), read_catalog),
    **dict.fromkeys(("c.fits", "c.ecsv", "c.vot"), (write_astropy, read_catalog)),
    **dict.fromkeys(("p.csv", "p.parquet", "p.hdf5"), (write_predicted, read_predictions)),
    "a.ckpt": (write_state, checkpoint.load_checkpoint),
    "a.safetensors": (write_weights, checkpoint.load_weights),
    "a.json": (lambda path: path.write_text("{}"), read_json),
}


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("name", READERS)
def test_a_pipe_put_in_the_place_of_a_file_after_it_was_looked_at_is_not_read(
    tmp_path, monkeypatch, name
):
    """It is held open, with nothing in it: who opens it by its name waits, or finds no file."""
    path, look, held = tmp_path / name, files._ordinary, []
    write, read = READERS[name]
    write(path)

    def swap(file, opened):
        file = look(file, opened)
        if not held:
            path.unlink()
            os.mkfifo(path)
            held.append(os.open(path, os.O_RDWR | os.O_NONBLOCK))
        return file

    monkeypatch.setattr(files, "_ordinary", swap)
    told = ""
    try:
        read(path)
    except ValueError as error:
        told = str(error)
    os.close(held[0])
    assert not told or "a device or a pipe" in told


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("name", READERS)
def test_a_pipe_is_refused_where_a_file_should_be(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises((ValueError, OSError)):
        READERS[name][1](tmp_path / name)
