"""Write the report's headlines, tables and figures about votes."""

import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from zoobot import statistics
from zoobot.data.labels import votes as vote_counts
from zoobot.evaluation import vote_figures
from zoobot.evaluation.class_sections import Describe
from zoobot.evaluation.interval_sections import report_intervals
from zoobot.evaluation.join import Joined, join
from zoobot.evaluation.pictures import Pictures
from zoobot.evaluation.protocol_sections import report_protocols, report_worth
from zoobot.evaluation.report import Report
from zoobot.evaluation.room import in_figures, listed
from zoobot.evaluation.stratum_sections import check_strata, report_strata
from zoobot.evaluation.uncertainty import mean_error
from zoobot.evaluation.vote_intervals import assess_intervals
from zoobot.evaluation.vote_scores import (
    QuestionAssessment,
    assess_votes,
    enough_votes,
    vote_losses,
)
from zoobot.evaluation.vote_tree_sections import report_vote_trees
from zoobot.predictions.files import Predictions
from zoobot.schemas import Schema
from zoobot.system.errors import UserError
from zoobot.system.files import write_text


def report_tree(
    out: Report,
    joined: Joined,
    pictures: Pictures,
    min_votes: int | None,
    recalibrate_on: tuple | None,
    protocol: str = "all",
    strata: Sequence[str] = (),
) -> tuple[np.ndarray, list[dict], Describe]:
    """Add the headlines and sections of vote counts; returns the same as ``report_classes``.

    Args:
        pictures: how galaxies are shown.
        min_votes: how many votes on a question are enough; by default ``enough_votes``.
        recalibrate_on: predictions and catalog of other galaxies, to fit temperatures to; None: no
            recalibration.
        protocol: whose rules the first table follows: one of ``protocols.PROTOCOLS``, or "all".
        strata: columns of the catalog by which the calibration is shown too.

    Raises:
        ValueError: if some galaxies are in both sets of predictions, or the catalog lacks a column
            of the strata.
    """
    schema, concentrations = joined.schema, joined.predictions.values
    check_strata(joined.table, strata)
    votes = vote_counts(joined.table, schema.label_cols)
    min_votes = min_votes or enough_votes(votes, schema)
    joined.notes.append(
        f"Losses and accuracies are of galaxies with a vote on the question, accuracies without "
        f"those of which several answers have most votes. Fractions and intervals are of galaxies "
        f"with at least {min_votes} {'votes' if min_votes > 1 else 'vote'} on it."
    )
    temperatures = None
    if recalibrate_on is not None:
        temperatures = _fit_temperatures(joined, *recalibrate_on)
        text = json.dumps(
            dict(zip(schema.question_answer_pairs, temperatures.tolist(), strict=True))
        )
        write_text(out.folder / "temperatures.json", text + "\n")
    assessed = assess_votes(concentrations, votes, schema, min_votes)
    intervals = assess_intervals(concentrations, votes, schema, min_votes, temperatures)
    losses = vote_losses(concentrations, votes, schema).sum(axis=1)
    fractions = statistics.fractions(concentrations, schema)
    _headlines(out, losses, assessed)
    report_protocols(out, fractions, votes, schema, protocol)
    report_worth(out, fractions, votes, schema)
    _question_section(out, assessed)
    _answer_sections(out, [question for question in assessed if question.galaxies])
    report_intervals(out, intervals, min_votes)
    report_strata(out, concentrations, votes, schema, joined.table, min_votes, strata)
    report_vote_trees(out, joined, pictures, fractions, votes)

    def describe(shown: np.ndarray) -> dict:
        alphas = concentrations[shown]
        lower, upper = statistics.fraction_intervals(alphas, schema)
        return {
            "fractions": statistics.fractions(alphas, schema),
            "lower": lower,
            "upper": upper,
            "asked": statistics.proportion_asked(alphas, schema),
            "votes": votes[shown],
        }

    return losses, _gallery_questions(schema, assessed), describe


def _gallery_questions(schema: Schema, assessed: list[QuestionAssessment]) -> list[dict]:
    return [
        {
            "name": question.text,
            "answers": [answer.pretty_text for answer in question.answers],
            "asked_after": [answer.index for answer in question.parents],
            "beats_constant": scores.beats_constant,
        }
        for question, scores in zip(schema.questions, assessed, strict=True)
    ]


def _fit_temperatures(
    joined: Joined, predictions: Predictions | str | Path, catalog: pd.DataFrame | str | Path
) -> np.ndarray:
    """Temperatures (Q,) fitted to predictions and a catalog of other galaxies."""
    other = join(predictions, catalog, "tree", joined.schema, round_votes=joined.round_votes)
    shared = np.intersect1d(other.predictions.ids.astype(str), joined.predictions.ids.astype(str))
    if len(shared):
        raise UserError(
            f"recalibrate on other galaxies than those evaluated: {len(shared)} are in both, for "
            f"example {str(shared[0])!r}"
        )
    votes = vote_counts(other.table, joined.schema.label_cols)
    return statistics.fit_temperatures(other.predictions.values, votes, joined.schema)


def _headlines(out: Report, losses: np.ndarray, assessed: list[QuestionAssessment]) -> None:
    """Headlines, and a warning if the model is no better than a constant."""
    num_galaxies, asked = len(losses), [q for q in assessed if q.asked]
    constant = sum(q.constant_loss * q.asked for q in asked) / num_galaxies
    free = sum(q.free_constant_loss * q.asked for q in asked) / num_galaxies
    loss, useless = float(losses.mean()), [q for q in asked if not q.beats_constant]
    is_weak = not loss < constant
    if is_weak or (asked and len(useless) == len(asked)):
        out.warnings.append(
            f"This model is no better than a constant: its loss is {loss:.3f}, that of the best "
            f"constant prediction {constant:.3f}."
        )
    elif not loss < free:
        out.warnings.append(
            f"The loss, {loss:.3f}, is below that of the best constant of such a model, "
            f"{constant:.3f}, but not below that of the best constant of any model, {free:.3f}."
        )
    if useless and len(useless) < len(asked):
        names = listed([q.name for q in useless])
        out.warnings.append(f"On these questions the model is no better than a constant: {names}.")
    out.headline(
        "loss a galaxy",
        loss,
        f"± {mean_error(losses):.3f}, summed over questions; best constant {constant:.3f}, "
        f"without a head's bounds {free:.3f}",
        is_weak,
    )
    out.numbers["loss of the best constant"] = {"within bounds": constant, "free": free}
    if not asked:
        return
    first = asked[0]
    (lower, upper), (answer, share) = first.accuracy_interval, first.majority
    out.headline(
        f"accuracy, {first.name}",
        first.accuracy,
        f"always “{answer}”: {share:.3f}; 90% interval {lower:.3f} to {upper:.3f}, "
        f"{first.asked - first.tied} galaxies",
        not first.beats_majority,
    )
    compared = [q for q in assessed if q.galaxies]
    if not compared:
        return
    weights = np.array([q.galaxies for q in compared], dtype=float)
    seen = math.sqrt(np.average([q.rmse[0] ** 2 for q in compared], weights=weights))
    several = [q.square_errors for q in compared if len(q.square_errors)]
    told = "all questions"
    if several:
        mean = np.average([s.mean() for s in several], weights=[len(s) for s in several])
        told += f"; {math.sqrt(max(0.0, mean)):.3f} without the noise of the votes"
    constant = math.sqrt(
        np.average([((q.observed - q.observed.mean(0)) ** 2).mean() for q in compared],
                   weights=weights)
    )  # fmt: skip
    told += f"; best constant {constant:.3f}"
    out.headline("RMSE of fractions", seen, told, not seen < constant)


def _question_section(out: Report, assessed: list[QuestionAssessment]) -> None:
    asked = [q for q in assessed if q.asked]
    if not asked:
        out.section("Questions", "No question has a galaxy with a vote.", {})
        return
    scores = [
        [q.name, q.asked, q.tied, q.accuracy, _range(q.accuracy_interval), q.majority[0],
         q.majority[1], q.f1, q.weighted_f1, q.confident, q.confident_accuracy,
         q.confident_majority[1]]
        for q in asked
    ]  # fmt: skip
    losses = [
        [q.name, q.asked, q.loss, q.loss_error, q.constant_loss, q.free_constant_loss,
         q.galaxies, *q.rmse, *q.true_rmse]
        for q in asked
    ]  # fmt: skip
    unasked = [q.name for q in assessed if not q.asked]
    left_out = f" No galaxy has a vote on {listed(unasked)}." if unasked else ""
    drawn, cut = in_figures(asked, "questions")
    out.section(
        "Questions",
        "Accuracy: how often the answer with the highest predicted fraction is the volunteers' "
        "leading one. Beside it: how often that would be right which leads most often. Volunteers "
        "agree where more than 0.8 of them, and enough, gave one answer. The best constant is the "
        "one prediction for all galaxies with the lowest loss on these votes; a decision tree's "
        "head predicts concentrations between 1 and 101 (by default), “free” is without these "
        "bounds. RMSE is "
        "that of the predicted against the volunteers' fractions, which scatter where votes are "
        "few; “true” has the scatter subtracted, f (1 - f) / (n - 1) for n votes." + left_out + cut,
        {
            "scores_by_question.png": (
                partial(vote_figures.question_bars, drawn),
                "How often the leading answer is right, and the loss, for each question, with 90% "
                "intervals; lines: always the most frequent answer, and the best constant.",
            )
        },
        [
            {
                "caption": "Scores by question",
                "columns": ["question", "galaxies with a vote", "tied", "accuracy", "90%",
                            "majority answer", "always majority", "F1", "F1 weighted",
                            "volunteers agree", "accuracy (agree)",
                            "always majority (agree)"],
                "rows": scores,
            },
            {
                "caption": "Losses and fractions by question",
                "columns": ["question", "galaxies with a vote", "loss", "± loss", "constant",
                            "free constant", "galaxies with enough", "RMSE", "± RMSE",
                            "true RMSE", "± true RMSE"],
                "rows": losses,
            },
        ],
    )  # fmt: skip


def _range(interval: tuple[float, float]) -> str:
    return "{:.2f} to {:.2f}".format(*interval)


def _answer_sections(out: Report, compared: list[QuestionAssessment]) -> None:
    """Leading answers, fractions and their biases."""
    if not compared:
        text = "No question has a galaxy with enough votes."
        out.section("Vote fractions", text, {})
        return
    shown, cut = in_figures(compared, "questions", lambda question: len(question.answers))
    confusions, fractions = {}, {}
    if shown:
        confusions["confusion_matrices.png"] = (
            partial(vote_figures.question_confusions, shown, False),
            "The volunteers' leading answer against the predicted one.",
        )
        fractions["fractions.png"] = (
            partial(vote_figures.fractions, shown),
            "Predicted fractions against the volunteers', which scatter where votes are few.",
        )
        fractions["bias.png"] = (
            partial(vote_figures.biases, shown),
            "Mean difference of predicted and volunteers' fraction, with 90% intervals.",
        )
    agreed = [question for question in shown if question.confident]
    if agreed:
        confusions["confusion_matrices_confident.png"] = (
            partial(vote_figures.question_confusions, agreed, True),
            "The same, for galaxies on which the volunteers agree.",
        )
    out.section("Leading answers", cut.strip(), confusions)
    rows = [[q.name, answer[0], q.galaxies, *answer[1:]] for q in compared for answer in q.biases]
    out.section(
        "Vote fractions",
        "Bias: the mean of predicted - volunteers' fraction. A head whose concentrations are at "
        "least 1 and at most 101 can't predict fractions near 0 or 1: rare answers come out too "
        "high." + cut,
        fractions,
        [
            {
                "caption": "Bias by answer",
                "columns": ["question", "answer", "galaxies", "volunteers", "predicted", "bias",
                            "±"],
                "rows": rows,
            }
        ],
    )  # fmt: skip
