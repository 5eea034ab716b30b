"""Which galaxies can be looked at on a report's page, and what it holds of each."""

import numpy as np

from zoobot.evaluation.join import Joined
from zoobot.evaluation.page import thumbnail
from zoobot.evaluation.pictures import Pictures

WORST_FRAC = 0.25  # of the galaxies shown, so many with the largest errors


def choose_shown(errors: np.ndarray, max_galaxies: int) -> tuple[np.ndarray, str]:
    """Which galaxies to show, in the predictions' order, and how they were chosen, in words."""
    if len(errors) <= max_galaxies:
        return np.arange(len(errors)), "All of them can be looked at below."
    worst = np.argsort(-errors, kind="stable")[: int(WORST_FRAC * max_galaxies)]
    others = np.setdiff1d(np.arange(len(errors)), worst)
    drawn = np.random.default_rng(0).choice(others, max_galaxies - len(worst), replace=False)
    how = (
        f"{max_galaxies} can be looked at below: the {len(worst)} with the largest errors, and "
        f"{len(drawn)} drawn at random from the others."
    )
    return np.sort(np.concatenate([worst, drawn])), how


def shown_galaxies(
    joined: Joined, pictures: Pictures, shown: np.ndarray, errors: np.ndarray, columns: dict
) -> list[dict]:
    """The page's galaxies: each has its row of ``columns``, and a thumbnail."""
    galaxies = []
    for row, i in enumerate(shown):
        image = pictures.read(joined.table.iloc[i])
        galaxies.append(
            {
                "id": joined.predictions.ids[i],
                "image": None if image is None else thumbnail(image),
                "error": errors[i],
                **{name: values[row] for name, values in columns.items()},
            }
        )
    return galaxies
