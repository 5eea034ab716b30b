"""Columns of a catalog: their plain names, and what their cells are, whatever file they are in."""

import dataclasses
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator

import pandas as pd
import pyarrow as pa

from zoobot.limits.memory import TEXT_BYTES, check_memory
from zoobot.system.errors import UserError

AS_TEXT = ("id_str", "file_loc", "split")  # columns that are read as text
# Cells that are a missing number in a column of numbers.
NO_NUMBER = frozenset(
    "NA N/A n/a <NA> NaN nan -NaN -nan NULL null None none #N/A #NA -- - \\N . 1.#QNAN "
    "-1.#IND".split()
)
# As spreadsheets write 0.5 in much of Europe; and what may also be 1,000 of them.
WITH_COMMA = r"\s*[+-]?\d*,?\d+([eE][+-]?\d+)?\s*"
THOUSANDS = r"\s*[+-]?[1-9]\d{0,2},\d{3}\s*"


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


def is_text(column: pd.Series | pd.Index) -> bool:
    """Whether all that is not missing in a column is text; pandas 2 has such columns as objects."""
    return pd.api.types.infer_dtype(column, skipna=True) == "string"


def is_nested(column: pd.Series) -> bool:
    """Whether a column has Arrow's lists or dicts; to make objects of them takes much memory."""
    dtype = column.dtype
    return isinstance(dtype, pd.ArrowDtype) and pa.types.is_nested(dtype.pyarrow_dtype)


def with_numbers(
    table: pd.DataFrame, comma_is_decimal: bool = False, typed: Collection[str] = ()
) -> pd.DataFrame:
    """The table with numbers in its columns of text that hold numbers; see ``numbers_or_text``.

    Ids, paths, splits, images and ``typed`` columns stay what they are.
    """
    table = table.copy(deep=False)  # pandas 2 warns of changes to a part of another table
    for name, column in table.items():
        if name not in (*AS_TEXT, "image", *typed):
            found = numbers_or_text(column, comma_is_decimal)
            if found is not column:
                table[name] = found
    return table


def numbers_or_text(column: pd.Series, comma_is_decimal: bool = False) -> pd.Series:
    """A column of text as numbers, if all that is not missing is a number; else as it is.

    So "None" or "NA" is a missing number among numbers, and a text like others among texts.

    Args:
        column: what is no text or category of texts is returned as it is.
        comma_is_decimal: whether 0,5 may be a number.

    Raises:
        ValueError: a comma may be a decimal one, or stand for thousands.
    """
    texts = _as_texts(column)
    first = next((x for x in texts.dropna() if x.strip() not in NO_NUMBER), None)
    if first is None:
        return column
    if comma_is_decimal and re.fullmatch(WITH_COMMA, first):
        texts = _with_points(texts)
        first = first.replace(",", ".")
    if pd.isna(pd.to_numeric(first, errors="coerce")):
        return column
    check_memory(TEXT_BYTES * len(texts), f"column {column.name!r}, whose numbers are text,")
    numbers = pd.to_numeric(texts, errors="coerce")
    rest = texts[numbers.isna() & texts.notna()]
    return numbers if rest.str.strip().isin(NO_NUMBER).all() else column


def _as_texts(column: pd.Series) -> pd.Series:
    """A column of texts, or of categories that are texts; without rows for any other."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return (column if is_text(column.cat.categories) else column[:0]).astype(str)
    return column if is_text(column) else column[:0]


def _with_points(texts: pd.Series) -> pd.Series:
    """Decimal points in place of commas, if all that is not missing is such a number."""
    present = texts[~(texts.isna() | texts.str.strip().isin(NO_NUMBER))]
    if not present.str.fullmatch(WITH_COMMA).all():
        return texts
    with_comma = present[present.str.contains(",", regex=False)]
    if len(with_comma) and with_comma.str.fullmatch(THOUSANDS).all():
        raise UserError(
            f"column {texts.name!r} holds {with_comma.iloc[0].strip()}: whether its comma is a "
            "decimal one or stands for thousands can't be known; write a point, or no comma"
        )
    return texts.str.replace(",", ".", regex=False)
