"""Before training: can the model be built again from what its checkpoints will tell?"""

import json
import warnings
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from zoobot.models.descriptions import PROBES_PX
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
    """Build a model again from its description, load its weights, and compare an image's output.

    Every process does it, on its CPU, one model at a time; all come to the same end. Models that
    are not of this package or a subclass tell how they are built themselves, and are left alone.

    Warns of an encoder that can't be described, and of a subclass that can't be built again: they
    train, and their weights are saved, but to load them takes more than the file.

    Args:
        description: the model's, with ``image_size`` in pixels if it is known.

    Raises:
        ValueError: if a model of this package can't be built again, predicts something else then
            (it was changed after it was made), or can't take its images.
    """
    if not isinstance(model, Describable):
        return
    name = type(model).__name__
    is_ours = type(model).__module__.partition(".")[0] == "zoobot"
    if description.get("encoder") is None:
        warnings.warn(
            "checkpoints can't tell how to build this encoder, so predict.py won't take them: load "
            f"them with {name}.load_from_checkpoint(path, encoder=encoder), with the same module",
            stacklevel=2,
        )
        return
    fault = None
    try:
        with torch.random.fork_rng(devices=[]):
            built = model.build_again(json.loads(json.dumps(description)))
        load_exactly(built, model.state_dict(), f"this {name}")
    except Exception as error:  # of a subclass any
        if is_ours and not isinstance(error, UserError):
            raise
        fault = error
    else:
        size_px = description.get("image_size")
        if size_px:
            with torch.inference_mode():
                pooled(built.eval().encoder, torch.zeros(1, model.channels, size_px, size_px))
        if not _predicts_the_same(model, built, [size_px] if size_px else PROBES_PX):
            fault = UserError("with the same weights it predicts something else")
    if fault is None:
        return
    told = f"this model can't be built again from its checkpoints: {fault}"
    if is_ours:
        raise UserError(
            f"{told}; give a changed encoder as encoder=, and to load_from_checkpoint again"
        ) from fault
    warnings.warn(
        f"{told}; {name} must take the arguments of FinetuneableZoobotAbstract, and pass them on",
        stacklevel=2,
    )


def _predicts_the_same(model: nn.Module, built: nn.Module, sizes_px: Sequence[int]) -> bool:
    """Whether both make the same of a random image, of the first of these sizes that they take."""
    for size_px in sizes_px:
        image = torch.rand(1, model.channels, size_px, size_px, generator=torch.Generator())
        found, expected = _output(built, image), _output(model, image)
        if found is not None and expected is not None:
            return torch.allclose(found, expected, rtol=1e-2, atol=1e-3)
    return True  # they take none of these, or give no tensors


@torch.inference_mode()
def _output(model: nn.Module, image: torch.Tensor) -> torch.Tensor | None:
    """What a model makes of an image, without dropout, on the CPU; None if that is no tensor."""
    was_training = {module: module.training for module in model.modules()}
    for module in was_training:
        module.training = False
    device = next((parameter.device for parameter in model.parameters()), image.device)
    try:
        with torch.compiler.set_stance("force_eager"):
            output = model(image.to(device))
    except UserError:  # of the image's size
        return None
    finally:
        for module, training in was_training.items():
            module.training = training
    return output.float().cpu() if torch.is_tensor(output) else None
