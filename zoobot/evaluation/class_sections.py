"""Write the report's headlines, tables and figures about classes."""

from collections.abc import Callable
from functools import partial

import numpy as np

from zoobot.baselines import majority_class
from zoobot.evaluation import figures
from zoobot.evaluation.join import Joined
from zoobot.evaluation.pictures import Pictures
from zoobot.evaluation.report import Report
from zoobot.evaluation.room import MOST_ANSWERS, in_figures, listed
from zoobot.evaluation.scores import (
    calibration,
    class_scores,
    confusion_counts,
    mean_f1,
    selection,
)
from zoobot.evaluation.uncertainty import exact_interval, is_above_zero, mean_error

TOP = 5  # galaxies in a row of extreme predictions
FEW = 5  # of a class: too few for curves of completeness and purity
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
    true_p = probabilities[np.arange(len(truth)), truth]
    confusion = confusion_counts(truth, predicted, len(names))
    beats = _headlines(out, truth, predicted, true_p, confusion, names)
    _class_section(out, confusion, names)
    _confidence_section(out, truth, probabilities, names)
    _selection_section(out, truth, probabilities, names)
    _extremes(out, joined, pictures, predicted, truth, probabilities.max(axis=1))
    question = {"name": joined.label_col, "answers": names, "asked_after": []}

    def describe(shown: np.ndarray) -> dict:
        nothing = [None] * len(shown)
        return {
            "fractions": probabilities[shown],
            "lower": nothing,
            "upper": nothing,
            "asked": np.ones((len(shown), 1)),
            "label": truth[shown],
        }

    return 1 - true_p, [question | {"beats_constant": beats}], describe


def _headlines(
    out: Report,
    truth: np.ndarray,
    predicted: np.ndarray,
    true_p: np.ndarray,
    confusion: np.ndarray,
    names: list[str],
) -> bool:
    """Add the headlines; returns whether the model is better than a constant."""
    is_right, (most, share) = predicted == truth, majority_class(truth)
    losses = -np.log(np.maximum(true_p, 1e-12))
    frequencies = confusion.sum(axis=1) / len(truth)
    constant_losses = -np.log(frequencies[truth])
    is_accurate = is_above_zero(is_right.astype(int) - (truth == most))
    is_close = is_above_zero(constant_losses - losses)
    beats = is_accurate or is_close
    if not beats:
        out.warnings.append(
            f"This model is no better than a constant. Always answering “{names[most]}” is right "
            f"for {share:.3f} of these galaxies, the model for {is_right.mean():.3f}."
        )
    lower, upper = exact_interval(is_right.sum(), len(truth))
    out.headline(
        "accuracy",
        float(is_right.mean()),
        f"always “{names[most]}”: {share:.3f}; 90% interval {lower:.3f} to {upper:.3f}, "
        f"{len(truth)} galaxies",
        not is_accurate,
    )
    out.numbers["majority class"] = {"class": names[most], "accuracy": share}
    weighted = mean_f1(confusion, weighted=True)
    always = confusion_counts(truth, np.full_like(truth, most), len(names))
    out.headline(
        "mean F1",
        mean_f1(confusion),
        f"over {int((frequencies > 0).sum())} classes; weighted by their galaxies {weighted:.3f}; "
        f"always “{names[most]}”: {mean_f1(always):.3f} and {mean_f1(always, weighted=True):.3f}",
        not beats,
    )
    out.numbers["weighted F1"] = weighted
    constant = float(constant_losses.mean())
    out.headline(
        "cross-entropy",
        float(losses.mean()),
        f"± {mean_error(losses):.3f} a galaxy; best constant {constant:.3f}",
        not is_close,
    )
    out.numbers["cross-entropy of the best constant"] = constant
    return beats


def _class_section(out: Report, confusion: np.ndarray, names: list[str]) -> None:
    scores, right = class_scores(confusion), np.diag(confusion)
    true, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    rows = []
    for i, name in enumerate(names):
        row = [name, int(true[i])]
        for kind, total in (("precision", predicted[i]), ("recall", true[i])):
            row += [float(scores[kind][i]), _interval(right[i], total)]
        rows.append([*row, float(scores["f1"][i])])
    columns = ["class", "galaxies", "precision", "precision 90%", "recall", "recall 90%", "f1"]
    many = f"Of more than {MOST_ANSWERS} classes the matrix has the colours only."
    out.section(
        "Classes",
        many if len(names) > MOST_ANSWERS else "",
        {
            "confusion_matrix.png": (
                partial(figures.confusion_matrix, confusion, names),
                "True class against predicted class: numbers of galaxies, coloured by their share "
                "of the true class.",
            ),
            "per_class_accuracy.png": (
                partial(figures.per_class_accuracy, confusion, names),
                "How many galaxies of each true class are found, with 90% binomial intervals.",
            ),
        },
        [{"caption": "Scores by class", "columns": columns, "rows": rows}],
    )


def _interval(hits: int, total: int) -> str:
    """A share's 90% interval, in words."""
    lower, upper = exact_interval(hits, total)
    return f"{lower:.2f} to {upper:.2f}" if total else ""


def _confidence_section(
    out: Report, truth: np.ndarray, probabilities: np.ndarray, names: list[str]
) -> None:
    confidence, is_right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    shown, cut = in_figures(names, "classes")
    result = calibration(confidence, is_right)
    out.headline(
        "expected calibration error",
        result.error,
        f"a perfect model of {len(truth)} galaxies has {result.perfect:.3f}, and in 95% of cases "
        f"at most {result.perfect_high:.3f}",
        result.error > result.perfect_high,
    )
    out.numbers["expected calibration error of a perfect model"] = {
        "mean": result.perfect,
        "95%": result.perfect_high,
    }
    out.section(
        "Confidence",
        cut.strip(),
        {
            "confidence_distribution.png": (
                partial(figures.confidence_distribution, confidence, is_right, len(names)),
                "The probability given to the predicted class.",
            ),
            "calibration.png": (
                partial(figures.calibration, result),
                "How often predictions are right, by their probability, with 90% intervals. Below "
                "the diagonal the probabilities are too high.",
            ),
            "residual_distribution.png": (
                partial(figures.residual_distribution, truth, probabilities, shown),
                "1 - probability of the true class, for the galaxies of each class.",
            ),
        },
    )


def _selection_section(
    out: Report, truth: np.ndarray, probabilities: np.ndarray, names: list[str]
) -> None:
    """Completeness and purity of samples of each class that has galaxies enough."""
    chosen = {
        name: selection(probabilities[:, i], truth == i)
        for i, name in enumerate(names)
        if (truth == i).sum() >= FEW
    }
    left_out = [name for name in names if name not in chosen]
    text = (
        "A sample of a class: the galaxies with at least some probability of it. Completeness is "
        "the share of the class's galaxies that are in the sample, purity the share of the sample "
        "that is of the class. Purity holds for a catalog with the same mixture of classes."
    )
    if left_out:
        text += f" Fewer than {FEW} galaxies are {listed(left_out)}: no curves."
    shown, cut = in_figures([*chosen], "classes")
    text, drawn = text + cut, {}
    if chosen:
        drawn["completeness_purity.png"] = (
            partial(figures.selections, {name: chosen[name] for name in shown}),
            "Completeness and purity by the probability asked for, with 90% intervals.",
        )
    rows = [
        [name, f"{t:g}", int(s.chosen[i]), float(s.completeness[i]), float(s.purity[i])]
        for name, s in chosen.items()
        for t in (0.3, 0.5, 0.7, 0.9)
        for i in [int(np.abs(s.thresholds - t).argmin())]
    ]
    columns = ["class", "at least", "galaxies", "completeness", "purity"]
    table = {"caption": "Samples by threshold", "columns": columns, "rows": rows}
    out.section("Completeness and purity", text, drawn, [table] if rows else [])


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
            shown[file] = (partial(figures.galaxy_row, images, titles), told)
    out.section("Extremes", "", shown)
