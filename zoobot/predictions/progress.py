"""The progress bar of a prediction: in a terminal, or now and then a line in a log."""

from tqdm import tqdm

from zoobot.predictions.parts import Work
from zoobot.system import distributed
from zoobot.system.progress import Bar, open_bar


def progress_bar(work: Work, mine: list[int], num_todo: int, show_progress: bool) -> Bar:
    """The bar of the galaxies in the parts ``mine``, which the main process shows."""
    shown = show_progress and distributed.is_main()
    others = f", process 1 of {distributed.world_size()}" if distributed.world_size() > 1 else ""
    if shown and num_todo < work.num_parts:
        tqdm.write(f"{work.num_parts - num_todo} of {work.num_parts} parts were done before")
    total = sum(len(work.rows(part)) for part in mine)
    return open_bar(f"predicting{others}", total, "galaxy", shown=shown, leave=True)
