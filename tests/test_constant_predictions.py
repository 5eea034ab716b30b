import json

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from ranks import as_ranks

from zoobot import constant_predictions
from zoobot.models.finetune import (
    FinetuneableZoobotClassifier,
    FinetuneableZoobotRegressor,
    FinetuneableZoobotTree,
)
from zoobot.models.tree import ZoobotTree
from zoobot.system import distributed


def encoder():
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=0)


def tables(columns: dict, num_train: int) -> dict:
    frame = pd.DataFrame(columns)
    frame.insert(0, "id_str", [f"g{i}" for i in range(len(frame))])
    return {"train": frame[:num_train], "val": frame[num_train:].reset_index(drop=True)}


def classes(**arguments):
    model = FinetuneableZoobotClassifier(3, encoder=encoder(), **arguments)
    return model, tables({"label": [0] * 6 + [1] * 3 + [2] + [1, 1, 0]}, 10)


def test_classes_are_set_beside_the_most_frequent_and_the_best_probabilities():
    found = constant_predictions.measure_constants(*classes())
    shares = np.array([0.6, 0.3, 0.1])
    assert found["train"]["loss"] == pytest.approx(-(shares * np.log(shares)).sum())
    assert found["val"]["loss"] == pytest.approx(-np.log([0.3, 0.3, 0.6]).mean())
    assert (found["train"]["acc"], found["val"]["acc"]) == pytest.approx((0.6, 1 / 3))


@pytest.mark.parametrize(
    "how",
    [
        {"label_smoothing": 0.2},
        {"class_weights": [1.0, 5.0, 0.5]},
        {"label_smoothing": 0.2, "class_weights": [1.0, 5.0, 0.5]},
    ],
)
def test_no_constant_has_a_lower_loss_with_weights_and_smoothing(how):
    model, split = classes(**how)
    best = constant_predictions.measure_constants(model, split)["train"]["loss"]
    logits, guess = model.constants(split["train"])
    for shift in 0.2 * torch.eye(3, dtype=logits.dtype):
        for other in (logits + shift, logits - shift):
            model.constants = lambda _, other=other: (other, guess)
            assert constant_predictions.measure_constants(model, split)["train"]["loss"] > best


@pytest.mark.parametrize(
    ("loss", "scale", "best"),
    [("mse", "linear", 4.0), ("mae", "linear", 2.0), ("mse", "log", 8 ** (1 / 3) * 1.0)],
)
def test_numbers_are_set_beside_their_mean_or_median(loss, scale, best):
    model = FinetuneableZoobotRegressor("size", loss, encoder=encoder(), label_scale=scale)
    split = tables({"size": [1.0, 2.0, 9.0, 4.0]}, 3)
    if scale == "log":
        split["train"]["size"] = [1.0, 4.0, 2.0]
    model.learn_from_labels(split["train"])
    constant, mean = model.constants(split["train"])
    assert constant.item() == pytest.approx(best, rel=1e-5)
    found = constant_predictions.measure_constants(model, split)
    truth = split["train"]["size"].to_numpy()
    assert found["train"]["rmse"] == pytest.approx(truth.std())
    assert mean.item() == pytest.approx(truth.mean())


def test_several_numbers_have_a_constant_each():
    model = FinetuneableZoobotRegressor(["a", "b"], encoder=encoder(), label_scale="linear")
    split = tables({"a": [1.0, 3.0, 2.0], "b": [10.0, 30.0, 20.0]}, 2)
    model.learn_from_labels(split["train"])
    found = constant_predictions.measure_constants(model, split)["val"]
    assert found == pytest.approx({"loss": 0.0, "rmse/a": 0.0, "rmse/b": 0.0}, abs=1e-6)


def of_votes(tree, num_galaxies=300):
    rng = np.random.default_rng(0)
    smooth = rng.binomial(20, rng.beta(2, 4, num_galaxies))
    bar = rng.multinomial(20, [0.2, 0.3, 0.5], num_galaxies) * (smooth < 10)[:, None]
    merging = np.zeros((num_galaxies, 2), int)
    votes = np.column_stack([smooth, 20 - smooth, bar, merging])
    return tables(dict(zip(tree.label_cols, votes.T, strict=True)), 200)


@pytest.mark.parametrize("kind", ["scratch", "finetuned"])
def test_votes_are_set_beside_one_set_of_concentrations(tree, kind):
    model = ZoobotTree(schema=tree, architecture_name="test_resnet")
    if kind == "finetuned":
        model = FinetuneableZoobotTree(tree, encoder=encoder())
    split = of_votes(tree)
    found = constant_predictions.measure_constants(model, split)
    best, guess = model.constants(split["train"])
    assert best[5:].tolist() == [1, 1]  # nobody was asked
    assert "question_loss/merging" not in found["val"]
    for shift in (0.9, 1.1):
        model.constants = lambda _, shift=shift: (1 + (best - 1) * shift, guess)
        other = constant_predictions.measure_constants(model, split)
        assert other["train"]["supervised_loss"] > found["train"]["supervised_loss"]
    lead = (split["val"]["smooth_no"] - split["val"]["smooth_yes"]).to_numpy()
    leads = (lead[lead != 0] > 0).mean()  # ties go to no one
    assert found["val"]["question_accuracy/smooth"] == pytest.approx(leads)


def test_processes_share_the_galaxies_and_agree(tree, monkeypatch):
    split = of_votes(tree)

    def measure():
        model = ZoobotTree(schema=tree, architecture_name="test_resnet")
        return constant_predictions.measure_constants(model, split)

    alone = json.dumps(measure()["val"])
    add_up = lambda x: torch.tensor(distributed.gather(x.tolist())).sum(0)  # noqa: E731
    monkeypatch.setattr(distributed, "all_reduce_sum", add_up)
    several = [json.dumps(found["val"]) for found in as_ranks(3, measure)]
    assert several[0] == several[1] == several[2]
    assert json.loads(several[0]) == pytest.approx(json.loads(alone))
    split["val"] = split["val"][:1]  # of which the other processes have none
    assert len({json.dumps(found["val"]) for found in as_ranks(3, measure)}) == 1


def test_a_model_of_another_kind_has_no_constants():
    class Own(FinetuneableZoobotRegressor):
        constants = None

    model = Own("size", encoder=encoder())
    assert constant_predictions.measure_constants(model, {}) == {}
