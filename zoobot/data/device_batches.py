"""Batches on their way to the device and back: copied while the device works on others.

On a GPU, copies run on streams of their own, one a device and direction for the whole process:
each stream keeps memory that it has freed for itself.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator

import torch

from zoobot.data.views.device import VIEW_KEYS, warp
from zoobot.system.devices import send


def to_device(batch: dict, device: torch.device) -> dict:
    """Move a batch's tensors without waiting; images become float32 in 0-1, channels last.

    Views that are made on the device are made here. A batch may have no images.
    """
    moved = {
        key: send(value, device) if torch.is_tensor(value) else value
        for key, value in batch.items()
    }
    if "image" in moved:
        moved["image"] = moved["image"].contiguous(memory_format=torch.channels_last)
        moved["image"] = float_images(moved)
    return moved


def as_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 images as float32 in 0-1; floats as they are."""
    return images if images.is_floating_point() else images.float().div_(255)


def float_images(batch: dict) -> torch.Tensor:
    """A batch's images, float32: of 8 bits in 0-1, of bands with a mean of 0 each.

    Views for the device are made on the batch's device.
    """
    images = batch["cache"].complete(batch) if "cache" in batch else batch["image"]
    if batch.keys() >= {*VIEW_KEYS}:
        images = warp(images, *(batch[key] for key in VIEW_KEYS))
    else:
        images = as_float(images)
    for name, change in (("spread", torch.div), ("offset", torch.sub)):
        if name in batch:
            num_views = images.shape[1] // len(batch[name])
            images = change(images, batch[name].repeat(num_views)[:, None, None])
    return images


def on_device(batches: Iterable[dict], device: torch.device) -> Iterator[dict]:
    """Batches as ``to_device`` makes them; on a GPU the next is made while this one is used.

    Copies (from pinned memory) and views of the next batch run on a stream of their own. What a
    loader has on the GPU already is waited for.
    """
    if device.type != "cuda":
        yield from (to_device(batch, device) for batch in batches)
        return
    ahead = None
    for batch in itertools.chain(batches, [None]):
        made = None if batch is None else _made_aside(batch, device)
        if ahead is not None:
            yield _handed_over(*ahead, device)
        ahead = made


def to_host(values: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Begin to copy a tensor to the host, and go on.

    On a GPU the copy runs on a stream of its own, once what was asked for before is computed.

    Returns:
        A function that waits for the copy and returns it, in any thread.
    """
    if not values.is_cuda:
        return values.cpu
    aside = stream_of(values.device, "to the host")
    aside.wait_stream(torch.cuda.current_stream(values.device))
    with torch.cuda.stream(aside):
        copy = values.to("cpu", non_blocking=True)  # torch puts it into pinned memory
        copied = aside.record_event()
    values.record_stream(aside)

    def wait() -> torch.Tensor:
        copied.synchronize()
        return copy

    return wait


@functools.cache
def stream_of(device: torch.device, way: str) -> torch.cuda.Stream:
    """The stream for this work: one a device and way, as each keeps memory for itself."""
    return torch.cuda.Stream(device)


def _made_aside(batch: dict, device: torch.device) -> tuple[dict, torch.cuda.Event]:
    """A batch that another stream makes, and the event at which it is ready."""
    aside = stream_of(device, "to the device")
    there_already = [v for v in batch.values() if torch.is_tensor(v) and v.is_cuda]
    if there_already:
        aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):
        moved = to_device(batch, device)
        ready = aside.record_event()
    for value in there_already:
        value.record_stream(aside)
    return moved, ready


def _handed_over(batch: dict, ready: torch.cuda.Event, device: torch.device) -> dict:
    """Make the current stream wait for a batch that another stream made."""
    stream = torch.cuda.current_stream(device)
    stream.wait_event(ready)
    for value in batch.values():
        if torch.is_tensor(value):
            value.record_stream(stream)
    return batch
