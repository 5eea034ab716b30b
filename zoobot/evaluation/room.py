"""How much a report shows: a tree may have more than a figure or a sentence has room for.

What is left out of figures is told beside them; the tables have all.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

MOST_PANELS = 36  # questions or classes in a figure
MOST_ANSWERS = 40  # of a question that is drawn by its answers
MOST_MARKS = 10_000  # in a figure
MOST_NAMES = 20  # in a sentence
MOST_SHARES = 400_000  # of galaxies on the page, one of each answer

Item = TypeVar("Item")


def listed(names: Sequence[str]) -> str:
    """Names with commas between them; of many the first, and how many more there are."""
    more = len(names) - MOST_NAMES
    told = ", ".join(names[:MOST_NAMES])
    return f"{told} and {more:,} more" if more > 0 else told


def in_figures(
    items: Sequence[Item], what: str, num_answers: Callable[[Item], int] = lambda item: 1
) -> tuple[list[Item], str]:
    """Those that figures have room for, the first of them; and a sentence that says so.

    Args:
        what: they are, for the sentence.
        num_answers: how many answers of one are drawn, each against all.

    Returns:
        The items, and the sentence, after a space; '' if none is left out.
    """
    kept, marks = [], 0
    for item in items:
        count = num_answers(item)
        marks_with = marks + count**2
        if count <= MOST_ANSWERS and len(kept) < MOST_PANELS and marks_with <= MOST_MARKS:
            kept.append(item)
            marks = marks_with
    if len(kept) == len(items):
        return kept, ""
    told = (
        f" Figures show {len(kept)} of the {len(items):,} {what}: there is room for {MOST_PANELS}"
    )
    if any(num_answers(item) > 1 for item in items):
        told += f", each with {MOST_ANSWERS} answers at most"
    return kept, f"{told}. Tables have all."
