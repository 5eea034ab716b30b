"""Read predictions in HDF5, as Zoobot 2.x's functions did; see ``zoobot.predictions.files``."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from zoobot.predictions.files import read_predictions
from zoobot.schemas import Schema
from zoobot.statistics import friendly_table, summary_table
from zoobot.system.errors import UserError
from zoobot.system.files import write_whole

Locations = str | Path | Sequence[str | Path]


def load_hdf5s(hdf5_locs: Locations) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """All predictions of some files, one below the other.

    Args:
        hdf5_locs: a file, or several that have the same columns.

    Returns:
        A table of N galaxies with ``id_str`` and ``hdf5_loc`` (the file's name); their predictions
        (N, A, S) float32 in S forward passes; and the names of the A columns.

    Raises:
        ValueError: for a file that is none of predictions, or has other columns.
    """
    paths = [hdf5_locs] if isinstance(hdf5_locs, str | Path) else list(hdf5_locs)
    if not paths:
        raise UserError("no files of predictions are named")
    parts = [read_predictions(path) for path in paths]
    for path, part in zip(paths, parts, strict=True):
        if part.columns != parts[0].columns:
            raise UserError(f"the columns of {path} are not those of {paths[0]}")
    ids = pd.concat(
        [
            pd.DataFrame({"id_str": part.ids, "hdf5_loc": Path(path).name})
            for path, part in zip(paths, parts, strict=True)
        ],
        ignore_index=True,
    )
    return ids, np.concatenate([part.values for part in parts]), np.array(parts[0].columns)


def single_forward_pass_hdf5s_to_df(
    hdf5_locs: Locations, drop_extra_dims: bool = False
) -> pd.DataFrame:
    """Predictions of one forward pass as a table: the columns, ``id_str`` and ``hdf5_loc``.

    Args:
        drop_extra_dims: of several passes take the first; otherwise a cell is an array of them.
    """
    ids, values, columns = load_hdf5s(hdf5_locs)
    if drop_extra_dims and values.shape[2] > 1:
        warnings.warn(f"of {values.shape[2]} forward passes the first is taken", stacklevel=2)
        values = values[:, :, :1]
    if values.shape[2] == 1:
        table = pd.DataFrame(values[:, :, 0], columns=columns)
    else:
        table = pd.DataFrame({name: list(values[:, i]) for i, name in enumerate(columns)})
    return table.assign(**ids)


hdf5s_to_prediction_df = single_forward_pass_hdf5s_to_df  # its name before 1.0


def prediction_hdf5_to_summary_parquet(
    hdf5_loc: str | Path, save_loc: str | Path, schema: Schema, debug: bool = False
) -> None:
    """Write two tables for astronomers beside ``save_loc``: ``_friendly`` and ``_advanced``.

    They are ``zoobot.statistics.friendly_table`` and ``summary_table``.

    Args:
        debug: take the first 100,000 galaxies only.

    Raises:
        ValueError: if the columns are not the tree's.
    """
    ids, values, columns = load_hdf5s(hdf5_loc)
    schema.check_label_cols(list(columns))
    if debug:
        ids, values = ids[:100_000], values[:100_000]
    save_loc = Path(save_loc)
    for name, tabulate in (("friendly", friendly_table), ("advanced", summary_table)):
        table = tabulate(ids["id_str"], values, schema)
        path = save_loc.with_name(f"{save_loc.stem}_{name}.parquet")
        write_whole(path, lambda aside, table=table: table.to_parquet(aside, index=False))
