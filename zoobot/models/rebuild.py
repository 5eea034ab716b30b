"""Before training: can the model be built again from what its checkpoints will tell?"""

import json
import warnings
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from zoobot.models.features import pooled
from zoobot.models.finetune import (
    FinetuneableZoobotClassifier,
    FinetuneableZoobotRegressor,
    FinetuneableZoobotTree,
)
from zoobot.models.tree import ZoobotTree
from zoobot.runs.checkpoint import load_exactly
from zoobot.system.errors import UserError

MODELS = {  # by the name that a checkpoint tells
    model.__name__: model
    for model in (
        ZoobotTree,
        FinetuneableZoobotClassifier,
        FinetuneableZoobotRegressor,
        FinetuneableZoobotTree,
    )
}


@runtime_checkable
class Describable(Protocol):
    """A model that can be built again from its description. This package's models can.

    Attributes:
        channels: of the images.
    """

    channels: int

    def build_again(self, described: dict) -> nn.Module:
        """Another model as ``describe`` described it, with fresh weights."""


def check_rebuilds(model: nn.Module, description: dict) -> None:
    """Build a model again from its description, load its weights, and encode an image.

    Every process does it, on its CPU, one model at a time; all come to the same end. Models that
    are not of this package or a subclass tell how they are built themselves, and are left alone.

    Warns of an encoder that can't be described, and of a subclass that can't be built again: they
    train, and their weights are saved, but to load them takes more than the file.

    Args:
        description: the model's, with ``image_size`` in pixels if it is known.

    Raises:
        ValueError: if a model of this package can't be built again, or can't take its images.
    """
    if not isinstance(model, Describable):
        return
    name = type(model).__name__
    if description.get("encoder") is None:
        warnings.warn(
            "checkpoints can't tell how to build this encoder, so predict.py won't take them: load "
            f"them with {name}.load_from_checkpoint(path, encoder=encoder), with the same module",
            stacklevel=2,
        )
        return
    try:
        with torch.random.fork_rng(devices=[]):
            built = model.build_again(json.loads(json.dumps(description)))
        load_exactly(built, model.state_dict(), f"this {name}")
    except Exception as error:  # of a subclass any
        told = f"this model can't be built again from its checkpoints: {error}"
        if type(model) in MODELS.values():
            raise UserError(
                f"{told}; give a changed encoder as encoder=, and to load_from_checkpoint again"
            ) from error
        warnings.warn(
            f"{told}; {name} must take the arguments of FinetuneableZoobotAbstract, and pass "
            "them on",
            stacklevel=2,
        )
        return
    if size_px := description.get("image_size"):
        with torch.inference_mode():
            pooled(built.eval().encoder, torch.zeros(1, model.channels, size_px, size_px))
