"""Models as files describe them: of known types and sizes, whoever wrote the file."""

import contextlib
from pathlib import Path

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

from zoobot.system.errors import UserError

MOST_CHANNELS = 1000
LARGEST_SETTING = 100_000
SPARE_VALUES = 10_000_000  # of a model beyond the bytes of its weights
VALUES_A_TENSOR = 1000  # what a tensor counts for, however small
DEEPEST_SETTING = 8


def check_model(path: str | Path, weights, description) -> None:
    """ValueError unless these are weights by their names, and a description of known types."""
    try:
        _check_model(path, weights, description)
    except RecursionError:
        raise UserError(f"{path} has a description that is nested too deeply") from None


def _check_model(path: str | Path, weights, description) -> None:
    is_sound = isinstance(weights, dict) and isinstance(description, dict)
    if not is_sound or not all(
        isinstance(name, str) and isinstance(weight, torch.Tensor)
        for name, weight in weights.items()
    ):
        raise UserError(f"{path} holds no weights with a description of their model")
    kinds = {"class": str, "encoder": dict, "arguments": dict, "schema": dict, "view": dict}
    kinds |= {"image_size": int, "transform": str, "fits_scaling": str}
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
    channels, kwargs = described.get("channels"), described.get("timm_kwargs")
    return (
        isinstance(described.get("architecture"), str)
        and isinstance(channels, int)
        and 0 < channels <= MOST_CHANNELS
        and isinstance(kwargs, dict)
        and all(isinstance(key, str) for key in kwargs)
        and is_moderate(kwargs)
    )


def is_moderate(value, depth: int = DEEPEST_SETTING) -> bool:
    """Whether no number within a value is so large that a model of it would fill the memory."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return depth > 0 and all(is_moderate(item, depth - 1) for item in value)
    return not isinstance(value, int | float) or abs(value) <= LARGEST_SETTING


@contextlib.contextmanager
def building(path: str | Path):
    """Within this, a model is built as a file or folder describes it, which may be anything.

    Any error becomes a ValueError that names it, and a model that is much larger than what is
    stored is given up before its memory is used.
    """
    files = Path(path).iterdir() if Path(path).is_dir() else [Path(path)]
    most = sum(file.stat().st_size for file in files) + SPARE_VALUES
    values = 0

    def count(module, name, parameter) -> None:
        nonlocal values
        values += 0 if parameter is None else parameter.numel() + VALUES_A_TENSOR
        if values > most:
            raise UserError("a model much larger than its weights")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) and str(path) in str(error):
            raise
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise UserError(f"{path} describes a model that can't be built: {reason:.500}") from error
    finally:
        handle.remove()
