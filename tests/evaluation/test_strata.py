import math

import numpy as np
import pandas as pd
import pytest

from zoobot import statistics
from zoobot.evaluation.strata import FEWEST_GALAXIES, entries, stratify


def simulate(tree, num_galaxies=400, seed=0):
    """Calibrated concentrations (N, 7, 1), and the votes of 3 to 40 volunteers."""
    rng = np.random.default_rng(seed)
    sizes = np.cumsum([0, *tree.question_sizes])
    concentrations = rng.uniform(1, 9, (num_galaxies, 7, 1))
    n, votes = rng.integers(3, 41, num_galaxies), np.zeros((num_galaxies, 7), dtype=int)
    for first, last in zip(sizes, sizes[1:], strict=False):
        gamma = rng.gamma(concentrations[:, first:last, 0])
        p = gamma / gamma.sum(axis=1, keepdims=True)
        votes[:, first:last] = rng.multinomial(n, p)
    return concentrations, votes


def test_entries_are_galaxies_and_questions_with_two_votes_or_more(tree):
    concentrations, votes = simulate(tree, 20)
    votes[3, :2] = [1, 0]
    votes[5, 2:5] = 0
    found = entries(concentrations, votes, tree)
    assert len(found) == 3 * 20 - 2
    assert not ((found.galaxy == 3) & (found.question == 0)).any()
    row = found[(found.galaxy == 7) & (found.question == 1)].iloc[0]
    p = concentrations[7, 2:5, 0] / concentrations[7, 2:5, 0].sum()
    assert row.votes == votes[7, 2:5].sum()
    assert row.entropy == pytest.approx(-(p * np.log(p)).sum() / math.log(3))
    assert row.predicted == pytest.approx(p.max())
    assert row.observed == votes[7, 2 + p.argmax()] / row.votes
    covered = statistics.vote_coverage(concentrations, votes, tree)[7, 2:5]
    assert row.covered == pytest.approx(covered.mean())


def test_strata_hold_equal_values_together_and_about_as_many_galaxies_each(tree):
    every = entries(*simulate(tree), tree)
    strata = stratify("all", every, "votes", every["votes"]).strata
    assert len(strata) == 5
    assert sum(s.entries for s in strata) == len(every)
    assert sum(s.galaxies for s in strata) == 400  # one galaxy's questions have as many votes
    assert all(a.high < b.low for a, b in zip(strata, strata[1:], strict=False))
    assert all(s.galaxies >= FEWEST_GALAXIES for s in strata)
    first = strata[0]
    assert first.name == f"{first.low:g} to {first.high:g}"
    rows = every[every.votes <= first.high]
    assert first.coverage[0] == pytest.approx(rows.covered.mean())
    assert first.difference[0] == pytest.approx((rows.predicted - rows.observed).mean())
    sums = (rows.predicted - rows.observed).groupby(rows.galaxy).mean()  # 3 entries each
    assert first.difference[1] == pytest.approx(sums.std() / math.sqrt(len(sums)))


def test_calibrated_predictions_are_so_in_every_stratum(tree):
    every = entries(*simulate(tree, 3000), tree)
    for values in (every["votes"], every["entropy"], pd.Series(every.galaxy % 7)):
        for s in stratify("all", every, "x", values).strata:
            assert abs(s.coverage[0] - 0.9) < 4 * s.coverage[1] < 0.05
            assert abs(s.difference[0]) < 4 * s.difference[1] < 0.05


def test_galaxies_on_which_the_model_is_too_sure_show_in_their_stratum(tree):
    concentrations, votes = simulate(tree, 900)
    magnitude = np.random.default_rng(1).uniform(14, 18, 900)
    faint = magnitude > 17
    sure = np.zeros_like(concentrations)
    sure[np.arange(900), concentrations[:, :2, 0].argmax(axis=1)] = 40
    concentrations[faint] += sure[faint]
    every = entries(concentrations, votes, tree)
    smooth = every[every.question == 0]
    strata = stratify("smooth", smooth, "mag", pd.Series(magnitude)).strata
    bright, faintest = strata[0], strata[-1]
    assert abs(bright.difference[0]) < 3 * bright.difference[1]
    assert faintest.difference[0] > 10 * faintest.difference[1]
    assert faintest.coverage[0] < 0.6 < 0.85 < bright.coverage[0]


def test_too_few_galaxies_are_said_instead_of_drawn(tree):
    every = entries(*simulate(tree, 79), tree)
    found = stratify("all", every, "votes", every["votes"])
    assert found.strata == []
    assert "too few galaxies to divide: 79, of at least 80" in found.told
    every = entries(*simulate(tree, 80), tree)
    assert len(stratify("all", every, "x", pd.Series(every.galaxy)).strata) == 2
    same = stratify("all", every, "x", pd.Series(np.ones(len(every))))
    assert (same.strata, same.told) == ([], "all values are the same")
    nearly = pd.Series((every.galaxy < 10).astype(float))
    assert "no two strata have 40" in stratify("all", every, "x", nearly).told


def test_texts_and_truth_values_are_strata_if_they_are_frequent(tree):
    every = entries(*simulate(tree, 300), tree)
    survey = pd.Series(np.array(["decals", "sdss", "hst"])[np.minimum(every.galaxy // 140, 2)])
    found = stratify("all", every, "survey", survey)
    assert [(s.name, s.galaxies) for s in found.strata] == [("decals", 140), ("sdss", 140)]
    assert found.told == "1 values of too few galaxies are left out"
    assert found.is_text
    is_bright = pd.Series((every.galaxy < 100).to_numpy())
    names = [s.name for s in stratify("all", every, "bright", is_bright).strata]
    assert names == ["False", "True"]


def test_galaxies_without_a_value_are_left_out_and_counted(tree):
    every = entries(*simulate(tree, 200), tree)
    magnitude = every.galaxy.astype(float).where(every.galaxy >= 30)
    magnitude[every.galaxy == 50] = np.inf
    found = stratify("all", every, "mag", magnitude)
    assert found.told == "31 galaxies without a value are left out"
    assert sum(s.galaxies for s in found.strata) == 169
