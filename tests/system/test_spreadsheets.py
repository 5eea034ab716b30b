import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoobot.system.spreadsheets import mark, unmark


@pytest.mark.parametrize(
    "text",
    ["=1+1", "=cmd|' /C calc'!A0", "+J12", "-a", "@SUM(1)", " =1", "\t=1", "\r1", "\uff1d1", "'=1"],
    ids=ascii,
)
def test_what_a_spreadsheet_would_compute_is_marked(text):
    assert mark(text) == "'" + text


@pytest.mark.parametrize("text", ["", "-", "-1", "+1.5e-3", "-.5", "J12-3", "'a", "a=1", "g 1"])
def test_numbers_and_other_texts_are_not_marked(text):
    assert mark(text) == text


@given(st.text(st.sampled_from("'=+-@\t\n 1.ea\uff1d")) | st.text())
def test_whatever_is_marked_comes_back(text):
    assert unmark(mark(text)) == text
    assert unmark(mark(mark(text))) == mark(text)
