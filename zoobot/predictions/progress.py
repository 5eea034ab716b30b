"""The progress bar of a prediction: in a terminal, or now and then a line in a log."""

import sys

from tqdm import tqdm

from zoobot.predictions.parts import Work
from zoobot.system import distributed

LOG_EVERY_S = 60  # where stderr is no terminal


def progress_bar(work: Work, mine: list[int], num_todo: int, show_progress: bool) -> tqdm:
    """The bar of the galaxies in the parts ``mine``, which the main process shows."""
    shown = show_progress and distributed.is_main()
    total = sum(len(work.rows(part)) for part in mine)
    others = f", process 1 of {distributed.world_size()}" if distributed.world_size() > 1 else ""
    if shown and num_todo < work.num_parts:
        tqdm.write(f"{work.num_parts - num_todo} of {work.num_parts} parts were done before")
    return tqdm(
        total=total,
        desc=f"predicting{others}",
        unit="galaxy",
        unit_scale=True,
        disable=not shown,
        mininterval=0.2 if sys.stderr.isatty() else LOG_EVERY_S,
        file=sys.stderr if sys.stderr.isatty() else sys.stdout,
    )
