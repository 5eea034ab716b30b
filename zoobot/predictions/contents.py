"""What a prediction file holds: values, ids, carried columns, and what each column is in words."""

import dataclasses
import json
import re
from collections.abc import Iterable

import numpy as np
import pandas as pd
import pyarrow as pa

from zoobot.data.carried import described_field
from zoobot.limits.text import parse_json
from zoobot.schemas import Schema
from zoobot.system.errors import UserError

METADATA_KEY = "zoobot"
OTHERS = ("id_str", "error")  # columns besides the predictions
INDEX_NAME = re.compile(r"Unnamed: \d+|__index_level_\d+__")  # of an index that pandas wrote
OF_SUMMARY = {  # what a summary says of an answer, by the end of the column's name
    "fraction": "predicted fraction of volunteers who answer {}",
    "90pc-lower": "5% quantile of the fraction who answer {}",
    "90pc-upper": "95% quantile of the fraction who answer {}",
}

OF_QUESTION = {  # likewise of a question
    "proportion-asked": "predicted share of volunteers who are asked {}",
    "expected-entropy": "mean entropy of the samples' answers to {}, in nats (aleatoric)",
    "mutual-information": "how far the samples disagree on {}, in nats (epistemic)",
}


@dataclasses.dataclass
class Predictions:
    """Predictions for N galaxies: the contents of a prediction file.

    Attributes:
        ids: (N,) ``id_str`` of each galaxy.
        values: (N, A, S) float32. NaN if the galaxy's image could not be read.
        columns: names of the A columns.
        errors: (N,) why the galaxy's image could not be read, or None if it could. The attribute
            itself is None if errors are not recorded.
        metadata: ``task``, ``schema`` and more about the model. Empty for CSV files.
        carried: N rows of other columns of the catalog; None without. Those of a CSV file are read
            as text, or, if they are numbers, among the predictions.
    """

    ids: np.ndarray
    values: np.ndarray
    columns: list[str]
    errors: np.ndarray | None = None
    metadata: dict = dataclasses.field(default_factory=dict)
    carried: pa.Table | None = None

    @property
    def carried_names(self) -> list[str]:
        """Names of the carried columns."""
        return [] if self.carried is None else self.carried.column_names

    def take(self, rows: np.ndarray) -> "Predictions":
        """These galaxies, in this order."""
        return dataclasses.replace(
            self,
            ids=self.ids[rows],
            values=self.values[rows],
            errors=None if self.errors is None else self.errors[rows],
            carried=None if self.carried is None else self.carried.take(rows),
        )

    def to_frame(self) -> pd.DataFrame:
        """A table like the parquet file: ``id_str``, carried and predicted columns, ``error``."""
        columns = {name: list(self.values[:, i]) for i, name in enumerate(self.columns)}
        if self.values.shape[2] == 1:
            columns = {name: self.values[:, i, 0] for i, name in enumerate(self.columns)}
        if self.carried is not None:
            columns = dict(self.carried.to_pandas().items()) | columns
        frame = pd.DataFrame({"id_str": self.ids, **columns})
        return frame if self.errors is None else frame.assign(error=self.errors)

    def metadata_text(self) -> str:
        """The metadata as a file has them, with the names of carried columns."""
        carried = {"carried": self.carried_names} if self.carried_names else {}
        return json.dumps(self.metadata | carried)

    def arrow_schema(self) -> pa.Schema:
        """Of the parquet file; each column has its description and unit in its metadata."""
        num_samples, words = self.values.shape[2], _in_words(self.metadata)
        cell = pa.float32() if num_samples == 1 else pa.list_(pa.float32())
        fields = [described_field("id_str", pa.string(), "id of the galaxy in the catalog")]
        fields += [] if self.carried is None else list(self.carried.schema)
        for name in self.columns:
            told = words.get(name, words.get("", "").format(name))
            if told and num_samples > 1:
                told += f"; {_samples_in_words(self.metadata, num_samples)}"
            fields.append(described_field(name, cell, told))
        if self.errors is not None:
            told = "why the image could not be read; empty if it could"
            fields.append(described_field("error", pa.string(), told))
        return pa.schema(fields, {METADATA_KEY: self.metadata_text()})

    def to_arrow(self, schema: pa.Schema) -> pa.Table:
        """The rows of the parquet file, whose ``arrow_schema`` this is."""
        num_galaxies, num_columns, num_samples = self.values.shape
        arrays = [pa.array(self.ids, pa.string())]
        arrays += [] if self.carried is None else self.carried.columns
        offsets = np.arange(num_galaxies + 1, dtype=np.int32) * num_samples
        for i in range(num_columns):
            flat = pa.array(np.ascontiguousarray(self.values[:, i]).reshape(-1), pa.float32())
            arrays.append(flat if num_samples == 1 else pa.ListArray.from_arrays(offsets, flat))
        if self.errors is not None:
            arrays.append(pa.array(self.errors, pa.string()))
        return pa.Table.from_arrays(arrays, schema=schema)


def _samples_in_words(metadata: dict, num_samples: int) -> str:
    """What the numbers of a cell are: ``12 samples: 2 models x 6 views``."""
    kinds = {"models": "models", "views": "views", "passes": "passes with dropout"}
    mixed = metadata.get("samples")
    mixed = mixed if isinstance(mixed, dict) else {}
    axes = [f"{mixed[kind]} {told}" for kind, told in kinds.items() if mixed.get(kind, 1) != 1]
    return f"{num_samples} samples" + (f": {' x '.join(axes)}" if axes else "")


def _in_words(metadata: dict) -> dict[str, str]:
    """What the predicted columns are, by name; under '' what all others are, with {} for a name."""
    task, schema = metadata.get("task"), metadata.get("schema")
    if schema is None:
        label = metadata.get("label_col")
        of_label = f" of {label!r}".replace("{", "{{").replace("}", "}}") if label else ""
        others = {
            "classification": "predicted probability of class {!r}" + of_label,
            "regression": "predicted {}, in the unit of the labels",
            "representations": "feature of the encoder",
            "custom": "output of the model",
            "similar": "{} of the features; a typical galaxy is at 1 from the mean",
            "odd": "{}: how unlike the others; larger is odder",
            "chosen": "{}: of the next volunteer's answer and the model, mutual, in nats",
        }
        return {"": others.get(task, "")}
    words = {}
    for question in Schema.from_dict(schema).questions:
        for answer in question.answers:
            told = f"{answer.pretty_text!r} to {question.text!r}"
            if task == "summary":
                words |= {f"{answer.text}_{e}": s.format(told) for e, s in OF_SUMMARY.items()}
            else:
                words[answer.text] = f"Dirichlet concentration of answer {told}"
        words |= {
            f"{question.text}_{e}": s.format(repr(question.text)) for e, s in OF_QUESTION.items()
        }
    return words


def stack(
    cells: dict[str, np.ndarray | None], carried: Iterable[str] = ()
) -> tuple[np.ndarray, list[str]]:
    """Values (N, A, S) and names of the columns with most samples.

    Those that are no predictions are left out: pandas's index, carried ones, and those of None.
    """
    passed = {*OTHERS, *carried}
    named = {n: a for n, a in cells.items() if n not in passed and not INDEX_NAME.fullmatch(n)}
    most = max((array.shape[1] for array in named.values() if array is not None), default=0)
    named = {n: a for n, a in named.items() if a is not None and a.shape[1] == most}
    if not named:
        raise UserError("it has no column of numbers")
    return np.stack([*named.values()], axis=1), [*named]


def errors_of(texts: Iterable[str] | None) -> np.ndarray | None:
    """Errors as ``Predictions`` has them, of texts that are empty where there is none."""
    return None if texts is None else np.array([text or None for text in texts], dtype=object)


def metadata_of(text: str | bytes) -> dict:
    """The metadata of a file, of their JSON; ValueError if they are none."""
    metadata = parse_json(text)
    if not isinstance(metadata, dict):
        raise UserError(f"its metadata are {metadata!r:.60}, not a dict")
    return metadata


def carried_in(metadata: dict, names: Iterable[str]) -> list[str]:
    """The columns of a file that are carried ones, in order, as its metadata say."""
    told = metadata.get("carried")
    names = {*names}
    return [name for name in told if name in names] if isinstance(told, list) else []
