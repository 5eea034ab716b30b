"""Batches of loaders that are not ours, in the form that the loop takes."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from zoobot.system.errors import UserError

SPARE = 1e-3  # by which rounding may leave 0-1


def as_dict(batch: dict | Sequence, label_cols: list[str]) -> dict:
    """A batch as a dict with ``image``, ``id_str`` as texts, and one entry (B,) a label column.

    Args:
        batch: a dict, or a pair (images, labels). Images are (B, C, H, W), uint8 or floats, in a
            tensor, an array or a list. Labels are numbers: one entry for each column, (B,) or
            (B, 1), in any of these or a Series; or ``labels`` (B, L).
        label_cols: names of the L columns; empty: labels are not looked at.

    Raises:
        ValueError: for another kind of batch, other shapes, or labels that are no numbers.
    """
    if isinstance(batch, list | tuple) and len(batch) == 2:
        images, labels = batch
        batch = {"image": images} | (labels if isinstance(labels, dict) else {"labels": labels})
    if not isinstance(batch, dict) or "image" not in batch:
        raise UserError(
            "it must be a dict with 'image' and the label columns, or a pair of images and "
            f"labels, not {_told(batch)}"
        )
    batch = {key: _plain(value) for key, value in batch.items()}
    batch["image"] = _images(batch["image"])
    if "id_str" in batch:
        ids = batch["id_str"]
        batch["id_str"] = list(map(str, ids.tolist() if torch.is_tensor(ids) else ids))
    if "labels" not in label_cols and "labels" in batch:
        labels = _numbers(batch.pop("labels"), "labels")
        batch |= _columns(labels, batch.pop("label_cols", label_cols))
    for column in filter(batch.__contains__, label_cols):  # a model of its own may read others
        batch[column] = _label(batch, column)
    return batch


def warn_of_range(images: torch.Tensor) -> None:
    """Warn of floats outside 0-1: what a model predicts later would be of other images."""
    if images.is_floating_point():
        low, high = images.aminmax()
        if low < -SPARE or high > 1 + SPARE:
            warnings.warn(
                f"images hold values from {low:.3g} to {high:.3g}: floats should lie within 0-1 "
                "(bytes are divided by 255), as those of predictions will",
                stacklevel=2,
            )


def is_of_galaxies(value: Any, batch: dict) -> bool:
    """Whether an entry of a batch has a value for each galaxy."""
    is_list = isinstance(value, list | tuple) or torch.is_tensor(value) and value.ndim > 0
    return is_list and len(value) == len(batch["image"])


def _plain(value: Any) -> Any:
    """Arrays and Series of numbers as tensors, others as lists; all else as it is."""
    value = value.to_numpy() if isinstance(value, pd.Series) else value
    if not isinstance(value, np.ndarray):
        return value
    return torch.as_tensor(value) if value.dtype.kind in "biuf" else value.tolist()


def _images(images: Any) -> torch.Tensor:
    if isinstance(images, list | tuple) and len({np.shape(image) for image in images}) == 1:
        images = torch.stack([torch.as_tensor(image) for image in images])
    if not torch.is_tensor(images) or images.ndim != 4 or len(images) == 0:
        raise UserError(f"'image' must be (B, C, H, W), not {_told(images)}")
    if images.shape[-1] <= 4 < images.shape[1]:
        raise UserError(
            f"'image' has shape {tuple(images.shape)}: put channels first, (B, C, H, W)"
        )
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise UserError(f"'image' is {images.dtype}: give bytes (uint8), or floats within 0-1")
    return images.float() if images.is_floating_point() else images


def _label(batch: dict, column: str) -> torch.Tensor:
    values = _numbers(batch[column], column)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.shape != (len(batch["image"]),):
        raise UserError(
            f"label column {column!r} has shape {tuple(values.shape)} for {len(batch['image'])} "
            "images: give one number a galaxy"
        )
    return values


def _numbers(values: Any, column: str) -> torch.Tensor:
    """Labels as a tensor."""
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        value = next((v for v in values if not isinstance(v, int | float)), values)
        raise UserError(
            f"label column {column!r} holds {value!r:.80}, which is no number; number the classes "
            "from 0"
        ) from error


def _columns(labels: torch.Tensor, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """Labels (B,) or (B, L) as one entry (B,) for each of L names; nothing without names."""
    labels = labels.reshape(len(labels), -1)
    if names and labels.shape[1] != len(names):
        raise UserError(
            f"labels have shape {tuple(labels.shape)}; the model learns {len(names)} columns: "
            f"{', '.join(names[:10])}"
        )
    return dict(zip(names, labels.unbind(1), strict=False))


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return f"a dict with {[*value][:10]}"
    shape = f" of shape {tuple(value.shape)}" if torch.is_tensor(value) else ""
    return f"a {type(value).__name__}{shape}"
