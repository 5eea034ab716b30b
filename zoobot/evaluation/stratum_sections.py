"""Write the report's section about calibration in strata of galaxies."""

import re
from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from zoobot.data.catalog import require_columns
from zoobot.evaluation.figures import NARROW, PHONE_INCHES, WIDE, legend_above
from zoobot.evaluation.report import Report
from zoobot.evaluation.run_figures import BLUE, GREY, ORANGE, tidy
from zoobot.evaluation.strata import Strata, Stratum, entries, stratify
from zoobot.evaluation.vote_intervals import COVERAGE_LEVEL, Z_90
from zoobot.schemas import Schema

TITLE = "Calibration by stratum"
EVERY = "all questions"
VOTES, ENTROPY = "votes on the question", "entropy of the prediction"
STYLES = {"color": BLUE, "marker": "o"}, {"color": ORANGE, "marker": "s", "mfc": "none"}


def check_strata(table: pd.DataFrame, columns: Sequence[str]) -> None:
    """ValueError unless the catalog has these columns."""
    require_columns(table, columns, "to divide into strata")


def report_strata(
    out: Report,
    concentrations: np.ndarray,
    votes: np.ndarray,
    schema: Schema,
    table: pd.DataFrame,
    min_votes: int,
    columns: Sequence[str] = (),
) -> None:
    """Add coverage and reliability by votes, by predicted entropy and by columns of the catalog.

    Of all questions, and of the first one, which all volunteers were asked. The numbers of every
    question are in ``metrics.json``.

    Args:
        concentrations: (N, A, S).
        votes: (N, A).
        table: the catalog's rows of these galaxies.
        min_votes: how many votes on a question are enough; by votes two are.
        columns: of the table.
    """
    every = entries(concentrations, votes, schema)
    enough = every[every["votes"] >= min_votes]
    divided = [(VOTES, every, every["votes"]), (ENTROPY, enough, enough["entropy"])]
    divided += [
        (name, enough, table[name].iloc[enough["galaxy"]].reset_index(drop=True))
        for name in dict.fromkeys(columns)
    ]
    shown, by_question = [], []
    for by, chosen, values in divided:
        values = values.reset_index(drop=True)
        of_each = []
        for q, question in enumerate(schema.questions):
            rows = (chosen["question"] == q).to_numpy()
            of_each.append(stratify(question.text, chosen[rows], by, values[rows]))
        shown.append((stratify(EVERY, chosen, by, values), of_each[0]))
        by_question += [each for each in of_each if each.strata]
    drawn = {}
    for pair in shown:
        if pair[0].strata:
            drawn[f"strata_{_file_name(pair[0].by, drawn)}.png"] = (
                partial(draw_strata, [each for each in pair if each.strata]),
                f"By {pair[0].by}: coverage of the 90% intervals, and how much the highest "
                "predicted fraction is above the volunteers' fraction for the same answer; with "
                "90% intervals. Horizontal bars: the range of the stratum.",
            )
    tables = [_table(f"Calibration by {pair[0].by}", pair) for pair in shown if pair[0].strata]
    out.section(TITLE, _text(shown), drawn, tables)
    out.numbers["Calibration by stratum, every question"] = [
        _table(by, [each for each in by_question if each.by == by]) for by, *_ in divided
    ]


def _file_name(by: str, drawn: dict) -> str:
    name = {VOTES: "votes", ENTROPY: "entropy"}.get(by) or re.sub(r"[^A-Za-z0-9]+", "_", by)[:40]
    return f"{name}_{len(drawn)}" if f"strata_{name}.png" in drawn else name


def _text(shown: list[tuple[Strata, ...]]) -> str:
    parts = [
        "Are the predictions right everywhere, or only on average? Coverage should be 0.9 in every "
        "stratum. The difference should be 0: above it, the model is surer of its leading answer "
        "than the volunteers are. Few votes are covered well by almost any interval, so look at "
        "the strata with many. The entropy of the predicted fractions is 0 where the model is "
        "sure, 1 where all answers are equal."
    ]
    for every, first in shown:
        if every.told:
            parts.append(f"By {every.by}: {every.told}.")
        if every.strata and first.told not in ("", every.told):
            parts.append(f"By {first.by}, of {first.of}: {first.told}.")
    return "\n\n".join(parts)


def _table(caption: str, shown: Sequence[Strata]) -> dict:
    rows = [
        [each.of, s.name, s.galaxies, s.votes, *s.coverage, s.predicted, s.observed, *s.difference]
        for each in shown
        for s in each.strata
    ]
    return {
        "caption": caption,
        "columns": ["question", "stratum", "galaxies", "votes", "coverage", "± coverage",
                    "predicted", "volunteers", "difference", "± difference"],
        "rows": rows,
    }  # fmt: skip


def draw_strata(shown: list[Strata], columns: int = WIDE) -> Figure:
    """Coverage and reliability against the values, with 90% intervals; a line for each of some."""
    narrow = columns == NARROW
    size = (PHONE_INCHES, 6.4) if narrow else (9.5, 3.6)
    figure = Figure(figsize=size, layout="constrained")
    coverage, reliability = figure.subplots(*((2, 1) if narrow else (1, 2)), sharex=True)
    coverage.axhline(COVERAGE_LEVEL, color=GREY, ls="--", lw=1)
    reliability.axhline(0, color=GREY, ls="--", lw=1)
    names = [s.name for s in shown[0].strata]
    ends = [end for each in shown for s in each.strata for end in (s.low, s.high)]
    aside = 0.015 * (max(ends) - min(ends))
    for number, (each, style) in enumerate(zip(shown, STYLES, strict=False)):
        strata = [s for s in each.strata if not each.is_text or s.name in names]
        for axis, found in (
            (coverage, [s.coverage for s in strata]),
            (reliability, [s.difference for s in strata]),
        ):
            places, ranges = _places(strata, names if each.is_text else None)
            values, errors = np.array(found).T
            axis.errorbar(
                places + number * aside, values, Z_90 * np.nan_to_num(errors), ranges, ls="",
                ms=5, lw=1, label=each.of, **style,
            )  # fmt: skip
    coverage.set_ylabel("coverage of the\n90% intervals")
    coverage.set_ylim(top=1.005)
    reliability.set_ylabel("predicted - volunteers'\nfraction, leading answer")
    for axis in (coverage, reliability):
        tidy(axis)
        if shown[0].is_text:
            axis.set_xticks(range(len(names)), names, rotation=20, ha="right", fontsize=8)
        if axis is reliability or not narrow:
            axis.set_xlabel(shown[0].by)
    legend_above(figure, coverage, columns)
    return figure


def _places(strata: list[Stratum], names: list[str] | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Where strata are drawn, and how far they reach to both sides (2, strata); texts do not.

    Args:
        names: of the texts, in their order; None for numbers.
    """
    if names is not None:
        return np.array([names.index(s.name) for s in strata], dtype=float), None
    low, middle, high = np.array([(s.low, s.middle, s.high) for s in strata]).T
    return middle, np.array([middle - low, high - middle])
