"""Encoders to finetune: from timm, the hub, a folder, a checkpoint, or of the user's own.

Functions import timm when they are called: it takes two seconds, and ``--help`` does not need it.
"""

import json
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from zoobot.limits.models import build_bounded
from zoobot.models.architectures import (
    FOLDER_PREFIX,
    check_known,
    check_set_elsewhere,
    check_weights_in,
    create,
    is_outside,
    outside_config,
    placed,
)
from zoobot.models.descriptions import (
    build_encoder,
    describe,
    describe_encoder,
    num_channels,
)
from zoobot.models.features import get_encoder_dim
from zoobot.models.hub import CONFIG_NAME, WEIGHTS_NAME, check_free, is_model, model_file
from zoobot.models.loading import load_into
from zoobot.models.stem import adapted, channels_before, check_can_adapt, fresh_stem
from zoobot.models.wrapped import unwrapped
from zoobot.runs import checkpoint
from zoobot.system.errors import UserError
from zoobot.system.files import write_text

SAVED = {"architecture", "num_classes", "num_features", "pretrained_cfg", "model_args"}


def num_classes_left(encoder: nn.Module) -> int:
    """Classes of a classifier that a timm model still has; 0 for an encoder."""
    return getattr(encoder, "num_classes", 0)  # other modules need not say


def load_encoder(name: str, channels: int = 3, **timm_kwargs) -> tuple[nn.Module, dict]:
    """An encoder from a timm name, ``hf_hub:OWNER/NAME``, ``local-dir:FOLDER``, or ``simulated``.

    The last is in this package, small and trained on simulated galaxies. The hub is asked through
    huggingface_hub, with its cache and its offline mode (HF_HUB_OFFLINE).

    Args:
        timm_kwargs: of ``timm.create_model``; with ``pretrained=False`` the weights are fresh.

    Returns:
        The encoder, and its description.

    Raises:
        ValueError: for an unknown name, options that timm refuses, or weights that can't be had
            (the message says how to work offline) or don't fit.
    """
    name = placed(name)
    check_set_elsewhere(timm_kwargs, {"in_chans": channels, "num_classes": 0})
    if not is_outside(name):
        check_known(name)
    architecture, model_args = outside_config(name) if is_outside(name) else (name, {})
    description = describe(architecture, channels, {**model_args, **timm_kwargs})
    options = {"pretrained": True, **timm_kwargs, "num_classes": 0, "in_chans": channels}
    if name.startswith(FOLDER_PREFIX):
        weights = Path(name.removeprefix(FOLDER_PREFIX)) / WEIGHTS_NAME
        if options["pretrained"] and not weights.is_file():
            raise UserError(f"no weights file {weights}; pickles are not read")
        check_weights_in(weights.parent)
        fresh = options | {"pretrained": False}
        encoder = build_bounded(
            weights.parent, lambda: create(name, options), trial=lambda: create(name, fresh)
        )
        return encoder, description
    return create(name, options), description


class Source(NamedTuple):
    """An encoder to finetune, and where it is from.

    Attributes:
        description: see ``descriptions.describe``; None if it is not known.
        told: where its weights come from, in words.
        bands: an ``ImageSpec`` as plain types, if it was trained on bands, and knows them.
        is_adapted: whether its stem was adapted to the number of channels.
    """

    encoder: nn.Module
    description: dict | None
    told: str
    bands: dict | None = None
    is_adapted: bool = False


def from_one_source(
    sources: dict, channels: int, timm_kwargs: dict, fresh_stem_seed: int | None = None
) -> Source:
    """The encoder of a model to finetune, from exactly one of three sources.

    Args:
        sources: ``name`` (see ``load_encoder``; or of a whole model, see ``hub.model_file``),
            ``encoder`` (a module) and ``zoobot_checkpoint_loc`` (as ``hub.model_file`` takes it);
            two of them None.
        channels: that the encoder is to take; see ``zoobot.models.stem``.
        timm_kwargs: with ``name``.
        fresh_stem_seed: start the stem afresh, with weights drawn from this seed.

    Raises:
        ValueError: for another number of sources or channels, timm_kwargs without a name, or a
            module that has a classifier.
    """
    given = [key for key, value in sources.items() if value is not None]
    if len(given) != 1:
        told = " and ".join(given) if given else "none"
        raise UserError(f"give exactly one of name, encoder, zoobot_checkpoint_loc, not {told}")
    name, encoder, path = sources.values()
    if name is not None and is_model(name):
        if timm_kwargs:
            raise UserError(
                f"timm_kwargs {timm_kwargs} go with an encoder's name, but {name} is a whole "
                "model, which tells how its encoder is built: leave them out"
            )
        name, path = None, name
    if timm_kwargs and name is None:
        raise UserError(f"timm_kwargs {timm_kwargs} go with name=, not with {given[0]}=")
    if encoder is not None:
        encoder = _as_given(encoder)
        if (found := num_channels(encoder) or channels) != channels:
            raise UserError(
                f"the encoder takes {found} channels, but {channels} are asked for: give "
                "channels=, or greyscale=True for 1"
            )
        return Source(encoder, None, "as given")
    bands = None
    if path is not None:
        encoder, description, before, bands = _from_checkpoint(path, channels, fresh_stem_seed)
        told = f"loaded from {path}"
    elif timm_kwargs.get("pretrained", True) is False:
        return Source(*load_encoder(name, channels, **timm_kwargs), "fresh")
    else:
        encoder, description = load_encoder(name, channels, **timm_kwargs)
        before = channels_before(encoder)
        if fresh_stem_seed is None:
            check_can_adapt(before, channels, name)
        told = f"loaded from {name}"
    if fresh_stem_seed is not None:
        fresh = fresh_stem(encoder, description, fresh_stem_seed)
        encoder.load_state_dict(fresh, strict=False)
        return Source(encoder, description, f"{told}, its stem fresh")
    if before != channels:
        told += f", its stem adapted from {before} to {channels} channels"
    return Source(encoder, description, told, bands, before != channels)


def _from_checkpoint(
    path: str | Path, channels: int, fresh_stem_seed: int | None
) -> tuple[nn.Module, dict, int, dict | None]:
    """An encoder for so many channels, its description, channels before, and bands if known."""
    path = model_file(path)
    weights, saved = checkpoint.load_model(path)
    description = _described(path, saved)
    before = description["channels"]
    if before == channels:
        return *encoder_from_checkpoint(path), before, saved.get("bands")
    if fresh_stem_seed is None:
        check_can_adapt(before, channels, path)
    description = description | {"channels": channels}
    encoder = build_bounded(path, lambda: build_encoder(description))
    if fresh_stem_seed is None:
        ours = adapted(_of_encoder(weights), encoder)
    else:
        ours = _of_encoder(weights) | fresh_stem(encoder, description, fresh_stem_seed)
    load_into(encoder, ours, f"{path}, encoder {description['architecture']}")
    return encoder, description, before, saved.get("bands")


def _as_given(encoder: nn.Module) -> nn.Module:
    """A user's module, unwrapped; ValueError if it is none, not float32, or has a classifier."""
    if not isinstance(encoder, nn.Module):
        raise UserError(
            f"encoder={encoder!r:.80} is no torch module; the name of an encoder goes into name="
        )
    encoder = unwrapped(encoder)
    others = {p.dtype for p in encoder.parameters() if p.is_floating_point()} - {torch.float32}
    if others:
        raise UserError(
            f"the encoder's weights are {others.pop()}: give encoder.float(); --precision (of a "
            "trainer precision=) is what it computes in"
        )
    if num_classes := num_classes_left(encoder):
        raise UserError(
            f"the encoder still has a classifier of {num_classes} classes: make it with "
            "timm.create_model(..., num_classes=0)"
        )
    return encoder


def load_pretrained_zoobot(
    checkpoint_loc: str | Path, architecture: str | None = None
) -> nn.Module:
    """The encoder of a checkpoint: ours (.ckpt, .safetensors) or Zoobot 2.x's (Lightning .ckpt).

    Args:
        checkpoint_loc: see ``hub.model_file``.
        architecture: timm name of the encoder, for a file that doesn't tell it.

    Raises:
        ValueError: if the file can't be read, or its encoder is not known or doesn't fit exactly.
    """
    return encoder_from_checkpoint(checkpoint_loc, architecture)[0]


def encoder_from_checkpoint(
    path: str | Path, architecture: str | None = None, strict: bool | None = None
) -> tuple[nn.Module, dict]:
    """As ``load_pretrained_zoobot``; also returns the encoder's description.

    Args:
        strict: see ``loading.load_into``.
    """
    path = model_file(path)
    weights, saved = checkpoint.load_model(path)
    description = _described(path, saved, architecture)
    encoder = build_bounded(path, lambda: build_encoder(description))
    where = f"{path}, encoder {description['architecture']}"
    load_into(encoder, _of_encoder(weights), where, strict)
    return encoder, description


def _described(path: str | Path, saved: dict, architecture: str | None = None) -> dict:
    """The encoder's description in that of a checkpoint, or of the architecture given."""
    description = saved.get("encoder")
    if architecture is not None:
        description = describe(architecture, (description or {}).get("channels", 3), {})
    if description is None:
        raise UserError(
            f"{path} does not tell which encoder it holds: build it with "
            "load_pretrained_zoobot(path, architecture='...') and give it as encoder="
        )
    return description


def _of_encoder(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A model's weights that are its encoder's, by the encoder's names."""
    prefix = "encoder."
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def save_encoder(encoder: nn.Module, folder: str | Path) -> None:
    """Write ``config.json`` and ``model.safetensors``: ``timm.create_model('local-dir:FOLDER',
    pretrained=True, num_classes=0)`` loads them, and so does a Hugging Face hub repository of them.

    An encoder that was written there before is replaced.

    Raises:
        ValueError: for an encoder that timm could not build again, or a folder that holds something
            else.
    """
    encoder = unwrapped(encoder)
    description = describe_encoder(encoder)
    if description is None:
        raise UserError("only an encoder that timm can build again can be written for timm")
    folder = Path(folder)
    check_free(folder, (CONFIG_NAME, WEIGHTS_NAME), _is_saved, "encoder of save_encoder")
    pretrained_cfg = encoder.pretrained_cfg
    size_px = description["timm_kwargs"].get("img_size", pretrained_cfg["input_size"][1:])
    config = {
        "architecture": description["architecture"],
        "num_classes": 0,
        "num_features": get_encoder_dim(encoder),
        "pretrained_cfg": {
            "num_classes": 0,
            "input_size": [description["channels"], *size_px],
            "fixed_input_size": bool(pretrained_cfg.get("fixed_input_size")),
            "first_conv": pretrained_cfg.get("first_conv"),
            "classifier": pretrained_cfg.get("classifier"),
        },
        "model_args": description["timm_kwargs"] | {"in_chans": description["channels"]},
    }
    write_text(folder / CONFIG_NAME, json.dumps(config, indent=2) + "\n")
    checkpoint.save_weights(folder / WEIGHTS_NAME, encoder.state_dict(), {})


def _is_saved(config: dict) -> bool:
    """Whether ``save_encoder`` wrote it; others of timm have other entries too."""
    return config.keys() == SAVED
