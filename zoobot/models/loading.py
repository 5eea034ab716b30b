"""Loading a model from its checkpoint, with the arguments of Lightning's scripts."""

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from zoobot.data.dataset import ImagesSeen
from zoobot.limits.models import build_bounded
from zoobot.models.hub import model_file
from zoobot.runs import checkpoint
from zoobot.system.errors import UserError

Location = str | torch.device | int | dict | Callable | None


def load_built(
    path: str | Path,
    name: str,
    build: Callable[..., nn.Module],
    overrides: dict,
    map_location: Location = None,
    strict: bool | None = None,
) -> nn.Module:
    """The model of a checkpoint, in evaluation mode.

    Args:
        path: see ``hub.model_file``.
        name: of the model's class.
        build: called with the description and ``overrides``, makes the model with fresh weights.
        map_location: see ``device_of``.
        strict: see ``load_into``.

    Raises:
        ValueError: for a checkpoint of another class, or as ``build`` and the two above say.
    """
    device = device_of(map_location)
    path = model_file(path)
    weights, saved = checkpoint.load_model(path)
    if (found := saved.get("class")) not in (None, name):
        cure = f": use {found}.load_from_checkpoint"
        if found == "ZoobotTree":
            cure = "; finetune from its encoder with zoobot_checkpoint_loc="
        raise UserError(f"{path} holds a {found}, not a {name}{cure}")
    model = build_bounded(path, lambda: build(saved, **overrides), overrides)
    load_into(model, weights, f"{path}, a {name}", strict)
    model.images_seen = ImagesSeen.from_dict(saved)
    return model.to(device).eval()


def load_into(
    model: nn.Module, weights: dict[str, torch.Tensor], where: str, strict: bool | None = None
) -> None:
    """Load weights into a model.

    Args:
        where: what the weights are of, for messages.
        strict: False: names that only the weights or only the model have are left alone, with a
            warning. Else they must be the same.

    Raises:
        ValueError: for names that differ, unless ``strict`` is False; and for another shape.
    """
    if strict is False:
        own = model.state_dict()
        missing = [name for name in own if name not in weights]
        unexpected = [name for name in weights if name not in own]
        for names, fate in ((missing, "not in it, and stay fresh"), (unexpected, "not loaded")):
            if names:
                warnings.warn(
                    f"{where}: {len(names)} weights are {fate} ({', '.join(names[:3])})",
                    stacklevel=3,
                )
        weights = {name: weights.get(name, tensor) for name, tensor in own.items()}
    checkpoint.load_exactly(model, weights, where)


def device_of(location: Location) -> torch.device | None:
    """The device that a ``map_location`` of ``torch.load`` stands for; None for None.

    Files are read onto the CPU. So a function is asked where it moves the CPU's tensors; a dict
    must name one device.

    Raises:
        ValueError: if it stands for no device, or for one that is not there.
    """
    if location is None:
        return None
    try:
        if callable(location):
            moved = location(torch.UntypedStorage(0), "cpu")
            location = "cpu" if moved is None else moved.device
        elif isinstance(location, dict):
            (location,) = set(location.values())
        device = torch.device(location)
        torch.empty(0, device=device)
        return device
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise UserError(
            f"map_location={location!r:.80} is no device of this machine ({error}): give "
            "'cpu' or 'cuda'"
        ) from error
