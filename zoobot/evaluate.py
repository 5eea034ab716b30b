"""Judge predictions by labels: tables, figures, and a page on which to look at the galaxies.

python -m zoobot.evaluate --predictions test.parquet --catalog cat.parquet --report-dir report
"""

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from zoobot import assessments, checkpoint, distributed, options, plots, report, statistics
from zoobot import evaluation_plots as figures
from zoobot.data import demo
from zoobot.data.catalog import (
    check_classes,
    check_ids,
    check_numbers,
    read_catalog,
    require_columns,
)
from zoobot.data.catalog import votes as vote_counts
from zoobot.data.datamodule import CatalogDataModule
from zoobot.data.images import ImageError, read_image
from zoobot.predict import predict_to_file
from zoobot.prediction_files import Predictions, read_predictions
from zoobot.schemas import Schema, get_schema

TASKS = ("tree", "classification", "regression")
MAX_GALAXIES = 400  # on the page: about 3 MB
WORST_FRAC = 0.25  # of those, so many with the largest errors
TOP = 5


@dataclasses.dataclass
class Joined:
    """Predictions and labels of the same galaxies, row by row.

    Attributes:
        predictions: with readable images only.
        table: the catalog's rows.
        task, schema, label_col, class_names: what was predicted.
        notes: what did not join, in words.
    """

    predictions: Predictions
    table: pd.DataFrame
    task: str
    schema: Schema | None
    label_col: str
    class_names: list[str]
    notes: list[str]


class Report:
    """Collects figures, tables and headlines, and writes them into a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.headlines: list[dict] = []
        self.sections: list[dict] = []
        self.numbers: dict = {}

    def headline(self, label: str, value: float, detail: str) -> None:
        """A number for the top of the page."""
        shown = "\N{EN DASH}" if math.isnan(value) else f"{value:.3f}"
        self.headlines.append({"label": label, "value": shown, "detail": detail})
        self.numbers[label] = value

    def section(self, title: str, text: str, drawn: dict, tables: list[dict] = ()) -> None:
        """A section of the page; ``drawn``: file name -> (figure, caption)."""
        shown = []
        for name, (figure, caption) in drawn.items():
            plots.save(figure, self.folder / name)
            png = (self.folder / name).read_bytes()
            shown.append({"file": name, "png": png, "caption": caption})
        self.sections.append(
            {"title": title, "text": text, "figures": shown, "tables": list(tables)}
        )
        self.numbers |= {t["caption"]: {"columns": t["columns"], "rows": t["rows"]} for t in tables}

    def write(self, page: dict) -> Path:
        """``report.html`` and ``metrics.json``."""
        path = self.folder / "report.html"
        report.write_page(path, page | {"headlines": self.headlines, "sections": self.sections})
        text = json.dumps(_without_nan(self.numbers), indent=2)
        checkpoint.write_text(self.folder / "metrics.json", text + "\n")
        return path


def _without_nan(value):
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def evaluate(
    predictions: Predictions | str | Path,
    catalog: pd.DataFrame | str | Path,
    report_dir: str | Path,
    *,
    task: str | None = None,
    schema: Schema | str | Path | None = None,
    label_col: str | None = None,
    class_names: Sequence[str] | None = None,
    min_votes: int | None = None,
    recalibrate_on: tuple | None = None,
    max_galaxies: int = MAX_GALAXIES,
    title: str | None = None,
    subtitle: str | None = None,
) -> Path:
    """Write ``report.html``, its figures as PNG, and ``metrics.json``.

    Args:
        predictions: or the path of their file.
        catalog: with ``id_str``, the labels and, to look at galaxies, ``file_loc`` or ``image``.
        task, schema, label_col, class_names: what was predicted; by default what the file says.
        min_votes: votes on a question that make the volunteers' fractions worth comparing with;
            by default 10, or 1 if no galaxy has so many.
        recalibrate_on: predictions and catalog of other galaxies, to which a temperature for each
            question is fitted; the report then also tells the coverage with them.
        max_galaxies: how many may be looked at on the page.

    Returns:
        The page's path.

    Raises:
        ValueError: for unreadable files, labels that are missing or don't fit, or if no
            prediction belongs to a galaxy of the catalog.
    """
    joined = join(predictions, catalog, task, schema, label_col, class_names)
    out = Report(Path(report_dir))
    if out.folder.is_file():
        raise ValueError(f"report folder {out.folder} is a file: write the report elsewhere")
    out.folder.mkdir(parents=True, exist_ok=True)
    if joined.task == "tree":
        errors, questions, describe = _report_tree(out, joined, min_votes, recalibrate_on)
    elif joined.task == "classification":
        errors, questions, describe = _report_classes(out, joined)
    else:
        errors, questions, describe = _report_numbers(out, joined)
    shown, how = _choose(errors, max_galaxies)
    galaxies = _galaxies(joined, shown, errors, describe(shown))
    name = "the predictions" if isinstance(predictions, Predictions) else Path(predictions).name
    return out.write(
        {
            "title": title or f"How good are {name}?",
            "subtitle": subtitle or f"{len(errors)} galaxies with predictions and labels",
            "task": joined.task,
            "notes": [*joined.notes, how],
            "questions": questions,
            "galaxies": galaxies,
        }
    )


def _galaxies(joined: Joined, shown: np.ndarray, errors: np.ndarray, columns: dict) -> list[dict]:
    """The page's galaxies: each has its row of ``columns``, and a thumbnail."""
    galaxies = []
    for row, i in enumerate(shown):
        image = _image(joined.table.iloc[i])
        galaxies.append(
            {
                "id": joined.predictions.ids[i],
                "image": None if image is None else report.thumbnail(image),
                "error": errors[i],
                **{name: values[row] for name, values in columns.items()},
            }
        )
    return galaxies


def join(predictions, catalog, task=None, schema=None, label_col=None, class_names=None) -> Joined:
    """Match predictions with labels by ``id_str``; see ``evaluate``."""
    if not isinstance(predictions, Predictions):
        predictions = read_predictions(predictions)
    said = predictions.metadata
    schema = schema if schema is not None else said.get("schema")
    schema = Schema.from_dict(schema) if isinstance(schema, dict) else schema
    task = task or ("tree" if schema is not None else said.get("task")) or _guess(predictions)
    if task not in TASKS:
        raise ValueError(f"task {task!r} can't be evaluated: use one of {', '.join(TASKS)}")
    if task == "tree":
        if schema is None:
            raise ValueError("these predictions don't tell their decision tree: give --schema")
        schema = get_schema(schema)
        schema.check_label_cols(predictions.columns)
        label_cols = schema.label_cols
    else:
        label_col = label_col or said.get("label_col")
        label_col = label_col or (predictions.columns[0] if task == "regression" else "label")
        label_cols = [label_col]
    where = "in memory"
    if not isinstance(catalog, pd.DataFrame):
        where, catalog = str(catalog), read_catalog(catalog, label_cols)
    require_columns(catalog, ["id_str", *label_cols], where)
    check_ids(catalog, where)
    if len(predictions.ids) == 0:
        raise ValueError("there are no predictions")
    predictions, table, notes = _match(predictions, catalog, where)
    names = class_names or said.get("class_names") or predictions.columns
    if task == "classification" and len(names) != len(predictions.columns):
        raise ValueError(f"{len(names)} class names for {len(predictions.columns)} classes")
    joined = Joined(predictions, table, task, schema, label_col or "", list(names), notes)
    _check_labels(joined, where)
    return joined


def _guess(predictions: Predictions) -> str:
    """The task of a file that doesn't tell: one column is a number, probabilities sum to 1."""
    if predictions.values.shape[1] == 1:
        return "regression"
    sums = predictions.values.mean(axis=2).sum(axis=1)
    sums = sums[np.isfinite(sums)]
    if not np.allclose(sums, 1, atol=1e-3):
        raise ValueError("these predictions don't tell what they are: give --schema or --task")
    return "classification"


def _match(predictions, catalog, where) -> tuple[Predictions, pd.DataFrame, list[str]]:
    places = pd.Index(catalog["id_str"].astype(str)).get_indexer(predictions.ids)
    found = places >= 0
    if not found.any():
        raise ValueError(
            f"no prediction belongs to a galaxy of catalog {where}: predictions have ids like "
            f"{predictions.ids[0]!r}, the catalog like {catalog['id_str'].iloc[0]!r}"
        )
    readable = np.isfinite(predictions.values).all(axis=(1, 2))
    kept = found & readable
    if not kept.any():
        raise ValueError("all predictions that join are NaN: their images could not be read")
    notes = [f"{found.sum()} of {len(found)} predictions belong to a galaxy of the catalog."]
    if not found.all():
        notes.append(f"Not in the catalog: {_some(predictions.ids[~found])}.")
    if found.sum() < len(catalog):
        notes.append(f"{len(catalog) - found.sum()} galaxies of the catalog have no prediction.")
    if (found & ~readable).any():
        notes.append(f"Without a readable image: {_some(predictions.ids[found & ~readable])}.")
    matched = Predictions(
        predictions.ids[kept],
        predictions.values[kept].astype(np.float64),
        predictions.columns,
        None,
        predictions.metadata,
    )
    return matched, catalog.iloc[places[kept]].reset_index(drop=True), notes


def _some(ids: np.ndarray) -> str:
    more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
    return ", ".join(ids[:5]) + more


def _check_labels(joined: Joined, where: str) -> None:
    if joined.task == "regression":
        check_numbers(joined.table, joined.label_col, where=where)
    elif joined.task == "classification":
        labels = joined.table[joined.label_col]
        if not pd.api.types.is_numeric_dtype(labels):
            numbers = labels.map({name: i for i, name in enumerate(joined.class_names)})
            if numbers.isna().any():
                raise ValueError(
                    f"catalog {where}: column {joined.label_col!r} holds "
                    f"{labels[numbers.isna()].iloc[0]!r}; the classes are "
                    f"{', '.join(joined.class_names)}"
                )
            joined.table = joined.table.assign(**{joined.label_col: numbers})
        check_classes(joined.table, joined.label_col, len(joined.class_names), where)


def _image(row: pd.Series) -> Image.Image | None:
    source = row.get("file_loc", row.get("image"))
    try:
        return None if source is None else read_image(source)
    except ImageError:
        return None


def _choose(errors: np.ndarray, max_galaxies: int) -> tuple[np.ndarray, str]:
    """Which galaxies to show, in the predictions' order, and how they were chosen, in words."""
    if len(errors) <= max_galaxies:
        return np.arange(len(errors)), "All of them can be looked at below."
    worst = np.argsort(-errors, kind="stable")[: int(WORST_FRAC * max_galaxies)]
    others = np.setdiff1d(np.arange(len(errors)), worst)
    drawn = np.random.default_rng(0).choice(others, max_galaxies - len(worst), replace=False)
    how = (
        f"{max_galaxies} can be looked at below: the {len(worst)} with the largest errors, and "
        f"{len(drawn)} drawn at random from the others."
    )
    return np.sort(np.concatenate([worst, drawn])), how


def _report_classes(out: Report, joined: Joined) -> tuple[np.ndarray, list[dict], Callable]:
    """Draws the sections; returns each galaxy's error, the questions, and what to show of some."""
    truth = joined.table[joined.label_col].to_numpy(dtype=np.int64)
    probabilities = joined.predictions.values.mean(axis=2)
    names, predicted = joined.class_names, probabilities.argmax(axis=1)
    confidence, is_right = probabilities.max(axis=1), predicted == truth
    confusion = assessments.confusion_counts(truth, predicted, len(names))
    scores = assessments.class_scores(confusion)
    calibrated = assessments.calibration(confidence, is_right)
    error = math.sqrt(is_right.mean() * (1 - is_right.mean()) / len(truth))
    out.headline("accuracy", is_right.mean(), f"± {error:.3f}, {len(truth)} galaxies")
    occurring = int((confusion.sum(axis=1) > 0).sum())
    out.headline("mean F1", assessments.mean_f1(confusion), f"over {occurring} classes")
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
                "model is too sure.",
            ),
            "residual_distribution.png": (
                figures.residual_distribution(truth, probabilities, names),
                "1 - probability of the true class, for the galaxies of each class.",
            ),
        },
    )
    shown = {}
    for file, chosen, caption in (
        ("top_5_predictions.png", is_right, "Right, and surest of it."),
        ("top_5_errors.png", ~is_right, "Wrong, and surest of it."),
    ):
        top = np.flatnonzero(chosen)[np.argsort(-confidence[chosen], kind="stable")[:TOP]]
        if len(top):
            titles = [
                f"{names[predicted[i]]} {confidence[i]:.2f}\n(true: {names[truth[i]]})" for i in top
            ]
            images = [_image(joined.table.iloc[i]) for i in top]
            shown[file] = (figures.galaxy_row(images, titles), caption)
    out.section("Extremes", "", shown)
    questions = [{"name": joined.label_col, "answers": names, "asked_after": []}]

    def describe(shown):
        nothing = [None] * len(shown)
        return {
            "fractions": probabilities[shown],
            "lower": nothing,
            "upper": nothing,
            "asked": np.ones((len(shown), 1)),
            "label": truth[shown],
        }

    return 1 - true_p, questions, describe


def _report_numbers(out: Report, joined: Joined) -> tuple[np.ndarray, list[dict], Callable]:
    truth = joined.table[joined.label_col].to_numpy(dtype=np.float64)
    predicted = joined.predictions.values[:, 0].mean(axis=1)
    scores = assessments.regression_scores(truth, predicted)
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


def _report_tree(out: Report, joined: Joined, min_votes, recalibrate_on):
    schema, concentrations = joined.schema, joined.predictions.values
    votes = vote_counts(joined.table, schema.label_cols)
    min_votes = min_votes or assessments.enough_votes(votes, schema)
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
        checkpoint.write_text(out.folder / "temperatures.json", text + "\n")
    assessed = assessments.assess_votes(concentrations, votes, schema, min_votes, temperatures)
    asked = [question for question in assessed if question.galaxies]
    losses = assessments.vote_losses(concentrations, votes, schema).sum(axis=1)
    _tree_headlines(out, losses, asked)
    _tree_sections(out, asked, [q.name for q in assessed if not q.galaxies], temperatures)
    questions = [
        {
            "name": question.text,
            "answers": [answer.pretty_text for answer in question.answers],
            "asked_after": [answer.index for answer in question.asked_after],
        }
        for question in schema.questions
    ]

    def describe(shown):
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


def _fit_temperatures(joined: Joined, predictions, catalog) -> np.ndarray:
    other = join(predictions, catalog, "tree", joined.schema)
    shared = np.intersect1d(other.predictions.ids.astype(str), joined.predictions.ids.astype(str))
    if len(shared):
        raise ValueError(
            f"recalibrate on other galaxies than those evaluated: {len(shared)} are in both, for "
            f"example {str(shared[0])!r}"
        )
    votes = vote_counts(other.table, joined.schema.label_cols)
    return statistics.fit_temperatures(other.predictions.values, votes, joined.schema)


def _tree_headlines(out: Report, losses: np.ndarray, asked) -> None:
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


def _tree_sections(out: Report, asked, unasked: list[str], temperatures) -> None:
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


def _coverage_text(asked, temperatures) -> str:
    low, high = figures.ACCEPTED_COVERAGE
    narrow = [q for q in asked if q.coverage < low]
    wide = [q for q in asked if q.coverage > high]
    parts = [f"{len(asked) - len(narrow) - len(wide)} of {len(asked)} lie between 85% and 95%."]
    for some, what in (
        (narrow, "Too narrow (the model is too sure of the volunteers' fractions)"),
        (wide, "Too wide (the volunteers scatter less than the model says: it could be surer)"),
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


def report_run(
    model, data: CatalogDataModule, save_dir: str | Path, title: str, **prediction
) -> Path | None:
    """Predict a run's validation and test galaxies and report on the latter, if there are any.

    Every process must call it. Leaves ``{split}_predictions.parquet`` and ``report/`` in the
    run's folder.

    Args:
        prediction: options of ``predict.predict_to_file``.
    """
    save_dir = Path(save_dir)
    splits = [s for s in ("val", "test") if data.catalogs[s] is not None and len(data.catalogs[s])]
    files = {
        split: predict_to_file(
            data.catalogs[split],
            model,
            save_dir / f"{split}_predictions.parquet",
            resume=False,
            **prediction,
        )
        for split in splits
    }
    page, last = None, splits[-1]
    if distributed.is_main():
        other = None
        if last == "test" and hasattr(model, "schema"):
            other = (files["val"], data.labels("val"))
        name = {"val": "validation", "test": "test"}[last]
        page = evaluate(
            files[last],
            data.table(last),
            save_dir / "report",
            recalibrate_on=other,
            title=title,
            subtitle=f"{len(data.catalogs[last])} {name} galaxies",
        )
    distributed.barrier()
    return page


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = options.Parser(__doc__)
    add = parser.add_argument
    add("--predictions", required=True, help="file of predict.py")
    add("--catalog", required=True, help="galaxies with labels, and images to look at; or demo")
    add("--report-dir", required=True, help="folder for report.html, figures and metrics.json")
    add("--task", choices=TASKS, help="if the file doesn't tell")
    add("--schema", help="decision tree, if the file doesn't tell")
    add("--label-col", help="column of the label, if the file doesn't tell")
    add("--class-names", nargs="+", metavar="NAME", help="of classes that are only numbered")
    add("--min-votes", type=options.positive_int, help="enough for fractions; by default 10")
    add(
        "--recalibrate-on",
        metavar="PREDICTIONS",
        help="of other galaxies of the catalog: fit one temperature a question to them",
    )
    add("--max-galaxies", type=options.positive_int, default=MAX_GALAXIES, help="on the page")
    add("--title", help="of the page")
    return parser.parse(argv)


def main(opt: argparse.Namespace) -> None:
    catalog = demo.demo_catalog() if opt.catalog == "demo" else opt.catalog
    path = evaluate(
        opt.predictions,
        catalog,
        opt.report_dir,
        task=opt.task,
        schema=opt.schema,
        label_col=opt.label_col,
        class_names=opt.class_names,
        min_votes=opt.min_votes,
        recalibrate_on=(opt.recalibrate_on, catalog) if opt.recalibrate_on else None,
        max_galaxies=opt.max_galaxies,
        title=opt.title,
    )
    print(f"report {path}")


if __name__ == "__main__":
    sys.exit(options.run(main, parse))
