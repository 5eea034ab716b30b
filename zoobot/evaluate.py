"""Judge predictions by labels: tables, figures, and a page on which to look at the galaxies.

python -m zoobot.evaluate --predictions test.parquet --catalog cat.parquet --report-dir report
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from zoobot import from_options, options
from zoobot.data.bands.spec import ImageSpec
from zoobot.data.datamodule import CatalogDataModule
from zoobot.data.demo.catalog import demo_catalog
from zoobot.evaluation import run_figures
from zoobot.evaluation.join import TASKS, Joined, join
from zoobot.evaluation.page import thumbnail
from zoobot.evaluation.pictures import Pictures, bands_of
from zoobot.evaluation.report import Report
from zoobot.evaluation.sections import report_classes, report_numbers, report_tree
from zoobot.predictions.collect import Collector
from zoobot.predictions.files import Predictions, read_predictions, write_predictions
from zoobot.schemas import Schema
from zoobot.script import run_script
from zoobot.system.errors import UserError
from zoobot.trainer import Trainer

MAX_GALAXIES = 400  # on the page: about 3 MB
WORST_FRAC = 0.25  # of those, so many with the largest errors


@run_figures.plain_text()
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
    round_votes: bool = False,
    recalibrate_on: tuple | None = None,
    max_galaxies: int = MAX_GALAXIES,
    title: str | None = None,
    subtitle: str | None = None,
    rgb_bands: Sequence[str] | None = None,
    spec: ImageSpec | None = None,
) -> Path:
    """Write ``report.html``, its figures as PNG, and ``metrics.json``.

    Args:
        predictions: or the path of their file.
        catalog: with ``id_str``, the labels and, to look at galaxies, ``file_loc`` or ``image``.
        task, schema, label_col, class_names: what was predicted; by default what the file says.
        min_votes: votes on a question that make the volunteers' fractions worth comparing with;
            by default 10, or 1 if no galaxy has so many.
        round_votes: round weighted counts of the catalog to whole numbers.
        recalibrate_on: predictions and catalog of other galaxies, to which a temperature for each
            question is fitted; the report then also tells the coverage with them.
        max_galaxies: how many may be looked at on the page.
        rgb_bands: of images of bands: red, green and blue of the pictures, or one for grey; see
            ``data.bands.rgb.rgb_bands``.
        spec: of images of bands; by default what the predictions say.

    Returns:
        The page's path.

    Raises:
        ValueError: for unreadable files, labels that are missing or don't fit, bands that the
            images don't have, or if no prediction belongs to a galaxy of the catalog.
    """
    if not isinstance(predictions, Predictions):
        title = title or f"How good are {Path(predictions).name}?"
        predictions = read_predictions(predictions)
    pictures = Pictures(spec or bands_of(predictions), rgb_bands)
    joined = join(predictions, catalog, task, schema, label_col, class_names, round_votes)
    out = Report(Path(report_dir))
    if out.folder.is_file():
        raise UserError(f"report folder {out.folder} is a file: write the report elsewhere")
    out.folder.mkdir(parents=True, exist_ok=True)
    pictures = pictures.balanced_on(joined.table)
    if joined.task == "tree":
        errors, questions, describe = report_tree(out, joined, min_votes, recalibrate_on)
    elif joined.task == "classification":
        errors, questions, describe = report_classes(out, joined, pictures)
    else:
        errors, questions, describe = report_numbers(out, joined)
    shown, how = _choose(errors, max_galaxies)
    galaxies = _galaxies(joined, pictures, shown, errors, describe(shown))
    return out.write(
        {
            "title": title or "How good are the predictions?",
            "subtitle": subtitle or f"{len(errors)} galaxies with predictions and labels",
            "task": joined.task,
            "pictures": pictures.caption,
            "notes": [*joined.notes, how],
            "questions": questions,
            "galaxies": galaxies,
        }
    )


def _galaxies(
    joined: Joined, pictures: Pictures, shown: np.ndarray, errors: np.ndarray, columns: dict
) -> list[dict]:
    """The page's galaxies: each has its row of ``columns``, and a thumbnail."""
    galaxies = []
    for row, i in enumerate(shown):
        image = pictures.read(joined.table.iloc[i])
        galaxies.append(
            {
                "id": joined.predictions.ids[i],
                "image": None if image is None else thumbnail(image),
                "error": errors[i],
                **{name: values[row] for name, values in columns.items()},
            }
        )
    return galaxies


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


def evaluate_run(
    trainer: Trainer, model: nn.Module, data: CatalogDataModule
) -> tuple[dict[str, dict[str, float]], dict[str, Predictions]]:
    """Metrics and predictions of a run's validation and test galaxies, those that there are.

    Each galaxy goes through the model once. Every process must call it.

    Returns:
        Split ("val", "test") -> metrics by name, and split -> predictions.
    """
    metrics, predictions = {}, {}
    for split, measure in (("val", trainer.validate), ("test", trainer.test)):
        if data.num_galaxies(split):
            collector = Collector(model)
            metrics[split] = measure(model, data, verbose=False, collect=collector)[0]
            predictions[split] = collector.gather()
    return metrics, predictions


def report_run(
    predictions: dict[str, Predictions],
    data: CatalogDataModule,
    save_dir: str | Path,
    title: str,
    pictures: Pictures | None = None,
) -> Path:
    """Report on a run's test galaxies, or its validation galaxies if there are no others.

    The main process calls it. Leaves ``{split}_predictions.parquet`` and ``report/`` in the run's
    folder. A run that learned several numbers has a report of each, ``report/COLUMN/``.

    Args:
        predictions: of each split, as ``evaluate_run`` collects them.
        pictures: how galaxies are shown; by default as ``evaluate`` does.

    Returns:
        The page's path; the first page's if there are several.
    """
    save_dir = Path(save_dir)
    for split, predicted in predictions.items():
        write_predictions(save_dir / f"{split}_predictions.parquet", predicted)
    last, other = [*predictions][-1], None
    if last == "test" and predictions[last].metadata["schema"] is not None:
        other = (predictions["val"], data.labels("val"))
    name = {"val": "validation", "test": "test"}[last]
    columns, folder = predictions[last].metadata["label_col"], save_dir / "report"
    several = columns if isinstance(columns, list) else []
    pages = [
        evaluate(
            predictions[last],
            data.table(last),
            folder / (column or ""),
            label_col=column,
            recalibrate_on=other,
            title=": ".join(filter(None, (title, column))),
            subtitle=f"{data.num_galaxies(last)} {name} galaxies",
            rgb_bands=pictures and pictures.bands,
            spec=pictures and pictures.spec,
        )
        for column in several or [None]
    ]
    return pages[0]


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
    add("--round-votes", action="store_true", help=options.ROUND_VOTES_HELP)
    add("--min-votes", type=options.positive_int, help="enough for fractions; by default 10")
    add(
        "--recalibrate-on",
        metavar="PREDICTIONS",
        help="of other galaxies of the catalog: fit one temperature a question to them",
    )
    add("--max-galaxies", type=options.positive_int, default=MAX_GALAXIES, help="on the page")
    add("--title", help="of the page")
    options.add_rgb_option(parser)
    options.add_band_options(parser)
    return parser.parse(argv)


def main(opt: argparse.Namespace) -> None:
    predictions, catalog = read_predictions(opt.predictions), opt.catalog
    spec = from_options.image_spec(opt) or bands_of(predictions)
    if catalog == "demo":
        catalog = demo_catalog(bands=spec and spec.bands)
    path = evaluate(
        predictions,
        catalog,
        opt.report_dir,
        task=opt.task,
        schema=opt.schema,
        label_col=opt.label_col,
        class_names=opt.class_names,
        min_votes=opt.min_votes,
        round_votes=opt.round_votes,
        recalibrate_on=(opt.recalibrate_on, catalog) if opt.recalibrate_on else None,
        max_galaxies=opt.max_galaxies,
        title=opt.title or f"How good are {Path(opt.predictions).name}?",
        rgb_bands=opt.rgb_bands,
        spec=spec,
    )
    print(f"report {path}")


if __name__ == "__main__":
    sys.exit(run_script(main, parse))
