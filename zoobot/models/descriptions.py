"""An encoder's description: ``{"architecture", "channels", "timm_kwargs"}`` in plain types.

It is saved with a model, and enough to build the encoder again without its weights.
"""

import copy
from collections.abc import Iterator

import torch
from torch import nn

from zoobot.models.architectures import NOT_LAYOUT, get_pytorch_encoder
from zoobot.models.arguments import is_plain, plain
from zoobot.system.errors import UserError

PROBES_PX = (64, 96)


def layout(timm_kwargs: dict) -> dict:
    """Those of timm's arguments that shape a model, without those that name weights to load."""
    return {key: value for key, value in timm_kwargs.items() if key not in NOT_LAYOUT}


def describe(architecture: str, channels: int, timm_kwargs: dict) -> dict:
    """What ``build_encoder`` needs, as plain types.

    Raises:
        ValueError: for an argument that is no number, text, list or dict, such as a layer's class.
    """
    kwargs = plain(layout(timm_kwargs))
    for key, value in kwargs.items():
        if not is_plain(value):
            raise UserError(
                f"timm_kwargs {key}={value!r:.80} can't be written to a checkpoint: give a number, "
                "a text such as timm's name of a layer ('gelu'), or a list of these"
            )
    architecture = architecture.partition(".")[0]  # without the name of pretrained weights
    return {"architecture": architecture, "channels": channels, "timm_kwargs": kwargs}


def build_encoder(description: dict) -> nn.Module:
    """The encoder that ``describe`` described, with fresh weights; nothing is downloaded."""
    kwargs = layout(description["timm_kwargs"])
    return get_pytorch_encoder(description["architecture"], description["channels"], **kwargs)


def describe_encoder(encoder: nn.Module, image_size: int | None = None) -> dict | None:
    """A description from which this timm encoder can be built again; None if there's no such.

    It is tried: what is built must have the same weights and, with them, the same features of
    random images, or refuse them too. What acts in training only, such as ``drop_path_rate``, can't
    be seen so.

    Args:
        image_size: side of the images that it is for, in pixels, if known.
    """
    config = timm_config(encoder)
    if not config.get("architecture"):
        return None
    channels = num_channels(encoder) or 3
    given = copy.deepcopy(encoder).cpu().float().eval()
    for kwargs in _likely_kwargs(encoder, image_size):
        description = describe(config["architecture"], channels, kwargs)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            try:
                built = build_encoder(description).eval()
            except UserError:
                continue
            if _shapes(built) != _shapes(given):
                continue
            built.load_state_dict(given.state_dict())
            if _are_same(built, given, channels, image_size, kwargs.get("img_size")):
                return description
    return None


def _likely_kwargs(encoder: nn.Module, image_size: int | None) -> Iterator[dict]:
    """Arguments with which timm may have made an encoder: those that it notes, or guesses."""
    noted = plain(layout(_noted_kwargs(encoder)))
    if is_plain(noted):
        yield noted
    patch_embed = dict(encoder.named_children()).get("patch_embed")
    built_for = getattr(patch_embed, "img_size", None)  # a ViT's size may have been changed since
    sizes = [None, list(built_for) if isinstance(built_for, tuple) else None, image_size]
    for size in sizes:
        for further in ({}, {"dynamic_img_size": True}):
            yield ({"img_size": size} if size else {}) | further


def _are_same(first: nn.Module, second: nn.Module, channels: int, *sizes) -> bool:
    """Whether encoders make the same features of images of these sizes, if known, and others."""
    found = {_compare(first, second, channels, size) for size in (*sizes, *PROBES_PX) if size}
    if found == {None}:
        usual = timm_config(second).get("input_size", PROBES_PX)[-1]
        found = {_compare(first, second, channels, usual)}
    return True in found and False not in found


def _compare(
    first: nn.Module, second: nn.Module, channels: int, size: int | list[int]
) -> bool | None:
    """Whether an image has the same features by both encoders; None if both refuse it."""
    image = torch.rand(1, channels, *([size, size] if isinstance(size, int) else size))
    features, expected = _features_of(first, image), _features_of(second, image)
    if features is None or expected is None:
        return None if features is expected else False
    if features.shape != expected.shape:
        return False
    return torch.allclose(features, expected, rtol=1e-4, atol=1e-5)


def _features_of(encoder: nn.Module, image: torch.Tensor) -> torch.Tensor | None:
    """An image's features; None if the encoder can't take it."""
    try:
        features = encoder(image)
    except Exception:  # of any encoder: only whether both raise is asked
        return None
    return features if torch.is_tensor(features) else None


def num_channels(encoder: nn.Module) -> int | None:
    """How many channels a timm encoder takes; None where it does not tell."""
    if noted := _noted_kwargs(encoder):
        return noted.get("in_chans", 3)
    first = timm_config(encoder).get("first_conv")
    if isinstance(first, (list, tuple)):
        first = next(iter(first), None)  # CSATv2, which has a cosine transform first, has none
    weights = dict(encoder.named_parameters())
    return weights[f"{first}.weight"].shape[1] if f"{first}.weight" in weights else None


def timm_config(encoder: nn.Module) -> dict:
    """What timm says of an encoder that it made; empty for any other module."""
    return getattr(encoder, "pretrained_cfg", None) or {}  # other modules have none


def _noted_kwargs(encoder: nn.Module) -> dict:
    """Arguments with which timm made an encoder, which 1.0.31 and later note; else empty."""
    return getattr(encoder, "_model_args", {})


def _shapes(encoder: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in encoder.state_dict().items()}
