"""What a misspelt name may have meant."""

import difflib

LONGEST_NAME = 200  # that is compared with others, which takes time


def did_you_mean(text: str, choices) -> str:
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
