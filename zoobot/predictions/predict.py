"""Predictions for catalogs of any size: streamed, shared by processes, and resumed where killed.

The galaxies are cut into parts. Each process predicts its share of the parts and writes each one
whole; what a part holds depends on the galaxies and the model only, not on which process made it or
when. In the end the main process joins the parts, in the catalog's order, into one file.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
import pyarrow as pa
import torch
from torch import nn
from tqdm import tqdm

from zoobot import engine
from zoobot.data import huggingface
from zoobot.data.bands.spec import ImageSpec
from zoobot.data.carried import check_carry
from zoobot.data.dataset import CatalogDataset
from zoobot.data.loaders import GalaxyLoader
from zoobot.data.sources import Galaxies
from zoobot.data.views.cpu import GalaxyView
from zoobot.models import speed
from zoobot.predictions.ensembles import Model, check_files, group_models, members_of, same_images
from zoobot.predictions.files import check_save_loc
from zoobot.predictions.galaxies import as_seen, carried_as_kept, open_galaxies
from zoobot.predictions.joining import clear_folder, join_parts
from zoobot.predictions.models import as_predictor, name_of
from zoobot.predictions.outputs import (
    OnePath,
    Output,
    Paths,
    as_list,
    check_distinct,
    make_outputs,
    only_run_into,
    summarise_trees,
)
from zoobot.predictions.parts import PartSampler, check_plan, open_parts
from zoobot.predictions.passes import predict_parts
from zoobot.predictions.progress import progress_bar
from zoobot.system import distributed
from zoobot.system.cores import choose_num_workers
from zoobot.system.devices import keep_generators, put_back
from zoobot.system.errors import UserError

ON_BAD_IMAGE = ("error", "record")


def predict_to_file(
    catalog: pd.DataFrame | str | Path | Galaxies,
    model: Model | Sequence[Model],
    save_loc: Paths,
    label_cols: Sequence[str] | None = None,
    *,
    transform: Callable | None = None,
    num_samples: int = 1,
    num_views: int = 1,
    batch_size: int = 128,
    num_workers: int | str = "auto",
    prefetch_factor: int = 4,
    device: str = "auto",
    precision: str = "auto",
    compile_encoder: bool | str = False,
    fits_scaling: str | None = None,
    spec: ImageSpec | None = None,
    on_bad_image: str = "error",
    summary: bool = False,
    carry: Sequence[str] = (),
    temperatures: Paths | None = None,
    split: str = "",
    seed: int = 42,
    id_from: str | None = "path",
    checkpoint: Paths | None = None,
    resume: bool = True,
    show_progress: bool = True,
) -> Path | list[Path]:
    """Predict all galaxies into a file, in the catalog's order; every process must call it.

    Beside the file there is, until it is finished, the folder ``SAVE_LOC.parts``. If it is there
    from a run that was killed, its finished parts are kept and the result is the same. The model
    is left where it was, in evaluation mode.

    Models that predict different things get a file each, in one pass over the galaxies. Each file
    is what it would be if its models had been given alone, and may also be finished so.

    Args:
        catalog: a table, a catalog file, a folder of images, ``Shards``, or a ``Dataset`` of
            Hugging Face; or, of images of bands, a path with ``{id}`` and ``{band}``.
        model: one of this package, a path of one (see ``models.load_predictor``), or for one pass
            any module, images to (B, A); or several in a list. Every galaxy is read once. Those
            that predict the same columns of one task are an ensemble: each gives samples, as
            forward passes do.
        save_loc: the file; or a list of files, one for each group of models that predict the same,
            in the order of their first models. Each encoder's features are a group.
        label_cols: names of the predicted columns; by default the model's.
        transform, fits_scaling: by default those with which the models were validated.
        spec: of images of bands: the model's bands, where they are elsewhere than in training; see
            ``models.bands.spec_to_predict``.
        num_samples: forward passes with the head's dropout on; 1: one pass without dropout.
        num_views: angles that each galaxy is turned through. Of trees each view is a sample, as
            forward passes are; other predictions are the mean over views.
        batch_size: galaxies of a forward pass, in each process.
        num_workers: image-reading workers of each process; see
            ``zoobot.system.cores.choose_num_workers``.
        compile_encoder: run the model (with several samples the encoder) through
            ``torch.compile``; all batches then have one size. True, False, or one of
            ``options.COMPILE``: ``auto`` does if that pays on this device.
        on_bad_image: ``error`` stops at the first image that can't be read and names it; ``record``
            gives its galaxy NaN, and the reason in a column ``error``.
        summary: also write ``STEM_summary.parquet``, or ``.fits`` or ``.vot`` as ``save_loc``, with
            fractions, 90% intervals and the proportion asked; for the trees among the models.
        temperatures: ``temperatures.json`` of an evaluation, by which the summary is recalibrated;
            the predictions themselves are left as they are. Of several trees a list, one each.
        carry: other columns of the catalog, or labels of shards, that both files get too, such as
            ``["ra", "dec"]``; their types stay.
        split: only galaxies with this value in the catalog's column ``split``.
        seed: of the dropout.
        checkpoint: of the model, or one of each, which the file then tells.
        id_from: ids of images in a folder: ``path`` (below it) or ``stem`` (the file's name), both
            without suffix. None: a folder is no folder of images but a catalog of Parquet files.
        resume: go on from the parts of a killed run; False deletes them.

    Returns:
        The file, or the list of files, as ``save_loc``.

    Raises:
        ValueError: for a save_loc of no known format, another number of files than of groups of
            models, a faulty catalog, columns that don't fit or can't be carried, parts of another
            prediction in a folder, another run at work on it, or models that were validated with
            different images.
        ImageError: an image can't be read.
        OSError: the folder can't be written to, or its disk is full.
    """
    save_locs = [check_save_loc(path) for path in as_list(save_loc)]
    catalog = huggingface.to_predict(catalog)
    members = [as_predictor(each) for each in members_of(model)]
    groups = group_models(members, label_cols)
    check_files(groups, len(save_locs))
    fits_scaling, spec = _images_to_show(members, catalog, fits_scaling, spec)
    _check_options(members, num_samples, num_views, batch_size, on_bad_image)
    where = distributed.choose_device(device)
    distributed.join(where)
    settings = engine.Settings(device=where, dtype=engine.choose_dtype(precision, where))
    how = {"batch_size": batch_size, "seed": seed}
    how |= {"num_views": num_views, "num_passes": num_samples}
    record = on_bad_image == "record"
    outputs = make_outputs(groups, save_locs, spec, record, checkpoint, **how)
    summarise_trees(outputs, summary, temperatures)
    check_distinct(outputs)
    for output in outputs:
        carry = check_carry(carry, output.work.template.columns)
    with only_run_into(outputs):
        folder = outputs[0].work.folder
        galaxies, digest, carried = open_galaxies(catalog, folder, split, id_from, spec, carry)
        dataset = as_seen(galaxies, members, transform, num_views, fits_scaling, spec)
        dataset = dataset.made_for(where)
        for output in outputs:
            _prepare(output, galaxies, carried, compile_encoder, where, show_progress)
        todo = _open_parts(outputs, dataset, digest, settings, resume)
        reading = {"num_workers": choose_num_workers(num_workers, on_gpu=where.type == "cuda")}
        reading |= {"prefetch_factor": prefetch_factor, "record_errors": record}
        _predict(outputs, dataset, todo, settings, show_progress, **reading)
        _join(outputs, galaxies)
    return save_locs[0] if isinstance(save_loc, OnePath) else save_locs


def _images_to_show(
    members: Sequence[nn.Module],
    catalog: pd.DataFrame | str | Path | Galaxies,
    fits_scaling: str | None,
    spec: ImageSpec | None,
) -> tuple[str, ImageSpec | None]:
    """Brightness of FITS images, and the bands, that all models are shown; see ``same_images``."""
    if spec is None and isinstance(catalog, Galaxies):
        spec = catalog.spec  # of shards
    scaling, spec = same_images(members, fits_scaling, spec)
    if spec is not None and fits_scaling is not None:
        raise UserError("fits_scaling is for 8-bit images, but the model sees bands: leave it out")
    return scaling, spec


def _check_options(members, num_samples, num_views, batch_size, on_bad_image) -> None:
    if min(num_samples, num_views, batch_size) < 1:
        raise UserError(
            f"{num_samples} samples of {num_views} views in batches of {batch_size}: give 1 or more"
        )
    for model in members:
        if num_samples > 1 and model.head is None:
            raise UserError(
                f"{num_samples} samples need a head with dropout; {name_of(model)} has none"
            )
    if on_bad_image not in ON_BAD_IMAGE:
        raise UserError(f"on_bad_image={on_bad_image!r}: use one of {', '.join(ON_BAD_IMAGE)}")


def _prepare(
    output: Output,
    galaxies: Galaxies,
    carried: pa.Table | None,
    compile_encoder: bool | str,
    where: torch.device,
    show_progress: bool,
) -> None:
    """Note in an output how many galaxies there are, how its models are run, what it carries."""
    output.work.num_galaxies = len(galaxies)
    wanted = {True: "on", False: "off"}.get(compile_encoder, compile_encoder)
    num_passes = len(galaxies) * output.work.num_views / distributed.world_size()
    output.compiled, told = speed.choose(wanted, output.members[0], where, num_passes)
    if told and show_progress and distributed.is_main():
        tqdm.write(told)
    if distributed.is_main():
        suffix = output.save_loc.suffix
        output.carried = carried_as_kept(suffix, output.work, galaxies, carried)


def _open_parts(
    outputs: Sequence[Output],
    dataset: CatalogDataset,
    digest: str | None,
    settings: engine.Settings,
    resume: bool,
) -> list[int]:
    """Prepare the folder of each output; returns the parts that any of them still needs."""
    plans = [_plan(output, dataset, digest, settings) for output in outputs]
    for output in outputs:  # after the plan: a killed run goes on, wherever its weights are now
        output.work.template.metadata |= output.told
    opened = None
    if distributed.is_main():
        planned = [(output.work, plan) for output, plan in zip(outputs, plans, strict=True)]
        if resume:
            for work, plan in planned:  # all, before one folder is changed
                check_plan(work, plan)
        opened = [open_parts(work, plan, resume) for work, plan in planned]
    for output, (todo, plan_hash) in zip(outputs, distributed.from_main(opened), strict=True):
        output.todo, output.work.plan_hash = set(todo), plan_hash
    return sorted(set().union(*(output.todo for output in outputs)))


def _plan(
    output: Output, dataset: CatalogDataset, digest: str | None, settings: engine.Settings
) -> dict:
    """Everything that the values depend on, and the parts; carried columns are not among it."""
    work, compiled = output.work, output.compiled
    return work.template.metadata | {
        "columns": work.template.columns,
        "num_samples": work.template.values.shape[2],
        "num_views": work.num_views,
        "galaxies": digest,
        "images": dataset.describe_images().to_dict() | {"transform": _name(dataset.transform)},
        "channels": dataset.channels,
        "batch_size": work.batch_size,
        "precision": str(settings.dtype),
        "compiled": {"on": True, "off": False}.get(compiled, compiled),
        "summary": work.schema is not None,
        "temperatures": None if work.temperatures is None else work.temperatures.tolist(),
        "seed": work.seed,
        "part_rows": work.part_rows,
    }


def _predict(
    outputs: Sequence[Output],
    dataset: CatalogDataset,
    todo: Sequence[int],
    settings: engine.Settings,
    show_progress: bool,
    **reading: int | bool,
) -> None:
    """Predict this process's share of the parts to do, and warn of images that show nothing.

    ``reading``: arguments of ``GalaxyLoader``.
    """
    mine = todo[distributed.rank() :: distributed.world_size()]
    work, where = outputs[0].work, settings.device
    sampler, on_gpu = PartSampler(work, mine), where.type == "cuda"
    loader = GalaxyLoader(dataset, sampler, pin_memory=on_gpu, **reading)
    bar = progress_bar(work, mine, len(todo), show_progress)
    with keep_generators(where), ExitStack() as stack, bar:
        for member in (member for output in outputs for member in output.members):
            stack.enter_context(put_back(member))
        notes = predict_parts(outputs, loader, mine, settings, bar)
    notes.tell()


def _join(outputs: Sequence[Output], galaxies: Galaxies) -> None:
    """Once all processes are done, the main one makes the files, and then deletes the parts."""
    distributed.barrier()
    if distributed.is_main():
        for output in outputs:
            join_parts(output.work, galaxies, output.save_loc, output.carried)
        for output in outputs:
            clear_folder(output.work, output.save_loc)
    distributed.barrier()


def _name(transform: Callable) -> str:
    return type(transform).__name__ if isinstance(transform, GalaxyView) else repr(transform)
