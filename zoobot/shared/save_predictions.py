"""Write predictions, as Zoobot 2.x's functions did; see ``zoobot.predictions.files``."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from zoobot.predictions.files import Predictions, check_save_loc, write_predictions
from zoobot.system.errors import UserError


def predictions_to_hdf5(
    predictions: ArrayLike, id_str: Sequence[str], label_cols: Sequence[str], save_loc: str | Path
) -> None:
    """Write an HDF5 file: ``predictions`` (N, A, S), ``id_str`` and ``label_cols``.

    Args:
        predictions: (N, A), or (N, A, S) of S forward passes.
        id_str, label_cols: names of the N galaxies, and of the A columns.

    Raises:
        ValueError: for other shapes, or a file's name that ends otherwise.
    """
    _write(predictions, id_str, label_cols, save_loc, (".hdf5", ".h5"))


def predictions_to_csv(
    predictions: ArrayLike, id_str: Sequence[str], label_cols: Sequence[str], save_loc: str | Path
) -> None:
    """Write a CSV file: ``id_str`` and the columns; see ``predictions_to_hdf5``."""
    _write(predictions, id_str, label_cols, save_loc, (".csv",))


def _write(predictions, id_str, label_cols, save_loc, suffixes: tuple[str, ...]) -> None:
    path, values = check_save_loc(save_loc), np.asarray(predictions, dtype=np.float32)
    if path.suffix not in suffixes:
        raise UserError(f"{path}: end the name with {suffixes[0]}")
    values = values[..., None] if values.ndim == 2 else values
    if values.ndim != 3 or values.shape[:2] != (len(id_str), len(label_cols)):
        raise UserError(
            f"predictions have shape {values.shape} for {len(id_str)} galaxies and "
            f"{len(label_cols)} columns: give (galaxies, columns, passes), of several models "
            "predictions.reshape(galaxies, columns, -1)"
        )
    ids = np.array([str(each) for each in id_str], dtype=object)
    names = [str(name) for name in label_cols]
    write_predictions(path, Predictions(ids, values, names))
