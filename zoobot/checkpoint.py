"""Checkpoints: one format, written whole or not at all, read without executing anything.

A ``.ckpt`` is a dict of plain types and tensors saved by ``torch.save`` and read with
``weights_only=True``. A ``.safetensors`` holds the weights alone and, in its metadata, all that is
needed to rebuild the model. Both carry a SHA-256 of what they hold, which reading compares.
Lightning's checkpoints of Zoobot 2.x are read, not written.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from zoobot.described_models import check_model
from zoobot.untrusted import check_archive, check_parts, parse_json

FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)  # 1 has no checksum, and no position within an epoch
LEFTOVER = ".partial"
READING_ERRORS = (
    *(safetensors.SafetensorError, OSError, KeyError, ValueError, TypeError),
    *(RuntimeError, MemoryError),
)


def write_whole(path: str | Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then move it into place.

    Readers see the old file or the new one, never a part, also after a power cut.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Made here and by no one else, with the permissions of any new file.
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}{LEFTOVER}")
    os.close(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        write(aside)
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = str(path)  # a full disk does not say for which file
        raise
    finally:
        aside.unlink(missing_ok=True)  # also there if both were names of one file already
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Delete what ``write_whole`` left in a folder when its process was killed."""
    remove(list(folder.glob(f".*{LEFTOVER}")))


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write_whole(path, lambda aside: aside.write_text(text))


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
        ValueError: names a file that is no checkpoint of ours, or not what was written.
    """
    return _checked(path, _unpickle(path))


def _checked(path: str | Path, state) -> dict:
    version = state.get("format_version") if isinstance(state, dict) else None
    if version not in READABLE_VERSIONS:
        raise ValueError(
            f"{path} has checkpoint format {version}; this version reads {FORMAT_VERSION}"
        )
    expected = state.pop("sha256", None)
    try:
        is_sound = version == 1 or digest(state) == expected
    except ValueError as error:
        raise ValueError(f"{path} is no state of training: it holds {error}") from error
    if not is_sound:
        raise ValueError(f"{path} is corrupt: its contents do not have the checksum it tells")
    return state


def digest(value) -> str:
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
            raise ValueError("a tensor that is not plain numbers")
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
        check_archive(path)
        named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        inert = [(_Inert, name) for name in named if name.startswith(LIGHTNING_CLASSES)]
        with torch.serialization.safe_globals(inert):
            state = torch.load(path, map_location="cpu", weights_only=True)
        check_parts(state)
        return state
    except FileNotFoundError:
        raise ValueError(f"no checkpoint {path}") from None
    except Exception as error:  # torch.load raises many kinds for a torn or foreign file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is not a readable checkpoint: {reason}") from error


def load_model(path: str | Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Weights and description of a model: a ``.safetensors`` or ``.ckpt`` of ours, or Lightning's.

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
        elif isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
            weights, description = _read_lightning(path, state)
        else:
            raise ValueError(f"{path} is no checkpoint of this package or of Zoobot 2.x")
    check_model(path, weights, description)
    return weights, description


def _read_lightning(path: str | Path, state: dict) -> tuple[dict[str, torch.Tensor], dict]:
    try:
        weights = {
            _key_without_wrappers(key): value
            for key, value in state["state_dict"].items()
            if torch.is_tensor(value)
        }
        return weights, _describe_lightning(state.get("hyper_parameters") or {})
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} has arguments that are no model's: {error}") from error


def _key_without_wrappers(key: str) -> str:
    """Zoobot 2.x's names as ours: no torch.compile prefix, one name for a tree's linear layer."""
    return key.replace("_orig_mod.", "").replace("head.1.0.", "head.linear.")


def _describe_lightning(hyper_parameters) -> dict:
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


def images_seen(description: dict) -> dict:
    """How images became what the model was shown, where its description tells."""
    keys = ("image_size", "view", "transform", "fits_scaling")
    return {key: description[key] for key in keys if description.get(key) is not None}


def duplicate(path: str | Path, second: str | Path) -> None:
    """Give a finished file a second name: a hard link, or a copy where there are no links."""

    def link_or_copy(aside: Path) -> None:
        aside.unlink()
        try:
            os.link(path, aside)
        except OSError:
            shutil.copyfile(path, aside)

    write_whole(second, link_or_copy)


def save_weights(path: str | Path, state_dict: dict[str, torch.Tensor], description: dict) -> None:
    """Save weights as safetensors, with the model's description in the metadata as JSON."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
    sha256 = _weights_digest(tensors)
    told = {"format_version": FORMAT_VERSION, **description, "sha256": sha256}
    metadata = {"zoobot": json.dumps(told)}
    contents = safetensors.torch.save(tensors, metadata)
    write_whole(path, lambda aside: aside.write_bytes(contents))


def _weights_digest(tensors: dict[str, torch.Tensor]) -> str:
    return digest({name: tensors[name] for name in sorted(tensors)})


def load_weights(path: str | Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Read weights and description back.

    Raises:
        ValueError: names a file that is not one of ours, or not what was written.
    """
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        description = parse_json(metadata["zoobot"])
        if not isinstance(description, dict):
            raise ValueError("its description is no dictionary")
    except FileNotFoundError:
        raise ValueError(f"no weights file {path}") from None
    except READING_ERRORS as error:
        raise ValueError(f"{path} is not a weights file of this package: {error}") from error
    expected = description.pop("sha256", None)
    if expected is not None and _weights_digest(tensors) != expected:
        raise ValueError(f"{path} is corrupt: its weights do not have the checksum it tells")
    return tensors, description


def remove(paths: list[Path]) -> None:
    """Delete files, those that exist."""
    for path in paths:
        path.unlink(missing_ok=True)
