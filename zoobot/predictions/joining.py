"""Join the parts of a prediction into its file, and its summary; then delete the parts."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa

from zoobot import statistics
from zoobot.data.sources import Galaxies
from zoobot.predictions.contents import Predictions
from zoobot.predictions.files import OF_ASTROPY, open_writer
from zoobot.predictions.parts import LISTING, PLAN, Work, delete_parts, read_part
from zoobot.system.files import delete_files, is_leftover, move_file, write_whole


def join_parts(work: Work, galaxies: Galaxies, save_loc: Path, carried: pa.Table | None) -> None:
    """Join all parts into the prediction file, and into the summary file if one is wanted.

    Both have the carried columns, of all galaxies in order. They are written in the folder of the
    parts and moved to their places when both are complete.

    Raises:
        ValueError: if a part is missing or damaged.
        OSError: if a file can't be written, for example because the disk is full.
    """
    files = [save_loc]
    if work.schema is not None:
        files.insert(0, summary_path(save_loc))
        template = dataclasses.replace(summary_template(work), carried=carried)
        _write_joined(work, galaxies, work.folder / files[0].name, "summary", template)
    template = dataclasses.replace(work.template, carried=carried)
    _write_joined(work, galaxies, work.folder / save_loc.name, "predictions", template)
    for path in files:
        move_file(work.folder / path.name, path)


def summary_path(save_loc: Path) -> Path:
    """The file of the summary that goes with a file of predictions."""
    suffix = save_loc.suffix if save_loc.suffix in OF_ASTROPY else ".parquet"
    return save_loc.with_name(f"{save_loc.stem}_summary{suffix}")


def summary_template(work: Work) -> Predictions:
    """A summary without galaxies."""
    empty = np.empty((0, *work.template.values.shape[1:]))
    columns = list(statistics.summary_table([], empty, work.schema).columns[1:])
    metadata = {"task": "summary", "schema": work.schema.to_dict()}
    return Predictions(np.array([]), np.empty((0, len(columns), 1)), columns, None, metadata)


def _write_joined(
    work: Work, galaxies: Galaxies, path: Path, name: str, template: Predictions
) -> None:
    """Write the tensor ``name`` of all parts into one file."""

    def write(aside: Path) -> None:
        with open_writer(aside, path.suffix, template, work.num_galaxies) as writer:
            for number in range(work.num_parts):
                rows = work.rows(number)
                tensors, told = read_part(work, number)
                values = tensors[name]
                values = values if values.ndim == 3 else values[..., None]
                ids = np.array([galaxies.id_str(row) for row in rows], dtype=object)
                errors = None
                if template.errors is not None:
                    errors = np.array([told.get(str(row)) for row in rows], dtype=object)
                carried = template.carried
                if carried is not None:
                    carried = carried.slice(rows.start, len(rows))
                part = Predictions(ids, values, template.columns, errors, carried=carried)
                writer.write(part)

    write_whole(path, write)


def clear_folder(work: Work, save_loc: Path) -> None:
    """Delete what a prediction has left in the folder of its parts, but the lock."""
    delete_parts(work)  # before their plan, so that no other prediction can take them
    ours = [work.folder / name for name in (LISTING, save_loc.name, summary_path(save_loc).name)]
    left = [path for path in work.folder.glob(".*") if is_leftover(path.name)]
    delete_files([*ours, *left, work.folder / PLAN])
