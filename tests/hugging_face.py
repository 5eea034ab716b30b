"""Datasets of Hugging Face's package, small and without the net."""

import io

import numpy as np
import pytest
from PIL import Image

datasets = pytest.importorskip("datasets")


def picture(i: int) -> Image.Image:
    """A picture of 24 pixels, brighter for odd numbers, that no other number has."""
    pixels = np.full((24, 24, 3), 60 + 100 * (i % 2), np.uint8)
    pixels[:, :, 0] = i
    return Image.fromarray(pixels)


def png(i: int) -> bytes:
    """The same as a file."""
    file = io.BytesIO()
    picture(i).save(file, "PNG")
    return file.getvalue()


def galaxies(numbers, **columns):
    """A dataset with ``id_str``, ``image``, ``label`` (odd or not), votes, and other columns."""
    numbers = list(numbers)
    rows = {
        "id_str": [f"g{i}" for i in numbers],
        "image": [picture(i) for i in numbers],
        "label": [i % 2 for i in numbers],
        "smooth_yes": [i % 7 for i in numbers],
        "smooth_no": [3 for _ in numbers],
    } | columns
    features = datasets.Dataset.from_dict({k: v for k, v in rows.items() if k != "image"}).features
    features["image"] = datasets.Image()
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))
