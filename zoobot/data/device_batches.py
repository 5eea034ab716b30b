"""Batches on their way to the device: copied, and their views made, ahead of their use."""

import itertools
from collections.abc import Iterable, Iterator

import torch

from zoobot.data.dataset import float_images
from zoobot.system.devices import send


def to_device(batch: dict, device: torch.device) -> dict:
    """Move a batch's tensors without waiting; images become float32 in 0-1, channels last.

    Views that are made on the device are made here.
    """
    moved = {
        key: send(value, device) if torch.is_tensor(value) else value
        for key, value in batch.items()
    }
    moved["image"] = moved["image"].contiguous(memory_format=torch.channels_last)
    return moved | {"image": float_images(moved)}


def on_device(batches: Iterable[dict], device: torch.device) -> Iterator[dict]:
    """Batches as ``to_device`` makes them; on a GPU the next is made while this one is used.

    Copies (from pinned memory) and views of the next batch run on a stream of their own.
    """
    if device.type != "cuda":
        yield from (to_device(batch, device) for batch in batches)
        return
    aside, ahead = torch.cuda.Stream(device), None
    for batch in itertools.chain(batches, [None]):
        with torch.cuda.stream(aside):
            moved = None if batch is None else to_device(batch, device)
            ready = aside.record_event()
        if ahead is not None:
            yield _handed_over(*ahead, device)
        ahead = (moved, ready)


def _handed_over(batch: dict, ready: torch.cuda.Event, device: torch.device) -> dict:
    """Make the current stream wait for a batch that another stream made."""
    stream = torch.cuda.current_stream(device)
    stream.wait_event(ready)
    for value in batch.values():
        if torch.is_tensor(value):
            value.record_stream(stream)
    return batch
