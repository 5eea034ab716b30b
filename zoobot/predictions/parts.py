"""Predictions of a catalog in parts, whatever the number of processes, joined in the end."""

import dataclasses
import json
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from torch.utils.data import Sampler

from zoobot import statistics
from zoobot.data.shards.reader import hash_all
from zoobot.limits.text import parse_json, read_json
from zoobot.predictions.files import Predictions, open_writer
from zoobot.schemas import Schema
from zoobot.system.errors import UserError
from zoobot.system.files import (
    delete_files,
    sync_folder,
    write_text,
    write_whole,
)

PARTS_AIMED_AT = 256  # so that processes finish together and a killed run loses little
LARGEST_PART_ROWS = 2**16
LARGEST_PART_VALUES = 2**24


@dataclasses.dataclass
class Work:
    """What is to be predicted, cut into parts.

    Attributes:
        folder: of the finished parts.
        num_galaxies, batch_size: all galaxies; those of a forward pass.
        template: predictions of no galaxy, with the columns, passes and metadata of all.
        schema: of trees, if their summary is wanted.
        seed: of the dropout.
        num_views: that each galaxy is predicted from.
        plan_hash: of all that the values depend on; a part of another one is no part of this.
    """

    folder: Path
    num_galaxies: int
    batch_size: int
    template: Predictions
    schema: Schema | None
    seed: int
    num_views: int = 1
    plan_hash: str = ""

    @property
    def part_rows(self) -> int:
        """Galaxies of a part: whole batches, as many whatever the number of processes."""
        _, num_columns, num_samples = self.template.values.shape
        largest = min(LARGEST_PART_ROWS, LARGEST_PART_VALUES // (num_columns * num_samples))
        rows = min(self.num_galaxies // PARTS_AIMED_AT, largest)
        return max(1, rows // self.batch_size) * self.batch_size

    @property
    def num_parts(self) -> int:
        return math.ceil(self.num_galaxies / self.part_rows)

    def rows(self, part: int) -> range:
        """Numbers of a part's galaxies in the catalog."""
        start = part * self.part_rows
        return range(start, min(start + self.part_rows, self.num_galaxies))

    def batches(self, part: int) -> list[range]:
        """A part's galaxies in batches."""
        rows = self.rows(part)
        return [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]

    def path(self, part: int) -> Path:
        """File of a finished part."""
        return self.folder / f"part-{part:07d}.safetensors"


class PartSampler(Sampler):
    """Batches of the given parts, one after the other."""

    accumulation = 1

    def __init__(self, work: Work, parts: Sequence[int]):
        self._work = work
        self._parts = parts

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """No effect: every epoch is the same."""

    def __len__(self) -> int:
        return sum(len(self._work.batches(part)) for part in self._parts)

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        for part in self._parts:
            for batch in self._work.batches(part):
                yield 0, list(batch)


def write_part(work: Work, part: int, tensors: dict[str, np.ndarray], errors: dict) -> None:
    """Write a finished part: its tensors and, by galaxy, why images can't be read."""
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    told = json.dumps(errors)
    metadata = {"errors": told, "checksum": _checksum(work, part, tensors, told)}
    content = safetensors.numpy.save(tensors, metadata)
    write_whole(work.path(part), lambda aside: aside.write_bytes(content))


def read_part(work: Work, part: int) -> tuple[dict[str, np.ndarray], dict]:
    """The tensors and errors of a finished part.

    Raises:
        ValueError: it is missing, damaged, or a part of something else.
    """
    path = work.path(part)
    try:
        with safetensors.safe_open(path, "numpy") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        told = metadata["errors"]
        if metadata["checksum"] != _checksum(work, part, tensors, told):
            raise UserError("another checksum")
        return tensors, parse_json(told)
    except (OSError, safetensors.SafetensorError, TypeError, KeyError, ValueError) as error:
        raise UserError(f"{path} is missing or damaged: rerun the same command") from error


def _checksum(work: Work, part: int, tensors: dict[str, np.ndarray], told: str) -> str:
    heads = [[name, str(array.dtype), array.shape] for name, array in tensors.items()]
    said = json.dumps([work.plan_hash, part, sorted(heads), told])
    return hash_all([said.encode(), *(tensors[name].tobytes() for name in sorted(tensors))])


def open_parts(work: Work, plan: dict, resume: bool) -> tuple[list[int], str]:
    """Open the folder of a prediction: the parts still to be done, and a hash of its plan.

    Args:
        plan: all that the values depend on; it is kept beside the parts.
        resume: keep what is finished; False deletes it.

    Raises:
        ValueError: the folder holds parts of another plan, or a damaged one.
        OSError: it can't be written to.
    """
    with tempfile.TemporaryFile(dir=work.folder.parent):
        pass  # else a folder that can't be written to is found out when all is predicted
    path = work.folder / "plan.json"
    if not resume or not path.exists():
        path.unlink(missing_ok=True)
        delete_parts(work)
    plan = json.loads(json.dumps(plan))
    if path.exists():
        before = _read_plan(path)
        changed = [key for key in plan if before.get(key) != plan[key]]
        if changed:
            raise UserError(
                f"{work.folder} holds parts of another prediction: {', '.join(changed)} differ; "
                "delete the folder to start anew, or save elsewhere"
            )
    else:
        write_text(path, json.dumps(plan, indent=2) + "\n")
    work.plan_hash = hash_all([json.dumps(plan, sort_keys=True).encode()])
    return [part for part in range(work.num_parts) if not _is_whole(work, part)], work.plan_hash


def _read_plan(path: Path) -> dict:
    try:
        plan = read_json(path)
    except ValueError:
        plan = None
    if not isinstance(plan, dict):
        raise UserError(f"{path} is damaged: delete {path.parent} to start anew")
    return plan


def _is_whole(work: Work, part: int) -> bool:
    try:
        read_part(work, part)
    except ValueError:
        return False
    return True


def delete_parts(work: Work) -> None:
    """Delete the finished parts."""
    delete_files([*work.folder.glob("part-*")])


def join_parts(work: Work, galaxies, save_loc: Path) -> None:
    """Write the one file and perhaps the summary among the parts; if all is well, move them."""
    files = [save_loc]
    if work.schema is not None:
        columns = _summary_columns(work)
        template = Predictions(np.array([]), np.empty((0, len(columns), 1)), columns)
        files.insert(0, save_loc.with_name(f"{save_loc.stem}_summary.parquet"))
        _write_joined(work, galaxies, work.folder / files[0].name, "summary", template)
    _write_joined(work, galaxies, work.folder / save_loc.name, "predictions", work.template)
    for path in files:
        os.replace(work.folder / path.name, path)
    sync_folder(save_loc.parent)


def _summary_columns(work: Work) -> list[str]:
    empty = np.empty((0, *work.template.values.shape[1:]))
    return list(statistics.summary_table([], empty, work.schema).columns[1:])


def _write_joined(work: Work, galaxies, path: Path, name: str, template: Predictions) -> None:
    def write(aside: Path) -> None:
        with open_writer(aside, path.suffix, template, work.num_galaxies) as writer:
            for part in range(work.num_parts):
                rows = work.rows(part)
                tensors, told = read_part(work, part)
                values = tensors[name]
                values = values if values.ndim == 3 else values[..., None]
                ids = np.array([galaxies.id_str(row) for row in rows], dtype=object)
                errors = None
                if template.errors is not None:
                    errors = np.array([told.get(str(row)) for row in rows], dtype=object)
                writer.write(Predictions(ids, values, template.columns, errors))

    write_whole(path, write)
