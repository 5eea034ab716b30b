"""Write the report's section about the intervals of vote fractions."""

from functools import partial

import numpy as np

from zoobot.evaluation import vote_figures
from zoobot.evaluation.report import Report
from zoobot.evaluation.room import in_figures, listed
from zoobot.evaluation.vote_intervals import MANY_VOTES, IntervalAssessment

TITLE = "Are the intervals right?"


def report_intervals(out: Report, assessed: list[IntervalAssessment], min_votes: int) -> None:
    """Add a headline, the figures and the table of intervals to the report."""
    compared = [question for question in assessed if question.galaxies]
    if not compared:
        out.section(
            TITLE,
            f"These votes can't tell: no galaxy has {max(2, min_votes)} votes on a question. One "
            "vote is inside the interval equally often whatever its width, so that coverage says "
            "nothing.",
            {},
        )
        return
    weights = np.array([q.galaxies for q in compared], dtype=float)
    covered = float(np.average([q.coverage[0] for q in compared], weights=weights))
    votes, effective = (
        float(np.average(values, weights=weights))
        for values in zip(*((q.votes, q.effective_votes) for q in compared), strict=True)
    )
    out.headline(
        "coverage of 90% intervals",
        covered,
        f"of observed votes; 0.9 is best. {votes:.1f} votes a galaxy and question, {effective:.1f} "
        "effective",
    )
    shown, cut = in_figures(compared, "questions")
    drawn = {
        "coverage.png": (
            partial(vote_figures.coverage, shown),
            "Share of the observed votes inside the central 90% of their predictive "
            "distribution, with 90% intervals. The band is 85% to 95%.",
        ),
        "temperatures.png": (
            partial(vote_figures.temperatures, shown),
            "The factor for the concentrations with which these votes are most likely, with 90% "
            "intervals. At 1 the predicted distributions are as wide as they should be.",
        ),
    }
    out.section(TITLE, _text(compared) + cut, drawn, [_table(compared)])


def _text(compared: list[IntervalAssessment]) -> str:
    """What coverage and temperatures say."""
    low, high = vote_figures.ACCEPTED_COVERAGE
    inside = sum(low <= q.coverage[0] <= high for q in compared)
    parts = [
        f"The coverage of {inside} of {len(compared)} questions lies between 85% and 95%. But few "
        "votes are covered well by almost any interval: concentrations that are three times too "
        "large still cover 0.89 of 3 votes, and 0.78 of 40. So look at the temperature too, the "
        "factor for the concentrations that fits these votes best, and at the effective number of "
        "votes: where it is near the actual number, the votes scatter as those of a known fraction "
        "would, and say little about the width."
    ]
    for verdict, what in (
        ("too narrow", "fractions differ more from the predictions than the model says"),
        ("too wide", "fractions differ less from the predictions than the model says"),
    ):
        some = [q for q in compared if q.verdict == verdict]
        if some:
            told = [
                "{} (temperature {:.2f}, {:.2f} to {:.2f})".format(
                    q.name, q.temperature, *q.temperature_interval
                )
                for q in some
            ]
            parts.append(f"{verdict.capitalize()} ({what}): {listed(told)}.")
    if not any(q.verdict for q in compared):
        parts.append("No temperature differs from 1 by more than its error.")
    if not np.isnan([q.used for q in compared]).all():
        after = sum(low <= q.recalibrated[0] <= high for q in compared)
        parts.append(
            "With one temperature a question, fitted to other galaxies (temperatures.json), the "
            f"coverage of {after} of {len(compared)} lies between 85% and 95%."
        )
    return "\n\n".join(parts)


def _table(compared: list[IntervalAssessment]) -> dict:
    columns = ["question", "galaxies", "coverage", "±", f"of {MANY_VOTES} votes and more",
               "coverage (many)", "± (many)", "votes", "effective votes", "concentration",
               "temperature", "90%"]  # fmt: skip
    rows = [
        [q.name, q.galaxies, *q.coverage, q.many, *q.many_coverage, q.votes, q.effective_votes,
         q.concentration, q.temperature, "{:.2f} to {:.2f}".format(*q.temperature_interval)]
        for q in compared
    ]  # fmt: skip
    if not np.isnan([q.used for q in compared]).all():
        columns += ["temperature used", "recalibrated", "± (recalibrated)"]
        rows = [[*r, q.used, *q.recalibrated] for r, q in zip(rows, compared, strict=True)]
    return {"caption": "Intervals by question", "columns": columns, "rows": rows}
