"""Pictures of galaxies for people: 8-bit images as they are, images of bands in colours or grey."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from zoobot.data.bands.image import read_band_image
from zoobot.data.bands.rgb import galaxy_rgb, in_flux, rgb_bands, white_balance
from zoobot.data.bands.spec import ImageSpec
from zoobot.data.images import ImageError, read_image
from zoobot.predictions.contents import Predictions
from zoobot.system.errors import UserError

MOST_BALANCED = 30  # galaxies that are grey on average


@dataclasses.dataclass(frozen=True)
class Pictures:
    """How galaxies are shown.

    Attributes:
        spec: of their images; None for 8-bit images.
        bands: red, green and blue, or one for grey; None: see ``bands.rgb.rgb_bands``.
        balance: of the colours, see ``balanced_on``.

    Raises:
        ValueError: the images have no such bands.
    """

    spec: ImageSpec | None = None
    bands: Sequence[str] | None = None
    balance: Sequence[float] | None = None

    def __post_init__(self):
        if self.spec is not None:
            rgb_bands(self.spec, self.bands)
        elif self.bands:
            raise UserError(
                f"pictures of bands {' '.join(self.bands)} are asked for, but these are 8-bit "
                "images: leave --rgb-bands out"
            )

    def balanced_on(self, table: pd.DataFrame) -> "Pictures":
        """The same, with colours that are grey on average over some galaxies of a catalog.

        So a red galaxy looks red beside a blue one.
        """
        if self.spec is None or len(rgb_bands(self.spec, self.bands)) == 1:
            return self
        rows = np.unique(np.linspace(0, len(table) - 1, MOST_BALANCED).astype(int))
        sources = [source_of(table.iloc[row]) for row in rows]
        images = [*self._band_images(sources)]
        spec = self._as_read(sources[0])
        balance = white_balance(images, spec, self.bands).tolist() if images else None
        return dataclasses.replace(self, balance=balance)

    def _as_read(self, source: Any) -> ImageSpec:
        """How a galaxy's bands are read: in flux, but pixels of shards are scaled already."""
        if isinstance(source, np.ndarray):
            return dataclasses.replace(self.spec, mean=None, std=None)
        return in_flux(self.spec)

    def _band_images(self, sources: Iterable[Any]) -> Iterable[Any]:
        for source in sources:
            try:
                yield read_band_image(source, self._as_read(source))
            except ImageError:
                continue

    def read(self, galaxy: pd.Series) -> Image.Image | None:
        """The picture of a galaxy, from its row of the catalog; None if it can't be read."""
        source = source_of(galaxy)
        if source is None:
            return None
        if self.spec is None:
            try:
                return read_image(source)
            except ImageError:
                return None
        for image in self._band_images([source]):
            spec = self._as_read(source)
            return galaxy_rgb(image, spec, self.bands, balance=self.balance)
        return None

    @property
    def caption(self) -> str:
        """What the colours are, in words; '' for 8-bit images."""
        if self.spec is None:
            return ""
        bands = rgb_bands(self.spec, self.bands)
        if len(bands) == 1:
            return f"band {bands[0]} in grey"
        return f"red {bands[0]}, green {bands[1]}, blue {bands[2]}"


def source_of(galaxy: pd.Series) -> Any:
    """Where the image of a galaxy is, from its row of the catalog; None if it does not say."""
    return galaxy.get("file_loc", galaxy.get("image"))


def bands_of(predictions: Predictions) -> ImageSpec | None:
    """Of the images that were predicted; None if they are of 8 bits, or the file doesn't say."""
    bands = predictions.metadata.get("bands")
    if bands is None:
        return None
    if not isinstance(bands, dict):
        raise UserError(f"predictions of images with bands {bands!r:.60}: that is no description")
    return ImageSpec.from_dict(bands)
