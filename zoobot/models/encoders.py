"""Encoders: timm models without classifier, from timm, the hub, a folder or a checkpoint.

An encoder is described by ``{"architecture", "channels", "timm_kwargs"}``, which is enough to build
it again without its weights.

Functions import timm when they are called: it takes two seconds, and ``--help`` does not need it.
"""

import contextlib
import copy
import json
from pathlib import Path

import torch
from torch import nn

from zoobot.limits.models import building, is_moderate
from zoobot.limits.text import read_json
from zoobot.runs import checkpoint
from zoobot.runs.checkpoint import load_exactly
from zoobot.system.errors import UserError, did_you_mean
from zoobot.system.files import write_text

HUB_PREFIXES = ("hf_hub:", "hf-hub:")
FOLDER_PREFIX = "local-dir:"
WEIGHTS_NAME = "model.safetensors"
PROBE_PX = 64
NOT_LAYOUT = (
    "pretrained num_classes in_chans checkpoint_path cache_dir pretrained_cfg "
    "pretrained_cfg_overlay pretrained_strict"
).split()


def get_pytorch_encoder(
    architecture_name: str = "convnext_nano", channels: int = 3, **timm_kwargs
) -> nn.Module:
    """A timm encoder without classifier: images (B, channels, H, W) to pooled features (B, D).

    Raises:
        ValueError: if timm has no such encoder (near names are suggested) or refuses the options.
    """
    import timm

    _check_known(architecture_name)
    timm_kwargs.setdefault("num_classes", 0)
    try:
        return timm.create_model(architecture_name, in_chans=channels, **timm_kwargs)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise UserError(f"encoder {architecture_name!r} refuses {timm_kwargs}: {error}") from error


def get_encoder_dim(encoder: nn.Module, channels: int = 3) -> int:
    """Width D of the pooled features: from timm where it knows it, else by encoding one image."""
    for attribute in ("head_hidden_size", "num_features"):
        width = getattr(encoder, attribute, None)  # timm's models have one or the other
        if isinstance(width, int):
            return width
    parameter = next(encoder.parameters())
    was_training = encoder.training
    encoder.eval()
    with torch.no_grad():
        width = encoder(parameter.new_zeros(1, channels, 224, 224)).shape[-1]
    encoder.train(was_training)
    return width


def num_classes_left(encoder: nn.Module) -> int:
    """Classes of a classifier that a timm model still has; 0 for an encoder."""
    return getattr(encoder, "num_classes", 0)  # other modules need not say


def is_file(name: str) -> bool:
    """True for a checkpoint's path, as against a name that timm takes."""
    return name.endswith((".ckpt", ".safetensors"))


def architecture_of(name: str) -> str:
    """The timm architecture behind a timm, ``hf_hub:`` or ``local-dir:`` name."""
    is_outside = name.startswith((*HUB_PREFIXES, FOLDER_PREFIX))
    return _outside_config(name)[0] if is_outside else name


def _outside_config(name: str) -> tuple[str, dict]:
    """Architecture and model arguments in the ``config.json`` of a folder or a hub repository."""
    if name.startswith(FOLDER_PREFIX):
        path = Path(name.removeprefix(FOLDER_PREFIX)) / "config.json"
        try:
            config = read_json(path)
            architecture, model_args = config["architecture"], config.get("model_args") or {}
            _check_outside(architecture, model_args)
            return architecture, model_args
        except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise UserError(
                f"{name}: {path} can't be read ({type(error).__name__}: {error}); it must be a "
                "timm folder of config.json and model.safetensors"
            ) from error
    from timm.models import load_model_config_from_hf

    try:
        _, architecture, model_args = load_model_config_from_hf(name.partition(":")[2])
    except Exception as error:  # huggingface_hub raises many kinds, by version and by cause
        raise unreachable(name, error) from error
    return architecture, model_args or {}


def _check_known(name: str) -> None:
    """ValueError, with near names, unless timm has the architecture of a name such as ``a.b``."""
    import timm

    if not timm.is_model(name.partition(".")[0]):
        raise UserError(f"timm has no encoder {name!r}{did_you_mean(name, timm.list_models())}")


def _check_outside(architecture, model_args) -> None:
    """ValueError unless these are a name, and arguments that only shape the model."""
    import timm

    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise UserError(f"timm has no encoder {architecture!r:.80}")
    barred = {*NOT_LAYOUT} - {"num_classes", "in_chans"}
    is_layout = isinstance(model_args, dict) and not barred & set(model_args)
    if not is_layout or not is_moderate(model_args):
        raise UserError(f"'model_args' can't be {model_args!r:.80}")


def unreachable(name: str, error: Exception) -> UserError:
    """The error for weights that can't be had, with its reason and how to work offline."""
    reason = (str(error) or type(error).__name__).strip().splitlines()[0]
    if name.startswith(HUB_PREFIXES):
        repository = name.partition(":")[2]
        cure = (
            f"to work offline, run 'hf download {repository}' where there is a network and copy "
            f"its cache, or copy the files to a folder and use {FOLDER_PREFIX}FOLDER"
        )
    else:
        cure = (
            f"to work offline, use {FOLDER_PREFIX}FOLDER with weights that you have, or start "
            f"from fresh weights with encoder=timm.create_model({name!r}, num_classes=0)"
        )
    return UserError(f"the pretrained weights of {name!r} can't be had: {reason}; {cure}")


def load_encoder(name: str, channels: int = 3, **timm_kwargs) -> tuple[nn.Module, dict]:
    """A pretrained encoder from a timm name, ``hf_hub:OWNER/NAME`` or ``local-dir:FOLDER``.

    The hub is asked through huggingface_hub, with its cache and its offline mode (HF_HUB_OFFLINE).

    Returns:
        The encoder, and its description.

    Raises:
        ValueError: for an unknown name, weights that can't be had (the message says how to work
            offline) or that don't fit.
    """
    import timm

    outside = name.startswith((*HUB_PREFIXES, FOLDER_PREFIX))
    if not outside:
        _check_known(name)
    architecture, model_args = _outside_config(name) if outside else (name, {})
    options = {"pretrained": True, **timm_kwargs, "num_classes": 0, "in_chans": channels}
    bounded = contextlib.nullcontext()
    if name.startswith(FOLDER_PREFIX):
        folder = Path(name.removeprefix(FOLDER_PREFIX))
        if options["pretrained"] and not (folder / WEIGHTS_NAME).is_file():
            raise UserError(f"no weights file {folder / WEIGHTS_NAME}; pickles are not read")
        bounded = building(folder)
    try:
        with bounded:
            encoder = timm.create_model(name.replace("hf_hub:", "hf-hub:"), **options)
    except TypeError as error:
        raise UserError(f"encoder {name!r} refuses {timm_kwargs}: {error}") from error
    except Exception as error:  # huggingface_hub and timm raise many kinds
        raise unreachable(name, error) from error
    return encoder, describe(architecture, channels, {**model_args, **timm_kwargs})


def from_one_source(
    sources: dict, channels: int, timm_kwargs: dict
) -> tuple[nn.Module, dict | None, str]:
    """The encoder of a model to finetune, from exactly one of three sources.

    Args:
        sources: ``name`` (see ``load_encoder``), ``encoder`` (a module) and
            ``zoobot_checkpoint_loc`` (a path); two of them None.

    Returns:
        The encoder; its description, None if not known; and where its weights come from, in words.

    Raises:
        ValueError: for another number of sources or channels, or a module that has a classifier.
    """
    given = [key for key, value in sources.items() if value is not None]
    if len(given) != 1:
        told = " and ".join(given) if given else "none"
        raise UserError(f"give exactly one of name, encoder, zoobot_checkpoint_loc, not {told}")
    name, encoder, path = sources.values()
    if encoder is not None:
        description, source = None, "as given"
        if num_classes := num_classes_left(encoder):
            raise UserError(
                f"the encoder still has a classifier of {num_classes} classes: make it with "
                "timm.create_model(..., num_classes=0)"
            )
    elif path is not None:
        encoder, description = encoder_from_checkpoint(path)
        source = f"loaded from {path}"
    else:
        encoder, description = load_encoder(name, channels, **timm_kwargs)
        is_fresh = timm_kwargs.get("pretrained", True) is False
        source = "fresh" if is_fresh else f"loaded from {name}"
    expected = num_channels(encoder) or channels
    if expected != channels:
        asked = f"greyscale={channels == 1} asks for {channels}"
        raise UserError(f"the encoder takes {expected} channels, but {asked}")
    return encoder, description, source


def layout(timm_kwargs: dict) -> dict:
    """Those of timm's arguments that shape a model, without those that name weights to load."""
    return {key: value for key, value in timm_kwargs.items() if key not in NOT_LAYOUT}


def describe(architecture: str, channels: int, timm_kwargs: dict) -> dict:
    """What ``build_encoder`` needs, as plain types."""
    architecture = architecture.partition(".")[0]  # without the name of pretrained weights
    return {
        "architecture": architecture,
        "channels": channels,
        "timm_kwargs": layout(timm_kwargs),
    }


def build_encoder(description: dict) -> nn.Module:
    """The encoder that ``describe`` described, with fresh weights; nothing is downloaded."""
    kwargs = layout(description["timm_kwargs"])
    return get_pytorch_encoder(description["architecture"], description["channels"], **kwargs)


def describe_encoder(encoder: nn.Module) -> dict | None:
    """A description from which this timm encoder can be built again; None if there's no such.

    It is tried: what is built must have the same weights and, with them, the same features of a
    random image. What acts in training only, such as ``drop_path_rate``, can't be seen so.
    """
    config = _timm_config(encoder)
    if not config.get("architecture"):
        return None
    weights = encoder.state_dict()
    channels = num_channels(encoder) or 3
    patch_embed = dict(encoder.named_children()).get("patch_embed")
    image_size = getattr(patch_embed, "img_size", None)  # of a ViT
    for kwargs in ({}, {"img_size": list(image_size)} if image_size else {}):
        description = describe(config["architecture"], channels, kwargs)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            fresh = build_encoder(description)
            if _shapes(fresh.state_dict()) != _shapes(weights):
                continue
            fresh.load_state_dict(weights)
            same = copy.deepcopy(encoder).cpu().eval()
            size_px = kwargs.get("img_size") or (PROBE_PX, PROBE_PX)
            if config.get("fixed_input_size") and not kwargs:
                size_px = config["input_size"][1:]
            image = torch.rand(1, channels, *size_px)
            features, expected = fresh.eval()(image), same(image)
            if features.shape == expected.shape and torch.allclose(features, expected, atol=1e-5):
                return description
    return None


def num_channels(encoder: nn.Module) -> int | None:
    """How many channels a timm encoder takes; None where its configuration does not tell."""
    first_conv = _timm_config(encoder).get("first_conv")
    first = first_conv[0] if isinstance(first_conv, (list, tuple)) else first_conv
    weights = dict(encoder.named_parameters())
    return weights[f"{first}.weight"].shape[1] if f"{first}.weight" in weights else None


def _timm_config(encoder: nn.Module) -> dict:
    """What timm says of an encoder that it made; empty for any other module."""
    return getattr(encoder, "pretrained_cfg", None) or {}  # other modules have none


def _shapes(weights: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weights.items()}


def load_pretrained_zoobot(
    checkpoint_loc: str | Path, architecture: str | None = None
) -> nn.Module:
    """The encoder of a checkpoint: ours (.ckpt, .safetensors) or Zoobot 2.x's (Lightning .ckpt).

    Args:
        architecture: timm name of the encoder, for a file that doesn't tell it.

    Raises:
        ValueError: if the file can't be read, or its encoder is not known or doesn't fit exactly.
    """
    return encoder_from_checkpoint(checkpoint_loc, architecture)[0]


def encoder_from_checkpoint(
    path: str | Path, architecture: str | None = None
) -> tuple[nn.Module, dict]:
    """As ``load_pretrained_zoobot``; also returns the encoder's description."""
    weights, saved = checkpoint.load_model(path)
    description = saved.get("encoder")
    if architecture is not None:
        description = describe(architecture, (description or {}).get("channels", 3), {})
    if description is None:
        raise UserError(
            f"{path} does not tell which encoder it holds: build it with "
            "load_pretrained_zoobot(path, architecture='...') and give it as encoder="
        )
    with building(path):
        encoder = build_encoder(description)
    prefix = "encoder."
    ours = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    load_exactly(encoder, ours, f"{path}, encoder {description['architecture']}")
    return encoder, description


def save_encoder(encoder: nn.Module, folder: str | Path) -> None:
    """Write ``config.json`` and ``model.safetensors``: ``timm.create_model('local-dir:FOLDER',
    pretrained=True, num_classes=0)`` loads them, and so does a Hugging Face hub repository of them.

    Raises:
        ValueError: for an encoder that timm could not build again.
    """
    description = describe_encoder(encoder)
    if description is None:
        raise UserError("only an encoder that timm can build again can be written for timm")
    folder = Path(folder)
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
    checkpoint.save_weights(folder / WEIGHTS_NAME, encoder.state_dict(), {})
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
