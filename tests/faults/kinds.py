"""The kinds of files from outside: how one is damaged, and all that is done with it."""

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path

import of_containers
import of_galaxies
import of_models
import of_pickles
from mutations import Files, Steps


@dataclasses.dataclass
class Kind:
    """One kind of input.

    Attributes:
        make: gives the files of an input.
        steps: gives the calls that read them: each must return, or raise a ValueError.
    """

    make: Callable[[random.Random], Files]
    steps: Callable[[Path], Steps]


KINDS = {
    "catalog": Kind(of_galaxies.make_catalog, of_galaxies.catalog_steps),
    "schema": Kind(of_models.make_schema, of_models.schema_steps),
    "image": Kind(of_galaxies.make_image, of_galaxies.image_steps),
    "bands": Kind(of_galaxies.make_bands, of_galaxies.bands_steps),
    "shards": Kind(of_galaxies.make_shards, of_galaxies.shard_steps),
    "config": Kind(of_models.make_config, of_models.config_steps),
    "checkpoint": Kind(of_models.make_checkpoint, of_models.checkpoint_steps),
    "header": Kind(of_containers.make_header, of_galaxies.catalog_steps),
    "parquet": Kind(of_containers.make_parquet, of_galaxies.catalog_steps),
    "hdf5": Kind(of_containers.make_hdf5, of_containers.hdf5_steps),
    "pickle": Kind(of_pickles.make_pickle, of_models.checkpoint_steps),
}
