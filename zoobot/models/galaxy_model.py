"""``GalaxyModel``: what all models tell of themselves: their arguments, and where they are."""

import torch
from torch import nn

from zoobot.models.arguments import Arguments, by_name, defaults_of


class GalaxyModel(nn.Module):
    """A module that keeps the arguments that it was made with."""

    def __new__(cls, *args, **kwargs):
        """Note the arguments: a checkpoint keeps those that a subclass has of its own."""
        model = super().__new__(cls)
        model.__dict__["_given"] = by_name(cls, args, kwargs)
        return model

    @property
    def hparams(self) -> Arguments:
        """The arguments that it was made with, defaults included, but for an ``encoder``."""
        known = defaults_of(type(self)) | self._given
        return Arguments({name: value for name, value in known.items() if name != "encoder"})

    @property
    def device(self) -> torch.device:
        """Where its weights are; the CPU if it has none."""
        return next((parameter.device for parameter in self.parameters()), torch.device("cpu"))
