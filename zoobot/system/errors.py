"""The error for mistakes of the user, and helpers for its message."""

import difflib
from collections.abc import Iterable
from numbers import Integral

LONGEST_NAME = 200  # longer texts are not compared with names, because that takes long


class UserError(ValueError):
    """A mistake of the user, or a file that is not what it should be.

    The message says what is wrong, where, which value was found, and how to correct it. The
    scripts print it in one line and exit with code 2. Other exceptions, apart from OSError, are
    faults of the program and keep their traceback.
    """


class OneProcessError(UserError):
    """A mistake that one process of a run may meet alone: it prints it, whatever its rank."""


def check_count(name: str, value: object) -> None:
    """``UserError`` unless the value is a whole number of 1 or more."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise UserError(f"{name}={value!r:.40}: give a whole number of 1 or more")


def did_you_mean(text: str, choices: Iterable[str]) -> str:
    """``"; did you mean 'x', 'y'?"`` with the most similar choices; empty if none is similar."""
    if len(str(text)) > LONGEST_NAME:
        return ""
    choices = [str(choice) for choice in choices]
    near = difflib.get_close_matches(str(text), choices, n=3, cutoff=0.5)
    near = near or [choice for choice in choices if str(text) in choice][:3]
    return f"; did you mean {', '.join(map(repr, near))}?" if near else ""


def one_line(text: str) -> str:
    """The text in one line. Control characters, which could change a terminal, are escaped."""
    shown = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
