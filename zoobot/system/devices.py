"""What devices lack: Apple's GPUs (``mps``) have no float64, and safe copies only if waited for."""

import contextlib

import torch


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
