"""The features that an encoder makes of images: their width, and checks of both."""

import re

import torch
from torch import nn

from zoobot.models.wrapped import inside
from zoobot.system.errors import UserError

PROBE_PX = 224
# What torch and timm say where images have a size that an encoder was not built for.
OF_SHAPES = re.compile(r"\b(sizes?|shapes?|dimensions?|channels|divisible|match)\b")


def pooled(encoder: nn.Module, images: torch.Tensor, width: int | None = None) -> torch.Tensor:
    """The features (B, D) of images (B, C, H, W).

    Args:
        width: D, if it is known.

    Raises:
        ValueError: if the encoder can't take images of this size, or makes anything else of them.
    """
    try:
        features = encoder(images)
    except (AssertionError, RuntimeError, ValueError, IndexError) as error:
        if not _is_of_shapes(error):
            raise
        raise UserError(
            f"encoder {_name(encoder)} can't take images of shape {tuple(images.shape[1:])}: "
            f"{reason_of(error)}; give images of another size, or another encoder"
        ) from error
    if not torch.is_tensor(features):
        raise UserError(
            f"encoder {_name(encoder)} gives a {type(features).__name__} for a batch of images, "
            "not one tensor (galaxies, features): wrap it in a module that returns one"
        )
    if features.ndim != 2:
        raise UserError(
            f"the encoder gives {tuple(features.shape)}: it must pool to (galaxies, features), as "
            "timm.create_model(..., num_classes=0) makes it"
        )
    if width is not None and features.shape[1] != width:
        raise UserError(
            f"encoder {_name(encoder)} gives {features.shape[1]} features a galaxy, but says that "
            f"it gives {width}: set its attribute num_features"
        )
    return features


def check_channels(images: torch.Tensor, channels: int) -> None:
    """ValueError unless images (B, C, H, W) have the channels that an encoder takes."""
    if images.shape[1] == channels:
        return
    if channels == 1:
        cure = "set greyscale in the view's config, or channels=1 in the data module"
    else:
        cure = "give channels= to the model, or the bands to the data module (spec=)"
    takes = f"{channels} channel{'s' if channels > 1 else ''}"
    raise UserError(f"the encoder takes {takes}, the images have {images.shape[1]}: {cure}")


def _is_of_shapes(error: Exception) -> bool:
    """Whether the image's size is at fault. Errors of the device and the compiler have subclasses
    of RuntimeError, or other words."""
    if type(error) is AssertionError:  # timm's checks, some without a message
        return True
    return type(error) in (RuntimeError, ValueError, IndexError) and bool(
        OF_SHAPES.search(str(error))
    )


def reason_of(error: Exception, line: int = 0) -> str:
    """A line of an error's text; its type, if it has none."""
    lines = str(error).strip().splitlines() or [f"{type(error).__name__} without a reason"]
    return lines[min(line, len(lines) - 1)].strip()


def _name(encoder: nn.Module) -> str:
    return type(inside(encoder)).__name__


def get_encoder_dim(encoder: nn.Module, channels: int = 3) -> int:
    """Width D of the pooled features: from timm where it knows it, else by encoding one image.

    Raises:
        ValueError: if an image of 224 px does not become features (1, D).
    """
    encoder = inside(encoder)
    for attribute in ("head_hidden_size", "num_features"):
        width = getattr(encoder, attribute, None)  # timm's models have one or the other
        if isinstance(width, int):
            return width
    parameter = next(encoder.parameters(), torch.zeros(1))
    was_training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad():
            image = parameter.new_zeros(1, channels, PROBE_PX, PROBE_PX)
            return pooled(encoder, image).shape[1]
    except UserError as error:
        raise UserError(
            f"{error}; where its width is an attribute num_features, no image is tried"
        ) from error
    finally:
        encoder.train(was_training)
