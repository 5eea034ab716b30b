"""Write the report's headlines, tables and figures about classes, numbers and votes."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from zoobot import statistics
from zoobot.data.labels import votes as vote_counts
from zoobot.evaluation import figures
from zoobot.evaluation.join import Joined, join
from zoobot.evaluation.pictures import Pictures
from zoobot.evaluation.report import Report
from zoobot.evaluation.scores import (
    QuestionAssessment,
    assess_votes,
    calibration,
    class_scores,
    confusion_counts,
    enough_votes,
    mean_f1,
    regression_scores,
    vote_losses,
)
from zoobot.predictions.files import Predictions
from zoobot.system.errors import UserError
from zoobot.system.files import write_text

TOP = 5  # galaxies in a row of extreme predictions
Describe = Callable[[np.ndarray], dict]


def report_classes(
    out: Report, joined: Joined, pictures: Pictures
) -> tuple[np.ndarray, list[dict], Describe]:
    """Add the headlines and sections of a classification to the report.

    Args:
        pictures: how galaxies are shown.

    Returns:
        (N,) the error of each galaxy; the questions for the gallery, as ``page.write_page`` takes
        them; and a function that gives, for the numbers of some galaxies, the columns that the
        gallery shows of them.
    """
    truth = joined.table[joined.label_col].to_numpy(dtype=np.int64)
    probabilities = joined.predictions.values.mean(axis=2)
    names, predicted = joined.class_names, probabilities.argmax(axis=1)
    confidence, is_right = probabilities.max(axis=1), predicted == truth
    confusion = confusion_counts(truth, predicted, len(names))
    scores = class_scores(confusion)
    calibrated = calibration(confidence, is_right)
    error = math.sqrt(is_right.mean() * (1 - is_right.mean()) / len(truth))
    out.headline("accuracy", is_right.mean(), f"± {error:.3f}, {len(truth)} galaxies")
    occurring = int((confusion.sum(axis=1) > 0).sum())
    out.headline("mean F1", mean_f1(confusion), f"over {occurring} classes")
    out.headline("expected calibration error", calibrated.error, "0 is best")
    true_p = probabilities[np.arange(len(truth)), truth]
    out.headline("cross-entropy", float(-np.log(np.maximum(true_p, 1e-12)).mean()), "a galaxy")
    rows = [
        [name, int(confusion[i].sum()), *(float(scores[k][i]) for k in scores)]
        for i, name in enumerate(names)
    ]
    out.section(
        "Classes",
        "",
        {
            "confusion_matrix.png": (
                figures.confusion_matrix(confusion, names),
                "True class against predicted class: numbers of galaxies, coloured by their share "
                "of the true class.",
            ),
            "per_class_accuracy.png": (
                figures.per_class_accuracy(confusion, names),
                "How many galaxies of each true class are found, with 68% binomial errors.",
            ),
        },
        [{"caption": "Scores by class", "columns": ["class", "galaxies", *scores], "rows": rows}],
    )
    out.section(
        "Confidence",
        "",
        {
            "confidence_distribution.png": (
                figures.confidence_distribution(confidence, is_right),
                "The probability given to the predicted class.",
            ),
            "calibration.png": (
                figures.calibration(calibrated),
                "How often predictions are right, by their probability. Below the diagonal the "
                "probabilities are too high.",
            ),
            "residual_distribution.png": (
                figures.residual_distribution(truth, probabilities, names),
                "1 - probability of the true class, for the galaxies of each class.",
            ),
        },
    )
    _extremes(out, joined, pictures, predicted, truth, confidence)
    questions = [{"name": joined.label_col, "answers": names, "asked_after": []}]

    def describe(shown: np.ndarray) -> dict:
        nothing = [None] * len(shown)
        return {
            "fractions": probabilities[shown],
            "lower": nothing,
            "upper": nothing,
            "asked": np.ones((len(shown), 1)),
            "label": truth[shown],
        }

    return 1 - true_p, questions, describe


def _extremes(
    out: Report,
    joined: Joined,
    pictures: Pictures,
    predicted: np.ndarray,
    truth: np.ndarray,
    confidence: np.ndarray,
) -> None:
    """Show the right and the wrong predictions with the highest probabilities."""
    names, is_right, shown = joined.class_names, predicted == truth, {}
    for file, chosen, caption in (
        ("top_5_predictions.png", is_right, "Right predictions with the highest probabilities."),
        ("top_5_errors.png", ~is_right, "Wrong predictions with the highest probabilities."),
    ):
        top = np.flatnonzero(chosen)[np.argsort(-confidence[chosen], kind="stable")[:TOP]]
        if len(top):
            titles = [
                f"{names[predicted[i]]} {confidence[i]:.2f}\n(true: {names[truth[i]]})" for i in top
            ]
            images = [pictures.read(joined.table.iloc[i]) for i in top]
            told = f"{caption} Pictures: {pictures.caption}." if pictures.caption else caption
            shown[file] = (figures.galaxy_row(images, titles), told)
    out.section("Extremes", "", shown)


def report_numbers(out: Report, joined: Joined) -> tuple[np.ndarray, list[dict], Describe]:
    """Add the headlines and sections of a regression; returns the same as ``report_classes``."""
    truth = joined.table[joined.label_col].to_numpy(dtype=np.float64)
    predicted = joined.predictions.values[:, 0].mean(axis=1)
    scores = regression_scores(truth, predicted)
    details = {
        "rmse": f"{len(truth)} galaxies; spread of the labels {truth.std():.3f}",
        "mae": "mean absolute error",
        "bias": "mean of predicted - true",
        "r2": "1 is best, 0 is a constant",
    }
    for name, value in scores.items():
        out.headline(
            {"rmse": "RMSE", "mae": "MAE", "r2": "R²"}.get(name, name), value, details[name]
        )
    out.section(
        "Predicted and true values",
        "",
        {
            "scatter.png": (
                figures.regression(truth, predicted, joined.label_col),
                "Predicted against true values.",
            ),
            "residuals.png": (
                figures.residuals(truth, predicted, joined.label_col),
                "Residuals against the true value, and their distribution.",
            ),
        },
    )
    return (
        np.abs(predicted - truth),
        [],
        lambda shown: {"predicted": predicted[shown], "truth": truth[shown]},
    )


def report_tree(
    out: Report, joined: Joined, min_votes: int | None, recalibrate_on: tuple | None
) -> tuple[np.ndarray, list[dict], Describe]:
    """Add the headlines and sections of vote counts; returns the same as ``report_classes``.

    Args:
        min_votes: how many votes on a question are enough; by default ``enough_votes``.
        recalibrate_on: predictions and catalog of other galaxies, to fit temperatures to; None: no
            recalibration.

    Raises:
        ValueError: if some galaxies are in both sets of predictions.
    """
    schema, concentrations = joined.schema, joined.predictions.values
    votes = vote_counts(joined.table, schema.label_cols)
    min_votes = min_votes or enough_votes(votes, schema)
    joined.notes.append(
        f"Fractions, accuracies and coverage are of galaxies with at least {min_votes} "
        f"{'votes' if min_votes > 1 else 'vote'} on the question."
    )
    temperatures = None
    if recalibrate_on is not None:
        temperatures = _fit_temperatures(joined, *recalibrate_on)
        text = json.dumps(
            dict(zip(schema.question_answer_pairs, temperatures.tolist(), strict=True))
        )
        write_text(out.folder / "temperatures.json", text + "\n")
    assessed = assess_votes(concentrations, votes, schema, min_votes, temperatures)
    asked = [question for question in assessed if question.galaxies]
    losses = vote_losses(concentrations, votes, schema).sum(axis=1)
    _tree_headlines(out, losses, asked)
    _tree_sections(out, asked, [q.name for q in assessed if not q.galaxies], temperatures)
    questions = [
        {
            "name": question.text,
            "answers": [answer.pretty_text for answer in question.answers],
            "asked_after": [answer.index for answer in question.parents],
        }
        for question in schema.questions
    ]

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

    return losses, questions, describe


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


def _tree_headlines(out: Report, losses: np.ndarray, asked: list[QuestionAssessment]) -> None:
    out.headline("loss a galaxy", float(losses.mean()), "summed over questions")
    if not asked:
        return
    first = asked[0]
    out.headline(f"accuracy, {first.name}", first.accuracy, f"{first.galaxies} galaxies")
    weights = np.array([q.galaxies for q in asked], dtype=float)
    mean_square = np.average([q.rmse**2 for q in asked], weights=weights)
    out.headline("RMSE of fractions", math.sqrt(mean_square), "all questions")
    covered = float(np.average([q.coverage for q in asked], weights=weights))
    out.headline("coverage of 90% intervals", covered, "of observed votes; 0.9 is best")


def _tree_sections(
    out: Report,
    asked: list[QuestionAssessment],
    unasked: list[str],
    temperatures: np.ndarray | None,
) -> None:
    if not asked:
        out.section("Questions", "No question has a galaxy with enough votes.", {})
        return
    columns = ["question", "galaxies", "accuracy", "F1", "volunteers agree", "accuracy (agree)",
               "F1 (agree)", "loss", "RMSE", "coverage"]  # fmt: skip
    rows = [
        [q.name, q.galaxies, q.accuracy, q.f1, q.confident, q.confident_accuracy, q.confident_f1,
         q.loss, q.rmse, q.coverage]
        for q in asked
    ]  # fmt: skip
    if temperatures is not None:
        columns += ["temperature", "recalibrated"]
        rows = [
            [*r, q.temperature, q.recalibrated_coverage] for r, q in zip(rows, asked, strict=True)
        ]
    left_out = f" No galaxy has enough votes on {', '.join(unasked)}." if unasked else ""
    out.section(
        "Questions",
        "Accuracy: how often the answer with the highest predicted fraction is the volunteers' "
        "leading one. Volunteers agree where more than 0.8 of them gave one answer." + left_out,
        {
            "questions.png": (
                figures.question_bars(asked),
                "How often the leading answer is right, and the loss, for each question.",
            )
        },
        [{"caption": "Scores by question", "columns": columns, "rows": rows}],
    )
    confusions = {
        "confusion_matrices.png": (
            figures.question_confusions(asked, confident=False),
            "The volunteers' leading answer against the predicted one.",
        )
    }
    agreed = [question for question in asked if question.confident]
    if agreed:
        confusions["confusion_matrices_confident.png"] = (
            figures.question_confusions(agreed, confident=True),
            "The same, for galaxies on which the volunteers agree.",
        )
    out.section("Leading answers", "", confusions)
    scatter = (
        figures.fractions(asked),
        "Predicted fractions against the volunteers', which scatter where votes are few.",
    )
    out.section("Vote fractions", "", {"fractions.png": scatter})
    out.section(
        "Are the intervals right?",
        _coverage_text(asked, temperatures),
        {
            "coverage.png": (
                figures.coverage(asked),
                "Share of the observed votes inside the central 90% of their predictive "
                "distribution. The band is 85% to 95%.",
            )
        },
    )


def _coverage_text(asked: list[QuestionAssessment], temperatures: np.ndarray | None) -> str:
    """Sentences about the questions whose intervals are too narrow or too wide."""
    low, high = figures.ACCEPTED_COVERAGE
    narrow = [q for q in asked if q.coverage < low]
    wide = [q for q in asked if q.coverage > high]
    parts = [f"{len(asked) - len(narrow) - len(wide)} of {len(asked)} lie between 85% and 95%."]
    for some, what in (
        (narrow, "Too narrow (the fractions differ more from the predictions than the model says)"),
        (wide, "Too wide (the fractions differ less from the predictions than the model says)"),
    ):
        if some:
            listed = ", ".join(f"{q.name} {q.coverage:.0%} ({q.galaxies} galaxies)" for q in some)
            parts.append(f"{what}: {listed}.")
    if temperatures is not None:
        inside = sum(low <= q.recalibrated_coverage <= high for q in asked)
        parts.append(
            f"With one temperature a question, fitted to other galaxies (temperatures.json), "
            f"{inside} of {len(asked)} do."
        )
    return "\n\n".join(parts)
