import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import draw_galaxies
from processes import ranks, torchrun

from zoobot.data.catalog import read_catalog
from zoobot.predictions.models import load_predictor
from zoobot.predictions.predict import predict_to_file
from zoobot.schemas import Schema

SMALL = [
    "--schema", "tree.json", "--encoder", "test_resnet", "--image-size", "32", "--epochs", "2",
    "--batch-size", "16", "--num-workers", "1", "--save-dir", "run", "--no-report",
    "--precision", "fp32",
]  # fmt: skip


@pytest.fixture(scope="module")
def galaxies(tmp_path_factory):
    """37 galaxies: 3 steps of 12 or 13, dealt unevenly to 2 and 4 ranks."""
    folder = tmp_path_factory.mktemp("ddp")
    tree = Schema(
        {"smooth": ["_yes", "_no"], "bar": ["_strong", "_weak", "_no"]},
        {"smooth": None, "bar": "smooth_no"},
    )
    columns = Schema(
        {**tree.question_answer_pairs, "merging": ["_yes", "_no"]},
        {**tree.dependencies, "merging": None},
    )
    (folder / "tree.json").write_text(json.dumps(columns.to_dict()))
    return draw_galaxies(folder, columns, 37)


@pytest.fixture(scope="module")
def single(galaxies):
    return outcome(1, galaxies)


def outcome(num_processes, catalog):
    out = catalog.parent / f"outcome{num_processes}.pt"
    done = ranks(num_processes, "tests/ddp_worker.py", catalog, out, cwd=catalog.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(out, weights_only=True)


@pytest.mark.parametrize("num_processes", [2, 4])
def test_gradients_weights_and_metrics_do_not_depend_on_the_number_of_processes(
    galaxies, single, num_processes
):
    several = outcome(num_processes, galaxies)
    assert len(several["grads"]) == len(single["grads"]) == 3
    for step, expected in zip(several["grads"], single["grads"], strict=True):
        for gradient, reference in zip(step, expected, strict=True):
            torch.testing.assert_close(gradient, reference, rtol=1e-5, atol=1e-5)
    for name, weight in single["w"].items():
        torch.testing.assert_close(several["w"][name], weight, rtol=1e-5, atol=1e-5)
    for split in ("train", "val"):
        assert several[split] == pytest.approx(single[split], rel=1e-5)


def test_the_training_script_runs_under_torchrun(galaxies):
    words = [word for word in SMALL if word != "--no-report"]
    done = torchrun(2, "train.py", "--catalog", galaxies, *words, cwd=galaxies.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    run = galaxies.parent / "run"
    assert (run / "report" / "report.html").exists()
    predicted = pd.read_parquet(run / "test_predictions.parquet")
    alone = predict_to_file(
        read_catalog(galaxies)[lambda table: table["id_str"].isin(predicted["id_str"])],
        load_predictor(run / "best.safetensors"),
        run / "alone.parquet",
        precision="fp32",
        num_workers=0,
    )
    expected = pd.read_parquet(alone)
    assert list(predicted["id_str"]) == list(expected["id_str"])
    np.testing.assert_allclose(predicted.iloc[:, 1:], expected.iloc[:, 1:], rtol=1e-4)
    assert done.stdout.count("validation: supervised_loss") == 2
    lines = (galaxies.parent / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["split"] for line in lines] == ["train", "validation"] * 2 + ["test"]


def test_a_users_mistake_under_torchrun_is_said_once_for_all_processes(galaxies):
    done = torchrun(2, "train.py", "--catalog", "absent.csv", *SMALL, cwd=galaxies.parent)
    assert done.returncode != 0
    assert done.stderr.count("error: no catalog absent.csv") == 1


def test_few_galaxies_on_many_processes_train_with_batchnorm_after_pooling(galaxies, tmp_path):
    few = pd.read_csv(galaxies).head(14).assign(split=["train"] * 10 + ["val"] * 4)
    few.to_csv(galaxies.parent / "few.csv", index=False)
    done = torchrun(
        4, "train.py", "--catalog", "few.csv", "--schema", "tree.json",
        "--encoder", "mobilenetv4_conv_small_035", "--image-size", "32", "--epochs", "2",
        "--batch-size", "4", "--num-workers", "0", "--no-report", "--save-dir", tmp_path,
        cwd=galaxies.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("warning: steps have up to") == 1
