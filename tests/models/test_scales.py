import numpy as np
import pandas as pd
import pytest
import timm
import torch

from zoobot.models.finetune import FinetuneableZoobotRegressor
from zoobot.models.scales import LabelScale, fit_scale
from zoobot.system.errors import UserError

rng = np.random.default_rng(0)
MASS = rng.normal(10.0, 0.46, 500)  # logarithms of solar masses


@pytest.mark.parametrize(
    ("labels", "is_log"),
    [
        (MASS, False),
        (10**MASS, True),
        (rng.uniform(0.1, 10, 500), False),  # over a decade, but not skewed
        (rng.lognormal(0, 0.3, 500), False),  # skewed, but within a decade
        (np.full(500, 3.0), False),
    ],
)
def test_auto_learns_logarithms_of_positive_skewed_labels_over_more_than_a_decade(labels, is_log):
    scale = fit_scale(labels[:, None], "auto", [True])
    assert scale.to_dict()["log"] == [is_log]
    assert fit_scale(labels[:, None], "auto", [False]).to_dict()["log"] == [False]


@pytest.mark.parametrize("kind", ["linear", "log"])
@pytest.mark.parametrize("labels", [MASS, 10**MASS, np.full(500, 7.0)])
def test_labels_have_mean_0_and_spread_1_and_come_back_in_their_own_unit(labels, kind):
    scale = fit_scale(labels[:, None], kind, [True])
    own = torch.from_numpy(labels).float()
    standardised = scale.standardised(own)
    assert standardised.mean() == pytest.approx(0, abs=1e-4)
    assert standardised.std() == pytest.approx(0 if np.ptp(labels) == 0 else 1, abs=0.01)
    torch.testing.assert_close(scale.in_own_unit(standardised), own, rtol=1e-4, atol=0)


def test_each_column_has_a_scale_of_its_own():
    labels = np.stack([10**MASS, -MASS], axis=1)
    scale = fit_scale(labels, "auto", [True, False])
    assert scale.to_dict()["log"] == [True, False]
    own = torch.from_numpy(labels).float()
    back = scale.in_own_unit(scale.standardised(own))
    torch.testing.assert_close(back, own, rtol=1e-4, atol=1e-4)
    assert (scale.in_own_unit(torch.randn(50, 2) * 9)[:, 0] > 0).all()


def test_gradients_of_a_mixed_scale_are_finite_at_negative_labels():
    scale = LabelScale([0.0, 0.0], [1.0, 1.0], [True, False])
    outputs = torch.tensor([[1.0, -5.0], [3.0, 200.0]], requires_grad=True)
    scale.standardised(scale.in_own_unit(outputs)).sum().backward()
    torch.testing.assert_close(outputs.grad, torch.ones(2, 2))


def model(**arguments):
    encoder = timm.create_model("test_resnet", num_classes=0)
    return FinetuneableZoobotRegressor(encoder=encoder, **arguments)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"label_scale": "logs"}, "label_scale 'logs' is none of auto, linear, log"),
        ({"label_scale": "log", "unit_interval": True}, "no meaning with unit_interval"),
        ({"label_col": []}, "give one column, or several that differ"),
        ({"label_col": ["a", "a"]}, "give one column, or several that differ"),
    ],
)
def test_misuse_is_named(arguments, told):
    with pytest.raises(UserError, match=told):
        model(**arguments)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (1e42 * (1 + MASS), "beyond the range of float32"),
        (1e-50 * (1 + MASS), "beyond the range of float32"),
        (2459000 + MASS / 50, "too fine for float32: subtract a constant"),
    ],
)
def test_labels_that_float32_cannot_hold_are_named(labels, told):
    table = pd.DataFrame({"id_str": [f"g{i}" for i in range(500)], "label": labels})
    regressor = model()

    def begin():
        regressor.check_labels(table, "train")
        regressor.learn_from_labels(table)

    with pytest.raises(UserError, match=told):
        begin()


def test_errors_of_large_numbers_have_a_finite_mean():
    regressor = model()
    outputs, labels = torch.tensor([1e26, 3e26]), torch.tensor([2e26, 1e26])
    values, _ = regressor.measure(torch.zeros(2, 1), outputs, labels)
    assert values[:, 1].mean().sqrt() == pytest.approx(np.sqrt(2.5) * 1e26, rel=1e-5)


def test_labels_in_pieces_with_a_repeated_index_are_checked():
    piece = pd.DataFrame({"id_str": ["a", "b"], "label": [1.0, -2.0]})
    table = pd.concat([piece, piece.assign(id_str=["c", "d"])])
    model().check_labels(table, "train")
    with pytest.raises(UserError, match="'b' holds -2, which has no logarithm"):
        model(label_scale="log").check_labels(table, "train")


def test_whether_labels_are_positive_is_decided_at_the_fit_saved_and_told():
    ids = [f"g{i}" for i in range(500)]
    train = pd.DataFrame({"id_str": ids, "label": 10**MASS})
    zero = train.assign(label=[0.0, *train["label"][1:]])
    for val, positive in ((train, True), (zero, False)):
        regressor = model()
        regressor.check_labels(train, "train")
        regressor.check_labels(val, "val")
        regressor.learn_from_labels(train)
        scale = regressor.arguments()["label_scale"]
        assert (scale["positive"], scale["log"]) == ([positive], [positive])
        assert ("some labels are 0 or less" in regressor.introduce()) != positive
        again = model(label_scale=scale)
        assert again.positive == {"label": positive}
        if not positive:
            again.check_labels(zero, "test")
    with pytest.raises(UserError, match="holds 0, which has no logarithm"):
        model(label_scale={"mean": [0.0], "std": [1.0], "log": [True]}).check_labels(zero, "test")


def test_labels_of_a_foreign_loader_are_said_not_to_be_standardised():
    regressor = model()
    regressor.learn_from_labels(None)
    assert "learned as they are, not standardised" in regressor.introduce()
    regressor.learn_from_labels(pd.DataFrame({"label": [1.0, 2.0, 3.0]}))
    assert "not standardised" not in regressor.introduce()
    assert "not standardised" not in model(label_scale=None).introduce()
