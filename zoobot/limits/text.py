"""Size and depth limits for untrusted files: JSON, YAML, pickles, zip archives, and names."""

import json
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from zoobot.system.errors import UserError, one_line
from zoobot.system.files import open_to_read

MAX_JSON_BYTES = 2**24  # the index of 10^5 shards has 12 MB
MAX_CONFIG_BYTES = 2**18
MAX_YAML_DEPTH = 50
PLAIN_TAGS = ("",) + tuple(
    f"tag:yaml.org,2002:{name}"
    for name in "null bool int float binary timestamp omap pairs set str seq map".split()
)
MAX_PARTS = 1_000_000  # values and characters in a checkpoint, without its tensors
MAX_DEPTH = 100  # of values within values there
MAX_NAME_CHARS = 1000


def read_json(path: str | Path, **options: Any) -> Any:
    """Read a JSON file. ``options`` are those of ``json.loads``.

    Raises:
        OSError: if the file can't be read.
        ValueError: if it is not JSON, larger than ``MAX_JSON_BYTES``, or nested too deeply.
    """
    with open_to_read(path) as file:
        return parse_json(_read_bounded(file, MAX_JSON_BYTES), **options)


def parse_json(text: str | bytes, **options: Any) -> Any:
    """Like ``json.loads``, but text that is nested too deeply raises ValueError."""
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise UserError("nested too deeply") from None


def read_yaml(path: str | Path) -> Any:
    """Read a YAML file of plain types (numbers, texts, lists, dicts).

    Raises:
        OSError: if the file can't be read.
        ValueError: if it is not YAML, larger than ``MAX_CONFIG_BYTES``, nested too deeply, or has
            aliases. With aliases, a few lines can describe any number of values.
    """
    with open(path, "rb") as file:  # yours, which may be a pipe
        content = _read_bounded(file, MAX_CONFIG_BYTES)
    check_yaml(content)
    try:
        return yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise UserError(str(error)) from error


def check_yaml(text: str | bytes, of_tables: bool = False) -> None:
    """ValueError if the text is not YAML, has aliases or tags, or is nested too deeply.

    YAML's own tags of plain types, such as ``!!omap``, are accepted.

    Args:
        of_tables: accept aliases and astropy's tags too, which astropy writes. Nothing may then
            be made of what they stand for and mark.
    """
    depth = 0
    try:
        for event in yaml.parse(text, yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent) and not of_tables:
                raise UserError(f"the alias *{event.anchor}: aliases are not read, write it out")
            tag = _tag(event)
            if tag not in PLAIN_TAGS and not (of_tables and tag.startswith("!astropy.")):
                raise UserError(f"the tag {tag:.80}: objects are not read, write plain values")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_YAML_DEPTH:
                raise UserError("nested too deeply")
    except yaml.YAMLError as error:
        raise UserError(str(error)) from error


def _tag(event: yaml.Event) -> str:
    """The tag that an event has, ``""`` if none."""
    is_node = isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
    return event.tag or "" if is_node else ""


def _read_bounded(file: BinaryIO, most: int) -> bytes:
    """The bytes of a file; ValueError if there are more than ``most``."""
    content = file.read(most + 1)
    if len(content) > most:
        raise UserError(f"larger than the limit of {most:,} bytes")
    return content


def check_parts(value: Any) -> None:
    """ValueError if a value, written out, has more than ``MAX_PARTS`` values and characters.

    Or if its parts are within more than ``MAX_DEPTH`` others: what goes through it later calls
    itself for each. In a pickle, one list can be named many times without being stored again, and a
    list of such lists too. A small file can so describe more values than fit in memory.
    """
    waiting, count = [(value, 0)], 0
    while waiting:
        each, depth = waiting.pop()
        count, inside = count + 1, []
        if isinstance(each, dict):
            inside = [*each.keys(), *each.values()]
        elif isinstance(each, list | tuple | set | frozenset):
            inside = each
        elif isinstance(each, str | bytes):
            count += len(each)
        elif type(getattr(each, "__dict__", None)) is dict:  # numbers have no __dict__
            inside = [vars(each)]
        if count + len(waiting) + len(inside) > MAX_PARTS:
            raise UserError(f"it has more than {MAX_PARTS:,} values and characters written out")
        if inside and depth == MAX_DEPTH:
            raise UserError("it is nested too deeply")
        waiting += [(part, depth + 1) for part in inside]


def check_name(name: str, what: str) -> None:
    """ValueError if a name is too long, or has characters that can't be printed.

    Such names could disturb a terminal, a figure or a file.

    Args:
        what: what the name is of, for the message.
    """
    if not name.isprintable() or len(name) > MAX_NAME_CHARS:
        raise UserError(
            f"{what} {one_line(name):.80}: use printable characters, at most {MAX_NAME_CHARS}"
        )


def is_utf8(text: str) -> bool:
    """Whether text can be written as UTF-8. Names of files may hold bytes that are none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
