"""Columns of a catalog: which are text, and their plain names, whatever file they are in."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator

import pandas as pd

from zoobot.system.errors import UserError

AS_TEXT = ("id_str", "file_loc", "split")  # columns that are read as text


@dataclasses.dataclass
class OpenTable:
    """A table whose rows are read when they are asked for.

    Attributes:
        names: of its columns, see ``plain_names``.
        pieces: tables with some of its rows, in order; with a message of ours for damaged files.
    """

    names: list[str]
    pieces: Iterator[pd.DataFrame]


def plain_names(names: Iterable[str], needed: Iterable[str]) -> list[str]:
    """Names of columns without spaces around them, and in the case in which they are needed.

    Raises:
        ValueError: a needed column is there twice, or only in two spellings.
    """
    plain = [str(name).strip() for name in names]
    needed, counts = set(needed), Counter(plain)
    folded = Counter(name.casefold() for name in counts)
    for name in needed:
        if counts[name] > 1:
            raise UserError(f"it has more than one column {name!r}: rename one")
        same = name.casefold()
        if counts[name] or not folded[same]:
            continue
        spellings = [other for other in plain if other.casefold() == same and other not in needed]
        if len(spellings) > 1:
            raise UserError(f"its columns {', '.join(spellings)} may each be {name!r}: rename one")
        plain = [name if other in spellings else other for other in plain]
    return plain
