"""The arguments with which a model was made, by name and as plain types."""

import inspect
from typing import Any

import numpy as np
import pandas as pd
import torch

from zoobot.schemas import Schema


def by_name(cls: type, args: tuple, kwargs: dict) -> dict:
    """Arguments of a class by their names, those of ``**kwargs`` too."""
    signature = inspect.signature(cls.__init__)
    try:
        bound = signature.bind_partial(None, *args, **kwargs).arguments
    except TypeError:  # __init__ says what is wrong
        return {}
    named = {}
    for name, value in list(bound.items())[1:]:  # without self
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            named |= value
        elif kind is not inspect.Parameter.VAR_POSITIONAL:  # its own class names those
            named[name] = value
    return named


def plain(value: Any) -> Any:
    """Arrays and tensors as lists, NumPy's numbers as Python's, a tree as a dict."""
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic | torch.Tensor | pd.Series):
        return value.tolist()
    return value.to_dict() if isinstance(value, Schema) else value


def is_plain(value: Any) -> bool:
    """Whether a value is a number, text, bool or None, or lists and dicts of these."""
    if isinstance(value, list | dict):
        return all(map(is_plain, value.values() if isinstance(value, dict) else value))
    return isinstance(value, str | int | float | bool | None)
