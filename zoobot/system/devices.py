"""Moving to devices, and what they lack: Apple's GPUs (``mps``) have no float64."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


def widest_float(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device that has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on this device, float64 in the widest floats that the device has.

    Nothing waits for a copy to a GPU from pinned memory. On ``mps`` such a copy is not safe.
    """
    if tensor.dtype == torch.float64:
        tensor = tensor.to(widest_float(device))
    return tensor.to(device, non_blocking=device.type == "cuda")


def keep_generators(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Put torch's generators of random numbers, of CPU and device, back at the end of a block."""
    if device.type == "cpu":
        return torch.random.fork_rng(devices=[])
    return torch.random.fork_rng([device], device_type=device.type)


@contextlib.contextmanager
def put_back(model: nn.Module) -> Iterator[None]:
    """Move a model back, at the end of a ``with`` block, to the device where it was before it."""
    before = next((parameter.device for parameter in model.parameters()), None)
    try:
        yield
    finally:
        if before is not None:
            with contextlib.suppress(RuntimeError):  # the device is lost: another error says so
                model.to(before)
