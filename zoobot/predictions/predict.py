"""Predictions for catalogs of any size: streamed, shared by processes, and resumed where killed.

The galaxies are cut into parts. Each process predicts its share of the parts and writes each one
whole; what a part holds depends on the galaxies and the model only, not on which process made it or
when. In the end the main process joins the parts, in the catalog's order, into one file.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path

import numpy as np
import pandas as pd
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
from zoobot.predictions.contents import Predictions
from zoobot.predictions.ensembles import Model, check_same_columns, members_of, same_images
from zoobot.predictions.files import check_save_loc
from zoobot.predictions.galaxies import as_seen, carried_as_kept, open_galaxies
from zoobot.predictions.models import AnyModule, as_predictor, hash_weights
from zoobot.predictions.parts import (
    LOCK,
    PartSampler,
    Work,
    check_folder,
    clear_folder,
    join_parts,
    mixes_views,
    open_parts,
)
from zoobot.predictions.passes import predict_parts
from zoobot.predictions.progress import progress_bar
from zoobot.predictions.temperatures import read_temperatures
from zoobot.schemas import Schema
from zoobot.system import distributed, locks
from zoobot.system.cores import choose_num_workers
from zoobot.system.devices import keep_generators, put_back
from zoobot.system.errors import UserError

ON_BAD_IMAGE = ("error", "record")


def predict_to_file(
    catalog: pd.DataFrame | str | Path | Galaxies,
    model: Model | Sequence[Model],
    save_loc: str | Path,
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
    temperatures: str | Path | None = None,
    split: str = "",
    seed: int = 42,
    id_from: str | None = "path",
    checkpoint: str | Path | Sequence[str | Path] | None = None,
    resume: bool = True,
    show_progress: bool = True,
) -> Path:
    """Predict all galaxies into one file, in the catalog's order; every process must call it.

    Beside the file there is, until it is finished, the folder ``SAVE_LOC.parts``. If it is there
    from a run that was killed, its finished parts are kept and the result is the same. The model
    is left where it was, in evaluation mode.

    Args:
        catalog: a table, a catalog file, a folder of images, ``Shards``, or a ``Dataset`` of
            Hugging Face; or, of images of bands, a path with ``{id}`` and ``{band}``.
        model: one of this package, a path of one (see ``models.load_predictor``), or for one pass
            any module, images to (B, A); or several in a list, an ensemble: every galaxy is read
            once, and each model gives samples, as forward passes do.
        label_cols: names of the predicted columns; by default the model's.
        transform, fits_scaling: by default those with which the model was validated.
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
            fractions, 90% intervals and the proportion asked; for trees.
        temperatures: ``temperatures.json`` of an evaluation, by which the summary is recalibrated;
            the predictions themselves are left as they are.
        carry: other columns of the catalog, or labels of shards, that both files get too, such as
            ``["ra", "dec"]``; their types stay.
        split: only galaxies with this value in the catalog's column ``split``.
        seed: of the dropout.
        checkpoint: of the model, or one of each, which the file then tells.
        id_from: ids of images in a folder: ``path`` (below it) or ``stem`` (the file's name), both
            without suffix. None: a folder is no folder of images but a catalog of Parquet files.
        resume: go on from the parts of a killed run; False deletes them.

    Raises:
        ValueError: for a save_loc of no known format, a faulty catalog, columns that don't fit or
            can't be carried, parts of another prediction in the folder, another run at work on it,
            or models that don't predict the same columns of the same images.
        ImageError: an image can't be read.
        OSError: the folder can't be written to, or its disk is full.
    """
    save_loc = check_save_loc(save_loc)
    catalog = huggingface.to_predict(catalog)
    given = members_of(model)
    columns = check_same_columns(given, label_cols)
    members = nn.ModuleList(as_predictor(each) for each in given)
    if spec is None and isinstance(catalog, Galaxies):
        spec = catalog.spec  # of shards
    asked = fits_scaling
    fits_scaling, spec = same_images(members, asked, spec)
    if spec is not None and asked is not None:
        raise UserError("fits_scaling is for 8-bit images, but the model sees bands: leave it out")
    _check_options(members, num_samples, num_views, batch_size, on_bad_image)
    where = distributed.choose_device(device)
    distributed.join(where)
    settings = engine.Settings(device=where, dtype=engine.choose_dtype(precision, where))
    template = _template(members, columns, num_samples, num_views, on_bad_image == "record", spec)
    if summary and template.metadata["schema"] is None:
        raise UserError(f"a summary is made of decision trees, not of {template.metadata['task']}")
    schema = Schema.from_dict(template.metadata["schema"]) if summary else None
    carry = check_carry(carry, columns)
    if temperatures is not None and not summary:
        raise UserError("temperatures recalibrate a summary: ask for it too (--summary)")
    folder = save_loc.with_name(save_loc.name + ".parts")
    if distributed.is_main():
        check_folder(folder)
    only = locks.only_run(folder / LOCK) if distributed.is_main() else nullcontext()
    with only:
        galaxies, digest, carried = open_galaxies(catalog, folder, split, id_from, spec, carry)
        dataset = as_seen(galaxies, members, transform, num_views, fits_scaling, spec)
        dataset = dataset.made_for(where)
        num_passes = len(galaxies) * num_views / distributed.world_size()
        wanted = {True: "on", False: "off"}.get(compile_encoder, compile_encoder)
        compiled, told = speed.choose(wanted, members[0], where, num_passes)
        if told and show_progress and distributed.is_main():
            tqdm.write(told)
        rest = (template, schema, seed, num_views, num_samples)
        work = Work(folder, len(galaxies), batch_size, *rest)
        if temperatures is not None:
            work.temperatures = read_temperatures(temperatures, schema)
        if distributed.is_main():
            carried = carried_as_kept(save_loc.suffix, work, galaxies, carried)
        plan = _plan(work, dataset, digest, settings, compiled)
        if checkpoint:  # after the plan: a killed run goes on, wherever its weights are now
            template.metadata |= _told_checkpoints(checkpoint)
        todo, work.plan_hash = distributed.from_main(
            open_parts(work, plan, resume) if distributed.is_main() else None
        )
        mine = todo[distributed.rank() :: distributed.world_size()]
        loader = GalaxyLoader(
            dataset,
            PartSampler(work, mine),
            choose_num_workers(num_workers, on_gpu=where.type == "cuda"),
            pin_memory=where.type == "cuda",
            prefetch_factor=prefetch_factor,
            record_errors=on_bad_image == "record",
        )
        bar = progress_bar(work, mine, len(todo), show_progress)
        with keep_generators(where), ExitStack() as stack, bar:
            for member in members:
                stack.enter_context(put_back(member))
            notes = predict_parts(members, loader, mine, work, settings, compiled, bar)
        notes.tell()
        distributed.barrier()
        if distributed.is_main():
            join_parts(work, galaxies, save_loc, carried)
            clear_folder(work, save_loc)
        distributed.barrier()
    if distributed.is_main():
        with suppress(OSError):  # the next run has locked it
            folder.rmdir()
    return save_loc


def _check_options(members, num_samples, num_views, batch_size, on_bad_image) -> None:
    if min(num_samples, num_views, batch_size) < 1:
        raise UserError(
            f"{num_samples} samples of {num_views} views in batches of {batch_size}: give 1 or more"
        )
    for model in members:
        if num_samples > 1 and model.head is None:
            named = model.encoder if isinstance(model, AnyModule) else model
            raise UserError(
                f"{num_samples} samples need a head with dropout; {type(named).__name__} has none"
            )
    if on_bad_image not in ON_BAD_IMAGE:
        raise UserError(f"on_bad_image={on_bad_image!r}: use one of {', '.join(ON_BAD_IMAGE)}")


def _plan(
    work: Work, dataset: CatalogDataset, digest: str | None, settings: engine.Settings, compiled
) -> dict:
    """Everything that the values depend on; carried columns are not among it."""
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
    }


def _template(
    members: nn.ModuleList,
    columns: list[str],
    num_passes: int,
    num_views: int,
    with_errors: bool,
    spec: ImageSpec | None,
) -> Predictions:
    """``empty_predictions`` of one or several models, whose metadata say what the samples are."""
    mixed = {
        "models": len(members),
        "views": num_views if mixes_views(members[0].describe_predictions()) else 1,
        "passes": num_passes,
    }
    num_samples = math.prod(mixed.values())
    template = empty_predictions(members[0], columns, num_samples, with_errors, spec)
    if num_samples > 1:
        template.metadata["samples"] = mixed
    if len(members) > 1:
        template.metadata["weights"] = [hash_weights(member) for member in members]
    return template


def _told_checkpoints(checkpoint: str | Path | Sequence[str | Path]) -> dict:
    """What a file tells of where its models are from."""
    if isinstance(checkpoint, str | Path):
        return {"checkpoint": str(checkpoint)}
    if len(checkpoint) == 1:
        return {"checkpoint": str(checkpoint[0])}
    return {"checkpoints": [str(path) for path in checkpoint]}


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


def _name(transform: Callable) -> str:
    return type(transform).__name__ if isinstance(transform, GalaxyView) else repr(transform)
