"""What a user is told of a mistake: its error, near names, one line."""

import difflib
from collections.abc import Iterable

LONGEST_NAME = 200  # that is compared with others, which takes time


class UserError(ValueError):
    """A mistake of the user, or a file that is not what it should be; not a fault of this package.

    The message says what is wrong, where, the value found, and the cure. The scripts print it in
    one line and exit with code 2; any other exception keeps its traceback.
    """


def did_you_mean(text: str, choices: Iterable[str]) -> str:
    """``"; did you mean 'x', 'y'?"`` for the nearest choices, or nothing if none is near."""
    if len(str(text)) > LONGEST_NAME:
        return ""
    choices = [str(choice) for choice in choices]
    near = difflib.get_close_matches(str(text), choices, n=3, cutoff=0.5)
    near = near or [choice for choice in choices if str(text) in choice][:3]
    return f"; did you mean {', '.join(map(repr, near))}?" if near else ""


def one_line(text: str) -> str:
    """Text in one line without control characters, which could steer a terminal."""
    shown = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
