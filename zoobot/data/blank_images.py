"""Images that can be read but show nothing, or have pixels without data: what is said of them."""

from collections import Counter
from collections.abc import Sequence

NAMED = 5  # images that a message names


def first_of(texts: Sequence[str]) -> str:
    """The first few texts, in one."""
    return ", ".join(texts[:NAMED]) + (", ..." if len(texts) > NAMED else "")


def blank_kind(least: list[float], greatest: list[float], white: float = 255) -> str | None:
    """How an image is blank, see ``Look``, from the least and greatest value of each channel."""
    if least != greatest:
        return None
    return {(0,): "black", (white,): "white"}.get(tuple({*least}), "of one grey or colour")


def blank_warning(kinds: Counter[str], ids: Sequence[str], num_images: int) -> str:
    """A warning of images that show nothing.

    Args:
        kinds: how many are black, white, ..., see ``Look``.
        ids: of at least the first of them.
        num_images: that were looked at.
    """
    told = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
    named = ", ".join(repr(id_str) for id_str in ids[:NAMED])
    more = ", ..." if kinds.total() > NAMED else ""
    return (
        f"warning: {kinds.total()} of {num_images} images show nothing ({told}): id_str "
        f"{named}{more}"
    )


def constant_warning(bands: Counter[str], ids: Sequence[str], num_images: int) -> str:
    """A warning of bands 'g', 'g r', ... of so many images each; see ``blank_warning``."""
    each = Counter(band for names, number in bands.items() for band in names.split() * number)
    told = ", ".join(f"{band} of {number}" for band, number in each.items())
    return (
        f"warning: bands have one value in all pixels, {told}, of {num_images} images: id_str "
        f"{first_of([*map(repr, ids)])}"
    )


def no_data_notes(values: Counter[float], num_images: int) -> list[str]:
    """A sentence for each of the most frequent values that were taken for no data.

    Args:
        values: in how many images each was found.
        num_images: that were looked at.
    """
    return [
        f"{value:g} is taken for no data in {number} of {num_images} images, and shown black"
        for value, number in values.most_common(NAMED)
    ]
