"""Read what the YAML headers of ECSV and FITS tables tell of columns, as plain texts.

astropy makes objects of what such headers hold: arrays over bytes that the file gives, or of any
size. So it gets none of them: not the header of an ECSV file, which is written anew of plain
types, and not the comments of a FITS table.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

import yaml

from zoobot.limits.text import check_yaml
from zoobot.system.errors import UserError

MAX_HEADER_CHARS = 2**20  # for which a reader of YAML takes some seconds
NUMBERS = ("bool", *(f"{sign}int{n}" for sign in ("", "u") for n in (8, 16, 32, 64)))
NUMBERS += tuple(f"float{n}" for n in (16, 32, 64, 128))
DELIMITERS = (" ", ",")
MAX_UNIT_CHARS = 1000
LARGE_POWER = r"[-+*^(]\s*[0-9]{5}"  # in a unit; astropy computes 10**999999999 in full
MARK = "--{}-ASTROPY-SERIALIZED-COLUMNS--"  # around YAML in the comments of a FITS header


class Told(NamedTuple):
    """What a header tells of a column, as it is written there."""

    name: str
    datatype: str
    unit: str
    description: str
    is_array: bool  # or of other values within cells


def read_columns(text: str) -> tuple[list[Told], str]:
    """The columns that a header in YAML tells, and the delimiter of cells.

    Raises:
        ValueError: the text is over ``MAX_HEADER_CHARS``, is what ``check_yaml`` refuses, or tells
            no columns.
    """
    if len(text) > MAX_HEADER_CHARS:
        raise UserError(f"its header is over the limit of {MAX_HEADER_CHARS:,} characters")
    check_yaml(text, of_tables=True)
    header = _entries(yaml.compose(text, yaml.SafeLoader))
    columns = header.get("datatype")
    if not isinstance(columns, yaml.SequenceNode):
        raise UserError("its header tells no columns")
    delimiter = _text(header.get("delimiter")) or DELIMITERS[0]
    if delimiter not in DELIMITERS:
        raise UserError(f"its header's delimiter is {delimiter!r:.20}, no space and no comma")
    return [_told(_entries(column)) for column in columns.value], delimiter


def _told(column: dict[str, yaml.Node]) -> Told:
    name, datatype, unit, description = (
        _text(column.get(key)) for key in ("name", "datatype", "unit", "description")
    )
    if not name:
        raise UserError("its header tells a column without a name")
    if isinstance(column.get("unit"), yaml.MappingNode):  # a unit as astropy's YAML has it
        unit = _text(_entries(column["unit"]).get("unit"))
    check_unit(unit)
    return Told(name, datatype, unit, description, "subtype" in column)


def check_unit(unit: str) -> None:
    """ValueError if astropy would take very long to make something of a unit."""
    if len(unit) > MAX_UNIT_CHARS or re.search(LARGE_POWER, unit):
        raise UserError(f"a column has the unit {unit!r:.60}: leave the unit out")


def _entries(node: yaml.Node | None) -> dict[str, yaml.Node]:
    if not isinstance(node, yaml.MappingNode):
        raise UserError("its header is no mapping of names to values")
    return {key.value: value for key, value in node.value if isinstance(key, yaml.ScalarNode)}


def _text(node: yaml.Node | None) -> str:
    return node.value if isinstance(node, yaml.ScalarNode) else ""


def write_columns(columns: Iterable[Told], delimiter: str) -> list[str]:
    """The header of an ECSV file that tells these columns, each of numbers or of text."""
    told = [
        {
            "name": column.name,
            "datatype": column.datatype if column.datatype in NUMBERS else "string",
            **({"unit": column.unit} if column.unit else {}),
            **({"description": column.description} if column.description else {}),
        }
        for column in columns
    ]
    text = yaml.safe_dump({"delimiter": delimiter, "datatype": told}, allow_unicode=True)
    return ["# %ECSV 1.0", "# ---", *(f"# {line}" for line in text.splitlines())]


def told_in_comments(comments: Iterable[str]) -> dict[str, str]:
    """The descriptions of columns that astropy wrote into the comments of a FITS header."""
    lines = list(comments)
    begin, end = (MARK.format(word) for word in ("BEGIN", "END"))
    if begin not in lines or end not in lines:
        return {}
    inside = lines[lines.index(begin) + 1 : lines.index(end)]
    text = "".join(line[:-1] if line.endswith("\\") else f"{line}\n" for line in inside)
    return {column.name: column.description for column in read_columns(text)[0]}
