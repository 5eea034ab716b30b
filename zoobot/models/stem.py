"""An encoder's stem, its first convolution, for images of another number of channels.

Pretrained weights of 1 or 3 channels are spread over any number as timm does it: they are repeated,
and scaled so that an image with the same values in all channels gives what it gave before.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from zoobot.models.descriptions import build_encoder, timm_config
from zoobot.system.errors import UserError

CAN_ADAPT = (1, 3)  # channels of the pretrained weights


def stem_names(encoder: nn.Module) -> list[str]:
    """Names of the parameters of an encoder's first convolution; none where timm does not tell."""
    first = timm_config(encoder).get("first_conv") or ()
    first = [first] if isinstance(first, str) else list(first)
    return [name for name, _ in encoder.named_parameters() if name.rpartition(".")[0] in set(first)]


def check_can_adapt(before: int, now: int, source: str) -> None:
    """ValueError unless pretrained weights of ``before`` channels can be spread over ``now``."""
    if before != now and before not in CAN_ADAPT:
        raise UserError(
            f"{source} takes {before} channels, the images have {now}: only stems of 1 or 3 can be "
            "adapted; --fresh-stem (fresh_stem=True) starts this one afresh"
        )


def adapted(weights: dict[str, torch.Tensor], encoder: nn.Module) -> dict[str, torch.Tensor]:
    """An encoder's weights, their stem's spread over the channels that ``encoder`` takes.

    Args:
        weights: of the same encoder for images of 1 or 3 channels.

    Raises:
        ValueError: the stem is no convolution that can be adapted.
    """
    found = dict(weights)
    own = encoder.state_dict()
    others = [k for k, v in weights.items() if k in own and own[k].shape != v.shape]
    for name in others:
        before, now = weights[name], own[name]
        is_stem = name in stem_names(encoder) and before.ndim == 4
        if not is_stem or before.shape[1] not in CAN_ADAPT:
            raise UserError(
                f"{name} of {tuple(before.shape)} can't be adapted to {tuple(now.shape)}: "
                "--fresh-stem (fresh_stem=True) starts the stem afresh"
            )
        num_before, num = before.shape[1], now.shape[1]
        if num == 1:
            found[name] = before.sum(1, keepdim=True)
        else:
            repeated = before.repeat(1, -(-num // num_before), 1, 1)[:, :num]
            found[name] = repeated * (num_before / num)
    return found


def fresh_stem(encoder: nn.Module, description: dict, seed: int) -> dict[str, torch.Tensor]:
    """Fresh weights of an encoder's stem, drawn from a seed; torch's generator stays as it was.

    Raises:
        ValueError: timm does not tell which layer is the first.
    """
    names = stem_names(encoder)
    if not names:
        raise UserError(
            f"encoder {description['architecture']} does not tell its first layer, so that "
            "--fresh-stem (fresh_stem=True) can't start it afresh"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weights = build_encoder(description).state_dict()
    return {name: weights[name] for name in names}


def rates_of_stem(encoder: nn.Module, learning_rate: float | None) -> dict[str, float]:
    """Learning rates of the stem's parameters, by name; none if it has no rate of its own.

    Raises:
        ValueError: timm does not tell which layer is the first.
    """
    if learning_rate is None:
        return {}
    if names := stem_names(encoder):
        return dict.fromkeys(names, learning_rate)
    raise UserError("this encoder does not tell its first layer: leave stem_learning_rate out")


def channels_of(channels: int | None, greyscale: bool) -> int:
    """Channels of a model's images: those given, or 3, or 1 if ``greyscale``."""
    if channels is not None and (channels < 1 or (greyscale and channels != 1)):
        raise UserError(f"channels={channels}: give 1 or more, or greyscale=True for 1")
    return channels or (1 if greyscale else 3)


def channels_before(encoder: nn.Module) -> int:
    """Channels of the images that timm's pretrained weights of an encoder were made for."""
    return (timm_config(encoder).get("input_size") or (3,))[0]


def warn_of_frozen_stem(channels: int) -> None:
    """Warn that a stem that was adapted will not be trained."""
    warnings.warn(
        f"the encoder's stem was adapted to {channels} channels, and is not trained on them, which "
        "makes poor features: finetune all of it (training_mode 'full')",
        stacklevel=3,
    )


def check_stem_options(
    sources: Mapping[str, Any], training_mode: str, is_fresh: bool, learning_rate: float | None
) -> None:
    """ValueError for options of the stem that would have no effect, or spoil the encoder.

    Args:
        sources: see ``encoders.from_one_source``.
    """
    if is_fresh and sources["encoder"] is not None:
        raise UserError("fresh_stem goes with name= or zoobot_checkpoint_loc=, not with encoder=")
    if training_mode == "head_only" and (is_fresh or learning_rate is not None):
        told = "fresh_stem" if is_fresh else "stem_learning_rate"
        raise UserError(
            f"{told} needs training_mode 'full': with 'head_only' the stem is frozen as it is"
        )
