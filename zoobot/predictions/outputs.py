"""The files of one pass over galaxies: one for each group of models that predict the same."""

import dataclasses
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
from torch import nn

from zoobot.data.bands.spec import ImageSpec
from zoobot.predictions.contents import Predictions
from zoobot.predictions.ensembles import Group
from zoobot.predictions.joining import summary_path
from zoobot.predictions.models import hash_weights
from zoobot.predictions.parts import LOCK, Work, check_folder, cut_alike, mixes_views
from zoobot.predictions.temperatures import read_temperatures
from zoobot.schemas import Schema
from zoobot.system import distributed, locks
from zoobot.system.errors import UserError

OnePath = str | os.PathLike
Paths = OnePath | Sequence[OnePath]


@dataclasses.dataclass
class Output:
    """A file of predictions, with its summary if one is wanted.

    Attributes:
        save_loc: the file.
        members: the models that are mixed in it, each a ``Predictor``.
        work: what is to be predicted, in parts.
        told: what the file tells of its models and no value depends on.
        compiled: how the models are run, as ``speed.choose`` has chosen.
        carried: columns of the catalog, as the file has them; in the main process.
        todo: the parts that are still to be predicted.
    """

    save_loc: Path
    members: nn.ModuleList
    work: Work
    told: dict = dataclasses.field(default_factory=dict)
    compiled: str = "off"
    carried: pa.Table | None = None
    todo: set[int] = dataclasses.field(default_factory=set)


def as_list(paths: Paths) -> list[OnePath]:
    """One path in a list, or several as a list."""
    return [paths] if isinstance(paths, OnePath) else list(paths)


def make_outputs(
    groups: Sequence[Group],
    save_locs: Sequence[Path],
    spec: ImageSpec | None,
    with_errors: bool,
    checkpoint: Paths | None,
    **how: int,
) -> list[Output]:
    """The outputs of groups of models, a file each; their works cut galaxies into the same parts.

    Args:
        spec: the bands that the models are shown.
        with_errors: the files have a column ``error``.
        checkpoint: where all models are from, or each of them.
        how: ``batch_size``, ``seed``, ``num_views`` and ``num_passes``, as ``Work`` has them.

    Raises:
        ValueError: the number of checkpoints is not that of the models.
    """
    outputs = []
    for group, save_loc in zip(groups, save_locs, strict=True):
        template = _template(group, how["num_passes"], how["num_views"], with_errors, spec)
        folder = save_loc.with_name(save_loc.name + ".parts")
        work = Work(folder, num_galaxies=0, template=template, schema=None, **how)
        outputs.append(Output(save_loc, nn.ModuleList(group.members), work))
    if checkpoint:
        _note_checkpoints(outputs, groups, checkpoint)
    cut_alike([output.work for output in outputs])
    return outputs


def _template(
    group: Group, num_passes: int, num_views: int, with_errors: bool, spec: ImageSpec | None
) -> Predictions:
    """``empty_predictions`` of one or several models, whose metadata say what the samples are."""
    mixed = {
        "models": len(group.members),
        "views": num_views if mixes_views(group.described) else 1,
        "passes": num_passes,
    }
    num_samples = math.prod(mixed.values())
    template = empty_predictions(group.members[0], group.columns, num_samples, with_errors, spec)
    if num_samples > 1:
        template.metadata["samples"] = mixed
    if len(group.members) > 1:
        template.metadata["weights"] = [hash_weights(member) for member in group.members]
    return template


def empty_predictions(
    model: nn.Module,
    columns: list[str],
    num_samples: int = 1,
    with_errors: bool = False,
    spec: ImageSpec | None = None,
) -> Predictions:
    """Predictions without galaxies, with the columns, samples and metadata of a model's.

    ``spec``: of the images that it is shown; by default of those that it was validated with.
    """
    values = np.empty((0, len(columns), num_samples), np.float32)
    errors = np.array([], dtype=object) if with_errors else None
    metadata = model.describe_predictions() | {"weights": hash_weights(model)}
    bands = model.images_seen.bands if spec is None else spec.to_dict()
    if bands is not None:
        metadata["bands"] = bands
    return Predictions(np.array([], dtype=object), values, columns, errors, metadata)


def _note_checkpoints(outputs: list[Output], groups: Sequence[Group], checkpoint: Paths) -> None:
    """Note in each output where its models are from."""
    num_models = sum(len(group.members) for group in groups)
    paths = as_list(checkpoint)
    if len(paths) not in (1, num_models):
        raise UserError(f"{len(paths)} checkpoints are told of {num_models} models: tell one each")
    for output, group in zip(outputs, groups, strict=True):
        own = paths if len(paths) == 1 else [paths[number] for number in group.numbers]
        named = [str(path) for path in own]
        output.told = {"checkpoint": named[0]} if len(named) == 1 else {"checkpoints": named}


def summarise_trees(outputs: Sequence[Output], summary: bool, temperatures: Paths | None) -> None:
    """Have the outputs that are of trees get a summary, if one is wanted.

    Args:
        temperatures: files by which summaries are recalibrated, one a tree; None: they are not.

    Raises:
        ValueError: there is no tree, or not a fitting file of temperatures for each; or there are
            temperatures and no summary.
    """
    if not summary:
        if temperatures is not None:
            raise UserError("temperatures recalibrate a summary: ask for it too (--summary)")
        return
    trees = [output for output in outputs if output.work.template.metadata["schema"] is not None]
    if not trees:
        tasks = dict.fromkeys(output.work.template.metadata["task"] for output in outputs)
        raise UserError(f"a summary is made of decision trees, not of {', '.join(tasks)}")
    for output in trees:
        output.work.schema = Schema.from_dict(output.work.template.metadata["schema"])
    if temperatures is None:
        return
    paths = as_list(temperatures)
    if len(paths) != len(trees):
        raise UserError(
            f"{len(paths)} files of temperatures for {len(trees)} trees: give one a tree, in the "
            f"order of {', '.join(output.save_loc.name for output in trees)}"
        )
    for output, path in zip(trees, paths, strict=True):
        output.work.temperatures = read_temperatures(path, output.work.schema)


def check_distinct(outputs: Sequence[Output]) -> None:
    """ValueError if two of the files, summaries among them, would have one name."""
    files = [output.save_loc for output in outputs]
    files += [summary_path(output.save_loc) for output in outputs if output.work.schema is not None]
    for path, count in Counter(path.resolve() for path in files).items():
        if count > 1:
            raise UserError(f"two files would be {path}: give --save-loc other names")


@contextmanager
def only_run_into(outputs: Sequence[Output]) -> Iterator[None]:
    """Be the only run that predicts into these files; their folders are gone at the end, if empty.

    Raises:
        ValueError: a folder of parts is not ours, or another run is at work on it.
    """
    folders = [output.work.folder for output in outputs] if distributed.is_main() else []
    for folder in folders:
        check_folder(folder)
    with ExitStack() as stack:
        for folder in folders:
            stack.enter_context(locks.only_run(folder / LOCK))
        yield
    for folder in folders:
        with suppress(OSError):  # something is in it, or the next run has locked it
            folder.rmdir()
