import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from zoobot.evaluation.scores import (
    assess_votes,
    calibration,
    class_scores,
    confusion_counts,
    enough_votes,
    regression_scores,
    vote_losses,
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


def test_votes_are_assessed_where_there_are_enough(tree):
    concentrations = np.tile([8.0, 2, 1, 1, 8, 1, 9], (4, 1))[..., None]
    votes = np.array(
        [
            [18, 2, 0, 0, 2, 0, 20],  # smooth, volunteers agree
            [11, 9, 1, 0, 8, 0, 20],  # smooth, they don't
            [2, 8, 7, 1, 0, 0, 10],  # featured
            [3, 0, 0, 0, 0, 0, 0],  # too few votes
        ]
    )
    smooth, bar, merging = assess_votes(concentrations, votes, tree, min_votes=5)
    assert (smooth.galaxies, smooth.confident) == (3, 1)
    assert smooth.accuracy == pytest.approx(2 / 3)
    assert smooth.confident_accuracy == 1
    np.testing.assert_array_equal(smooth.confusion, [[2, 0], [1, 0]])
    errors = np.array([0.8 - 18 / 20, 0.8 - 11 / 20, 0.8 - 2 / 10])
    assert smooth.rmse == pytest.approx(math.sqrt((errors**2).mean()))
    np.testing.assert_array_equal(bar.confusion, [[0, 0, 1], [0, 0, 0], [0, 0, 1]])
    assert merging.accuracy == 1
    losses = [-stats.betabinom.logpmf(k, n, 8, 2) for k, n in ((18, 20), (11, 20), (2, 10), (3, 3))]
    assert smooth.loss == pytest.approx(np.mean(losses))
    assert math.isnan(smooth.recalibrated_coverage)


def test_a_question_without_votes_has_no_scores(tree):
    votes = np.array([[5, 5, 0, 0, 0, 10, 0]] * 3)
    bar = assess_votes(np.full((3, 7, 2), 5.0), votes, tree, 5)[1]
    assert bar.galaxies == bar.confusion.sum() == 0
    assert math.isnan(bar.accuracy)
    assert math.isnan(bar.rmse)
    assert math.isnan(bar.coverage)


def test_the_loss_of_several_passes_is_that_of_their_mixture(tree):
    rng = np.random.default_rng(0)
    concentrations = rng.uniform(1, 50, (5, 7, 3))
    votes = rng.integers(0, 9, (5, 7))
    losses = vote_losses(concentrations, votes, tree)
    n, k = votes[:, :2].sum(axis=1), votes[:, 0]
    a, b = concentrations[:, 0], concentrations[:, 1]
    expected = -np.log(stats.betabinom.pmf(k[:, None], n[:, None], a, b).mean(axis=1))
    np.testing.assert_allclose(losses[:, 0], expected, rtol=1e-6)


def test_temperatures_show_what_the_coverage_would_be(tree):
    rng = np.random.default_rng(1)
    truth = rng.dirichlet([4, 4], 600)
    votes = np.zeros((600, 7), dtype=int)
    votes[:, 0] = rng.binomial(40, truth[:, 0])
    votes[:, 1] = 40 - votes[:, 0]
    sure = np.full((600, 7, 1), 4.0 * 10)
    before = assess_votes(sure, votes, tree, 10, np.array([0.1, 1, 1]))[0]
    assert before.coverage < 0.7
    assert before.recalibrated_coverage == pytest.approx(0.9, abs=0.03)


def test_enough_votes_are_ten_or_one_where_nobody_has_ten(tree):
    one_each = np.array([[1, 0, 0, 1, 0, 0, 1]])
    assert enough_votes(one_each, tree) == 1
    assert enough_votes(one_each * 10, tree) == 10


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
