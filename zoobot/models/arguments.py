"""The arguments with which a model was made, by name and as plain types."""

import inspect
from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from zoobot.schemas import Schema
from zoobot.system.errors import UserError, did_you_mean

# Arguments that say where the encoder comes from, or have no effect: no checkpoint needs them.
OF_SOURCE = ("name", "encoder", "zoobot_checkpoint_loc", "timm_kwargs", "fresh_stem")
NOT_KEPT = (*OF_SOURCE, "prog_bar", "visualize_images")


class Arguments(dict):
    """Arguments by name, as keys and as attributes: ``arguments["seed"]``, ``arguments.seed``."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(f"no argument {name!r}: {', '.join(self)}")
        return self[name]


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


def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    """The arguments that a class takes, and through ``**kwargs`` its bases, by name."""
    found = {}
    for base in cls.__mro__[: cls.__mro__.index(nn.Module)]:
        if "__init__" in vars(base):
            parameters = inspect.signature(base.__init__).parameters.values()
            named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
            found = {p.name: p for p in named} | found
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    return {name: parameter for name, parameter in found.items() if name != "self"}


def accepted_by(cls: type) -> set[str]:
    """Names of the arguments that a class takes, and through ``**kwargs`` its bases."""
    return set(_parameters(cls))


def defaults_of(cls: type) -> dict:
    """The arguments of a class and its bases that have a default, and that."""
    parameters = _parameters(cls).items()
    return {name: p.default for name, p in parameters if p.default is not p.empty}


def check_overrides(cls: type, overrides: dict, of_source: Collection[str] = ()) -> None:
    """ValueError for arguments of ``load_from_checkpoint`` that the class does not have.

    Args:
        of_source: arguments that say where the encoder comes from: from the checkpoint.
    """
    known = accepted_by(cls) - {*of_source}
    for name in overrides:
        if name in of_source:
            raise UserError(
                f"{cls.__name__}.load_from_checkpoint takes no {name}=: the checkpoint holds the "
                f"encoder; leave {name} out"
            )
        if name not in known:
            raise UserError(
                f"{cls.__name__} has no argument {name!r}{did_you_mean(name, sorted(known))}"
            )


def known_to(cls: type, arguments: dict) -> dict:
    """Those of a checkpoint's arguments that a class takes, without the encoder's source."""
    known = accepted_by(cls) - {*NOT_KEPT}
    return {name: value for name, value in arguments.items() if name in known}


def kept(given: dict) -> dict:
    """Those of the arguments given that a checkpoint keeps, as plain types."""
    values = {name: plain(value) for name, value in given.items() if name not in NOT_KEPT}
    return {name: value for name, value in values.items() if is_plain(value)}


def unkept(given: dict, arguments: dict) -> dict:
    """Those of the arguments given that are not among the ``arguments`` of a checkpoint."""
    lost = given.keys() - {*NOT_KEPT, *arguments}
    return {name: value for name, value in given.items() if name in lost}


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
