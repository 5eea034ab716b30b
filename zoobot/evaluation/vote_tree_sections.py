"""Write the report's section that shows some galaxies with their trees."""

from functools import partial

import numpy as np

from zoobot.evaluation.join import Joined
from zoobot.evaluation.pictures import Pictures
from zoobot.evaluation.report import Report
from zoobot.evaluation.vote_trees import (
    MOST_DRAWN,
    MOST_GALAXIES,
    different_galaxies,
    leading_paths,
    vote_trees,
)

MOST_LOOKED_AT = 1000  # of many galaxies, so many at equal distances
MOST_TRIES = 10  # a galaxy without a readable image is replaced so often


def report_vote_trees(
    out: Report, joined: Joined, pictures: Pictures, fractions: np.ndarray, votes: np.ndarray
) -> None:
    """Add a figure of a few galaxies that differ; nothing if no image can be read.

    Args:
        fractions: (N, A) predicted.
        votes: (N, A).
    """
    places = np.linspace(0, len(fractions) - 1, min(len(fractions), MOST_LOOKED_AT))
    left, images = places.astype(int), {}
    for _ in range(MOST_TRIES):
        rows = left[different_galaxies(joined.schema, fractions[left], MOST_GALAXIES)]
        for row in rows:
            if row not in images:
                images[row] = pictures.read(joined.table.iloc[row])
        unreadable = [row for row in rows if images[row] is None]
        left = np.setdiff1d(left, unreadable)
        if not unreadable or not len(left):
            break
    shown = [row for row in rows if images[row] is not None]
    if not shown:
        return
    draw = partial(
        vote_trees,
        joined.schema,
        [str(joined.predictions.ids[row]) for row in shown],
        [images[row] for row in shown],
        fractions[shown],
        votes[shown],
    )
    longest = max(map(len, leading_paths(joined.schema, fractions[shown])))
    cut = f" Of them the first {MOST_DRAWN} are shown." if longest > MOST_DRAWN else ""
    drawn = {
        "vote_trees.png": (
            lambda columns: draw(columns=columns),
            "Thick bars: predicted; thin bars: volunteers, with the same colours for the same "
            "answers. Below each galaxy are the questions that most volunteers would be asked, "
            f"as predicted.{cut}",
        )
    }
    out.section(
        "Some galaxies and their trees",
        "Of each way down the tree the galaxy of which the model is surest: these are not typical "
        "ones.",
        drawn,
    )
