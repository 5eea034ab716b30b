import math

import numpy as np
import pytest
from scipy import stats

from zoobot.evaluation.uncertainty import (
    exact_interval,
    is_above_zero,
    mean_error,
    ratio_error,
    wilson_interval,
)


@pytest.mark.parametrize("method", ["exact", "wilson"])
@pytest.mark.parametrize(("hits", "total"), [(0, 17), (1, 1), (3, 9), (17, 17), (40, 90)])
def test_intervals_of_shares_are_those_of_scipy(method, hits, total):
    found = {"exact": exact_interval, "wilson": wilson_interval}[method](hits, total)
    expected = stats.binomtest(hits, total).proportion_ci(0.9, method)
    np.testing.assert_allclose(found, (expected.low, expected.high), atol=1e-12)


def test_none_of_17_may_be_up_to_a_sixth_and_no_galaxy_says_nothing():
    lower, upper = exact_interval([0, 0], [17, 0])
    assert lower.tolist() == [0, 0]
    assert upper[0] == pytest.approx(0.16, abs=0.005)
    for method in (exact_interval, wilson_interval):
        assert [float(end) for end in method(0, 0)] == [0, 1]


def test_errors_hold_the_scatter_of_many_repetitions():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 5, (2000, 80))
    means = rng.normal(1, 1, (2000, 80))  # of a galaxy's values, which are all alike
    sums = counts * means
    errors = [ratio_error(s, c) for s, c in zip(sums[:200], counts[:200], strict=True)]
    assert np.mean(errors) == pytest.approx((sums.sum(1) / counts.sum(1)).std(), rel=0.05)
    errors = [mean_error(values) for values in means[:200]]
    assert np.mean(errors) == pytest.approx(means.mean(1).std(), rel=0.05)
    assert math.isnan(mean_error(np.ones(1)))
    assert math.isnan(ratio_error(np.zeros(3), np.zeros(3)))


def test_a_gain_counts_only_if_it_is_larger_than_its_error():
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 1, (400, 50))
    assert np.mean([is_above_zero(gains) for gains in noise]) < 0.09
    assert all(is_above_zero(gains) for gains in noise[:50] + 1.5)
    assert not is_above_zero(np.zeros(50))
    assert not is_above_zero(np.ones(1))
