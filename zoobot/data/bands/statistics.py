"""The mean and the spread of each band in a training set, for a spec that lacks them."""

from multiprocessing.pool import ThreadPool

import numpy as np

from zoobot.data.bands.image import read_band_image
from zoobot.data.bands.spec import ImageSpec
from zoobot.data.images import ImageError
from zoobot.data.sources import Galaxies
from zoobot.system import distributed
from zoobot.system.errors import UserError

MOST_MEASURED = 1000  # galaxies
THREADS = 2


def with_statistics(spec: ImageSpec, galaxies: Galaxies, seed: int = 0) -> ImageSpec:
    """A spec with the mean and spread of its bands, unless it has them.

    They are of the pixels of a seeded sample of galaxies; each galaxy counts the same. Processes
    share the work and get the same numbers.

    Args:
        galaxies: of the training set; images that can't be read are left out.

    Raises:
        ValueError: no image can be read, or a band is the same in all pixels.
    """
    if spec.has_statistics:
        return spec
    rows = np.random.default_rng(seed).permutation(len(galaxies))[:MOST_MEASURED]
    mine = rows[distributed.rank() :: distributed.world_size()]
    errors: list[str] = []

    def moments(row: int) -> np.ndarray | None:
        source = galaxies.source(row)
        name = f"id_str {galaxies.id_str(row)!r}" if isinstance(source, bytes) else None
        try:
            image = read_band_image(source, spec, name)
        except ImageError as error:
            errors.append(str(error))
            return None
        wide = [band.astype(np.float64) for band in image.bands]
        return np.array([[band.mean(), (band**2).mean()] for band in wide])

    with ThreadPool(THREADS) as pool:
        found = [m for m in pool.map(moments, mine.tolist()) if m is not None]
    parts = distributed.gather((np.sum(found, axis=0).tolist() if found else [], len(found)))
    num = sum(count for _, count in parts)
    if num == 0:
        raise UserError(f"no image can be read to measure the bands: {(errors or ['none'])[0]}")
    mean, square = (sum(np.array(total) for total, count in parts if count) / num).T
    std = np.sqrt(np.maximum(square - mean**2, 0))
    for band, spread in zip(spec.bands, std, strict=True):
        if not spread > 0:
            raise UserError(f"band {band} has the same value in all pixels of {num} images")
    return spec.with_statistics(mean.tolist(), std.tolist())
