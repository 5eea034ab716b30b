import math

import numpy as np
import pytest
import torch
from scipy import stats

from zoobot.baselines import NO_BOUNDS, constant_concentrations, majority_class
from zoobot.losses import dirichlet_multinomial_nll

SIZES = [2, 3, 2]


def draw_votes(num_galaxies=500, most=40, seed=0):
    """Votes whose fractions scatter a lot for the first question, and not at all for the last."""
    rng = np.random.default_rng(seed)
    totals = rng.integers(0, most, (3, num_galaxies))
    fractions = [
        rng.dirichlet([0.4, 0.2], num_galaxies),
        rng.dirichlet([8, 4, 2], num_galaxies),
        np.tile([0.97, 0.03], (num_galaxies, 1)),
    ]
    return np.hstack([rng.multinomial(n, p) for n, p in zip(totals, fractions, strict=True)])


def mean_losses(concentrations, votes):
    constant = torch.tensor(concentrations).expand(len(votes), -1)
    return dirichlet_multinomial_nll(constant, torch.from_numpy(votes), SIZES).mean(0).numpy()


def test_the_majority_class_is_the_most_frequent_label():
    assert majority_class([2, 0, 2, 1, 2]) == (2, 0.6)
    assert majority_class(np.array([1, 0, 1, 0])) == (0, 0.5)
    assert majority_class([-1, -1, 3]) == (3, 1.0)
    number, share = majority_class([])
    assert number == -1
    assert math.isnan(share)


@pytest.mark.parametrize("bounds", [(1.0, 101.0), NO_BOUNDS])
def test_no_other_constant_within_the_bounds_has_a_lower_loss(bounds):
    votes, rng = draw_votes(), np.random.default_rng(1)
    best = constant_concentrations(votes, SIZES, bounds)
    lowest = mean_losses(best, votes)
    for _ in range(200):
        other = np.clip(best * np.exp(rng.normal(0, rng.choice([0.01, 0.3]), 7)), *bounds)
        assert (mean_losses(other, votes) >= lowest - 1e-7).all()


def test_without_bounds_the_constant_is_the_distribution_that_votes_were_drawn_from():
    votes = draw_votes(20_000, seed=2)
    free = constant_concentrations(votes, SIZES, NO_BOUNDS)
    np.testing.assert_allclose(free[:5], [0.4, 0.2, 8, 4, 2], rtol=0.05)
    np.testing.assert_allclose(free[5] / free[5:].sum(), 0.97, atol=0.002)
    assert free[5:].sum() > 1000  # votes that scatter as a coin's do
    assert mean_losses(free, votes).sum() < mean_losses(
        constant_concentrations(votes, SIZES), votes
    ).sum() - 0.1  # fmt: skip


def test_the_bounded_constant_has_the_loss_of_a_search_over_a_grid():
    votes = draw_votes(60)[:, :2]
    grid = np.exp(np.linspace(0, np.log(101), 60))
    k, n = votes[:, 0], votes.sum(1)
    losses = [-stats.betabinom.logpmf(k, n, a, b).mean() for a in grid for b in grid]
    a, b = constant_concentrations(votes, [2])
    loss = -stats.betabinom.logpmf(k, n, a, b).mean()
    assert min(losses) - 0.02 < loss <= min(losses) + 1e-9


def test_a_question_without_votes_has_equal_concentrations_and_wrong_counts_are_refused():
    votes = draw_votes(20)
    votes[:, 2:5] = 0
    np.testing.assert_array_equal(constant_concentrations(votes, SIZES)[2:5], 1)
    with pytest.raises(ValueError, match=r"\(20, 7\): pass \(galaxies, 6 answers\)"):
        constant_concentrations(votes, [2, 4])
    with pytest.raises(ValueError, match=r"a vote count is 0\.5"):
        constant_concentrations(votes * 0.5, SIZES)
    with pytest.raises(ValueError, match="a vote count is -1"):
        constant_concentrations(votes - 1, SIZES)
