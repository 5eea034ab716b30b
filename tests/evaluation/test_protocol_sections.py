import json
import math

import numpy as np
import pandas as pd
import pytest

from zoobot import evaluate
from zoobot.evaluation import terminal
from zoobot.evaluation.protocol_sections import draw_worth, report_protocols, report_worth
from zoobot.evaluation.report import Report
from zoobot.evaluation.worth import Worth
from zoobot.predictions.files import Predictions

DECALS = ["Protocol of GZ DECaLS", "Protocol of GZ DECaLS, confident volunteers"]


@pytest.fixture
def galaxies(tree):
    """Fractions and votes of 60 galaxies, each seen by 40 volunteers; none was asked about bars."""
    rng = np.random.default_rng(0)
    p = rng.beta(1, 1, (60, 2))
    votes = np.zeros((60, 7), dtype=int)
    votes[:, [0, 5]] = rng.binomial(40, p)
    votes[:, [1, 6]] = 40 - votes[:, [0, 5]]
    predicted = np.clip(p + rng.normal(0, 0.1, p.shape), 0, 1)
    fractions = np.full((60, 7), 1 / 3)
    fractions[:, [0, 5]], fractions[:, [1, 6]] = predicted, 1 - predicted
    return fractions, votes


@pytest.mark.parametrize(
    ("protocol", "captions"),
    [
        ("all", [*DECALS, "Protocol of GZ Evo"]),
        ("decals", DECALS),
        ("evo", ["Protocol of GZ Evo"]),
    ],
)
def test_each_protocol_is_a_table_with_a_guess_and_a_constant(
    tree, galaxies, tmp_path, protocol, captions
):
    out = Report(tmp_path)
    report_protocols(out, *galaxies, tree, protocol)
    tables = out.sections[0]["tables"]
    assert [table["caption"] for table in tables] == captions
    for table in tables:
        assert all(len(row) == len(table["columns"]) for row in table["rows"])
        assert any("random" in name for name in table["columns"])
        assert any("constant" in name for name in table["columns"])
        assert table["rows"][0][:2] == ["smooth", 60] or protocol != "evo"
    assert "No such galaxies: bar." in out.sections[0]["text"]


def test_galaxies_that_few_volunteers_saw_give_a_sentence_and_no_table(tree, galaxies, tmp_path):
    fractions, votes = galaxies
    out = Report(tmp_path)
    report_protocols(out, fractions, votes // 10, tree)
    assert out.sections[0]["tables"] == []
    assert out.sections[0]["text"].count("No such galaxies: smooth, bar, merging.") == 2


def test_worth_is_a_headline_a_figure_and_a_table(tree, galaxies, tmp_path):
    out = Report(tmp_path)
    report_worth(out, *galaxies, tree)
    (headline,) = out.headlines
    assert headline["label"] == "worth in volunteers, smooth"
    assert not headline["is_weak"]
    table = out.sections[0]["tables"][0]
    assert [row[0] for row in table["rows"]] == ["smooth", "merging"]
    number, told = table["rows"][0][2:4]
    assert headline["value"] == f"{number:.1f}"
    assert float(told.split(" to ")[0]) < number < float(told.split(" to ")[1])
    assert "all agree: bar (0)." in out.sections[0]["text"]
    assert (tmp_path / "worth.png").stat().st_size > 5000


def test_predictions_no_worse_than_perfect_are_told_as_infinite(tree, galaxies, tmp_path):
    _, votes = galaxies
    fractions = np.full((60, 7), 1 / 3)
    fractions[:, [0, 1, 5, 6]] = votes[:, [0, 1, 5, 6]] / 40
    out = Report(tmp_path)
    report_worth(out, fractions, votes, tree)
    assert out.headlines[0]["value"] == "∞"
    path = out.write(
        {"title": "", "subtitle": "", "about": [], "task": "tree", "pictures": "", "notes": [],
         "questions": [], "galaxies": []}
    )  # fmt: skip
    assert "&#8734; to &#8734;" in path.read_text()
    numbers = json.loads((tmp_path / "metrics.json").read_text())
    assert numbers["Worth in volunteers"]["rows"][0][2] is None
    assert "∞" in terminal.summary(out)


def test_an_interval_without_an_upper_end_is_an_arrow():
    known = [Worth("a", 99, (0.1, 0.02), 1, 2), Worth("b", 99, (0.01, 0.02), 1, 2)]
    axis = draw_worth(known).axes[0]
    assert [line.get_marker() for line in axis.lines].count(">") == 1
    right = axis.get_xlim()[1]
    assert math.isfinite(right)
    assert [max(line.get_xdata()) for line in axis.lines[:2]] == pytest.approx(
        [known[0].interval[1], right]
    )


def test_protocol_and_strata_are_for_votes_and_wrong_ones_are_named(tmp_path, tree, galaxies):
    ids = np.array([f"g{i}" for i in range(60)], dtype=object)
    made = Predictions(ids, galaxies[0][..., None] + 1, tree.label_cols, None, {})
    table = pd.DataFrame(galaxies[1], columns=tree.label_cols).assign(id_str=ids, mag_r=17.0)
    with pytest.raises(ValueError, match="protocol 'gz2' is unknown: use all, decals or evo"):
        evaluate.evaluate(made, table, tmp_path / "r", schema=tree, protocol="gz2")
    with pytest.raises(ValueError, match="no column 'magr'; did you mean 'mag_r'"):
        evaluate.evaluate(made, table, tmp_path / "r", schema=tree, strata=["magr"])
    one = Predictions(ids, np.ones((60, 1, 1)), ["mag_r"], None, {"task": "regression"})
    table["mag_r"] += np.arange(60)
    for option in ({"protocol": "evo"}, {"strata": ["mag_r"]}):
        with pytest.raises(ValueError, match="is for vote counts of a decision tree, not for regr"):
            evaluate.evaluate(one, table, tmp_path / "r", **option)
