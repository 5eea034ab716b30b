import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as sk

from zoobot import metrics
from zoobot.evaluation.vote_scores import assess_votes, enough_votes, vote_losses
from zoobot.losses import dirichlet_multinomial_nll


def test_votes_are_assessed_where_there_are_enough(tree):
    concentrations = np.tile([8.0, 2, 1, 1, 8, 1, 9], (4, 1))[..., None]
    votes = np.array(
        [
            [18, 2, 0, 0, 2, 0, 20],  # smooth, volunteers agree
            [11, 9, 1, 0, 8, 0, 20],  # smooth, they don't
            [2, 8, 7, 1, 0, 0, 10],  # featured
            [3, 0, 0, 0, 0, 0, 0],  # too few votes for fractions
        ]
    )
    smooth, bar, merging = assess_votes(concentrations, votes, tree, min_votes=5)
    assert (smooth.asked, smooth.galaxies, smooth.confident) == (4, 3, 1)
    assert smooth.accuracy == pytest.approx(3 / 4)
    assert smooth.majority == ("yes", 3 / 4)
    assert smooth.confident_accuracy == 1
    np.testing.assert_array_equal(smooth.confusion, [[3, 0], [1, 0]])
    errors = np.array([0.8 - 18 / 20, 0.8 - 11 / 20, 0.8 - 2 / 10])
    assert smooth.rmse[0] == pytest.approx(math.sqrt((errors**2).mean()))
    np.testing.assert_array_equal(bar.confusion, [[0, 0, 1], [0, 0, 0], [0, 0, 2]])
    assert merging.accuracy == 1
    losses = [-stats.betabinom.logpmf(k, n, 8, 2) for k, n in ((18, 20), (11, 20), (2, 10), (3, 3))]
    assert smooth.loss == pytest.approx(np.mean(losses))
    assert smooth.loss_error == pytest.approx(np.std(losses, ddof=1) / 2)


def test_ties_go_to_no_one_and_the_table_of_training_counts_the_same(tree):
    rng = np.random.default_rng(0)
    concentrations = rng.uniform(1, 30, (300, 7, 1))
    votes = rng.integers(0, 4, (300, 7))  # few votes, so many ties
    questions = assess_votes(concentrations, votes, tree, min_votes=5)
    measure = metrics.VoteMeasures(tree)
    means = metrics.Means(measure.names, torch.device("cpu"))
    tensors = torch.from_numpy(concentrations[..., 0]).float(), torch.from_numpy(votes)
    losses = dirichlet_multinomial_nll(*tensors, tree.question_sizes)
    means.update(*measure(losses, *tensors))
    trained = means.result()
    for question in questions:
        assert question.tied > 30
        assert question.accuracy == pytest.approx(trained[f"question_accuracy/{question.name}"])
        assert question.loss == pytest.approx(trained[f"question_loss/{question.name}"], rel=1e-6)
    smooth = votes[:, 0] != votes[:, 1]
    right = (concentrations[:, 0, 0] > concentrations[:, 1, 0]) == (votes[:, 0] > votes[:, 1])
    assert questions[0].accuracy == pytest.approx(right[smooth].mean())


def test_f1_is_that_of_scikit_learn_macro_and_weighted(tree):
    rng = np.random.default_rng(1)
    concentrations, votes = rng.uniform(1, 9, (200, 7, 1)), rng.integers(0, 30, (200, 7))
    bar = assess_votes(concentrations, votes, tree, 10)[1]
    truth, predicted = np.repeat(np.argwhere(bar.confusion >= 0), bar.confusion.ravel(), axis=0).T
    assert bar.f1 == pytest.approx(sk.f1_score(truth, predicted, average="macro"))
    assert bar.weighted_f1 == pytest.approx(sk.f1_score(truth, predicted, average="weighted"))


@pytest.mark.parametrize("num_votes", [5, 40])
def test_the_rmse_of_true_fractions_does_not_depend_on_the_number_of_votes(tree, num_votes):
    """Predictions that are off by 0.1: against 5 votes the differences are twice as large."""
    rng = np.random.default_rng(2)
    p = rng.uniform(0.2, 0.8, 4000)
    votes = np.zeros((4000, 7), dtype=int)
    votes[:, 0] = rng.binomial(num_votes, p)
    votes[:, 1] = num_votes - votes[:, 0]
    predicted = p + rng.choice([-0.1, 0.1], 4000)
    concentrations = np.ones((4000, 7, 1))
    concentrations[:, :2, 0] = 20 * np.stack([predicted, 1 - predicted], axis=1)
    smooth = assess_votes(concentrations, votes, tree, 5)[0]
    value, error = smooth.true_rmse
    assert abs(value - 0.1) < 3 * error < 0.02
    expected = math.sqrt(0.01 + (p * (1 - p)).mean() / num_votes)
    assert smooth.rmse[0] == pytest.approx(expected, rel=0.03)


def test_a_model_like_a_constant_is_told_from_one_that_sees_something(tree):
    rng = np.random.default_rng(3)
    p = rng.beta(3, 1, 300)
    votes = np.zeros((300, 7), dtype=int)
    votes[:, 0] = rng.binomial(40, p)
    votes[:, 1] = 40 - votes[:, 0]
    blind = np.tile([5.6, 4.4, 1, 1, 1, 1, 1], (300, 1))[..., None]
    seeing = blind.copy()
    seeing[:, :2, 0] = 10 * np.stack([p, 1 - p], axis=1) + 1
    blind, seeing = (assess_votes(a, votes, tree, 10)[0] for a in (blind, seeing))
    assert blind.accuracy == blind.majority[1] > 0.75
    assert not blind.beats_constant
    assert blind.loss > blind.constant_loss >= blind.free_constant_loss - 1e-12
    assert seeing.beats_constant
    assert seeing.loss < seeing.free_constant_loss
    assert blind.constant_loss == seeing.constant_loss


def test_biases_are_mean_differences_of_fractions_with_errors(tree):
    rng = np.random.default_rng(4)
    concentrations, votes = rng.uniform(1, 9, (50, 7, 1)), rng.integers(0, 30, (50, 7))
    merging = assess_votes(concentrations, votes, tree, 1)[2]
    name, observed, predicted, bias, error = merging.biases[0]
    n = votes[:, 5:].sum(axis=1)
    differences = concentrations[:, 5, 0] / concentrations[:, 5:, 0].sum(axis=1) - votes[:, 5] / n
    assert (name, observed) == (merging.answers[0], pytest.approx((votes[:, 5] / n).mean()))
    assert bias == pytest.approx(predicted - observed) == pytest.approx(differences.mean())
    assert error == pytest.approx(differences.std(ddof=1) / math.sqrt(50))


def test_a_question_without_votes_has_no_scores(tree):
    votes = np.array([[5, 5, 0, 0, 0, 10, 0]] * 3)
    bar = assess_votes(np.full((3, 7, 2), 5.0), votes, tree, 5)[1]
    assert bar.asked == bar.galaxies == bar.confusion.sum() == 0
    assert bar.biases == []
    assert not bar.beats_constant
    assert all(map(math.isnan, (bar.accuracy, bar.rmse[0], bar.true_rmse[0], bar.loss)))


def test_the_loss_of_several_passes_is_that_of_their_mixture(tree):
    rng = np.random.default_rng(0)
    concentrations = rng.uniform(1, 50, (5, 7, 3))
    votes = rng.integers(0, 9, (5, 7))
    losses = vote_losses(concentrations, votes, tree)
    n, k = votes[:, :2].sum(axis=1), votes[:, 0]
    a, b = concentrations[:, 0], concentrations[:, 1]
    expected = -np.log(stats.betabinom.pmf(k[:, None], n[:, None], a, b).mean(axis=1))
    np.testing.assert_allclose(losses[:, 0], expected, rtol=1e-6)


def test_enough_votes_are_ten_or_one_where_nobody_has_ten(tree):
    one_each = np.array([[1, 0, 0, 1, 0, 0, 1]])
    assert enough_votes(one_each, tree) == 1
    assert enough_votes(one_each * 10, tree) == 10
