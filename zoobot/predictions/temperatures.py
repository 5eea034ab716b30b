"""Temperatures of a tree's questions, as an evaluation leaves them in ``temperatures.json``."""

from pathlib import Path

import numpy as np

from zoobot.limits.text import read_json
from zoobot.schemas import Schema
from zoobot.system.errors import UserError


def read_temperatures(path: str | Path, schema: Schema) -> np.ndarray:
    """The factors (Q,) of a file with one for each question, see ``statistics.recalibrate``.

    Raises:
        ValueError: if it can't be read, is of other questions, or holds what is no factor.
    """
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"temperatures {path} can't be read: {error}") from error
    questions = [question.text for question in schema.questions]
    if not isinstance(found, dict) or set(found) != set(questions):
        raise UserError(
            f"temperatures {path} are not one a question ({', '.join(questions[:10])}): give the "
            "temperatures.json of an evaluation of this model's tree"
        )
    for question, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
            raise UserError(f"temperatures {path}: {question!r} is {value!r:.40}, not above 0")
    return np.array([float(found[question]) for question in questions])
