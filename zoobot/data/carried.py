"""Columns of a catalog that predictions carry along: numbers, truth values and text.

Their types are those of the catalog. In a CSV file a column of numbers, some of them missing, is
read as float64; there, whole numbers that this would round are a ``UserError``.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from zoobot.data.sources import Galaxies
from zoobot.system.errors import UserError, did_you_mean

EXACT = 2**53  # whole numbers up to here are exact in float64
LARGEST_INT = 2.0**63
ROWS_AT_ONCE = 2**16


def described_field(
    name: str, kind: pa.DataType, description: str | None = None, unit: str | None = None
) -> pa.Field:
    """A column with what it is in words, and its unit; see ``description_of``."""
    told = {"description": description or "", "unit": unit or ""}
    return pa.field(name, kind, metadata={key: text for key, text in told.items() if text} or None)


def description_of(field: pa.Field) -> tuple[str, str]:
    """What a column is in words, and its unit; '' where that is not told."""
    told = field.metadata or {}
    return told.get(b"description", b"").decode(), told.get(b"unit", b"").decode()


def check_carry(carry: Sequence[str], predicted: Iterable[str]) -> list[str]:
    """The names of columns to carry, if a file of predictions can have them.

    Args:
        predicted: names of the columns that are predicted.

    Raises:
        ValueError: a name is there twice, or is one of the file's other columns.
    """
    if isinstance(carry, str):
        raise UserError(f"carry is a list of columns: use [{carry!r}]")
    carry = list(carry)
    taken = {name.casefold() for name in ("id_str", "error", "predictions", "label_cols")}
    for name in carry:
        if name.casefold() in taken:
            raise UserError(f"--carry {name}: the file has a column {name!r} of its own")
        if name in predicted:
            raise UserError(
                f"--carry {name}: that is also a column of the predictions, such as of votes; "
                "leave it out, or rename the catalog's"
            )
    twice = [name for name, count in Counter(map(str.casefold, carry)).items() if count > 1]
    if twice:
        raise UserError(f"--carry has {twice[0]!r} more than once")
    return carry


def common_fields(pieces: Iterable[pd.DataFrame], carry: Sequence[str]) -> list[pa.Field] | None:
    """Fields of the carried columns that hold all pieces of a catalog, with units if it has any.

    None if a column is text in some pieces only: then the catalog must be read in one piece.

    Raises:
        ValueError: a column holds anything but numbers, truth values or text, or was rounded.
    """
    kinds, told = dict.fromkeys(carry, pa.null()), {}
    for piece in pieces:
        told = piece.attrs.get("described", {})
        for name in carry:
            kind = carried_array(piece[name]).type
            kinds[name] = None if kinds[name] is None else _wider(kinds[name], kind)
    if None in kinds.values():
        return None
    kinds = {name: pa.string() if pa.types.is_null(k) else k for name, k in kinds.items()}
    return [described_field(n, k, *told.get(n.casefold(), ())) for n, k in kinds.items()]


def carried_array(column: pd.Series, kind: pa.DataType | None = None) -> pa.Array:
    """A column in Arrow, of its own type or another one that holds it; see ``common_fields``."""
    try:
        array = pa.array(column, from_pandas=True)
    except (pa.ArrowException, TypeError, UnicodeError):
        raise UserError(f"--carry {column.name}: the column mixes numbers, texts or more") from None
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    own = array.type
    if pa.types.is_large_string(own) or pa.types.is_string_view(own):
        array = array.cast(pa.string())
    elif pa.types.is_float16(own):
        array = array.cast(pa.float32())
    elif not _is_plain(own):
        raise UserError(f"--carry {column.name}: only numbers and text, but it holds {own}")
    if pa.types.is_float64(own):
        _check_exact(column.name, array)
    try:
        return array if kind is None else array.cast(kind)
    except pa.ArrowInvalid as error:  # a whole number that float64 would round
        raise UserError(_rounded(column.name, error)) from None


def _is_plain(kind: pa.DataType) -> bool:
    checks = (
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_string,
        pa.types.is_boolean,
        pa.types.is_null,
    )
    return any(check(kind) for check in checks)


def _check_exact(name: str, array: pa.Array) -> None:
    """ValueError if these were whole numbers of more digits than float64 has."""
    numbers = array.to_numpy(zero_copy_only=False)
    sizes = np.abs(numbers[np.isfinite(numbers)])
    if len(sizes) and sizes.min() >= EXACT and sizes.max() < LARGEST_INT:
        raise UserError(_rounded(name, f"{sizes[0]:.0f} is a rounded number"))


def _rounded(name: str, why: object) -> str:
    return (
        f"--carry {name}: whole numbers of so many digits are rounded beside missing ones ({why}): "
        "save the column as text in a Parquet file"
    )


def _wider(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """A type that holds both; None if one is text, or a truth value, and the other is not."""
    if a == b or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    numeric = [pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in (a, b)]
    if not all(numeric):
        return None
    return pa.from_numpy_dtype(np.promote_types(a.to_pandas_dtype(), b.to_pandas_dtype()))


def carried_labels(galaxies: Galaxies, carry: Sequence[str]) -> pa.Table:
    """The labels of galaxies that are in no table, such as those of shards.

    Raises:
        ValueError: they have no such labels.
    """
    for name in carry:
        if name not in galaxies.label_cols:
            raise UserError(
                f"--carry {name}: shards hold no such column, only ids, images and labels "
                f"({', '.join(galaxies.label_cols[:5]) or 'none here'}"
                f"{', ...' if len(galaxies.label_cols) > 5 else ''})"
                f"{did_you_mean(name, galaxies.label_cols)}; join the predictions with the "
                "catalog by id_str"
            )
    places = [galaxies.label_cols.index(name) for name in carry]
    pieces = []
    for start in range(0, len(galaxies), ROWS_AT_ONCE):
        labels = galaxies.labels(range(start, min(start + ROWS_AT_ONCE, len(galaxies)))).numpy()
        pieces.append(pa.table({n: labels[:, i] for n, i in zip(carry, places, strict=True)}))
    return pa.concat_tables(pieces)
