import math

import numpy as np
import pytest

from zoobot.data.demo import DEMO_TREE
from zoobot.data.demo.catalog import answer_probabilities, volunteer_votes
from zoobot.data.demo.simulator import simulate_galaxies
from zoobot.evaluation.worth import FEWEST_GALAXIES, assess_worth, vote_variance
from zoobot.schemas import Schema, load_schema

SHAPES = Schema({"shape": ["_a", "_b", "_c"]}, {"shape": None})


def simulate(num_volunteers, num_galaxies, rng, most_votes=40):
    """Fractions of known volunteers as predictions, and the votes of 5 to 40 others."""
    p = rng.dirichlet([1, 1, 0.5], num_galaxies)
    votes = rng.multinomial(rng.integers(5, most_votes + 1, num_galaxies), p)
    return rng.multinomial(num_volunteers, p) / num_volunteers, votes


def test_worth_agrees_with_the_formulae_galaxy_by_galaxy():
    fractions, votes = simulate(8, 120, np.random.default_rng(0))
    squared, single = [], []
    for q, k in zip(fractions, votes, strict=True):
        n, f = k.sum(), k / k.sum()
        single.append((1 - sum(f**2)) * n / (n - 1))
        squared.append(sum((q - f) ** 2) - single[-1] / n)
    w = np.mean(squared) / np.mean(single)
    residuals = np.array(squared) - w * np.array(single)
    sigma = math.sqrt(np.var(residuals, ddof=1) / (120 * np.mean(single) ** 2))
    found = assess_worth(fractions, votes, SHAPES)[0]
    assert found.galaxies == 120
    assert found.relative_error == pytest.approx((w, sigma))
    assert found.volunteers == pytest.approx(1 / w)
    assert found.interval == pytest.approx((1 / (w + 1.645 * sigma), 1 / (w - 1.645 * sigma)))


@pytest.mark.parametrize("number", [5, 10, 30])
def test_volunteers_of_known_number_come_out_as_that_number(number):
    rng = np.random.default_rng(number)
    found = [assess_worth(*simulate(number, 300, rng), SHAPES)[0] for _ in range(60)]
    inside = sum(each.interval[0] <= number <= each.interval[1] for each in found)
    assert inside >= 48  # 54 are expected
    w = np.array([each.relative_error[0] for each in found])
    assert abs(w.mean() - 1 / number) < 3 * w.std() / math.sqrt(60) < 0.2 / number


@pytest.mark.parametrize("most_votes", [5, 100])
def test_the_number_of_votes_by_which_predictions_are_judged_does_not_change_their_worth(
    most_votes,
):
    rng = np.random.default_rng(1)
    found = assess_worth(*simulate(10, 4000, rng, most_votes), SHAPES)[0]
    assert found.interval[0] < 10 < found.interval[1]
    assert found.interval[1] < 13


def test_worth_of_the_demo_is_that_of_its_known_truth():
    rng = np.random.default_rng(2)
    tree = load_schema(DEMO_TREE)
    truth = np.concatenate([*answer_probabilities(simulate_galaxies(1500, rng)).values()], axis=1)
    votes = volunteer_votes(truth, tree, rng.integers(5, 41, 1500), rng)
    starts = [q.start_index for q in tree.questions]
    asked = rng.gamma(10 * truth + 0.2)
    predicted = asked / np.repeat(np.add.reduceat(asked, starts, axis=1), tree.question_sizes, 1)
    inside = 0
    for question, found in zip(tree.questions, assess_worth(predicted, votes, tree), strict=True):
        columns = slice(question.start_index, question.end_index + 1)
        p, q = (x[votes[:, columns].sum(axis=1) >= 2, columns] for x in (truth, predicted))
        known = (p * (1 - p)).sum() / ((q - p) ** 2).sum()
        inside += found.interval[0] <= known <= found.interval[1]
    assert inside >= 8  # of 10 questions


def test_predictions_that_are_the_truth_have_no_upper_end():
    rng = np.random.default_rng(0)
    p = rng.dirichlet([1, 1, 1], 500)
    votes = rng.multinomial(20, p)
    found = assess_worth(p, votes, SHAPES)[0]
    assert found.interval[1] == math.inf
    assert found.interval[0] > 50
    better = assess_worth(votes / 20, votes, SHAPES)[0]  # they know these very votes
    assert better.volunteers == better.interval[0] == better.interval[1] == math.inf


def test_a_constant_and_a_random_guess_stand_beside_the_worth():
    rng = np.random.default_rng(4)
    _, votes = simulate(10, 3000, rng)
    observed = votes / votes.sum(axis=1, keepdims=True)
    constant = assess_worth(np.tile(observed.mean(axis=0), (3000, 1)), votes, SHAPES)[0]
    assert constant.volunteers == pytest.approx(constant.constant)
    guess = assess_worth(rng.dirichlet([1, 1, 1], 3000), votes, SHAPES)[0]
    assert guess.volunteers == pytest.approx(guess.random, rel=0.05)
    assert guess.random < guess.constant < 3


def test_one_vote_too_few_galaxies_or_volunteers_who_all_agree_tell_nothing():
    few = np.array([[5, 5, 0]] * (FEWEST_GALAXIES - 1) + [[1, 0, 0]] * 50)
    found = assess_worth(np.full(few.shape, 1 / 3), few, SHAPES)[0]
    assert found.galaxies == FEWEST_GALAXIES - 1
    assert not found.is_known
    agreed = assess_worth(np.full((50, 3), 1 / 3), np.array([[9, 0, 0]] * 50), SHAPES)[0]
    assert not agreed.is_known
    assert math.isnan(agreed.volunteers)
    assert math.isnan(agreed.interval[0])


def test_the_scatter_of_one_vote_is_estimated_without_bias():
    p = np.array([0.6, 0.3, 0.1])
    votes = np.random.default_rng(5).multinomial(2, p, 40_000)
    assert vote_variance(votes).mean() == pytest.approx((p * (1 - p)).sum(), rel=0.01)
