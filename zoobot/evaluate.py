"""Judge predictions by labels: tables, figures, and a page on which to look at the galaxies.

python -m zoobot.evaluate --predictions test.parquet --catalog cat.parquet --report-dir report

Judge a model by galaxies that it was not trained on: with a column 'split', add --split test.
"""

import argparse
import dataclasses
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from zoobot import from_options, options
from zoobot.data.bands.spec import ImageSpec
from zoobot.data.catalog import SPLITS, read_catalog
from zoobot.data.datamodule import CatalogDataModule
from zoobot.data.demo.catalog import demo_catalog
from zoobot.evaluation import run_figures, terminal
from zoobot.evaluation.class_sections import report_classes
from zoobot.evaluation.join import TASKS, join
from zoobot.evaluation.number_sections import report_numbers
from zoobot.evaluation.pictures import Pictures, bands_of
from zoobot.evaluation.protocols import PROTOCOLS
from zoobot.evaluation.provenance import Provenance
from zoobot.evaluation.report import Report
from zoobot.evaluation.room import MOST_SHARES
from zoobot.evaluation.shown import choose_shown, shown_galaxies
from zoobot.evaluation.vote_sections import report_tree
from zoobot.models.finetune_base import FinetuneableZoobotAbstract
from zoobot.models.tree import ZoobotTree
from zoobot.predictions.collect import Collector
from zoobot.predictions.files import Predictions, read_predictions, write_predictions
from zoobot.runs.folder import read_metrics
from zoobot.schemas import Schema
from zoobot.script import run_script
from zoobot.system import distributed
from zoobot.system.errors import UserError
from zoobot.trainer import Trainer

MAX_GALAXIES = 400  # on the page: about 3 MB


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
    protocol: str | None = None,
    strata: Sequence[str] = (),
    split: str | None = None,
    checkpoint: str | Path | None = None,
    max_galaxies: int = MAX_GALAXIES,
    title: str | None = None,
    subtitle: str | None = None,
    rgb_bands: Sequence[str] | None = None,
    spec: ImageSpec | None = None,
    verbose: bool = False,
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
        protocol: of votes: by whose rules the first table scores them, "decals", "evo" or "all"
            (the default); see ``evaluation.protocols``.
        strata: of votes: columns of the catalog by which the calibration is shown too.
        split: only galaxies with this value in the catalog's column ``split``.
        checkpoint: of the model, to find out which galaxies it was trained on; by default what the
            predictions say.
        max_galaxies: how many may be looked at on the page.
        rgb_bands: of images of bands: red, green and blue of the pictures, or one for grey; see
            ``data.bands.rgb.rgb_bands``.
        spec: of images of bands; by default what the predictions say.
        verbose: print the scores too.

    Returns:
        The page's path.

    Raises:
        ValueError: for unreadable files, labels that are missing or don't fit, bands that the
            images don't have, or if no prediction belongs to a galaxy of the catalog.
    """
    beside = None
    if not isinstance(predictions, Predictions):
        title, beside = title or _title(predictions), Path(predictions).parent
        predictions = read_predictions(predictions)
    where = "" if isinstance(catalog, pd.DataFrame) else str(catalog)
    made = Provenance.of(where, checkpoint or predictions.metadata.get("checkpoint"), beside)
    if split:
        predictions, catalog = _only(predictions, catalog, split)
    pictures = Pictures(spec or bands_of(predictions), rgb_bands)
    joined = join(predictions, catalog, task, schema, label_col, class_names, round_votes)
    _check_for_votes(joined.task, protocol, strata)
    out = Report(Path(report_dir))
    if out.folder.is_file():
        raise UserError(f"report folder {out.folder} is a file: write the report elsewhere")
    out.folder.mkdir(parents=True, exist_ok=True)
    pictures = pictures.balanced_on(joined.table)
    seen, is_warning = made.seen_in_training(joined.table, joined.predictions.ids)
    (out.warnings if is_warning else joined.notes).append(seen)
    if joined.task == "tree":
        errors, questions, describe = report_tree(
            out, joined, pictures, min_votes, recalibrate_on, protocol or "all", strata
        )
    elif joined.task == "classification":
        errors, questions, describe = report_classes(out, joined, pictures)
    else:
        errors, questions, describe = report_numbers(out, joined)
    room = MOST_SHARES // len(joined.predictions.columns)
    shown, how = choose_shown(errors, min(max_galaxies, room))
    galaxies = shown_galaxies(joined, pictures, shown, errors, describe(shown))
    path = out.write(
        {
            "title": title or "How good are the predictions?",
            "subtitle": subtitle or f"{len(errors)} galaxies with predictions and labels",
            "about": made.lines(),
            "task": joined.task,
            "pictures": pictures.caption,
            "notes": [*joined.notes, how],
            "questions": questions,
            "galaxies": galaxies,
        }
    )
    if verbose:
        print("\n".join(joined.notes[:-1]), terminal.summary(out), sep="\n\n", end="\n\n")
    return path


def _check_for_votes(task: str, protocol: str | None, strata: Sequence[str]) -> None:
    """``UserError`` if the options are wrong, or for votes, and there are none."""
    if protocol not in (None, "all", *PROTOCOLS):
        raise UserError(f"protocol {protocol!r} is unknown: use all, {' or '.join(PROTOCOLS)}")
    for name, value in (("--protocol", protocol), ("--strata", strata)):
        if value and task != "tree":
            raise UserError(f"{name} is for vote counts of a decision tree, not for {task}")


def _title(path: str | Path) -> str:
    return f"How good are {Path(path).name}?"


def _only(
    predictions: Predictions, catalog: pd.DataFrame | str | Path, split: str
) -> tuple[Predictions, pd.DataFrame]:
    """The galaxies of one split of a catalog, and the predictions without those of others."""
    where = "in memory" if isinstance(catalog, pd.DataFrame) else str(catalog)
    table = catalog if isinstance(catalog, pd.DataFrame) else read_catalog(catalog)
    if "split" not in table:
        raise UserError(f"catalog {where} has no column 'split': leave --split out")
    chosen = table[table["split"] == split].reset_index(drop=True)
    if chosen.empty:
        there = ", ".join(sorted(map(str, table["split"].unique())))
        raise UserError(f"catalog {where} has no galaxies in split {split!r}, but in {there}")
    others = table["id_str"][table["split"] != split].astype(str)
    kept = ~np.isin(predictions.ids.astype(str), others.to_numpy(dtype=str))
    errors = None if predictions.errors is None else predictions.errors[kept]
    values, ids = predictions.values[kept], predictions.ids[kept]
    return dataclasses.replace(predictions, ids=ids, values=values, errors=errors), chosen


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
            checkpoint=save_dir / "best.safetensors",
            title=": ".join(filter(None, (title, column))),
            subtitle=f"{data.num_galaxies(last)} {name} galaxies",
            rgb_bands=pictures and pictures.bands,
            spec=pictures and pictures.spec,
        )
        for column in several or [None]
    ]
    return pages[0]


def leave_report(trainer: Trainer, model: nn.Module, data: object) -> None:
    """Leave what scripts leave after a fit from Python: ``curves.png``, and a report.

    The report is of test galaxies, if a data module of ours has any. What can't be reported on is
    said in a warning: the fit is done. Every process must call it.
    """
    if distributed.is_main():
        run_figures.plot_curves(read_metrics(trainer.save_dir), trainer.save_dir / "curves.png")
    is_known = isinstance(model, ZoobotTree | FinetuneableZoobotAbstract) and model.task in TASKS
    if not is_known or not isinstance(data, CatalogDataModule) or not data.num_galaxies("test"):
        return
    fitted = trainer.callback_metrics
    try:
        _, predictions = evaluate_run(trainer, model, data)
        if distributed.is_main():
            page = report_run(predictions, data, trainer.save_dir, trainer.save_dir.name)
            print(f"report {page}")
    except UserError as error:
        warnings.warn(f"the fit is done, but has no report: {error}", stacklevel=2)
    trainer.callback_metrics = fitted


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
    add(
        "--protocol",
        choices=["all", *PROTOCOLS],
        help="whose rules the first table of votes follows; by default all",
    )
    add(
        "--strata",
        nargs="+",
        default=[],
        metavar="COLUMN",
        help="of the catalog: show the calibration of votes by it, such as petroMag_r",
    )
    add("--split", choices=SPLITS, help="only these galaxies of the catalog")
    add("--checkpoint", help="that predicted: tells which galaxies it was trained on")
    add("--max-galaxies", type=options.positive_int, default=MAX_GALAXIES, help="on the page")
    add("--title", help="of the page")
    options.add_rgb_option(parser)
    options.add_band_options(parser)
    return parser.parse(argv)


def main(opt: argparse.Namespace) -> None:
    catalog, spec = opt.catalog, from_options.image_spec(opt)
    if catalog == "demo":
        spec = spec or bands_of(read_predictions(opt.predictions))
        catalog = demo_catalog(bands=spec and spec.bands)
    path = evaluate(
        opt.predictions,
        catalog,
        opt.report_dir,
        task=opt.task,
        schema=opt.schema,
        label_col=opt.label_col,
        class_names=opt.class_names,
        min_votes=opt.min_votes,
        round_votes=opt.round_votes,
        recalibrate_on=(opt.recalibrate_on, catalog) if opt.recalibrate_on else None,
        protocol=opt.protocol,
        strata=opt.strata,
        split=opt.split,
        checkpoint=opt.checkpoint,
        max_galaxies=opt.max_galaxies,
        title=opt.title,
        rgb_bands=opt.rgb_bands,
        spec=spec,
        verbose=True,
    )
    print(f"report {path}")


if __name__ == "__main__":
    sys.exit(run_script(main, parse))
