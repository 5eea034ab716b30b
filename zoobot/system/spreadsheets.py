"""Texts in CSV files that a spreadsheet would take for a formula: marked with ', and unmarked."""

import re

# A formula begins with one of these characters, also with those of the same look that are wider. A
# spreadsheet may pass over blanks before it. Texts that only seem to be marked are marked too.
FORMULA = re.compile("['\\s]*[=+@\uff1d\uff0b\uff0d\uff20-].|'*[\t\r\n]", re.DOTALL)
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def mark(text: str) -> str:
    """The text, after a ' if a spreadsheet would compute it. Numbers are not marked."""
    return f"'{text}" if _would_run(text) else text


def unmark(text: str) -> str:
    """The text that ``mark`` was given."""
    return text[1:] if text.startswith("'") and _would_run(text[1:]) else text


def _would_run(text: str) -> bool:
    return FORMULA.match(text) is not None and NUMBER.fullmatch(text) is None
