from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from zoobot.data.labels import (
    check_numbers,
    check_some_votes,
    check_varied,
    label_array,
    round_votes,
    votes,
)


def table(counts):
    return pd.DataFrame({"id_str": [f"g{i}" for i in range(len(counts))], "a_x": counts})


@pytest.mark.parametrize("bad", [np.nan, -1, 2.5, np.inf, 1e12])
def test_a_bad_count_is_named_with_column_galaxy_and_value(bad):
    frame = table([1, 2, bad, 3.0])
    with pytest.raises(ValueError, match="column 'a_x' of id_str 'g2' holds .*no vote count"):
        votes(frame, ["a_x"])


def test_text_in_a_vote_column_is_named():
    with pytest.raises(ValueError, match="id_str 'g1' holds many"):
        votes(table(["1", "many", "3", "4"]), ["a_x"])


def test_whole_floats_are_counts():
    counts = votes(table([0.0, 12.0, 3.0, 0.0]), ["a_x", "a_x"])
    assert counts.dtype == np.int32
    assert counts.tolist() == [[0, 0], [12, 12], [3, 3], [0, 0]]


def test_weighted_counts_are_refused_until_they_are_rounded():
    frame = table([8.73, 0.5, 12.0, 0.49]).assign(a_y=[0, 3, 2.5, 1e-9])
    with pytest.raises(ValueError, match="'g0' holds 8.73, which is no vote count .*--round-votes"):
        votes(frame, ["a_x", "a_y"])
    rounded = round_votes(frame, ["a_x", "a_y"])
    assert votes(rounded, ["a_x", "a_y"]).tolist() == [[9, 0], [1, 3], [12, 3], [0, 0]]
    assert frame["a_x"].tolist() == [8.73, 0.5, 12.0, 0.49]
    assert label_array(rounded, ["a_x"]).ravel().tolist() == [9, 1, 12, 0]


@pytest.mark.parametrize("bad", [np.nan, -0.3, np.inf, 1e12])
def test_what_is_no_count_is_not_rounded_away(bad):
    rounded = round_votes(table([1.2, bad, 3]), ["a_x"])
    with pytest.raises(ValueError, match="id_str 'g1' holds"):
        votes(rounded, ["a_x"])


def test_text_is_not_rounded_away():
    with pytest.raises(ValueError, match="id_str 'g1' holds many"):
        votes(round_votes(table(["1.5", "many"]), ["a_x"]), ["a_x"])


def test_fractions_are_not_rounded_to_no_and_one_vote():
    with pytest.raises(ValueError, match="these are fractions, not counts; docs/catalogs.md"):
        round_votes(table([0.37, 1.0]).assign(a_y=[0.63, 0]), ["a_x", "a_y"], "cat.csv")
    assert votes(round_votes(table([0.0, 1.0]), ["a_x"]), ["a_x"]).ravel().tolist() == [0, 1]


@pytest.mark.parametrize("value", [3.5, 0, "x", True])
def test_a_label_that_is_the_same_for_all_galaxies_is_refused(value):
    told = {"x": "'x'", True: 1}.get(value, value)
    with pytest.raises(
        ValueError, match=f"catalog train: column 'a_x' holds {told} in each of the 4"
    ):
        check_varied(table([value] * 4), "a_x", "train")
    check_varied(table([value] * 4 + [7 if value != "x" else "y"]), "a_x", "train")


def test_votes_that_are_all_zero_are_refused():
    frame = table([0, 0]).assign(a_y=0)
    with pytest.raises(ValueError, match="none of the 2 galaxies to train on has a vote"):
        check_some_votes(frame, ["a_x", "a_y"], "train")
    check_some_votes(frame.assign(a_y=[0, 1]), ["a_x", "a_y"], "train")


def test_decimal_numbers_are_numbers():
    frame = table(pd.Series([Decimal("0.25"), Decimal("1.5")], dtype=object))
    check_numbers(frame, "a_x")
    assert label_array(frame, ["a_x"]).tolist() == [[0.25], [1.5]]


def test_complex_numbers_do_not_lose_their_imaginary_part_in_silence():
    frame = table(np.array([1 + 1j, 2]))
    for check in (check_numbers, votes, label_array):
        with pytest.raises(ValueError, match=r"holds .*1\+1j"):
            check(frame, "a_x" if check is check_numbers else ["a_x"])


def test_numbers_that_are_text_are_called_so():
    with pytest.raises(ValueError, match="'3.8e9': no number, but text .*: save the column"):
        check_numbers(table(["3.8e9", "2"]), "a_x")
