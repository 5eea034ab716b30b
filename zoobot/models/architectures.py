"""timm's architectures: their names, and building one, with a clear error for what timm refuses.

Functions import timm when they are called: it takes two seconds, and ``--help`` does not need it.
"""

import contextlib
from pathlib import Path

import torch
from torch import nn

from zoobot.limits.models import building, is_moderate
from zoobot.limits.text import read_json
from zoobot.limits.weights import check_safetensors
from zoobot.models.features import pooled, reason_of
from zoobot.system.errors import UserError, did_you_mean

HUB_PREFIXES = ("hf_hub:", "hf-hub:")
FOLDER_PREFIX = "local-dir:"
SIMULATED = "simulated"  # the encoder that this package carries
SIMULATED_FOLDER = Path(__file__).parent / "simulated"
NOT_LAYOUT = (
    "pretrained num_classes in_chans checkpoint_path cache_dir pretrained_cfg "
    "pretrained_cfg_overlay pretrained_strict device dtype"
).split()


class NoWeights(UserError):
    """Pretrained weights can't be had.

    Args:
        told: why, and a cure.
        has_fresh: whether to start from fresh weights is another cure.
    """

    def __init__(self, told: str, has_fresh: bool):
        self.told = told
        self.has_fresh = has_fresh
        super().__init__(self.told_with("timm_kwargs={'pretrained': False}"))

    def told_with(self, fresh: str) -> str:
        """The message, with the way to ask for fresh weights: in Python, or an option."""
        if not self.has_fresh:
            return self.told
        return f"{self.told}, or start from fresh weights with {fresh}"


def get_pytorch_encoder(
    architecture_name: str = "convnext_nano", channels: int = 3, **timm_kwargs
) -> nn.Module:
    """A timm encoder without classifier: images (B, channels, H, W) to pooled features (B, D).

    Raises:
        ValueError: if timm has no such encoder (near names are suggested) or refuses the options.
    """
    check_known(architecture_name)
    check_set_elsewhere(timm_kwargs, {"in_chans": channels})
    return create(architecture_name, {"num_classes": 0, **timm_kwargs, "in_chans": channels})


def create(name: str, options: dict) -> nn.Module:
    """``timm.create_model``, with an error that says what is at fault: options, or weights."""
    import timm

    try:
        return timm.create_model(name.replace("hf_hub:", "hf-hub:"), **options)
    except Exception as error:  # huggingface_hub and timm raise many kinds
        if options.get("pretrained"):
            if "loading state_dict" in str(error):
                raise UserError(
                    f"the pretrained weights of {name!r} do not fit {_shown(options)}: "
                    f"{reason_of(error, 1)}"
                ) from error
            if _can_be_built(name, options):
                raise unreachable(name, error) from error
        refused = f"encoder {name!r} refuses {_shown(options)}"
        raise UserError(f"{refused}: {reason_of(error)}") from error


def _can_be_built(name: str, options: dict) -> bool:
    """Whether timm builds this model with fresh weights."""
    try:
        create(name, options | {"pretrained": False})
    except UserError:
        return False
    return True


def _shown(options: dict) -> dict:
    """The options that a user may have given."""
    usual = {"num_classes": 0, "in_chans": 3, "pretrained": options.get("pretrained")}
    return {key: value for key, value in options.items() if (key, value) not in usual.items()}


def check_set_elsewhere(timm_kwargs: dict, values: dict) -> None:
    """ValueError for timm's arguments of which the value is set by an argument of ours."""
    ours = {"in_chans": "greyscale= or channels= sets it", "num_classes": "classes are the head's"}
    for key, value in values.items():
        if timm_kwargs.get(key, value) != value:
            raise UserError(
                f"timm_kwargs {key}={timm_kwargs[key]!r} is not taken, it is {value}: {ours[key]}"
            )


def limited(name: str) -> contextlib.AbstractContextManager[None]:
    """A ``with`` block that bounds the model that a folder of another's describes."""
    if name.startswith(FOLDER_PREFIX):
        return building(name.removeprefix(FOLDER_PREFIX))
    return contextlib.nullcontext()


def check_weights_in(folder: Path) -> None:
    """ValueError if a file of weights in a folder, for timm, has a header over the limits."""
    for path in folder.glob("*.safetensors"):
        try:
            check_safetensors(path)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} can't be read: {error}") from error


def placed(name: str) -> str:
    """Where an encoder is: a folder of this package for ``simulated``, else the name as it is."""
    return f"{FOLDER_PREFIX}{SIMULATED_FOLDER}" if name == SIMULATED else name


def is_outside(name: str) -> bool:
    """True for a folder or a hub repository, as against a name that timm knows."""
    return name.startswith((*HUB_PREFIXES, FOLDER_PREFIX))


def outside_config(name: str) -> tuple[str, dict]:
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


def check_known(name: str) -> None:
    """ValueError, with near names, unless timm has the architecture and the weights of ``a.b``."""
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise UserError(f"timm has no encoder {name!r}{did_you_mean(name, timm.list_models())}")
    if tag and name not in (known := timm.list_models(f"{architecture}.*", pretrained=True)):
        near = did_you_mean(name, known) or f"; it has {', '.join(known) or 'none'}"
        raise UserError(f"timm has no pretrained weights {name!r}{near}")


def _check_outside(architecture, model_args) -> None:
    """ValueError unless these are a name, and arguments that only shape the model."""
    import timm

    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise UserError(f"timm has no encoder {architecture!r:.80}")
    barred = {*NOT_LAYOUT} - {"num_classes", "in_chans"}
    is_layout = isinstance(model_args, dict) and not barred & set(model_args)
    if not is_layout or not is_moderate(model_args):
        raise UserError(f"'model_args' can't be {model_args!r:.80}")


def download(repository: str, file: str) -> str:
    """Where a file of a hub's repository is, once it is had; huggingface_hub's cache serves.

    Args:
        repository: ``OWNER/NAME``, or ``OWNER/NAME@REVISION``.

    Raises:
        ValueError: if it can't be had.
    """
    from huggingface_hub import hf_hub_download

    name, _, revision = repository.partition("@")
    try:
        return hf_hub_download(name, file, **({"revision": revision} if revision else {}))
    except Exception as error:  # huggingface_hub raises many kinds
        raise unreachable(f"hf_hub:{repository}", error) from error


def unreachable(name: str, error: Exception) -> NoWeights:
    """The error for weights that can't be had, with its reason and how to work offline."""
    if name.startswith(HUB_PREFIXES):
        repository = name.partition(":")[2]
        cure = (
            f"to work offline, run 'hf download {repository}' where there is a network and copy "
            f"its cache, or copy the files to a folder and use {FOLDER_PREFIX}FOLDER"
        )
    else:
        cure = f"to work offline, use {FOLDER_PREFIX}FOLDER with weights that you have"
    told = f"the pretrained weights of {name!r} can't be had: {reason_of(error)}; {cure}"
    return NoWeights(told, has_fresh=not is_outside(name))


def image_size_kwargs(name: str, image_size: int) -> dict:
    """timm's ``img_size`` for an encoder that has to be built for the size of its images, else {}.

    Those that timm calls of fixed size (ViT, Swin) are given it; others only if they do not take
    images of this size without it. It is tried, with shapes but without values, on torch's meta
    device, and then, as not all encoders run there, with values.

    Args:
        name: a timm, ``hf_hub:`` or ``local-dir:`` name, or ``simulated``.
        image_size: side of the images in pixels.

    Raises:
        ValueError: if the encoder can't take images of this size either way.
    """
    import timm

    name = placed(name)
    if not is_outside(name):
        check_known(name)
    architecture, model_args = outside_config(name) if is_outside(name) else (name, {})
    architecture = architecture.partition(".")[0]
    config = timm.get_pretrained_cfg(architecture, allow_unregistered=True)
    sized = {"img_size": image_size}
    ways = [sized, {}] if config and config.fixed_input_size else [{}, sized]
    for device in ("meta", "cpu"):
        errors = []
        for kwargs in ways:
            try:
                with limited(name):
                    _try_size(architecture, model_args | kwargs, image_size, device)
                return kwargs
            except Exception as error:  # of timm, of torch, and of the limits
                errors.append(error)
    usual = f"; it was made for {config.input_size[-1]} px" if config else ""
    raise UserError(
        f"encoder {name!r} can't take images of {image_size} px "
        f"({reason_of(errors[0].__cause__ or errors[0])}){usual}"
    )


def _try_size(architecture: str, model_args: dict, image_size: int, device: str) -> None:
    """Build an encoder on a device and encode one image; raises whatever goes wrong."""
    with torch.random.fork_rng(devices=[]), torch.device(device), torch.no_grad():
        encoder = create(architecture, {**model_args, "num_classes": 0}).eval()
        channels = model_args.get("in_chans", 3)
        pooled(encoder, torch.zeros(1, channels, image_size, image_size))
