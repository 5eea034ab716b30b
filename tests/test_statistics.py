"""Statistics of predictions against scipy.stats and against simulated volunteers."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from zoobot import statistics
from zoobot.schemas import Schema
from zoobot.statistics import (
    answer_entropy,
    expected_votes,
    fit_temperatures,
    fraction_intervals,
    fraction_variance,
    fractions,
    friendly_table,
    mutual_information,
    proportion_asked,
    recalibrate,
    summary_table,
    vote_coverage,
)


def draw_concentrations(tree, num_galaxies, num_passes=None, seed=0, low=1.0, high=30.0):
    rng = np.random.default_rng(seed)
    shape = (num_galaxies, len(tree.label_cols)) + (() if num_passes is None else (num_passes,))
    return np.exp(rng.uniform(np.log(low), np.log(high), shape))


def simulate_votes(concentrations, tree, num_volunteers, seed=0):
    """Draw each galaxy's pass and fractions, then let volunteers walk down the tree: (N, A)."""
    rng = np.random.default_rng((seed, 1))  # not the numbers that drew the concentrations
    if concentrations.ndim == 3:
        one_pass = rng.integers(0, concentrations.shape[2], len(concentrations))
        concentrations = concentrations[np.arange(len(concentrations)), :, one_pass]
    votes = np.zeros(concentrations.shape, int)
    for question in (question for level in tree.levels for question in level):
        part = slice(question.start_index, question.end_index + 1)
        draws = rng.standard_gamma(concentrations[:, part])
        parents = [answer.index for answer in question.parents]
        asked = votes[:, parents].sum(axis=1) if parents else num_volunteers
        votes[:, part] = rng.multinomial(asked, draws / draws.sum(axis=1, keepdims=True))
    return votes


def of_each_question(array, tree):
    return [array[:, first : last + 1] for first, last in tree.question_index_groups]


def mean_coverage(concentrations, votes, tree, level=0.9):
    return np.nanmean(vote_coverage(concentrations, votes, tree, level), axis=0)


def all_statistics(a, votes, tree):
    return {
        "fractions": fractions(a, tree),
        "lower": fraction_intervals(a, tree)[0],
        "upper": fraction_intervals(a, tree)[1],
        "asked": proportion_asked(a, tree),
        "expected": expected_votes(a, tree, 40),
        "variance": fraction_variance(a, tree),
        "entropy": answer_entropy(a, tree),
        "information": mutual_information(a, tree),
        "coverage": vote_coverage(a, votes, tree),
        "recalibrated": recalibrate(a, np.ones(len(tree.questions)), tree),
    }


def test_single_pass_agrees_with_scipy(tree):
    a = draw_concentrations(tree, 5)
    mean, variance = fractions(a, tree), fraction_variance(a, tree)
    lower, upper = fraction_intervals(a, tree, level=0.8)
    entropy = answer_entropy(a, tree)
    for q, (first, last) in enumerate(tree.question_index_groups):
        for i, x in enumerate(a[:, first : last + 1]):
            part = (i, slice(first, last + 1))
            np.testing.assert_allclose(mean[part], stats.dirichlet.mean(x), atol=1e-6)
            np.testing.assert_allclose(variance[part], stats.dirichlet.var(x), atol=1e-6)
            marginal = stats.beta(x, x.sum() - x)
            np.testing.assert_allclose(lower[part], marginal.ppf(0.1), atol=1e-6)
            np.testing.assert_allclose(upper[part], marginal.ppf(0.9), atol=1e-6)
            np.testing.assert_allclose(entropy[i, q], stats.entropy(x / x.sum()), atol=1e-6)


def test_passes_are_a_mixture(tree):
    a = draw_concentrations(tree, 6, num_passes=3, seed=1)
    passes = [a[..., s] for s in range(3)]
    means = np.stack([fractions(x, tree) for x in passes])
    np.testing.assert_allclose(fractions(a, tree), means.mean(axis=0), atol=1e-12)
    totals = np.stack([[x[tree.question_of_answer == q].sum(0) for q in range(3)] for x in a])
    rest = totals[:, tree.question_of_answer] - a
    for end, tail in zip(fraction_intervals(a, tree), (0.05, 0.95), strict=True):
        below = stats.beta.cdf(end[..., None], a, rest).mean(axis=2)
        np.testing.assert_allclose(below, tail, atol=2e-6)
    within = np.mean([fraction_variance(x, tree) for x in passes], axis=0)
    np.testing.assert_allclose(fraction_variance(a, tree), within + means.var(axis=0), atol=1e-12)
    entropies = np.mean([answer_entropy(x, tree) for x in passes], axis=0)
    information = answer_entropy(a, tree) - entropies
    np.testing.assert_allclose(mutual_information(a, tree), information, atol=1e-12)
    assert (information > 1e-3).any()


TREES = st.lists(st.integers(2, 6), min_size=1, max_size=6).map(
    lambda sizes: Schema(
        {f"q{i}": [f"_{k}" for k in range(size)] for i, size in enumerate(sizes)},
        {f"q{i}": f"q{i - 1}_0" if i % 3 else None for i in range(len(sizes))},
    )
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    any_tree=TREES,
    num_galaxies=st.integers(0, 4),
    num_passes=st.sampled_from([None, 1, 3]),
    low=st.sampled_from([0.01, 1.0]),
    high=st.sampled_from([100.0, 10_000.0]),
    seed=st.integers(0, 1000),
)
def test_any_tree_keeps_the_rules_of_probability(
    any_tree, num_galaxies, num_passes, low, high, seed
):
    a = draw_concentrations(any_tree, num_galaxies, num_passes, seed, low, high)
    for part in of_each_question(fractions(a, any_tree), any_tree):
        np.testing.assert_allclose(part.sum(axis=1), 1, rtol=1e-12)
    wide, narrow = (fraction_intervals(a, any_tree, level) for level in (0.9, 0.5))
    assert (np.diff([wide[0], narrow[0], narrow[1], wide[1]], axis=0) >= 0).all()
    assert ((wide[0] >= 0) & (wide[1] <= 1)).all()
    asked = proportion_asked(a, any_tree)
    assert asked.shape == (num_galaxies, len(any_tree.questions))
    assert ((asked >= 0) & (asked <= 1)).all()
    information = mutual_information(a, any_tree)
    assert (information >= -1e-12).all()
    assert (information <= answer_entropy(a, any_tree) + 1e-12).all()
    if num_passes != 3:
        np.testing.assert_array_equal(information, 0)
    votes = simulate_votes(a, any_tree, 10, seed)
    anyone = [part.any(axis=1) for part in of_each_question(votes, any_tree)]
    voted = np.repeat(np.stack(anyone, axis=1), any_tree.question_sizes, axis=1)
    coverage = vote_coverage(a, votes, any_tree)
    np.testing.assert_array_equal(np.isfinite(coverage), voted)
    assert ((coverage >= 0) & (coverage <= 1))[voted].all()


def test_expected_votes_and_variance_match_simulated_volunteers(tree):
    galaxies = draw_concentrations(tree, 3, num_passes=2, seed=3)
    for galaxy in galaxies:
        # Without passes a galaxy's questions are independent, as expected_votes takes them to be.
        a = np.repeat(galaxy[None, :, 0], 20_000, axis=0)
        votes = simulate_votes(a, tree, 30)
        error = votes.std(axis=0) / np.sqrt(len(votes))
        expected = expected_votes(a[:1], tree, 30)[0]
        assert (abs(votes.mean(axis=0) - expected) < 4 * error).all()
        a = np.repeat(galaxy[None], 20_000, axis=0)
        first = simulate_votes(a, tree, 100_000)[:, [0, 1, 5, 6]] / 100_000
        variance = fraction_variance(a[:1], tree)[0, [0, 1, 5, 6]]
        np.testing.assert_allclose(first.var(axis=0), variance, rtol=0.05)


def test_expected_votes_scale_with_each_galaxys_volunteers(tree):
    a = draw_concentrations(tree, 3)
    votes = expected_votes(a, tree, [0, 10, 40])
    np.testing.assert_allclose(votes[:, :2].sum(axis=1), [0, 10, 40])
    np.testing.assert_allclose(votes[:, 2:5].sum(axis=1), votes[:, 1])
    np.testing.assert_allclose(votes[2], expected_votes(a[2:], tree, 40)[0])


@pytest.mark.parametrize("num_passes", [1, 3])
def test_vote_coverage_agrees_with_scipy(tree, num_passes):
    a = draw_concentrations(tree, 30, num_passes, seed=4, low=0.3, high=60)
    votes = simulate_votes(draw_concentrations(tree, 30, seed=5), tree, 25)  # not the model's own
    coverage = vote_coverage(a, votes, tree, level=0.8)
    parts = zip(*(of_each_question(x, tree) for x in (coverage, a, votes)), strict=True)
    for share, x, k in parts:
        n = k.sum(axis=1)[:, None, None]
        asked = n[:, 0, 0] > 0
        count = stats.betabinom(n, x, x.sum(axis=1, keepdims=True) - x)
        below, upto = (count.cdf(k[..., None] + d).mean(axis=2)[asked] for d in (-1, 0))
        inside = np.clip(np.minimum(upto, 0.9) - np.maximum(below, 0.1), 0, None)
        at = count.pmf(k[..., None]).mean(axis=2)[asked]
        np.testing.assert_allclose(share[asked], inside / at, atol=1e-6)
        assert ((share > 0.01) & (share < 0.99)).any()
        assert np.isnan(share[~asked]).all()


@pytest.mark.parametrize("num_passes", [1, 4])
@pytest.mark.parametrize("num_volunteers", [1, 3, 40])
def test_coverage_of_calibrated_predictions_is_the_level(tree, num_volunteers, num_passes):
    a = draw_concentrations(tree, 4000, num_passes)
    votes = simulate_votes(a, tree, num_volunteers)
    for level in (0.5, 0.9):
        coverage = vote_coverage(a, votes, tree, level)
        error = np.nanstd(coverage, axis=0) / np.sqrt(np.isfinite(coverage).sum(axis=0))
        assert (abs(np.nanmean(coverage, axis=0) - level) < 4 * error).all()


def test_too_sure_predictions_cover_less_and_recalibration_mends_them(tree):
    truth = draw_concentrations(tree, 3000, num_passes=2, high=10)
    votes = simulate_votes(truth, tree, 40)
    too_sure = truth * 20
    assert (mean_coverage(too_sure, votes, tree) < 0.8).all()
    temperatures = fit_temperatures(too_sure, votes, tree)
    mended = recalibrate(too_sure, temperatures, tree)
    np.testing.assert_allclose(mean_coverage(mended, votes, tree), 0.9, atol=0.02)
    np.testing.assert_allclose(fractions(mended, tree), fractions(too_sure, tree))


@pytest.mark.parametrize("num_passes", [None, 3])
def test_fitted_temperatures_recover_known_factors(tree, num_passes):
    truth = draw_concentrations(tree, 10_000, num_passes)
    votes = simulate_votes(truth, tree, 40)
    factors = np.array([4, 0.5, 1])
    temperatures = fit_temperatures(recalibrate(truth, factors, tree), votes, tree)
    np.testing.assert_allclose(temperatures, 1 / factors, rtol=0.1)


def test_temperature_is_one_where_the_votes_say_nothing(tree):
    a = draw_concentrations(tree, 50)
    votes = simulate_votes(a, tree, 40)
    votes[:, 2:5] = 0  # nobody asked about the bar
    votes[:, 5:] = [0, 1]  # one vote each on the merger
    np.testing.assert_array_equal(fit_temperatures(a, votes, tree)[1:], 1)


def test_unreadable_galaxies_neither_warn_nor_spread(tree):
    a = draw_concentrations(tree, 4, num_passes=3)
    votes = simulate_votes(a, tree, 40)
    votes[1, 0] = 0  # the smallest count meets NaN too
    expected = all_statistics(np.delete(a, 1, axis=0), np.delete(votes, 1, axis=0), tree)
    temperatures = fit_temperatures(np.delete(a, 1, axis=0), np.delete(votes, 1, axis=0), tree)
    a[1] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = all_statistics(a, votes, tree)
        np.testing.assert_array_equal(fit_temperatures(a, votes, tree), temperatures)
    for name, result in results.items():
        assert np.isnan(result[1]).all(), name
        np.testing.assert_allclose(np.delete(result, 1, axis=0), expected[name], rtol=1e-10)


def test_impossible_counts_have_no_coverage_and_no_warning(tree):
    a = np.full((1, 7), 1e6)
    votes = np.array([[5000, 0, 0, 0, 0, 2500, 2500]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        coverage = vote_coverage(a, votes, tree)
    np.testing.assert_array_equal(coverage, [[0, 0, *[np.nan] * 3, 1, 1]])


def test_chunks_are_small_and_change_nothing(tree, monkeypatch):
    a = draw_concentrations(tree, 40, num_passes=2)
    votes = simulate_votes(a, tree, 30)
    whole, sizes, compute = vote_coverage(a, votes, tree), [], statistics._count_probabilities

    def record_size(k, n, alpha, beta):
        sizes.append(alpha.size * (k.max() + 1))
        return compute(k, n, alpha, beta)

    monkeypatch.setattr(statistics, "_count_probabilities", record_size)
    monkeypatch.setattr(statistics, "TABLE_CELLS", 500)
    np.testing.assert_allclose(vote_coverage(a, votes, tree), whole, atol=1e-12)
    assert len(sizes) > 10
    assert max(sizes) <= 500


def test_summary_table_holds_the_statistics(tree):
    a = draw_concentrations(tree, 3, num_passes=2).astype(np.float32)
    a[2] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = summary_table(["x", "y", "z"], a, tree)
    answers = [
        f"{col}_{kind}"
        for col in tree.label_cols
        for kind in ("fraction", "90pc-lower", "90pc-upper")
    ]
    asked = [f"{name}_proportion-asked" for name in ("smooth", "bar", "merging")]
    parts = {
        kind: [f"{name}_{kind}" for name in ("smooth", "bar", "merging")]
        for kind in ("expected-entropy", "mutual-information")
    }
    assert list(table) == ["id_str", *answers, *asked, *sum(parts.values(), [])]
    assert list(table["id_str"]) == ["x", "y", "z"]
    assert set(table.dtypes[1:]) == {np.dtype("float32")}
    lower, upper = fraction_intervals(a, tree)
    for start, expected in enumerate((fractions(a, tree), lower, upper)):
        np.testing.assert_allclose(table[answers[start::3]], expected, rtol=1e-6)
    np.testing.assert_allclose(table[asked], proportion_asked(a, tree), rtol=1e-6)
    aleatoric, epistemic = (table[names].to_numpy() for names in parts.values())
    alone = np.stack([answer_entropy(a[..., i], tree) for i in range(2)])
    np.testing.assert_allclose(aleatoric, alone.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(aleatoric + epistemic, answer_entropy(a, tree), rtol=1e-5)
    assert (epistemic[:2] > 0).all()
    assert list(summary_table(["x"], a[:1, :, :1], tree)) == ["id_str", *answers, *asked]
    assert list(table.isna().any(axis=1)) == [False, False, True]


def test_friendly_table_hides_questions_that_few_are_asked(tree):
    a = np.ones((3, 7))
    a[:, 1] = [3, 1, 1 / 3]  # 75%, 50% and 25% are asked about the bar
    table = friendly_table(["x", "y", "z"], a, tree)
    assert list(table) == ["id_str", *(f"{col}_fraction" for col in tree.label_cols)]
    bar = [f"bar_{answer}_fraction" for answer in ("strong", "weak", "no")]
    np.testing.assert_allclose(table[bar], [[1 / 3] * 3, [1 / 3] * 3, [np.nan] * 3], rtol=1e-6)
    assert table.drop(columns=bar).notna().all(axis=None)
    assert friendly_table(["x", "y", "z"], a, tree, min_asked=0.2).notna().all(axis=None)


def test_rows_keep_their_order_whatever_index_the_ids_have(tree):
    a = draw_concentrations(tree, 3)
    ids = summary_table(["x", "y", "z"], a, tree)["id_str"].iloc[::-1]
    assert list(summary_table(ids, a, tree)["id_str"]) == ["z", "y", "x"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, v, tree: fractions(a[:, :5], tree), "5 answers, but the tree has 7"),
        (lambda a, v, tree: fractions(a[0], tree), r"shape \(7,\)"),
        (lambda a, v, tree: fractions(np.ones((2, 7, 0)), tree), r"shape \(2, 7, 0\)"),
        (lambda a, v, tree: fractions(-a, tree), "above 0"),
        (lambda a, v, tree: fractions(a * np.inf, tree), "inf"),
        (lambda a, v, tree: fraction_intervals(a, tree, level=90), "level is 90"),
        (lambda a, v, tree: expected_votes(a, tree, [1, 2, 3]), "each of the 2 galaxies"),
        (lambda a, v, tree: expected_votes(a, tree, -1), "-1"),
        (lambda a, v, tree: vote_coverage(a, v[:1], tree), r"votes have shape \(1, 7\)"),
        (lambda a, v, tree: vote_coverage(a, v * 0.5, tree), "0.5; all must be whole"),
        (lambda a, v, tree: fit_temperatures(a, v * np.nan, tree), "fill in 0"),
        (lambda a, v, tree: fit_temperatures(a, -v, tree), "-1; all must be whole"),
        (lambda a, v, tree: recalibrate(a, [1, 1], tree), "tree's 3 questions"),
        (lambda a, v, tree: recalibrate(a, [1, 0, 1], tree), "above 0, not 0"),
        (lambda a, v, tree: summary_table(["x"], a, tree), "2 galaxies"),
        (lambda a, v, tree: friendly_table(["x"], a, tree), "2 galaxies"),
    ],
)
def test_mistakes_are_explained(tree, call, message):
    with pytest.raises(ValueError, match=message):
        call(np.ones((2, 7)), np.ones((2, 7)), tree)


def test_a_few_galaxies_do_not_give_an_extreme_temperature(tree):
    """Two galaxies whose votes are exactly as predicted: without a prior the factor is 100."""
    a = np.full((2, 7), 10.0)
    votes = np.array([[5, 5, 0, 0, 0, 0, 0]] * 2)
    few = fit_temperatures(a, votes, tree)[0]
    assert 1 < few < 3
    many = fit_temperatures(np.repeat(a, 500, 0), np.repeat(votes, 500, 0), tree)[0]
    assert many > 10
