"""Plain data and tensors as bytes, for other processes: JSON and safetensors, never a pickle."""

import json
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save

TENSOR = "\0tensor"  # the key of a dict that stands for a tensor
TEXT = "text"


def pack(value: Any) -> torch.Tensor:
    """The value as bytes: uint8 (N,), on the CPU.

    Args:
        value: None, booleans, numbers and texts, in lists and in dicts whose keys are texts; and
            tensors or arrays. Tuples become lists, arrays tensors, and all tensors are on the CPU.

    Raises:
        TypeError: for anything else.
    """
    tensors: dict[str, torch.Tensor] = {}

    def stand_in(found: Any) -> dict:
        if isinstance(found, np.ndarray):
            found = torch.from_numpy(found)
        if not isinstance(found, torch.Tensor):
            raise TypeError(f"{type(found).__name__} can't be sent to other processes")
        name = str(len(tensors))
        tensors[name] = found.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {TENSOR: name}

    _check_keys(value)
    text = json.dumps(value, default=stand_in)
    tensors[TEXT] = _as_tensor(text.encode())
    return _as_tensor(save(tensors))


def unpack(data: torch.Tensor) -> Any:
    """The value that ``pack`` made into bytes."""
    tensors = load(data.numpy().tobytes())
    text = tensors[TEXT].numpy().tobytes()
    return json.loads(text, object_hook=lambda x: tensors[x[TENSOR]] if TENSOR in x else x)


def _check_keys(value: Any) -> None:
    """TypeError for a dict with other keys than texts, which JSON would make into texts."""
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} can't be sent to other processes: send pairs")
        value = [*value.values()]
    if isinstance(value, list | tuple):
        for item in value:
            _check_keys(item)


def _as_tensor(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
