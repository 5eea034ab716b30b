"""What others wrote, within bounds: JSON, YAML, archives of weights, text for a terminal."""

import json
import zipfile
from pathlib import Path

import yaml

from zoobot.system.errors import UserError, one_line

MAX_JSON_BYTES = 2**24  # an index of 10^5 shards has 12 MB
MAX_CONFIG_BYTES = 2**18
MAX_YAML_DEPTH = 50
MAX_PARTS = 1_000_000  # values and characters of a checkpoint, without its tensors
MAX_NAME_CHARS = 1000


def read_json(path: str | Path, **options):
    """The contents of a JSON file.

    Raises:
        OSError: it can't be read.
        ValueError: it is no JSON, larger than ``MAX_JSON_BYTES``, or nested too deeply.
    """
    return parse_json(_read_bounded(path, MAX_JSON_BYTES), **options)


def parse_json(text: str | bytes, **options):
    """As ``json.loads``; too deep a nesting is a ValueError too."""
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise UserError("nested too deeply") from None


def read_yaml(path: str | Path):
    """The contents of a YAML file of plain types.

    Raises:
        OSError: it can't be read.
        ValueError: it is no YAML, larger than ``MAX_CONFIG_BYTES``, nested too deeply, or has
            aliases, by which a few lines can stand for any number of values.
    """
    content = _read_bounded(path, MAX_CONFIG_BYTES)
    check_yaml(content)
    try:
        return yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise UserError(str(error)) from error


def check_yaml(text: str | bytes) -> None:
    """ValueError if YAML has aliases, is nested too deeply, or is none."""
    depth = 0
    try:
        for event in yaml.parse(text, yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise UserError(f"the alias *{event.anchor}: aliases are not read, write it out")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_YAML_DEPTH:
                raise UserError("nested too deeply")
    except yaml.YAMLError as error:
        raise UserError(str(error)) from error


def _read_bounded(path: str | Path, most: int) -> bytes:
    with open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise UserError(f"larger than the limit of {most:,} bytes")
    return content


def check_archive(path: str | Path) -> None:
    """ValueError for a zip whose members, unpacked, are larger than the file."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        claimed = sum(member.file_size for member in archive.infolist())
    size = Path(path).stat().st_size
    if claimed > size:
        raise UserError(f"its members have {claimed:,} bytes unpacked, the file {size:,}")


def check_parts(value) -> None:
    """ValueError for a value that written out has more than ``MAX_PARTS`` values and characters.

    Pickles can name one list many times, and lists of that list many times again.
    """
    waiting, count = [value], 0
    while waiting:
        each = waiting.pop()
        count += 1
        if isinstance(each, dict):
            waiting += [*each.keys(), *each.values()]
        elif isinstance(each, list | tuple | set | frozenset):
            waiting += each
        elif isinstance(each, str | bytes):
            count += len(each)
        elif type(getattr(each, "__dict__", None)) is dict:
            waiting.append(vars(each))
        if count + len(waiting) > MAX_PARTS:
            raise UserError(f"it has more than {MAX_PARTS:,} values and characters written out")


def check_name(name: str, what: str) -> None:
    """ValueError for a name that a terminal, a figure or a file could not show in a line."""
    if not name.isprintable() or len(name) > MAX_NAME_CHARS:
        raise UserError(
            f"{what} {one_line(name):.80}: use printable characters, at most {MAX_NAME_CHARS}"
        )
