"""Modules that are given batches rather than images, as Lightning gives them."""

import warnings
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from zoobot.models.wrapped import unwrapped
from zoobot.predictions.models import Predictor


@runtime_checkable
class PredictsSteps(Protocol):
    """A module that predicts a batch its own way, as Lightning's do."""

    def predict_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        """The predictions for a batch."""


class TakesBatches(nn.Module):
    """A module that takes a batch ``{"image": images}``, as one that takes images.

    Its ``predict_step`` is called if it has one of its own (Lightning's calls the module). Else the
    module is called with images, or where it can't take these, with the batch.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module
        self._has_step = isinstance(module, PredictsSteps) and not _is_lightnings(module)
        self._takes_images: bool | None = None  # known from the first batch on

    def forward(self, images: torch.Tensor) -> Any:
        batch = {"image": images}
        if self._has_step:
            return self.module.predict_step(batch, 0)
        if self._takes_images is None:
            return self._first(images, batch)
        return self.module(images if self._takes_images else batch)

    def _first(self, images: torch.Tensor, batch: dict) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Using a non-tuple sequence")  # images["image"]
                outputs = self.module(images)
            self._takes_images = True
        except (AttributeError, LookupError, TypeError) as error:
            try:
                outputs = self.module(batch)
            except (AttributeError, LookupError, TypeError):
                raise error from None  # it takes neither, so it was not the batch that it lacked
            self._takes_images = False
        return outputs


def _is_lightnings(module: nn.Module) -> bool:
    """Whether the module's ``predict_step`` is the one that Lightning gives it."""
    if "predict_step" in vars(module):
        return False
    defined = next(kind for kind in type(module).__mro__ if "predict_step" in vars(kind))
    return defined.__module__.partition(".")[0] in ("lightning", "pytorch_lightning")


def takes_images(model: nn.Module) -> nn.Module:
    """A model as it is, if it is one of this package; any other module so that it takes images."""
    if not isinstance(model, nn.Module) or isinstance(unwrapped(model), Predictor):
        return model
    named = type(type(model).__name__, (TakesBatches,), {})  # the class that messages tell
    return named(model)
