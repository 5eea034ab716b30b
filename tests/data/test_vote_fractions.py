import numpy as np
import pandas as pd
import pytest

from zoobot.data.vote_fractions import counts_from_fractions
from zoobot.schemas import Schema, get_schema


def fractions_of(counts, schema, digits=3):
    """Published fractions: of each question's votes, rounded; 0 where it was not asked."""
    fractions = counts.astype(float)
    for question in schema.questions:
        total = counts[question.label_cols].sum(axis=1).clip(lower=1)
        fractions[question.label_cols] = counts[question.label_cols].div(total, axis=0)
    return fractions.round(digits)


def test_counts_of_volunteers_come_back_from_rounded_fractions(tree):
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(200):
        smooth = rng.binomial(44, rng.random())
        bar = rng.multinomial(44 - smooth, rng.dirichlet([1, 1, 1]))
        merging = rng.binomial(44, rng.random())
        rows.append([smooth, 44 - smooth, *bar, merging, 44 - merging])
    counts = pd.DataFrame(rows, columns=tree.label_cols)
    made = counts_from_fractions(fractions_of(counts, tree), tree, np.full(200, 44))
    assert made.to_numpy().tolist() == counts.to_numpy().tolist()


def test_weighted_fractions_give_whole_votes_that_add_up_down_the_tree(tree):
    fractions = pd.DataFrame(np.random.default_rng(1).random((50, 7)) / 2, columns=tree.label_cols)
    made = counts_from_fractions(fractions, tree, np.arange(50))
    assert (made[["smooth_yes", "smooth_no"]].sum(axis=1) == np.arange(50)).all()
    assert (made[tree.label_cols[2:5]].sum(axis=1) == made["smooth_no"]).all()
    unasked = counts_from_fractions(fractions * 0, tree, np.arange(50))
    assert not unasked.to_numpy().any()


@pytest.mark.parametrize("value", [17, -0.1, np.inf])
def test_what_is_no_fraction_is_named(tree, value):
    fractions = pd.DataFrame(0.5, index=range(3), columns=tree.label_cols)
    fractions.loc[1, "bar_weak"] = value
    with pytest.raises(ValueError, match=f"'bar_weak' holds {value} in row 1, which is no"):
        counts_from_fractions(fractions, tree, [10, 10, 10])
    with pytest.raises(ValueError, match="num_people is nan in row 0"):
        counts_from_fractions(fractions * 0, tree, [np.nan, 1, 1])


@pytest.mark.parametrize(
    ("people", "message"),
    [
        ([10, 10], "num_people has 2 numbers for 3 galaxies"),
        (["10", "many", "10"], "'num_people' holds 'many' in row 1"),
        (10, "num_people must be one column"),
        ([10, 10, np.inf], "num_people is inf in row 2"),
        (pd.Series([10, 10, 10], index=[2, 1, 0]), "different indices"),
    ],
)
def test_wrong_numbers_of_people_are_named(tree, people, message):
    fractions = pd.DataFrame(0.5, index=range(3), columns=tree.label_cols)
    with pytest.raises(ValueError, match=message):
        counts_from_fractions(fractions, tree, people)


def test_fractions_that_are_text_are_numbers_or_named(tree):
    fractions = pd.DataFrame("0.5", index=range(3), columns=tree.label_cols)
    assert counts_from_fractions(fractions, tree, ["10"] * 3)["smooth_yes"].tolist() == [5] * 3
    fractions.loc[1, "bar_weak"] = "half"
    with pytest.raises(ValueError, match="'bar_weak' holds 'half' in row 1"):
        counts_from_fractions(fractions, tree, [10, 10, 10])


def test_counts_of_real_volunteers_come_back_from_fractions(real_data):
    schema = get_schema("gz2_ortho_schema")
    table = pd.read_csv(real_data / "gz2_votes" / "catalog.csv")
    counts, first = table[schema.label_cols], schema.questions[0].label_cols
    fractions = fractions_of(counts, schema, digits=4)
    tree = schema.to_dict()  # as volunteers were asked, which differs from what is predicted
    for question in ("has-spiral-arms-gz2", "bar-gz2", "bulge-size-gz2"):
        tree[question]["asked_after"] = "disk-edge-on-gz2_no"
    tree["something-odd-gz2"]["asked_after"] = first[:2]
    asked = Schema.from_dict(tree)
    made = counts_from_fractions(fractions, asked, table["total_classifications"])
    assert made.to_numpy().tolist() == counts.to_numpy().tolist()
