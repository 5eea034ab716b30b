"""What the options of a script describe: galaxies, data module, trainer, state to go on from."""

import argparse
import dataclasses
import math
from pathlib import Path

import pandas as pd

from zoobot.data import CatalogDataModule
from zoobot.data.bands.spec import ImageSpec, parse_bands, read_spec
from zoobot.data.catalog import check_not_reserved, read_catalog
from zoobot.data.demo.catalog import demo_catalog
from zoobot.data.labels import round_votes
from zoobot.data.shards.reader import open_splits
from zoobot.data.sources import Galaxies
from zoobot.data.splits import load_splits
from zoobot.data.views import (
    default_view_config,
    get_galaxy_transform,
    minimal_view_config,
    zoomed_view_configs,
)
from zoobot.evaluation.pictures import Pictures, bands_of
from zoobot.models import architectures, hub
from zoobot.predictions.contents import Predictions
from zoobot.runs.resume import find_state
from zoobot.schemas import Schema
from zoobot.system import distributed
from zoobot.system.cores import choose_num_workers
from zoobot.system.errors import UserError
from zoobot.trainer import Trainer

MAY_CHANGE_ON_RESUME = set(
    "config debug resume save_dir epochs patience num_workers device compile deterministic "
    "no_report save_every on_save_error max_skipped_steps allow_changes check_images cache "
    "decode rgb_bands".split()
)


def load_galaxies(
    options: argparse.Namespace,
    path: str | Path | None,
    label_cols: list[str],
    schema: Schema | None = None,
) -> dict[str, pd.DataFrame | Galaxies]:
    """Train, val and test galaxies: tables of the catalog ``path``, or the galaxies of shards.

    Args:
        schema: of votes; None for other labels.
    """
    check_not_reserved(label_cols, "label column")
    if options.round_votes and (schema is None or options.shards):
        raise UserError("--round-votes is for vote counts of a decision tree in a catalog")
    if options.shards:
        if path or options.val_catalog or options.test_catalog:
            raise UserError("give --shards or catalogs, not both")
        return open_splits(options.shards, label_cols)
    if not path:
        raise UserError("give --catalog or --shards")
    others = (options.val_catalog, options.test_catalog)
    splits = load_splits(path, *others, label_cols, options.seed, schema)
    if options.round_votes:
        splits = {s: round_votes(t, label_cols, str(path)) for s, t in splits.items()}
    return splits


def galaxies_to_show(
    options: argparse.Namespace, predictions: Predictions
) -> tuple[pd.DataFrame, Pictures] | None:
    """The galaxies of ``--catalog``, and how a page shows them; None without the option.

    Raises:
        ValueError: the catalog can't be read, or the images have no such bands.
    """
    spec = image_spec(options) or bands_of(predictions)
    if options.catalog is None:
        return None
    pictures, path = Pictures(spec, options.rgb_bands), options.catalog
    if path == "demo":
        path = demo_catalog(bands=spec and spec.bands)
    return read_catalog(path), pictures


def image_spec(options: argparse.Namespace) -> ImageSpec | None:
    """The bands that ``--bands``, ``--image-spec`` and ``--scaling`` describe; None: 8-bit images.

    Places in ``--bands`` and a ``--scaling`` go before those of the file.

    Raises:
        ValueError: for a file that is no spec, or that has other bands than ``--bands``.
    """
    spec = parse_bands(options.bands) if options.bands else None
    if options.image_spec:
        read = read_spec(options.image_spec)
        if spec is not None and spec.bands != read.bands:
            raise UserError(
                f"--bands are {' '.join(spec.bands)}, but {options.image_spec} describes "
                f"{' '.join(read.bands)}: give the same bands in one order, or leave --bands out"
            )
        places = {**read.places, **(spec.places if spec else {})}
        spec = dataclasses.replace(read, places=places)
    scaling = vars(options).get("scaling")
    if scaling is not None and scaling != spec.scaling:
        # A mean and spread in the file are of pixels that were scaled as the file says.
        spec = dataclasses.replace(spec, scaling=scaling, mean=None, std=None)
    return spec


def _as_before(spec: ImageSpec | None, resume_from: dict | None) -> ImageSpec | None:
    """A spec with the bands' mean and spread as a state tells them, if it is of the same bands."""
    saved = ((resume_from or {}).get("description") or {}).get("bands")
    if spec is None or saved is None:
        return spec
    before = ImageSpec.from_dict(saved)
    is_same = spec.is_scaled_as(before) and before.has_statistics
    return spec.with_statistics(before.mean, before.std) if is_same else spec


def tell(overview: str) -> None:
    """Print what a run trains on, once."""
    if distributed.is_main():
        print(f"{overview}\n", flush=True)


def make_data(
    options: argparse.Namespace,
    splits: dict[str, pd.DataFrame | Galaxies],
    label_cols: list[str],
    resume_from: dict | None = None,
) -> CatalogDataModule:
    """The data module that the options describe: random views to train on, fixed ones else.

    Its images are looked at, as ``--check-images`` says.

    Args:
        resume_from: a state to go on from, which tells the bands' mean and spread.
    """
    device = distributed.choose_device(options.device)
    train_view, test_view = default_view_config(), minimal_view_config()
    if options.zoom:
        low, high = options.zoom
        if not 0 < low <= high:
            raise UserError(f"--zoom {low:g} {high:g}: give LOW and HIGH, above 0, low first")
        train_view, test_view = zoomed_view_configs(low, high)
    train_view.random_affine["shear"] = (0, options.shear, 0, options.shear)
    train_view.output_size = test_view.output_size = options.image_size
    data = CatalogDataModule(
        label_cols,
        get_galaxy_transform(train_view),
        get_galaxy_transform(test_view),
        **{f"{split}_catalog": table for split, table in splits.items()},
        batch_size=options.batch_size,
        num_workers=choose_num_workers(options.num_workers, on_gpu=device.type == "cuda"),
        seed=options.seed,
        channels=options.channels,
        fits_scaling=options.fits_scaling,
        spec=image_spec(options),
        grad_accumulation=options.grad_accumulation,
        augment=options.augment,
        check_images=options.check_images,
        on_bad_image=options.on_bad_image,
        cache=options.cache,
        decode=options.decode,
    )
    data.spec = _as_before(data.spec, resume_from)
    data.look_at_images(options.save_dir)
    return data


def state_to_resume(options: argparse.Namespace) -> dict | None:
    """The saved state that ``--resume`` asks to go on from; None to start anew."""
    return find_state(
        options.save_dir,
        options.resume,
        vars(options),
        MAY_CHANGE_ON_RESUME,
        options.allow_changes,
    )


def make_trainer(options: argparse.Namespace, **others) -> Trainer:
    """The trainer that the options describe; ``others`` are further arguments of it."""
    return Trainer(
        options.save_dir,
        save_top_k=options.save_top_k,
        max_epochs=options.epochs,
        patience=options.patience,
        device=options.device,
        precision=options.precision,
        tf32=options.tf32,
        deterministic=options.deterministic,
        compile=options.compile,
        grad_clip=options.grad_clip or None,
        seed=options.seed,
        save_every_minutes=options.save_every or math.inf,
        max_skipped_steps=options.max_skipped_steps,
        on_save_error=options.on_save_error,
        allow_changes=options.allow_changes,
        **others,
    )


def image_size_kwargs(name: str, image_size: int) -> dict:
    """timm's ``img_size`` for an encoder to be built for one image size, else {}."""
    return {} if hub.is_model(name) else architectures.image_size_kwargs(name, image_size)
