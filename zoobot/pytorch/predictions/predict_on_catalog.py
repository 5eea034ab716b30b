"""``predict`` with the arguments of Zoobot 2.x; the code is in ``zoobot.predictions.predict``."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from torch import nn

from zoobot.predictions.files import read_predictions
from zoobot.predictions.predict import predict_to_file
from zoobot.pytorch.training.trainer import hardware
from zoobot.system.errors import UserError


def predict(
    catalog: pd.DataFrame,
    model: nn.Module | str | Path,
    save_loc: str | Path,
    label_cols: Sequence[str] | None = None,
    inference_transform: Callable | None = None,
    datamodule_kwargs: dict | None = None,
    trainer_kwargs: dict | None = None,
    *,
    n_samples: int = 1,
    n_views: int = 1,
    **options,
) -> pd.DataFrame:
    """Predict a catalog into ``save_loc``, and return what is in the file as a table.

    Args:
        catalog: with ``id_str`` and ``file_loc`` (or ``image``, encoded bytes).
        model: one of this package, or for ``n_samples=1`` any module, images to (B, A); or where
            one is, as ``zoobot.predictions.models.load_predictor`` takes it.
        save_loc: ``.parquet``, ``.csv`` or ``.hdf5``.
        label_cols: names of the predicted columns; by default the model's.
        inference_transform: a view, or any torchvision v2 transform; by default that with which
            the model was validated.
        datamodule_kwargs: ``batch_size``, ``num_workers``, ``prefetch_factor``,
            ``test_transform``.
        trainer_kwargs: ``accelerator`` and ``precision``; others of Lightning's are accepted.
        n_samples: forward passes with the head's dropout on; 1: one pass without dropout.
        n_views: angles that each galaxy is turned through; predictions are the mean over them.
        options: of ``predict_to_file``.

    Raises:
        ValueError: see ``predict_to_file``.
    """
    data, trainer = dict(datamodule_kwargs or {}), dict(trainer_kwargs or {})
    view = data.pop("test_transform", None) or inference_transform
    unknown = set(data) - {"batch_size", "num_workers", "prefetch_factor"}
    if unknown:
        raise UserError(f"datamodule_kwargs: no argument {sorted(unknown)[0]!r} in predictions")
    known = {k: v for k, v in trainer.items() if k in ("accelerator", "precision")}
    options = hardware(**known) | data | options
    path = predict_to_file(
        catalog,
        model,
        save_loc,
        label_cols,
        transform=view,
        num_samples=n_samples,
        num_views=n_views,
        **options,
    )
    return read_predictions(path).to_frame()
