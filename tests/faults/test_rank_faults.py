"""An image that one of three processes can't read ends all of them, in training and after it."""

import json
import time

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import REPO, draw_galaxies
from killing import Command, torchrun

from zoobot.models.tree import ZoobotTree
from zoobot.runs import checkpoint
from zoobot.schemas import Schema

LONGEST_S = 60  # from an error of one process to the end of all
NUM_RANKS, SEED = 3, 42
NUM_GALAXIES = {"train": 24, "val": 12}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Galaxies, a decision tree and a model."""
    folder = tmp_path_factory.mktemp("ranks")
    tree = Schema(
        {"smooth": ["_yes", "_no"], "bar": ["_strong", "_weak", "_no"], "merging": ["_yes", "_no"]},
        {"smooth": None, "bar": "smooth_no", "merging": None},
    )
    draw_galaxies(folder, tree, sum(NUM_GALAXIES.values()))
    (folder / "tree.json").write_text(json.dumps(tree.to_dict()))
    model = ZoobotTree(schema=tree, architecture_name="test_resnet")
    seen = {"image_size": 32, "view": {"output_size": 32}}
    checkpoint.save_weights(
        folder / "model.safetensors", model.state_dict(), model.describe() | seen
    )
    return folder


def train_words(folder):
    return [
        "train.py", "--schema", folder / "tree.json", "--encoder", "test_resnet", "--image-size",
        "32", "--epochs", "1", "--no-report", "--check-images", "none", "--seed", SEED,
        "--save-dir", folder / "run",
    ]  # fmt: skip


def of_second_rank_in_training():
    """A galaxy that rank 1 has in the second step of an epoch."""
    order = np.random.default_rng((SEED, 0)).permutation(NUM_GALAXIES["train"])
    return np.array_split(order, 3)[1][1]


WHERE = {
    "training": (of_second_rank_in_training(), train_words),
    "validation": (NUM_GALAXIES["train"] + 1, train_words),
    "prediction": (
        8,  # the first of part 1
        lambda folder: [
            "predict.py", "--checkpoint", folder / "model.safetensors", "--save-loc",
            folder / "predictions.csv",
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("where", WHERE)
def test_an_image_that_one_process_can_not_read_ends_all_and_is_all_that_is_said(folder, where):
    row, words_of = WHERE[where]
    script, *words = words_of(folder)
    table = pd.read_csv(folder / "catalog.csv")
    table["split"] = np.repeat([*NUM_GALAXIES], [*NUM_GALAXIES.values()])
    table.loc[row, "file_loc"] = "images/spoilt.png"
    (folder / "images" / "spoilt.png").write_bytes(b"no image")
    table.to_csv(folder / "spoilt.csv", index=False)
    options = ["--catalog", "spoilt.csv", "--batch-size", "8", "--num-workers", "1"]
    command = Command(
        [*torchrun(NUM_RANKS), REPO / script, *words, *options, "--precision", "fp32"], folder
    )
    command.wait_for(lambda: b"error: " in command.log.read_bytes())
    end = time.monotonic() + LONGEST_S
    assert not command.wait_for(lambda: time.monotonic() > end)
    code, orphans = command.finish()
    assert (code, orphans) == (1, 0)  # torchrun's own code
    told = command.log.read_text()
    said = told[: told.index("torch/distributed/elastic")]  # torchrun's report of its processes
    assert said.count("error: ") == 1
    assert "spoilt.png: a text that begins 'no image', not a png" in said
    assert "Traceback" not in said
    for noise in ("another process", "Connection closed", "[rank"):
        assert noise not in said[: said.index("error: ")]
    root = told[told.index("Root Cause") :]
    assert "rank      : 1 " in root
    assert "exitcode  : 2 " in root


def test_the_galaxies_of_the_tests_are_those_of_the_second_process(monkeypatch):
    from zoobot.data.samplers import EvalSampler, TrainSampler
    from zoobot.system import distributed

    monkeypatch.setattr(distributed, "rank", lambda: 1)
    monkeypatch.setattr(distributed, "world_size", lambda: NUM_RANKS)
    steps = [rows for _, rows in TrainSampler(NUM_GALAXIES["train"], 8, seed=SEED)]
    assert WHERE["training"][0] in steps[1]
    row = WHERE["validation"][0] - NUM_GALAXIES["train"]
    assert row in [i for _, rows in EvalSampler(NUM_GALAXIES["val"], 2) for i in rows]
    assert torch.tensor(steps).shape[0] == 3
