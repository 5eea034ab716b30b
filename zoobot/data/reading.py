"""How the images of a run are read: where they are kept, and who decodes them."""

from collections.abc import Sequence

import torch

from zoobot.data.decode_gpu import choose_decoder
from zoobot.data.image_cache import check_cache, keep_images
from zoobot.data.loaders import GalaxyLoader


def prepare_reading(
    loaders: Sequence[GalaxyLoader | None], device: torch.device, epochs: int
) -> str:
    """Have the galaxies of two loaders, to train and to validate with, read as they ask for.

    See ``keep_images`` and ``choose_decoder``. Nothing is kept for the only epoch.

    Args:
        loaders: None for one that is not ours.
        device: where the batches go.

    Returns:
        What to tell the user of it, lines that end with a new line.

    Raises:
        ValueError: what they ask for can't be had.
    """
    notes = []
    for loader, kind in zip(loaders, ("training", "validation"), strict=True):
        if loader is None:
            continue
        if epochs > 1:
            notes.append(keep_images(loader.dataset, device, kind))
        else:
            check_cache(loader.dataset.cache, device)
        notes.append(choose_decoder(loader.dataset, device, loader.num_workers))
    return "".join(f"{note}\n" for note in notes if note)
