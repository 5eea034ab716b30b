"""Checkpoints: one format, written whole or not at all, read without executing anything.

A ``.ckpt`` is a dict of plain types and tensors saved by ``torch.save`` and read with
``weights_only=True``. A ``.safetensors`` holds the weights alone and, in its metadata, all that is
needed to rebuild the model. Both carry a SHA-256 of what they hold, which reading compares.
Lightning's checkpoints of Zoobot 2.x are read, not written.
"""

import errno
import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from zoobot.data.bands.spec import ImageSpec
from zoobot.limits.memory import check_size
from zoobot.limits.models import check_model, check_storages
from zoobot.limits.pickles import check_torch_file
from zoobot.limits.text import check_parts, parse_json
from zoobot.limits.weights import metadata_in, read_safetensors
from zoobot.system.errors import UserError
from zoobot.system.files import open_to_read, write_whole

FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)  # 1 has no checksum, and no position within an epoch
READING_ERRORS = (
    *(safetensors.SafetensorError, OSError, KeyError, ValueError, TypeError),
    *(RuntimeError, MemoryError),
)
LONGEST_REASON = 120  # characters
UNDER = ("state_dict", "model", "model_state_dict")  # where files of others have their weights
# Errors of the system that tell of the file: damaged, it names places outside itself; a folder.
OF_FILE = (errno.EINVAL, errno.EOVERFLOW, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)


class NoCheckpoint(UserError):
    """There is no such file."""


class NotReadNow(UserError):
    """A file can't be read now, by no fault of its own: a disk, a permission, too little memory."""


def save_checkpoint(path: str | Path, state: dict) -> None:
    """Save a training state: plain types and tensors only."""
    state = {"format_version": FORMAT_VERSION, **state}

    def write(aside: Path) -> None:
        with open(aside, "wb") as file:
            try:
                torch.save({**state, "sha256": digest(state)}, file)
            except RuntimeError as error:  # raised while it closes what could not be written
                raise error.__context__ or error from None

    write_whole(path, write)


def load_checkpoint(path: str | Path) -> dict:
    """Read a training state onto the CPU.

    Raises:
        NoCheckpoint: there is no such file.
        NotReadNow: the file may be whole, but can't be read now.
        ValueError: names a file that is no checkpoint of ours, or not what was written.
    """
    return _checked(path, _unpickle(path))


def _checked(path: str | Path, state) -> dict:
    version = state.get("format_version") if isinstance(state, dict) else None
    if version not in READABLE_VERSIONS:
        raise UserError(
            f"{path} has checkpoint format {version}; this version reads {FORMAT_VERSION}"
        )
    expected = state.pop("sha256", None)
    try:
        is_sound = version == 1 or digest(state) == expected
    except ValueError as error:
        raise UserError(f"{path} is no state of training: it holds {error}") from error
    if not is_sound:
        raise UserError(f"{path} is corrupt: its contents do not have the checksum it tells")
    return state


def digest(value: Any) -> str:
    """SHA-256 of plain types and tensors, however nested: of types, order, shapes and bytes.

    Raises:
        ValueError: for a tensor that is sparse, quantised, or has no values.
    """
    hashed = hashlib.sha256()
    _feed(hashed, value)
    return hashed.hexdigest()


def _feed(hashed, value) -> None:
    if torch.is_tensor(value):
        if value.layout != torch.strided or value.is_meta or value.is_quantized:
            raise UserError("a tensor that is not plain numbers")
        value = value.detach().cpu().contiguous()
        hashed.update(f"{value.dtype}{tuple(value.shape)}".encode())
        hashed.update(value.reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, dict):
        hashed.update(b"{%d" % len(value))
        for key, item in value.items():
            _feed(hashed, key)
            _feed(hashed, item)
    elif isinstance(value, list | tuple):
        hashed.update(b"[%d" % len(value))
        for item in value:
            _feed(hashed, item)
    else:
        hashed.update(f"{type(value).__name__}:{value!r};".encode())


class _Inert:
    """Stands in for a class named in a Lightning checkpoint: holds what it is given, runs nothing.

    ``weights_only`` loading sets its attributes; those of a decision tree are all that is read.
    """

    def __init__(self, *args, **kwargs):
        pass


LIGHTNING_CLASSES = ("zoobot.", "galaxy_datasets.", "lightning.", "pytorch_lightning.")


def _unpickle(path: str | Path) -> object:
    """The contents of a ``torch.save`` file on the CPU; nothing in it is executed."""
    try:
        with open_to_read(path) as file:
            check_size(Path(path))
            inert = [(_Inert, name) for name in check_torch_file(file, LIGHTNING_CLASSES)]
            with torch.serialization.safe_globals(inert):
                state = torch.load(file, map_location="cpu", weights_only=True)
        check_parts(state)
        check_storages(state)
        return state
    except (FileNotFoundError, NotADirectoryError):
        raise NoCheckpoint(f"no checkpoint {path}") from None
    except Exception as error:  # torch.load raises many kinds for a torn or foreign file
        reason = _reason(error)
        if _is_of_system(error):
            raise NotReadNow(f"{path} can't be read now: {reason}") from error
        raise UserError(f"{path} is not a readable checkpoint: {reason}") from error


def _reason(error: BaseException) -> str:
    """Why, in a line. Of what torch tells at length, the first sentence."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    if isinstance(error, UserError | OSError):
        return line
    sentence = line.partition(". ")[0]
    return sentence if len(sentence) <= LONGEST_REASON else f"{sentence[:LONGEST_REASON]}..."


def _is_of_system(error: BaseException) -> bool:
    """Whether the system, not the file, is why the file could not be read."""
    if isinstance(error, PermissionError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno not in (None, *OF_FILE)
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def load_model(path: str | Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Weights and description of a model: a ``.safetensors`` or ``.ckpt`` of ours, or Lightning's.

    Or any file of ``torch.save`` with a model's weights, by their names, in a dict of ``UNDER``.
    A description of Lightning's has ``class`` None, the ``arguments`` with which the model was
    made, where they are plain, and the ``encoder`` if they tell.

    Raises:
        ValueError: for a file that is none of these.
    """
    if str(path).endswith(".safetensors"):
        weights, description = load_weights(path)
    else:
        state = _unpickle(path)
        if isinstance(state, dict) and "format_version" in state:
            state = _checked(path, state)
            weights, description = state.get("model"), state.get("description")
        elif isinstance(state, dict) and (
            names := [n for n in UNDER if isinstance(state.get(n), dict)]
        ):
            weights, description = _read_lightning(path, state, state[names[0]])
        else:
            raise UserError(f"{path} is no checkpoint of this package or of Zoobot 2.x")
    check_model(path, weights, description)
    _check_bands(path, description)
    return weights, description


def _check_bands(path: str | Path, description: dict) -> None:
    """ValueError unless bands that a model's file tells are sound, and as many as its channels."""
    if description.get("bands") is None:
        return
    try:
        num_bands = len(ImageSpec.from_dict(description["bands"]).bands)
    except UserError as error:
        raise UserError(f"{path} describes its bands: {error}") from error
    channels = (description.get("encoder") or {}).get("channels", num_bands)
    if channels != num_bands:
        raise UserError(f"{path} describes {num_bands} bands for an encoder of {channels} channels")


def _read_lightning(
    path: str | Path, state: dict, weights: dict
) -> tuple[dict[str, torch.Tensor], dict]:
    """Weights of encoder and head, without Zoobot 2.x's metrics; and a description."""
    try:
        named = ((_key_without_wrappers(key), x) for key, x in weights.items())
        weights = {key: x for key, x in named if key.startswith(("encoder.", "head."))}
        return weights, _describe_lightning(state.get("hyper_parameters") or {})
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} has arguments that are no model's: {error}") from error


def _key_without_wrappers(key: str) -> str:
    """Zoobot 2.x's names as ours: no wrapper's prefix, one name for a tree's linear layer."""
    key = key.replace("_orig_mod.", "").removeprefix("module.").removeprefix("model.")
    return key.replace("head.1.0.", "head.linear.")


def _describe_lightning(hyper_parameters) -> dict:
    # A dict; or an object of an unknown class, which is an ``_Inert`` with the same attributes.
    arguments = dict(getattr(hyper_parameters, "__dict__", hyper_parameters))
    schema = getattr(arguments.pop("schema", None), "__dict__", {})
    for key in ("question_answer_pairs", "dependencies"):
        if key in schema:
            arguments.setdefault(key, schema[key])
    name = arguments.get("architecture_name") or arguments.get("name") or ""
    architecture = name.rpartition("/")[2].removeprefix("zoobot-encoder-")
    architecture = architecture.removeprefix("greyscale-").partition(".")[0]
    channels = 1 if arguments.get("greyscale") else arguments.get("channels", 3)
    kwargs = {k: v for k, v in (arguments.get("timm_kwargs") or {}).items() if k != "pretrained"}
    encoder = {"architecture": architecture, "channels": channels, "timm_kwargs": kwargs}
    return {
        "class": None,
        "encoder": encoder if architecture else None,
        "arguments": arguments,
    }


def save_weights(path: str | Path, state_dict: dict[str, torch.Tensor], description: dict) -> str:
    """Save weights as safetensors, with the model's description in the metadata as JSON.

    Returns:
        The weights' SHA-256, by which ``weights_digest`` knows them.
    """
    tensors = {  # copies, because safetensors refuses weights that layers share
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in state_dict.items()
    }
    sha256 = weights_digest(tensors)
    told = {"format_version": FORMAT_VERSION, **description, "sha256": sha256}
    metadata = {"zoobot": json.dumps(told)}
    contents = safetensors.torch.save(tensors, metadata)
    write_whole(path, lambda aside: aside.write_bytes(contents))
    return sha256


def weights_digest(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 of weights, whatever their order."""
    return digest({name: tensors[name] for name in sorted(tensors)})


def load_weights(path: str | Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Read weights and description back.

    Raises:
        NotReadNow: the file may be whole, but can't be read now.
        ValueError: names a file that is not one of ours, or not what was written.
    """
    try:
        content = read_safetensors(path)
        tensors = safetensors.torch.load(content)
        description = parse_json(metadata_in(content)["zoobot"])
        del content
        if not isinstance(description, dict):
            raise UserError("its description is no dictionary")
    except FileNotFoundError:
        raise UserError(f"no weights file {path}") from None
    except READING_ERRORS as error:
        if _is_of_system(error):
            raise NotReadNow(f"{path} can't be read now: {error}") from error
        raise UserError(f"{path} is not a weights file of this package: {error}") from error
    expected = description.pop("sha256", None)
    if expected is not None and weights_digest(tensors) != expected:
        raise UserError(f"{path} is corrupt: its weights do not have the checksum it tells")
    return tensors, description


def load_exactly(module: nn.Module, weights: dict[str, torch.Tensor], where: str) -> None:
    """Load weights that must be the module's own, all of them and no others.

    Raises:
        ValueError: names what is missing, left over, or of another shape.
    """
    expected = module.state_dict()
    missing = [key for key in expected if key not in weights]
    unexpected = [key for key in weights if key not in expected]
    reshaped = [
        f"{key} {tuple(weights[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected
        if key in weights and weights[key].shape != expected[key].shape
    ]
    faults = (("missing", missing), ("left over", unexpected), ("of another shape", reshaped))
    told = [f"{len(keys)} {fault} ({', '.join(keys[:3])})" for fault, keys in faults if keys]
    if told:
        raise UserError(f"the weights of {where} do not fit: " + "; ".join(told))
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"the weights of {where} can't be loaded: {reason}") from error
