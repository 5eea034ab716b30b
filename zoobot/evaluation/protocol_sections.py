"""Write the report's sections that compare with papers and with volunteers."""

import math
from functools import partial

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from zoobot.evaluation.figures import WIDE, legend_above, one_panel
from zoobot.evaluation.protocols import (
    DECALS_VOTES,
    EVO_VOTES,
    PROTOCOLS,
    DecalsScores,
    Error,
    LeadingAnswer,
    decals_scores,
    evo_scores,
)
from zoobot.evaluation.report import Report
from zoobot.evaluation.room import in_figures, listed
from zoobot.evaluation.run_figures import BLUE, GREY, ORANGE, tidy
from zoobot.evaluation.worth import FEWEST_GALAXIES, Worth, assess_worth
from zoobot.schemas import Schema

NEAREST, FARTHEST = 100, 1000  # volunteers at the right edge of the figure


def report_protocols(
    out: Report, fractions: np.ndarray, votes: np.ndarray, schema: Schema, protocol: str = "all"
) -> None:
    """Add the tables of the papers' protocols.

    Args:
        fractions: (N, A) predicted.
        votes: (N, A).
        protocol: one of ``PROTOCOLS``, or "all".
    """
    parts, tables = [], []
    for name in PROTOCOLS if protocol == "all" else (protocol,):
        text, scored = {"decals": _decals, "evo": _evo}[name](fractions, votes, schema)
        parts.append(text)
        tables += [table for table in scored if table["rows"]]
    out.section("By the rules of published papers", "\n\n".join(parts), {}, tables)


def _decals(fractions: np.ndarray, votes: np.ndarray, schema: Schema) -> tuple[str, list]:
    scores = decals_scores(fractions, votes, schema)
    tables = [
        {
            "caption": caption,
            "columns": ["question", "galaxies", "accuracy", "90%", "random", "constant"],
            "rows": [_row(q, score) for q, score in scored if score.galaxies],
        }
        for caption, scored in (
            ("Protocol of GZ DECaLS", [(q, q.every) for q in scores]),
            ("Protocol of GZ DECaLS, confident volunteers", [(q, q.confident) for q in scores]),
        )
    ]
    text = (
        "GZ DECaLS (Walmsley et al. 2022, MNRAS 509, 3966): how often the leading answer is "
        f"right, of galaxies that at least {DECALS_VOTES} volunteers have seen, at least half of "
        "whom were asked the question; confident: more than 0.8 of them gave one answer. Random: "
        "each answer guessed equally often. Constant: always the most frequent answer."
    )
    return _without(text, [q.name for q in scores if not q.every.galaxies]), tables


def _row(question: DecalsScores, score: LeadingAnswer) -> list:
    told = "{:.2f} to {:.2f}".format(*score.interval)
    return [question.name, score.galaxies, score.accuracy, told, question.random, score.constant]


def _evo(fractions: np.ndarray, votes: np.ndarray, schema: Schema) -> tuple[str, list]:
    scores = evo_scores(fractions, votes, schema)
    rows = [[q.name, q.galaxies, *_error(q.mae), *_error(q.rmse)] for q in scores if q.galaxies]
    text = (
        "GZ Evo (Walmsley et al. 2022, arXiv:2206.11927): how far predicted fractions are from "
        f"the volunteers', of galaxies with at least {EVO_VOTES} votes on the question, averaged "
        "over answers. The noise of the votes is part of it: 20 votes alone miss a fraction of 0.5 "
        "by 0.11 (RMSE). Random: all fractions that sum to 1 guessed equally often. Constant: the "
        "median (MAE) or the mean (RMSE) of these galaxies' fractions."
    )
    table = {
        "caption": "Protocol of GZ Evo",
        "columns": ["question", "galaxies", "MAE", "± MAE", "random MAE", "constant MAE", "RMSE",
                    "± RMSE", "random RMSE", "constant RMSE"],
        "rows": rows,
    }  # fmt: skip
    return _without(text, [q.name for q in scores if not q.galaxies]), [table]


def _error(error: Error) -> list[float]:
    return [error.value, error.error, error.random, error.constant]


def _without(text: str, names: list[str]) -> str:
    return f"{text} No such galaxies: {listed(names)}." if names else text


def report_worth(out: Report, fractions: np.ndarray, votes: np.ndarray, schema: Schema) -> None:
    """Add what the predictions are worth in volunteers: a headline, a figure, a table.

    Args:
        fractions: (N, A) predicted.
        votes: (N, A).
    """
    assessed = assess_worth(fractions, votes, schema)
    known = [q for q in assessed if q.is_known]
    text = (
        "How many volunteers would one have to ask so that their votes are as near to the true "
        "fractions as the prediction is? The volunteers here are few too, so their own noise is "
        "subtracted, without which no model could seem better than they are. Where the interval "
        "has no upper end, these votes do not tell the model from a perfect one. Galaxies with "
        "two votes or more on the question count once each. Constant: the mean of their "
        "fractions. Random: all fractions that sum to 1 guessed equally often."
    )
    lacking = [f"{q.name} ({q.galaxies})" for q in assessed if not q.is_known]
    if lacking:
        text += (
            f" Fewer than {FEWEST_GALAXIES} such galaxies, or volunteers who all agree: "
            f"{listed(lacking)}."
        )
    drawn, tables = {}, []
    if known:
        first = known[0]
        shown, cut = in_figures(known, "questions")
        text += cut
        out.headline(
            f"worth in volunteers, {first.name}",
            first.volunteers,
            f"90% interval {told_range(first.interval)}; a constant {first.constant:.1f}, a random "
            f"guess {first.random:.1f}",
            not first.interval[0] > first.constant,
            digits=1,
        )
        drawn["worth.png"] = (
            partial(draw_worth, shown),
            "Volunteers whose votes would be as good, with 90% intervals; an arrow: no upper end.",
        )
        tables.append(
            {
                "caption": "Worth in volunteers",
                "columns": ["question", "galaxies", "volunteers", "90%", "random", "constant",
                            "error / one vote's", "±"],
                "rows": [
                    [q.name, q.galaxies, q.volunteers, told_range(q.interval), q.random, q.constant,
                     *q.relative_error]
                    for q in known
                ],
            }
        )  # fmt: skip
    out.section("Worth in volunteers", text, drawn, tables)


def told_range(interval: tuple[float, float]) -> str:
    """An interval of numbers of volunteers, in words."""
    low, high = ("∞" if math.isinf(end) else f"{end:.1f}" for end in interval)
    return f"{low} to {high}"


def draw_worth(questions: list[Worth], columns: int = WIDE) -> Figure:
    """The worth of each question on a logarithmic scale, beside a constant and a random guess."""
    figure = one_panel(7, 1.6 + 0.34 * len(questions), columns)
    axis, places = figure.subplots(), np.arange(len(questions))
    lows = [q.interval[0] for q in questions]
    edge = np.clip(2 * max(filter(math.isfinite, lows), default=0), NEAREST, FARTHEST)
    for place, question in enumerate(questions):
        low, high = (min(end, edge) for end in question.interval)
        axis.plot([low, high], [place, place], color=BLUE, lw=1.5)
        if question.interval[1] > edge:
            axis.plot([edge], [place], ">", color=BLUE, ms=6, clip_on=False)
    values = np.array([q.volunteers for q in questions])
    seen = values < edge
    axis.plot(values[seen], places[seen], "o", color=BLUE, label="the model")
    axis.plot([q.constant for q in questions], places, "|", color="black", ms=12, mew=2,
              label="best constant")  # fmt: skip
    axis.plot([q.random for q in questions], places, "x", color=ORANGE, ms=5, label="random guess")
    axis.axvline(1, color=GREY, ls="--", lw=1)
    axis.set_xscale("log")
    axis.set_xlim(right=edge)
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter("")
    axis.set_yticks(places, [f"{q.name} ({q.galaxies})" for q in questions], fontsize=9)
    axis.set_ylim(len(questions) - 0.5, -0.5)
    axis.set_xlabel("volunteers whose votes would be as good")
    legend_above(figure, axis, columns)
    tidy(axis, "x")
    return figure
