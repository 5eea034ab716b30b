"""Cut a prediction into parts, write and read each part."""

import dataclasses
import json
import math
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from torch.utils.data import Sampler

from zoobot.data.samplers import Step
from zoobot.data.shards.reader import hash_all
from zoobot.limits.text import parse_json, read_json
from zoobot.limits.weights import metadata_in, read_safetensors
from zoobot.predictions.contents import Predictions
from zoobot.schemas import Schema
from zoobot.system.errors import UserError
from zoobot.system.files import (
    check_no_link,
    delete_files,
    is_leftover,
    write_text,
    write_whole,
)

PLAN = "plan.json"
LOCK = "lock"
LISTING = "galaxies.arrow"
PART = re.compile(r"part-\d{7,}\.safetensors")

PARTS_AIMED_AT = 256  # small parts: processes finish together, and a killed run loses little
LARGEST_PART_ROWS = 2**16
LARGEST_PART_VALUES = 2**24


@dataclasses.dataclass
class Work:
    """Describes one prediction and divides its galaxies into parts.

    Attributes:
        folder: where the finished parts are.
        num_galaxies: number of all galaxies; 0 until they are opened.
        batch_size: number of galaxies in one forward pass.
        template: a ``Predictions`` object without galaxies, with the columns, samples and metadata
            of the whole prediction.
        schema: the decision tree, if a summary is wanted; else None.
        seed: of the dropout.
        num_views: number of views of each galaxy.
        num_passes: number of forward passes of each view with each model.
        temperatures: (Q,) by which the summary is recalibrated; None: it is not.
        plan_hash: hash of everything that the values depend on. Each part stores it in its
            checksum, so that parts of another prediction are refused.
        num_values_beside: numbers predicted of a galaxy by other works in the same pass.
    """

    folder: Path
    num_galaxies: int
    batch_size: int
    template: Predictions
    schema: Schema | None
    seed: int
    num_views: int = 1
    num_passes: int = 1
    temperatures: np.ndarray | None = None
    plan_hash: str = ""
    num_values_beside: int = 0

    @property
    def mixes_views(self) -> bool:
        """Whether each view is a sample; else predictions are the mean over views."""
        return mixes_views(self.template.metadata)

    @property
    def num_values(self) -> int:
        """Numbers predicted of a galaxy: columns times samples."""
        return math.prod(self.template.values.shape[1:])

    @property
    def part_rows(self) -> int:
        """Number of galaxies in a part: a multiple of ``batch_size``.

        It does not depend on the number of processes, and is the same for all works of a pass.
        """
        num_values = self.num_values + self.num_values_beside
        largest = min(LARGEST_PART_ROWS, LARGEST_PART_VALUES // num_values)
        rows = min(self.num_galaxies // PARTS_AIMED_AT, largest)
        return max(1, rows // self.batch_size) * self.batch_size

    @property
    def num_parts(self) -> int:
        """Number of parts."""
        return math.ceil(self.num_galaxies / self.part_rows)

    def rows(self, part: int) -> range:
        """The catalog's rows that are in a part."""
        start = part * self.part_rows
        return range(start, min(start + self.part_rows, self.num_galaxies))

    def batches(self, part: int) -> list[range]:
        """The rows of a part, divided into batches."""
        rows = self.rows(part)
        return [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]

    def path(self, part: int) -> Path:
        """The file of a finished part."""
        return self.folder / f"part-{part:07d}.safetensors"


def cut_alike(works: Sequence[Work]) -> None:
    """Have works that are done in one pass cut the galaxies into the same parts."""
    num_values = sum(work.num_values for work in works)
    for work in works:
        work.num_values_beside = num_values - work.num_values


def mixes_views(described: dict) -> bool:
    """Whether a model's predictions are distributions, of which views give a mixture.

    Args:
        described: what the model tells of its predictions, ``Predictor.describe_predictions``.
    """
    return described["schema"] is not None


class PartSampler(Sampler):
    """Yields the batches of the given parts, part after part."""

    accumulation = 1  # micro-batches in a step, as in the samplers of training

    def __init__(self, work: Work, parts: Sequence[int]):
        self._work = work
        self._parts = parts
        self.largest_batch = work.batch_size

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """Does nothing: every epoch is the same."""

    def steps(self) -> list[Step]:
        """One, for nothing is changed between the batches."""
        return [Step(sum(len(self._work.rows(part)) for part in self._parts), len(self))]

    def __len__(self) -> int:
        return sum(len(self._work.batches(part)) for part in self._parts)

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        for part in self._parts:
            for batch in self._work.batches(part):
                yield 0, list(batch)


def write_part(
    work: Work, part: int, tensors: dict[str, np.ndarray], errors: dict[int, str]
) -> None:
    """Write the file of a finished part.

    Args:
        tensors: ``predictions`` (galaxies, A, S) and perhaps ``summary`` (galaxies, columns).
        errors: the catalog's row -> why the image can't be read, for those that can't.
    """
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    told = json.dumps(errors)
    metadata = {"errors": told, "checksum": _checksum(work, part, tensors, told)}
    content = safetensors.numpy.save(tensors, metadata)
    write_whole(work.path(part), lambda aside: aside.write_bytes(content))


def read_part(work: Work, part: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read a finished part.

    Returns:
        The tensors, and the errors; rows of the errors are text here.

    Raises:
        ValueError: if the file is missing or damaged, or is a part of another prediction.
    """
    path = work.path(part)
    try:
        content = read_safetensors(path)
        tensors, metadata = safetensors.numpy.load(content), metadata_in(content)
        told = metadata["errors"]
        if metadata["checksum"] != _checksum(work, part, tensors, told):
            raise UserError("another checksum")
        return tensors, parse_json(told)
    except (OSError, safetensors.SafetensorError, TypeError, KeyError, ValueError) as error:
        raise UserError(f"{path} is missing or damaged: rerun the same command") from error


def _checksum(work: Work, part: int, tensors: dict[str, np.ndarray], told: str) -> str:
    """A hash of the plan, the part's number, the tensors and the errors (as JSON)."""
    heads = [[name, str(array.dtype), array.shape] for name, array in tensors.items()]
    said = json.dumps([work.plan_hash, part, sorted(heads), told])
    return hash_all([said.encode(), *(tensors[name].tobytes() for name in sorted(tensors))])


def check_folder(folder: Path) -> None:
    """Check, before anything is written, that a folder of parts is ours, new or empty.

    Without a plan there may be what a run leaves that was killed before it wrote one.

    Raises:
        ValueError: it is a link or no folder, or holds files of others and no plan.
    """
    check_no_link(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is no folder: save elsewhere, or delete it")
    if not folder.exists() or (folder / PLAN).exists():
        return
    names = sorted(path.name for path in folder.iterdir())
    others = [name for name in names if name not in (LOCK, LISTING) and not is_leftover(name)]
    if others:
        raise UserError(
            f"{folder} holds {others[0]!r} and no {PLAN} of a prediction: save elsewhere, or "
            "delete the folder if nothing in it is of use"
        )


def open_parts(work: Work, plan: dict, resume: bool) -> tuple[list[int], str]:
    """Prepare the folder of parts.

    Args:
        plan: everything that the values depend on. It is stored beside the parts.
        resume: keep the finished parts; False deletes them.

    Returns:
        The parts that are still to be predicted, and the hash of the plan.

    Raises:
        ValueError: if the folder holds parts of another plan, or its plan is damaged.
        OSError: if the folder can't be written to.
    """
    with tempfile.TemporaryFile(dir=work.folder.parent):
        pass  # fails now, not after all galaxies are predicted, if the folder can't be written to
    path = work.folder / PLAN
    if not resume:
        delete_parts(work)
        delete_files([path])
    check_plan(work, plan)
    plan = json.loads(json.dumps(plan))
    if not path.exists():
        write_text(path, json.dumps(plan, indent=2) + "\n")
    work.plan_hash = hash_all([json.dumps(plan, sort_keys=True).encode()])
    return [part for part in range(work.num_parts) if not _is_whole(work, part)], work.plan_hash


def check_plan(work: Work, plan: dict) -> None:
    """ValueError if the folder holds parts of another plan, or its plan is damaged."""
    path, plan = work.folder / PLAN, json.loads(json.dumps(plan))
    if not path.exists():
        return
    before = _read_plan(path)
    changed = [key for key in plan if before.get(key) != plan[key]]
    if changed:
        raise UserError(
            f"{work.folder} holds parts of another prediction: {', '.join(changed)} differ; "
            "delete the folder to start anew, or save elsewhere"
        )


def _read_plan(path: Path) -> dict:
    """The stored plan; ValueError if it is damaged."""
    try:
        plan = read_json(path)
    except ValueError:
        plan = None
    if not isinstance(plan, dict):
        raise UserError(f"{path} is damaged: delete {path.parent} to start anew")
    return plan


def _is_whole(work: Work, part: int) -> bool:
    """Whether a part is finished and not damaged."""
    try:
        read_part(work, part)
    except ValueError:
        return False
    return True


def delete_parts(work: Work) -> None:
    """Delete the files of all finished parts."""
    delete_files([path for path in work.folder.glob("part-*") if PART.fullmatch(path.name)])
