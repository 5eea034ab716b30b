"""The galaxies of which a model would learn most, if volunteers were asked about them.

A galaxy's score is the mutual information between the next volunteer's answer and the model's
weights (BALD, N. Houlsby et al. 2011, "Bayesian active learning for classification and preference
learning"; for galaxies M. Walmsley et al. 2020, MNRAS 491, 1554): it is large where the samples
(forward passes, or the models of an ensemble) disagree. In a tree it is expected where a question
is asked: each question's mutual information times the share of volunteers who are asked it.

Files are read in pieces, and the best galaxies so far are kept.
"""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy.special import entr

from zoobot import statistics
from zoobot.predictions.contents import Predictions
from zoobot.predictions.files import read_in_pieces
from zoobot.schemas import Schema
from zoobot.system.errors import UserError, did_you_mean

SCORE = "expected-information"
NOTHING = 1e-9  # nats: samples that are equal differ by less, through rounding
CURE = "predict with --n-samples 10, or with several models: --checkpoint a b c"


@dataclasses.dataclass
class Pool:
    """The most informative galaxies of a file of predictions, and how many others there are.

    Attributes:
        best: their ids and carried columns, the most informative first; values (K, columns, 1) in
            nats: ``SCORE``, and if there are several questions ``{question}_expected-information``
            of each, which sum to it.
        num_galaxies: in the file.
        num_unreadable: of them, those without predictions: their images could not be read.
        num_labelled: of them, those that are labelled already.
        unknown: ids that are labelled already and not in the file.
    """

    best: Predictions
    num_galaxies: int
    num_unreadable: int
    num_labelled: int
    unknown: pd.Index

    @property
    def num_left(self) -> int:
        """Galaxies that can be chosen."""
        return self.num_galaxies - self.num_unreadable - self.num_labelled


def most_informative(
    path: str | Path,
    number: int,
    labelled: Collection[str] = (),
    questions: Sequence[str] = (),
    schema: Schema | None = None,
) -> Pool:
    """The galaxies with the largest mutual information; of equal ones those that come first.

    Args:
        path: predictions of a tree or a classifier, with several samples.
        number: of galaxies; fewer if no more are left.
        labelled: ids that are not chosen.
        questions: that count; by default all of the tree.
        schema: of a file that does not tell its tree, such as CSV.

    Raises:
        ValueError: the file can't be read, has one sample or equal ones, holds what has no mutual
            information, or two rows with one id; there is no such question.
    """
    labelled = pd.Index([*labelled]).unique()
    found, best, ids = pd.Index([]), None, []
    num_unreadable, score = 0, None
    for piece in read_in_pieces(path):
        score = score or _scores(piece, str(path), questions, schema)
        ids.append(piece.ids)
        scored = _scored(piece, *score(piece))
        unreadable = np.isnan(scored.values[:, 0, 0])
        here = pd.Index(piece.ids)
        is_labelled = here.isin(labelled)
        found = found.append(here[is_labelled])
        num_unreadable += int((unreadable & ~is_labelled).sum())
        scored = scored.take(np.flatnonzero(~unreadable & ~is_labelled))
        best = _best(scored if best is None else _joined(best, scored), number)
    if best is None:
        raise UserError(f"{path} has no predictions")
    ids = pd.Index(np.concatenate(ids))
    if not ids.is_unique:
        twice = ids[ids.duplicated()]
        raise UserError(
            f"{path} has galaxy {twice[0]!r} more than once ({len(twice):,} rows too many): "
            "keep one row of each"
        )
    if len(best.ids) and best.values[:, 0].max() < NOTHING:
        raise UserError(
            f"the samples of {path} are equal, so there is no mutual information: a model without "
            "dropout says the same each time; predict with several models: --checkpoint a b c"
        )
    unknown = labelled.difference(found, sort=False)
    return Pool(best, len(ids), num_unreadable, len(found), unknown)


def class_information(probabilities: np.ndarray) -> np.ndarray:
    """Entropy of the mean minus the mean of the entropies, in nats: (N, C, S) -> (N,)."""
    probabilities = np.asarray(probabilities, np.float64)
    mean_entropy = entr(probabilities).sum(axis=1).mean(axis=1)
    return entr(probabilities.mean(axis=2)).sum(axis=1) - mean_entropy


def expected_information(concentrations: np.ndarray, schema: Schema) -> np.ndarray:
    """Mutual information of each question, times the share who are asked it: (N, Q), in nats."""
    asked = statistics.proportion_asked(concentrations, schema)
    return asked * statistics.mutual_information(concentrations, schema)


def _scores(
    first: Predictions, path: str, questions: Sequence[str], schema: Schema | None
) -> Callable[[Predictions], tuple[np.ndarray, list[str]]]:
    """What gives a piece's information (N, 1 or Q), and the names of its questions."""
    told = first.metadata
    task = told.get("task")
    if schema is None and isinstance(told.get("schema"), dict) and task != "summary":
        schema = Schema.from_dict(told["schema"])
    if schema is None and task != "classification":
        raise UserError(_why_not(path, task))
    if first.values.shape[2] == 1:
        raise UserError(
            f"{path} has one sample of each galaxy, so there is no mutual information: {CURE}"
        )
    if schema is None:
        if questions:
            raise UserError(f"{path} holds classes, which have no question {questions[0]!r}")
        return lambda piece: (class_information(piece.values)[:, None], [])
    chosen = [schema.get_question(text) for text in dict.fromkeys(questions)] or schema.questions
    missing = [name for name in schema.label_cols if name not in first.columns]
    if missing:
        near = did_you_mean(missing[0], first.columns)
        raise UserError(f"{path} has no column {missing[0]!r} of the tree{near}")

    def of_tree(piece: Predictions) -> tuple[np.ndarray, list[str]]:
        columns = [piece.columns.index(name) for name in schema.label_cols]
        try:
            information = expected_information(piece.values[:, columns], schema)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        return information[:, [q.index for q in chosen]], [q.text for q in chosen]

    return of_tree


def _why_not(path: str, task: str | None) -> str:
    """Why a file has no mutual information, and what to do."""
    if task == "summary":
        return f"{path} is a summary: give the predictions that it was made of"
    if task == "regression":
        return (
            f"{path} holds numbers, which have no mutual information: rank by their spread over "
            "the samples instead"
        )
    if task is None:
        return (
            f"{path} does not tell what it holds: give --schema, its tree, or predict to .parquet"
        )
    return f"{path} holds predictions of {task}: give those of a tree or of a classifier"


def _scored(piece: Predictions, information: np.ndarray, questions: list[str]) -> Predictions:
    """A piece's galaxies with their scores in place of their predictions."""
    total = information.sum(axis=1, keepdims=True)
    columns = [SCORE]
    if len(questions) > 1:
        columns += [f"{question}_{SCORE}" for question in questions]
        total = np.hstack([total, information])
    values = np.maximum(total, 0).astype(np.float32)[..., None]
    return Predictions(piece.ids, values, columns, None, {"task": "chosen"}, piece.carried)


def _joined(first: Predictions, second: Predictions) -> Predictions:
    carried = None
    if first.carried is not None:
        carried = pa.concat_tables([first.carried, second.carried])
    return dataclasses.replace(
        first,
        ids=np.concatenate([first.ids, second.ids]),
        values=np.concatenate([first.values, second.values]),
        carried=carried,
    )


def _best(table: Predictions, number: int) -> Predictions:
    """The galaxies with the largest scores, in order."""
    return table.take(np.argsort(-table.values[:, 0, 0], kind="stable")[:number])
