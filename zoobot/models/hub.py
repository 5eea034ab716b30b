"""Find a whole model's file: in a folder, in a run's folder, or on the Hugging Face hub."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from zoobot.limits.text import read_json
from zoobot.models.architectures import (
    FOLDER_PREFIX,
    HUB_PREFIXES,
    SIMULATED,
    NoWeights,
    download,
    is_outside,
)
from zoobot.runs.lines import METRICS
from zoobot.system.errors import UserError

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
RUN_WEIGHTS = "best.safetensors"
ENTRY = "zoobot"  # of a config.json: the description of a whole model


def model_file(source: str | Path) -> Path:
    """The file of a whole model, wherever it is.

    Args:
        source: a ``.safetensors`` or ``.ckpt``; a run's folder, which stands for its
            ``best.safetensors``; a folder that ``save_pretrained`` wrote, with or without
            ``local-dir:``; or ``hf_hub:OWNER/NAME`` (also ``hf_hub:OWNER/NAME@REVISION``), where
            huggingface_hub's cache and its offline mode serve.

    Returns:
        A path. A source that is neither a folder nor on the hub is returned as it is.

    Raises:
        ValueError: for a folder without a model, an encoder without a head, or a repository that
            can't be had.
    """
    name = str(source)
    if name.startswith(HUB_PREFIXES):
        if not _tells_model(_config(name)):
            raise _no_whole_model(name)
        return Path(download(name.partition(":")[2], WEIGHTS_NAME))
    folder = Path(name.removeprefix(FOLDER_PREFIX))
    if not folder.is_dir():
        return folder
    if (folder / RUN_WEIGHTS).is_file():
        return folder / RUN_WEIGHTS
    if not (folder / WEIGHTS_NAME).is_file():
        raise UserError(
            f"the folder {folder} holds no model: neither {RUN_WEIGHTS}, which a run writes after "
            f"its first epoch, nor {WEIGHTS_NAME}, which save_pretrained writes"
        )
    if (folder / CONFIG_NAME).is_file() and not _tells_model(_config(folder)):
        raise _no_whole_model(name)
    return folder / WEIGHTS_NAME


def is_model(source: str | Path) -> bool:
    """Whether this names a whole model, as against an encoder that timm makes.

    A name of timm's, and ``simulated``, is one, also if there is a folder of this name.

    Raises:
        ValueError: for a folder or a repository of which the ``config.json`` can't be read.
    """
    name = str(source)
    if name.endswith((".ckpt", ".safetensors")):
        return True
    if is_outside(name):
        is_run = (Path(name.removeprefix(FOLDER_PREFIX)) / RUN_WEIGHTS).is_file()
        return is_run or _tells_model(_config(name))
    return name != SIMULATED and Path(name).is_dir() and not _is_of_timm(name)


def published_file(name: str, class_name: str) -> Path:
    """The file of a finetuned model in a repository: Zoobot 2.x's ``CLASS.ckpt``, else a model's.

    Args:
        name: ``OWNER/NAME``, or ``hf_hub:OWNER/NAME``.
    """
    repository = name.partition(":")[2] or name
    try:
        return Path(download(repository, f"{class_name}.ckpt"))
    except NoWeights:
        return model_file(f"{HUB_PREFIXES[0]}{repository}")


def _config(source: str | Path) -> Any:
    """What the ``config.json`` of a folder or a repository holds."""
    name = str(source)
    if name.startswith(HUB_PREFIXES):
        path = Path(download(name.partition(":")[2], CONFIG_NAME))
    else:
        path = Path(name.removeprefix(FOLDER_PREFIX)) / CONFIG_NAME
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{source}: {path} can't be read ({type(error).__name__}: {error}); beside a model's "
            f"{WEIGHTS_NAME} there must be its {CONFIG_NAME}"
        ) from error


def _tells_model(config: Any) -> bool:
    return isinstance(config, dict) and isinstance(config.get(ENTRY), dict)


def _no_whole_model(name: str) -> UserError:
    return UserError(
        f"{name} holds no whole model, as save_pretrained writes it. If it holds an encoder, give "
        "it to finetune.py as --encoder, or to predict.py with --representations"
    )


def _is_of_timm(name: str) -> bool:
    import timm  # here: it takes two seconds

    return timm.is_model(name.partition(".")[0])


def check_free(
    folder: Path, names: Sequence[str], is_ours: Callable[[dict], bool], what: str
) -> None:
    """ValueError if a folder holds files of other things that would be written over.

    Args:
        names: of the files that are to be written, ``config.json`` first.
        is_ours: whether a ``config.json`` that is there is of what is to be written.
        what: that is, for the message.
    """
    if (folder / RUN_WEIGHTS).exists() or (folder / METRICS).exists():
        raise UserError(f"{folder} is the folder of a run: give another, such as {folder}-to-share")
    written = [name for name in names if (folder / name).exists()]
    try:
        config = read_json(folder / CONFIG_NAME)
    except (OSError, ValueError):
        config = None
    if written and not (isinstance(config, dict) and is_ours(config)):
        raise UserError(f"{folder / written[0]} is there, and of no {what}: give a new folder")
