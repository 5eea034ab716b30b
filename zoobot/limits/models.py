"""Check the model that an untrusted file describes: its types, and its size while it is built."""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from zoobot.system.errors import UserError

MOST_CHANNELS = 1000
LARGEST_SETTING = 100_000
SPARE_VALUES = 10_000_000  # a model may have so many values more than its file has bytes
VALUES_A_TENSOR = 1000  # added for each tensor, so that many small ones are noticed too
DEEPEST_SETTING = 8  # levels of lists within lists


def check_model(path: str | Path, weights: Any, description: Any) -> None:
    """Check what was read from a model's file.

    Raises:
        ValueError: if ``weights`` is not a dict of tensors by name, or ``description`` is not a
            dict whose entries have the known types and moderate sizes.
    """
    try:
        _check_model(path, weights, description)
    except RecursionError:
        raise UserError(f"{path} has a description that is nested too deeply") from None


def check_storages(state: Any) -> None:
    """ValueError if a tensor of a state has more values than its file, by repeating them.

    Args:
        state: of plain types, which ``check_parts`` accepts, and tensors.
    """
    waiting = [state]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            waiting += each.values()
        elif isinstance(each, list | tuple | set):
            waiting += each
        elif torch.is_tensor(each):
            if each.layout != torch.strided or each.is_meta or each.is_quantized:
                raise UserError("it holds a tensor that is not plain numbers")
            stored = each.untyped_storage().nbytes()
            if each.numel() * each.element_size() > stored:
                shape = tuple(each.shape)
                raise UserError(f"it holds a tensor {shape} of {stored:,} bytes: repeated values")


def _check_model(path: str | Path, weights: Any, description: Any) -> None:
    is_sound = isinstance(weights, dict) and isinstance(description, dict)
    if not is_sound or not all(
        isinstance(name, str) and isinstance(weight, torch.Tensor)
        for name, weight in weights.items()
    ):
        raise UserError(f"{path} holds no weights with a description of their model")
    kinds = {"class": str, "encoder": dict, "arguments": dict, "schema": dict, "view": dict}
    kinds |= {"image_size": int, "transform": str, "fits_scaling": str, "bands": dict}
    for key, kind in kinds.items():
        value = description.get(key)
        if value is not None and not isinstance(value, kind):
            raise UserError(
                f"{path} describes its {key} by {value!r:.80}, not by a {kind.__name__}"
            )
    num_classes = (description.get("arguments") or {}).get("num_classes")
    if not is_moderate(num_classes):
        raise UserError(f"{path} describes a model of {num_classes!r:.40} classes")
    encoder = description.get("encoder")
    if encoder is not None and not _is_encoder(encoder):
        raise UserError(
            f"{path} describes its encoder by {encoder!r:.200}: it must hold the architecture's "
            "name, the number of channels, and timm's arguments, with moderate numbers"
        )


def _is_encoder(described: dict) -> bool:
    """Whether an encoder's description has the known types and moderate numbers."""
    channels, kwargs = described.get("channels"), described.get("timm_kwargs")
    return (
        isinstance(described.get("architecture"), str)
        and isinstance(channels, int)
        and 0 < channels <= MOST_CHANNELS
        and isinstance(kwargs, dict)
        and all(isinstance(key, str) for key in kwargs)
        and is_moderate(kwargs)
    )


def is_moderate(value: Any, depth: int = DEEPEST_SETTING) -> bool:
    """Whether all numbers in a value are at most ``LARGEST_SETTING``.

    Args:
        value: a number, or lists and dicts of numbers; other types are accepted.
        depth: how many levels of lists and dicts are allowed.
    """
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return depth > 0 and all(is_moderate(item, depth - 1) for item in value)
    return not isinstance(value, int | float) or abs(value) <= LARGEST_SETTING


def build_bounded(
    path: str | Path,
    build: Callable[[], nn.Module],
    given: Collection[str] = (),
    trial: Callable[[], nn.Module] | None = None,
) -> nn.Module:
    """The model that an untrusted file or folder describes.

    It is built on torch's meta device first, where values take no memory, and its values are
    counted. Some architectures can't be built there; of these, the values are counted while the
    model is built.

    Args:
        build: builds it.
        given: see ``building``.
        trial: builds it on the meta device, where no weights can be loaded; None: as ``build``.

    Raises:
        ValueError: see ``building``.
    """
    with building(path, given) as counted:
        try:
            with torch.device("meta"):
                (trial or build)()
        except Exception:  # what is wrong with the model itself, ``build`` tells
            if counted.is_over:
                raise
        counted.values = 0
        return build()


@dataclasses.dataclass
class _Counted:
    """The values of a model while it is built, and how many there may be."""

    most: int
    values: int = 0
    is_over: bool = False

    def add(self, tensor: torch.Tensor) -> None:
        self.values += tensor.numel() + VALUES_A_TENSOR
        if self.values > self.most:
            self.is_over = True
            raise UserError("a model much larger than its weights")


@contextlib.contextmanager
def building(path: str | Path, given: Collection[str] = ()) -> Iterator[_Counted]:
    """In this ``with`` block, build the model that an untrusted file or folder describes.

    The model's values, parameters and buffers, are counted while it is built, and building stops as
    soon as there are many more of them than the file has bytes. Any error becomes a ValueError that
    names the file, and the arguments that were ``given`` beside it.

    A plain check does not serve. The number of values is known only once timm has built the model,
    and building can take too long: 20,000 ConvNeXt blocks, which a few bytes describe, take 2
    minutes and 0.6 GB even on the meta device. So the count is made in torch's hooks for new
    parameters and buffers. They are global; what other threads register is not counted.
    """
    files = Path(path).iterdir() if Path(path).is_dir() else [Path(path)]
    counted = _Counted(sum(file.stat().st_size for file in files) + SPARE_VALUES)
    thread = threading.get_ident()

    def count(module: nn.Module, name: str, tensor: torch.Tensor | None) -> None:
        if tensor is not None and threading.get_ident() == thread:
            counted.add(tensor)

    hooks = (register_module_parameter_registration_hook, register_module_buffer_registration_hook)
    handles = [register(count) for register in hooks]
    try:
        yield counted
    except Exception as error:
        if isinstance(error, UserError) and str(path) in str(error):
            raise
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        beside = f" with {', '.join(given)} as given" if given else ""
        raise UserError(
            f"{path} describes a model that can't be built{beside}: {reason:.500}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
