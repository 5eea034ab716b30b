import sys

import pytest

from zoobot.system import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests set."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_has_a_line_now_and_then_with_rate_and_time_left(clock, capsys):
    with progress.open_bar("epoch 1", 1000, "step", done=100) as bar:
        for _ in range(150):
            clock[0] += 1
            bar.update(2)
    assert capsys.readouterr() == (
        "epoch 1: 120 of 1,000 steps, 2 a second, 7 min left\n"
        "epoch 1: 240 of 1,000 steps, 2 a second, 6 min left\n"
        "epoch 1: 360 of 1,000 steps, 2 a second, 5 min left\n",
        "",
    )


def test_a_last_line_sums_up_work_that_is_to_stay(clock, capsys):
    with progress.open_bar("predicting", 40, "galaxy", leave=True) as bar:
        clock[0] += 4
        bar.update(40)
    assert capsys.readouterr().out == "predicting: 40 galaxies in 4 s, 10 a second\n"
    with pytest.raises(ValueError, match="x"), progress.open_bar("a", 4, "b", leave=True):
        raise ValueError("x")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("where", ["terminal", "notebook"])
def test_a_terminal_or_notebook_has_a_bar(monkeypatch, where):
    monkeypatch.setattr(progress, "IS_NOTEBOOK", where == "notebook")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: where == "terminal", raising=False)
    with progress.open_bar("epoch 1", 10, "step") as bar:
        assert isinstance(bar, progress.tqdm)


def test_nothing_is_shown_where_nothing_is_asked_for(clock, capsys):
    with progress.open_bar("epoch 1", 10, "step", shown=False, leave=True) as bar:
        clock[0] += 100
        bar.update(10)
    assert capsys.readouterr() == ("", "")


def test_durations_are_in_a_unit_that_suits_them():
    told = [progress.told_duration(s) for s in (0.4, 31, 89, 200, 5000, 20_000)]
    assert told == ["0 s", "31 s", "89 s", "3 min", "83 min", "5.6 h"]
