"""Training modes in two processes, compared with one; see modes_worker.py."""

import pytest
import torch
from conftest import draw_galaxies
from once import made_once
from processes import ranks

from zoobot.schemas import Schema

TOLERANCE = {"fp16": 2e-2, "bf16": 5e-2}  # of weights, of two processes and of one
LAYER_NORM = ["head_only", "unfreeze_after", "layer_decay=0", "fp16", "bf16", "compiled"]
ALL = [*LAYER_NORM, "BatchNorm", "frozen BatchNorm"]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What one and two processes come to."""
    folder = made_once(tmp_path_factory, "modes", fit_in_all_modes)
    return {number: torch.load(folder / f"{number}.pt", weights_only=True) for number in (1, 2)}


def fit_in_all_modes(folder):
    tree = Schema({"smooth": ["_yes", "_no"], "bar": ["_strong", "_weak", "_no"],
                   "merging": ["_yes", "_no"]},
                  {"smooth": None, "bar": "smooth_no", "merging": None})  # fmt: skip
    catalog = draw_galaxies(folder, tree, 37)
    for number in (1, 2):
        out = folder / f"{number}.pt"
        done = ranks(number, "tests/system/modes_worker.py", catalog, out, cwd=folder)
        assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("mode", ALL)
def test_ranks_end_with_the_same_weights_and_statistics(outcomes, mode):
    assert outcomes[2][mode]["ranks agree"]


@pytest.mark.parametrize("mode", LAYER_NORM)
def test_two_processes_train_as_one(outcomes, mode):
    several, single = outcomes[2][mode], outcomes[1][mode]
    tolerance = TOLERANCE.get(mode, 1e-4)
    for name, weight in single["after"].items():
        assert torch.isfinite(several["after"][name]).all()
        torch.testing.assert_close(several["after"][name], weight, rtol=tolerance, atol=tolerance)
    assert several["loss"] == pytest.approx(single["loss"], rel=tolerance)


@pytest.mark.parametrize("mode", ALL)
def test_what_is_frozen_stays_and_all_else_trains(outcomes, mode):
    several = outcomes[2][mode]
    changed = {
        name
        for name, weight in several["after"].items()
        if not torch.equal(weight, several["before"][name])
    }
    of_encoder = {name for name in changed if name.startswith("encoder.")}
    assert {"head.linear.weight", "head.linear.bias"} <= changed
    if mode in ("head_only", "frozen BatchNorm"):
        assert not of_encoder
    elif mode == "layer_decay=0":
        assert of_encoder
        assert not any(name.startswith("encoder.stem") for name in of_encoder)
    else:
        assert any(name.startswith(("encoder.stem", "encoder.conv1")) for name in of_encoder)


def test_every_process_compiles_once_to_train_and_once_to_evaluate(outcomes):
    assert outcomes[1]["compilations"] == [[]]
    assert outcomes[2]["compilations"] == [[True, False]] * 2


def test_statistics_become_the_mean_over_ranks_and_constants_stay(outcomes):
    before, after = (outcomes[2]["averaged"][when] for when in ("before", "after"))
    for rank in (0, 1):
        for name in ("trains.running_mean", "trains.of_its_own"):
            torch.testing.assert_close(after[rank][name], (before[0][name] + before[1][name]) / 2)
        for name in ("trains.constant", "frozen.running_mean", "frozen.running_var"):
            assert torch.equal(after[rank][name], before[rank][name])
