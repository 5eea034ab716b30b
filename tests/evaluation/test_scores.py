import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from zoobot.evaluation.scores import (
    binned_residuals,
    calibration,
    class_scores,
    confusion_counts,
    mean_f1,
    regression_scores,
    selection,
)


@given(st.integers(2, 5), st.integers(1, 60), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_scores_by_class_are_those_of_scikit_learn(num_classes, num_galaxies, seed):
    rng = np.random.default_rng(seed)
    truth, predicted = rng.integers(0, num_classes, (2, num_galaxies))
    confusion = confusion_counts(truth, predicted, num_classes)
    labels = range(num_classes)
    np.testing.assert_array_equal(
        confusion, sk.confusion_matrix(truth, predicted, labels=list(labels))
    )
    scores = class_scores(confusion)
    expected = sk.precision_recall_fscore_support(
        truth, predicted, labels=list(labels), zero_division=np.nan
    )
    for name, values in zip(("precision", "recall", "f1"), expected, strict=False):
        np.testing.assert_allclose(scores[name], values, err_msg=name)


def test_calibration_error_is_zero_where_confidence_is_accuracy_and_the_gap_elsewhere():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 1, 200_000)
    honest = calibration(confidence, rng.random(200_000) < confidence)
    assert honest.error < 0.005
    assert honest.counts.sum() == 200_000
    too_sure = calibration(confidence, rng.random(200_000) < confidence - 0.2)
    assert too_sure.error == pytest.approx(0.2, abs=0.005)
    certain = calibration(np.ones(4), np.array([True, True, True, False]))
    assert certain.error == pytest.approx(0.25)


def test_the_calibration_error_of_a_perfect_model_is_that_of_drawn_labels():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 300)
    errors = [calibration(confidence, rng.random(300) < confidence) for _ in range(100)]
    seen = np.array([each.error for each in errors])
    assert errors[0].perfect == pytest.approx(seen.mean(), rel=0.1)
    assert errors[0].perfect > 0.03  # far from 0, for a few galaxies
    assert errors[0].perfect_high == pytest.approx(np.quantile(seen, 0.95), rel=0.15)
    many = rng.uniform(0.5, 1, 100_000)
    assert calibration(many, rng.random(100_000) < many).perfect < 0.005


def test_mean_f1_counts_classes_alike_or_by_their_number():
    rng = np.random.default_rng(0)
    truth, predicted = rng.choice(3, 100, p=[0.8, 0.15, 0.05]), rng.integers(0, 3, 100)
    confusion = confusion_counts(truth, predicted, 3)
    assert mean_f1(confusion) == pytest.approx(sk.f1_score(truth, predicted, average="macro"))
    weighted = sk.f1_score(truth, predicted, average="weighted")
    assert mean_f1(confusion, weighted=True) == pytest.approx(weighted)
    assert math.isnan(mean_f1(np.zeros((2, 2), dtype=int)))


def test_completeness_and_purity_are_recall_and_precision_at_each_threshold():
    rng = np.random.default_rng(0)
    is_class = rng.random(200) < 0.3
    probability = np.clip(rng.normal(0.4 + 0.3 * is_class, 0.2), 0, 1)
    each = selection(probability, is_class)
    precision, recall, _, _ = sk.precision_recall_fscore_support(
        is_class, probability >= each.thresholds[50], pos_label=True, average="binary"
    )
    assert each.completeness[50] == pytest.approx(recall)
    assert each.purity[50] == pytest.approx(precision)
    assert each.chosen[50] == (probability >= 0.5).sum()
    assert (each.completeness[0], each.purity[0]) == (1, is_class.mean())


def test_nmad_is_the_standard_deviation_that_outliers_do_not_change():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=5000)
    predicted = truth + rng.normal(0.1, 0.5, 5000)
    assert regression_scores(truth, predicted)["nmad"] == pytest.approx(0.5, rel=0.03)
    assert regression_scores(truth, predicted)["outliers"] < 0.006
    predicted[:250] += 50
    scores = regression_scores(truth, predicted)
    assert scores["nmad"] == pytest.approx(0.5, rel=0.1)
    assert scores["outliers"] == pytest.approx(0.05, abs=0.005)
    assert scores["median"] == pytest.approx(0.1, abs=0.06)


def test_binned_residuals_follow_a_trend_and_few_galaxies_are_one_bin():
    rng = np.random.default_rng(0)
    truth = rng.uniform(0, 10, 2000)
    binned = binned_residuals(truth, truth - 0.2 * (truth - 5) + rng.normal(0, 0.3, 2000))
    assert len(binned.median) == 12
    assert binned.counts.sum() == 2000
    expected = -0.2 * (binned.truth - 5)
    assert (np.abs(binned.median - expected) < 4 * binned.error + 0.02).all()
    np.testing.assert_allclose((binned.high - binned.low) / 2, 0.3, atol=0.06)
    assert len(binned_residuals(truth[:5], truth[:5]).median) == 1


def test_regression_scores_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=50)
    predicted = truth + rng.normal(0.1, 0.5, 50)
    scores = regression_scores(truth, predicted)
    assert scores["rmse"] == pytest.approx(sk.root_mean_squared_error(truth, predicted))
    assert scores["mae"] == pytest.approx(sk.mean_absolute_error(truth, predicted))
    assert scores["r2"] == pytest.approx(sk.r2_score(truth, predicted))
    assert scores["bias"] == pytest.approx((predicted - truth).mean())
    assert math.isnan(regression_scores(np.ones(3), np.ones(3))["r2"])
