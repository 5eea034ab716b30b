import math

import numpy as np
import pytest

from zoobot import statistics
from zoobot.evaluation.vote_intervals import assess_intervals, temperature_errors


def draw(tree, num_galaxies, num_votes, total=30.0, seed=0):
    """Concentrations of a known sum, fractions from them, and votes on the first question."""
    rng = np.random.default_rng(seed)
    share = rng.uniform(0.15, 0.85, num_galaxies)
    concentrations = np.ones((num_galaxies, 7, 1))
    concentrations[:, 0, 0], concentrations[:, 1, 0] = total * share, total * (1 - share)
    p = rng.beta(concentrations[:, 0, 0], concentrations[:, 1, 0])
    votes = np.zeros((num_galaxies, 7), dtype=int)
    votes[:, 0] = rng.binomial(num_votes, p)
    votes[:, 1] = num_votes - votes[:, 0]
    return concentrations, votes


def test_overconfidence_that_coverage_hides_shows_in_the_temperature(tree):
    """Concentrations that are three times too large cover 0.87 at 5 votes, and less at 40."""
    true, few = draw(tree, 1500, 5)
    item = assess_intervals(3 * true, few, tree, 5)[0]
    assert item.coverage[0] > 0.85
    assert item.verdict == "too narrow"
    lower, upper = item.temperature_interval
    assert lower < 1 / 3 < upper
    assert item.effective_votes == pytest.approx(5 * 91 / 95)
    assert math.isnan(item.many_coverage[0])
    true, many = draw(tree, 1500, 40)
    item = assess_intervals(3 * true, many, tree, 5)[0]
    assert item.coverage[0] < 0.82
    assert item.many_coverage == item.coverage
    assert item.effective_votes == pytest.approx(40 * 91 / 130)
    true, many = draw(tree, 1500, 40, seed=1)
    assert assess_intervals(true, many, tree, 5)[0].verdict == ""
    assert assess_intervals(true / 3, many, tree, 5)[0].verdict == "too wide"


def test_the_temperatures_error_is_the_scatter_of_fits_to_other_galaxies(tree):
    fits = [draw(tree, 120, 20, seed=seed) for seed in range(60)]
    found = [np.log(statistics.fit_temperatures(a, v, tree)[0]) for a, v in fits]
    errors = [
        temperature_errors(a, v, tree, statistics.fit_temperatures(a, v, tree))[0]
        for a, v in fits[:20]
    ]
    assert np.mean(errors) == pytest.approx(np.std(found), rel=0.25)
    assert np.mean(found) == pytest.approx(0, abs=0.1)


def test_coverage_has_the_error_of_galaxies_not_of_answers(tree):
    true, votes = draw(tree, 300, 20)
    covered = statistics.vote_coverage(true, votes, tree)[:, :2].mean(axis=1)
    coverage, error = assess_intervals(true, votes, tree, 10)[0].coverage
    assert coverage == pytest.approx(covered.mean())
    assert error == pytest.approx(covered.std(ddof=1) / math.sqrt(300))


def test_one_vote_a_galaxy_says_nothing_about_intervals(tree):
    true, votes = draw(tree, 50, 1)
    item = assess_intervals(true, votes, tree, 1)[0]
    assert item.galaxies == 0
    assert math.isnan(item.coverage[0])
    assert math.isnan(item.temperature)
    assert item.verdict == ""


def test_temperatures_show_what_the_coverage_would_be(tree):
    true, votes = draw(tree, 600, 40, total=8)
    item = assess_intervals(10 * true, votes, tree, 10, np.array([0.1, 1, 1]))[0]
    assert item.coverage[0] < 0.7
    assert item.used == 0.1
    assert item.recalibrated[0] == pytest.approx(0.9, abs=0.03)
    assert math.isnan(assess_intervals(true, votes, tree, 10)[0].recalibrated[0])
