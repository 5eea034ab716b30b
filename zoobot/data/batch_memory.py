"""Compare what a loader's batches take with the memory that is free, before they are made."""

from zoobot.data.dataset import CatalogDataset
from zoobot.limits.memory import check_memory


def check_batches(
    dataset: CatalogDataset, largest_batch: int, num_making: int, on_gpu: bool
) -> None:
    """ValueError if the images of so many batches don't fit into the memory that is free.

    One more batch is of floats, unless a GPU makes them. What a model makes of the images is not
    counted, nor are the images of a transform that is not ours.

    Args:
        largest_batch: the most galaxies in a batch.
        num_making: workers, each of which makes a batch at a time.
    """
    image_bytes = dataset.image_bytes
    if image_bytes is None:
        return
    galaxies = min(largest_batch, len(dataset) or largest_batch)  # 0: of a stream, not known
    making = min(num_making, -(-len(dataset) // galaxies) or num_making)
    floats = 4 if dataset.spec is None else 1  # times as large
    if on_gpu or dataset.is_only_decoded:
        floats = 0
    check_memory(
        image_bytes * galaxies * (making + floats),
        f"to make batches of {galaxies:,} views of {dataset.transform.config.output_size:,} px",
        "give a smaller --batch-size, or a smaller --image-size (it may be the model's own)",
    )
