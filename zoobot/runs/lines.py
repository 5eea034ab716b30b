"""Files of one JSON object a line: metrics.jsonl and skipped_steps.jsonl."""

import json
from collections.abc import Callable
from pathlib import Path

from zoobot.limits.text import parse_json
from zoobot.system.errors import UserError
from zoobot.system.files import write_text

METRICS, SKIPPED_STEPS = "metrics.jsonl", "skipped_steps.jsonl"


def read_lines(path: Path) -> list[dict]:
    """The objects of a file, oldest first; empty if there is none.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if path.name == SKIPPED_STEPS:  # not written whole: a killed process may cut a line off
            text = text[: text.rfind("\n") + 1]
        return [parse_json(line) for line in text.splitlines()]
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): move it away") from error


def keep_lines(path: Path, is_kept: Callable[[dict], bool]) -> list[dict]:
    """Drop the other lines of a file, if there is one; returns those that are kept."""
    lines = [line for line in read_lines(path) if is_kept(line)]
    if path.exists():
        write_text(path, text_of(lines))
    return lines


def text_of(lines: list[dict]) -> str:
    """The text of a file with these lines."""
    return "".join(json.dumps(line) + "\n" for line in lines)
