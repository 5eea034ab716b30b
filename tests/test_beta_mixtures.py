"""Quantiles of mixtures of Beta distributions, against scipy's functions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import beta

from zoobot.beta_mixtures import TOLERANCE, mixture_quantiles


def drawn(seed, shape=(40, 3, 5)):
    generator = np.random.default_rng(seed)
    return (np.exp(generator.uniform(np.log(0.3), np.log(300), shape)) for _ in range(2))


@pytest.mark.parametrize("probability", [0.001, 0.05, 0.5, 0.95])
def test_the_mean_distribution_function_has_the_probability_there(probability):
    a, b = drawn(0)
    found = mixture_quantiles(a, b, probability)
    assert found.shape == (40, 3)
    below = beta.cdf(found[..., None], a, b).mean(-1)
    np.testing.assert_allclose(below, probability, atol=2 * TOLERANCE)


@given(st.integers(0, 10_000), st.floats(0.01, 0.99))
def test_it_is_what_a_root_finder_gives(seed, probability):
    a, b = drawn(seed, (1, 4))
    wanted = brentq(lambda x: beta.cdf(x, a[0], b[0]).mean() - probability, 0, 1, xtol=1e-13)
    (found,) = mixture_quantiles(a, b, probability)
    # Between the peaks of a mixture any number may be the quantile, so far as it can be computed.
    gap = beta.cdf(found, a[0], b[0]).mean() - beta.cdf(wanted, a[0], b[0]).mean()
    assert abs(gap) <= 5 * TOLERANCE


def test_of_one_sample_and_of_equal_ones_it_is_that_of_the_beta_distribution():
    a, b = drawn(1, (50, 1))
    one = mixture_quantiles(a, b, 0.05)
    np.testing.assert_allclose(one, beta.ppf(0.05, a[:, 0], b[:, 0]))
    equal = mixture_quantiles(np.repeat(a, 3, 1), np.repeat(b, 3, 1), 0.05)
    np.testing.assert_allclose(beta.cdf(equal, a[:, 0], b[:, 0]), 0.05, atol=2 * TOLERANCE)


def test_two_modes_far_apart_are_both_within_the_interval():
    a, b = np.array([[2.0, 98.0]]), np.array([[98.0, 2.0]])
    lower, upper = (mixture_quantiles(a, b, p)[0] for p in (0.05, 0.95))
    assert lower < 0.02
    assert upper > 0.98


def test_a_galaxy_that_could_not_be_read_gives_nan_and_leaves_others_alone():
    a, b = drawn(2, (3, 4))
    whole = mixture_quantiles(a, b, 0.3)
    a[1] = np.nan
    np.testing.assert_array_equal(mixture_quantiles(a, b, 0.3)[[0, 2]], whole[[0, 2]])
    assert np.isnan(mixture_quantiles(a, b, 0.3)[1])
    assert np.isnan(mixture_quantiles(a[1:2], b[1:2], 0.3)).all()
