import math

import numpy as np
import pytest

from zoobot.evaluation.protocols import decals_scores, evo_scores, volunteers
from zoobot.schemas import Schema


@pytest.fixture
def galaxies(tree):
    """Predicted fractions and votes of 400 galaxies, which 10 to 60 volunteers have seen."""
    rng = np.random.default_rng(0)
    votes = np.zeros((400, 7), dtype=int)
    for row in votes:
        seen = rng.integers(10, 61)
        row[:2] = rng.multinomial(seen, rng.dirichlet([1, 1]))
        row[2:5] = rng.multinomial(row[1], rng.dirichlet([1, 1, 1]))
        row[5:] = rng.multinomial(seen, rng.dirichlet([0.3, 1]))
    mixed = votes + rng.uniform(0, 20, votes.shape)
    fractions = np.concatenate(
        [c / c.sum(axis=1, keepdims=True) for c in np.split(mixed, [2, 5], axis=1)], axis=1
    )
    return fractions, votes


def test_the_rules_of_decals_agree_with_a_loop_over_galaxies(tree, galaxies):
    fractions, votes = galaxies
    bar = decals_scores(fractions, votes, tree)[1]
    every, confident = [], []
    for f, v in zip(fractions, votes, strict=True):
        seen, counts = v[:2].sum(), v[2:5]
        if seen >= 34 and 2 * counts.sum() >= seen and (counts == counts.max()).sum() == 1:
            every.append((f[2:5].argmax(), counts.argmax()))
            if counts.max() / counts.sum() > 0.8:
                confident.append(every[-1])
    assert 10 < len(confident) < len(every) < 200
    for score, pairs in ((bar.every, every), (bar.confident, confident)):
        guess, leading = np.array(pairs).T
        assert score.galaxies == len(pairs)
        assert score.accuracy == pytest.approx((guess == leading).mean())
        assert score.constant == np.bincount(leading).max() / len(pairs)
        assert score.interval[0] < score.accuracy <= score.interval[1]
    assert bar.random == 1 / 3


def test_galaxies_that_too_few_have_seen_or_were_asked_about_do_not_count(tree):
    votes = np.array(
        [[2, 31, 30, 1, 0, 0, 33], [16, 18, 9, 9, 0, 20, 14], [18, 16, 9, 7, 0, 0, 34]]
    )
    fractions = np.full((3, 7), 0.5)
    smooth, bar, merging = decals_scores(fractions, votes, tree)
    assert smooth.every.galaxies == merging.every.galaxies == 2  # 33 volunteers are too few
    assert bar.every.galaxies == 0  # a tie, and 16 of 34 are less than half
    assert math.isnan(bar.every.accuracy)
    assert decals_scores(fractions, votes, tree, min_volunteers=33)[0].every.galaxies == 3


def test_volunteers_are_those_of_the_first_question_of_the_same_survey():
    schema = Schema(
        {q: ["_a", "_b"] for q in ("first-x", "next-x", "first-y", "next-y", "last-y")},
        {"first-x": None, "next-x": "first-x_a", "first-y": None, "next-y": "first-y_b",
         "last-y": ["next-y_a", "first-y_a"]},
    )  # fmt: skip
    votes = np.array([[10, 5, 10, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 3, 4, 1, 3, 2, 2]])
    assert volunteers(votes, schema).tolist() == [[15, 15, 0, 0, 0], [0, 0, 7, 7, 7]]


def test_the_rules_of_evo_agree_with_a_loop_over_galaxies(tree, galaxies):
    fractions, votes = galaxies
    smooth, bar, merging, every = evo_scores(fractions, votes, tree)
    differences = [
        f[2:5] - v[2:5] / v[2:5].sum()
        for f, v in zip(fractions, votes, strict=True)
        if v[2:5].sum() >= 20
    ]
    assert bar.galaxies == len(differences) > 50
    assert bar.mae.value == pytest.approx(np.abs(differences).mean())
    roots = [math.sqrt(np.mean([d[a] ** 2 for d in differences])) for a in range(3)]
    assert bar.rmse.value == pytest.approx(np.mean(roots))
    of_answers = [2 * smooth.mae.value, 3 * bar.mae.value, 2 * merging.mae.value]
    assert every.mae.value == pytest.approx(sum(of_answers) / 7)
    assert every.name == "all answers"
    assert every.galaxies == (votes[:, :2].sum(axis=1) >= 20).sum()


def test_errors_of_fractions_have_the_scatter_of_other_galaxies(tree, galaxies):
    fractions, votes = galaxies
    rng = np.random.default_rng(1)
    drawn = [rng.integers(0, 400, 400) for _ in range(200)]
    again = [evo_scores(fractions[rows], votes[rows], tree) for rows in drawn]
    for place, scores in enumerate(evo_scores(fractions, votes, tree)):
        maes = [each[place].mae.value for each in again]
        rmses = [each[place].rmse.value for each in again]
        assert scores.mae.error == pytest.approx(np.std(maes), rel=0.15)
        assert scores.rmse.error == pytest.approx(np.std(rmses), rel=0.15)


def test_a_random_guess_and_the_best_constant_stand_beside_errors_of_fractions(tree, galaxies):
    _, votes = galaxies
    bar = evo_scores(np.full((400, 7), 0.5), votes, tree)[1]
    counts = votes[votes[:, 2:5].sum(axis=1) >= 20, 2:5]
    observed = counts / counts.sum(axis=1, keepdims=True)
    guesses = np.random.default_rng(2).dirichlet([1, 1, 1], (500, len(observed)))
    distance = np.abs(guesses - observed)
    assert bar.mae.random == pytest.approx(distance.mean(), rel=0.01)
    squared = (distance**2).mean(axis=(0, 1))
    assert bar.rmse.random == pytest.approx(np.sqrt(squared).mean(), rel=0.01)
    for constant in (np.median(observed, axis=0), observed.mean(axis=0), np.full(3, 1 / 3)):
        found = evo_scores(np.tile([0, 0, *constant, 0, 0], (400, 1)), votes, tree)[1]
        assert found.mae.value >= bar.mae.constant - 1e-12
        assert found.rmse.value >= bar.rmse.constant - 1e-12
    assert bar.mae.constant < bar.mae.random


def test_a_question_without_enough_votes_has_no_errors_and_all_answers_do_without_it(tree):
    votes = np.array([[30, 2, 1, 1, 0, 2, 30]] * 5)
    scores = evo_scores(np.full((5, 7), 0.5), votes, tree)
    assert [s.galaxies for s in scores] == [5, 0, 5, 5]
    assert math.isnan(scores[1].mae.value)
    assert scores[3].mae.value == pytest.approx((scores[0].mae.value + scores[2].mae.value) / 2)
    assert len(evo_scores(np.full((5, 7), 0.5), votes, tree, min_votes=99)) == 3
