import numpy as np
import pandas as pd
import pytest

from zoobot.evaluation.report import Report
from zoobot.evaluation.strata import Strata, Stratum
from zoobot.evaluation.stratum_sections import draw_strata, report_strata


def simulate(num_galaxies):
    rng = np.random.default_rng(0)
    concentrations = rng.uniform(1, 9, (num_galaxies, 7, 1))
    votes = rng.integers(1, 15, (num_galaxies, 7))
    table = pd.DataFrame(
        {
            "mag/r": rng.uniform(14, 18, num_galaxies),
            "survey": np.array(["sdss", "decals"])[rng.integers(0, 2, num_galaxies)],
        }
    )
    return concentrations, votes, table


def test_votes_entropy_and_columns_have_a_figure_and_a_table_each(tree, tmp_path):
    concentrations, votes, table = simulate(240)
    out = Report(tmp_path)
    report_strata(out, concentrations, votes, tree, table, 10, ["mag/r", "survey", "mag/r"])
    assert {path.name for path in tmp_path.iterdir()} == {
        "strata_votes.png", "strata_entropy.png", "strata_mag_r.png", "strata_survey.png",
    }  # fmt: skip
    (section,) = out.sections
    assert [table["caption"] for table in section["tables"]] == [
        "Calibration by votes on the question", "Calibration by entropy of the prediction",
        "Calibration by mag/r", "Calibration by survey",
    ]  # fmt: skip
    rows = section["tables"][3]["rows"]
    assert [row[:2] for row in rows] == [
        [of, name] for of in ("all questions", "smooth") for name in ("decals", "sdss")
    ]
    for each in out.numbers["Calibration by stratum, every question"]:
        assert {row[0] for row in each["rows"]} == {"smooth", "bar", "merging"}
    enough = votes[:, :2].sum(axis=1) >= 10
    expected = [(enough & (table["survey"] == name)).sum() for name in ("decals", "sdss")]
    assert [row[2] for row in rows[2:]] == expected


def test_too_few_galaxies_are_said_once_for_each_and_nothing_is_drawn(tree, tmp_path):
    concentrations, votes, table = simulate(60)
    out = Report(tmp_path)
    report_strata(out, concentrations, votes, tree, table, 1, ["mag/r"])
    assert list(tmp_path.iterdir()) == []
    (section,) = out.sections
    assert section["tables"] == []
    assert section["text"].count("too few galaxies to divide: 60, of at least 80") == 3
    assert "By mag/r: too few" in section["text"]


def test_coverage_and_difference_are_drawn_where_the_strata_are():
    strata = [
        Stratum("2 to 4", 2, 3, 4, 60, 90, 3.1, (0.9, 0.02), 0.7, 0.65, (0.05, 0.01)),
        Stratum("5 to 9", 5, 6, 9, 60, 80, 6.5, (0.8, 0.03), 0.7, 0.75, (-0.05, 0.02)),
    ]
    figure = draw_strata([Strata("votes", "all questions", strata)])
    drawn = [axis.containers[0].lines[0].get_xydata() for axis in figure.axes[:2]]
    np.testing.assert_allclose(drawn[0], [[3, 0.9], [6, 0.8]])
    np.testing.assert_allclose(drawn[1], [[3, 0.05], [6, -0.05]])
    narrow = draw_strata([Strata("votes", "all questions", strata)], columns=1)
    assert narrow.get_size_inches()[0] == pytest.approx(4.2)
