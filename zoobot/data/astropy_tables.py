"""Read the tables of FITS, ECSV and VOTable files with astropy."""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from zoobot.data.columns import AS_TEXT
from zoobot.limits.headers import read_columns, told_in_comments, write_columns
from zoobot.limits.tables import check_astropy
from zoobot.system.errors import UserError
from zoobot.system.files import open_to_read

if TYPE_CHECKING:
    from astropy.table import Table


def read_astropy(path: Path, kind: str, needed: Iterable[str]) -> pd.DataFrame:
    """A table without its columns of arrays; of several, the one with the needed columns.

    Args:
        path: its suffix does not matter.
        kind: ``fits``, ``ascii.ecsv`` or ``votable``.
        needed: columns to choose by; those that every catalog may have decide nothing.

    Raises:
        ValueError: no table, or more than one, has ids and the needed columns; or astropy is not
            installed; and what it raises for damaged files.
    """
    table = open_astropy(path, kind, needed)
    flat = table[[name for name in table.colnames if table[name].ndim == 1]]
    frame = flat.to_pandas()
    frame.attrs["described"] = {
        name.strip().casefold(): (flat[name].description, str(flat[name].unit or ""))
        for name in flat.colnames
    }
    return frame


def open_astropy(path: Path, kind: str, needed: Iterable[str]) -> "Table":
    """The same with its columns of arrays; ``meta`` has a header's entries, or parameters."""
    need_astropy(kind)
    check_astropy(path, kind)
    readers = {"fits": _read_fits, "votable": _read_votable, "ascii.ecsv": _read_ecsv}
    table = readers[kind](path, {*needed} - {*AS_TEXT, "image"} | {"id_str"})
    table.convert_bytestring_to_unicode()
    return table


def need_astropy(kind: str) -> None:
    """ValueError if astropy, which is optional, is not installed. ``kind``: what needs it."""
    try:
        import astropy.table  # noqa: F401
    except ImportError:
        raise UserError(f"{kind} needs astropy: pip install 'zoobot-torch[astro]'") from None


def _read_fits(path: Path, needed: set[str]) -> "Table":
    from astropy.io import fits
    from astropy.table import Table

    with (
        open_to_read(path) as file,
        fits.open(file, memmap=True, disable_image_compression=True) as hdus,
    ):
        tables = {
            i: (hdu.name or f"HDU {i}", hdu.columns.names)
            for i, hdu in enumerate(hdus)
            if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)
        }
    options = {"character_as_bytes": True, "disable_image_compression": True}
    with open_to_read(path) as file, fits.open(file, memmap=False, **options) as hdus:
        chosen = hdus[_choose(tables, needed)]
        descriptions = told_in_comments(map(str, chosen.header.get("COMMENT", ())))
        chosen.header.remove("COMMENT", ignore_missing=True, remove_all=True)
        table = Table.read(chosen, format="fits")
    for name in descriptions.keys() & {*table.colnames}:
        table[name].description = descriptions[name] or None
    return table


def _read_votable(path: Path, needed: set[str]) -> "Table":
    from astropy.io.votable import parse

    with open_to_read(path) as file:
        tables = [table for table in parse(file).iter_tables() if table.fields]
    names = {
        i: (table.name or table.ID or f"table {i + 1}", [field.name for field in table.fields])
        for i, table in enumerate(tables)
    }
    chosen = tables[_choose(names, needed)]
    table = chosen.to_table(use_names_over_ids=True)
    table.meta |= {param.name: param.value for param in chosen.params}
    return table


def _read_ecsv(path: Path, needed: set[str]) -> "Table":
    """Columns of arrays are left out, and columns of objects are those that they are made of."""
    from astropy.table import Table

    with io.TextIOWrapper(open_to_read(path), encoding="utf-8") as file:
        header, first = _comments(file)
        columns, delimiter = read_columns("".join(header).removeprefix("%ECSV").partition("\n")[2])
        lines = [*write_columns(columns, delimiter), first, *file.read().split("\n")]
    table = Table.read(lines, format="ascii.ecsv")
    table.remove_columns([column.name for column in columns if column.is_array])
    return table


def _comments(file: Iterator[str]) -> tuple[list[str], str]:
    """The comments (#) at the start of a file, and the line that follows them."""
    comments = []
    for line in file:
        if not line.startswith("#"):
            return comments, line.rstrip("\n")
        comments.append(line.removeprefix("#").removeprefix(" "))
    return comments, ""


def _choose(tables: dict[int, tuple[str, list[str]]], needed: set[str]) -> int:
    """The place of the only table, or of the only one with ids and most of what is needed.

    Args:
        tables: their places -> their names, and those of their columns.
    """
    if not tables:
        raise UserError("it holds no table")
    if len(tables) == 1:
        return next(iter(tables))
    columns = {
        place: {name.strip().casefold() for name in names} for place, (_, names) in tables.items()
    }
    found = [place for place in tables if {name.casefold() for name in needed} <= columns[place]]
    found = found or [place for place in tables if "id_str" in columns[place]]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(tables[place][0] for place in found or tables)
    if found:
        raise UserError(
            f"more than one of its tables may be the catalog ({listed}): save one in a file of "
            "its own"
        )
    raise UserError(f"none of its {len(tables)} tables ({listed}) has a column 'id_str'")
