"""The galaxies to predict: found by number, as the model is to see them, and carried columns."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
from torch import nn

from zoobot.data import listing
from zoobot.data.bands.spec import ImageSpec
from zoobot.data.carried import carried_labels, check_carry
from zoobot.data.dataset import CatalogDataset
from zoobot.data.sources import Galaxies, TableGalaxies
from zoobot.data.views.turned import TurnedViews
from zoobot.predictions.ensembles import same_view
from zoobot.predictions.files import as_kept
from zoobot.predictions.joining import summary_template
from zoobot.predictions.parts import LARGEST_PART_ROWS, LISTING, Work
from zoobot.system import distributed


def open_galaxies(
    catalog: pd.DataFrame | str | Path | Galaxies,
    folder: Path,
    split: str,
    id_from: str | None,
    spec: ImageSpec | None,
    carry: list[str],
) -> tuple[Galaxies, str | None, pa.Table | None]:
    """The galaxies by number, and in the main process a hash of them; and carried columns."""
    if not isinstance(catalog, pd.DataFrame | str | Path):
        carried = carried_labels(catalog, carry) if carry else None
        return catalog, catalog.fingerprint(), carried
    digest, path = None, folder / LISTING
    with distributed.main_first():
        if distributed.is_main():
            bands = None if spec is None else spec.bands
            digest = listing.write_listing(catalog, path, split, id_from, bands, carry)
    return TableGalaxies(listing.open_listing(path)), digest, listing.open_carried(path)


def carried_as_kept(
    suffix: str, work: Work, galaxies: Galaxies, carried: pa.Table | None
) -> pa.Table | None:
    """The carried columns as files of this format have them; see ``files.as_kept``."""
    templates = [work.template] if work.schema is None else [summary_template(work), work.template]
    for template in templates:
        check_carry([] if carried is None else carried.column_names, template.columns)
        steps = range(0, len(galaxies), LARGEST_PART_ROWS)
        ids = (galaxies.ids(range(i, min(i + steps.step, len(galaxies)))) for i in steps)
        kept = as_kept(suffix, dataclasses.replace(template, carried=carried), ids)
    return kept.carried


def as_seen(
    galaxies: Galaxies,
    members: Sequence[nn.Module],
    transform: Callable | None,
    num_views: int,
    fits_scaling: str,
    spec: ImageSpec | None,
) -> CatalogDataset:
    """The galaxies as all models are to see them: by default in the view of their validation."""
    transform = transform or same_view(members)
    return CatalogDataset(
        galaxies,
        transform=TurnedViews(transform, num_views) if num_views > 1 else transform,
        channels=members[0].channels,
        fits_scaling=fits_scaling,
        spec=spec,
    )
