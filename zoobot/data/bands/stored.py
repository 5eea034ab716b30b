"""The arrays that a file holds, not yet read, and which of them, and which plane, is a band."""

import dataclasses
import re
from collections.abc import Callable, Sequence

import numpy as np

from zoobot.data.bands.spec import Place
from zoobot.system.errors import UserError

MOST_LISTED = 30  # arrays, in a question to the user
LONGEST_TOLD = 100  # characters of a name, a shape, or the names of planes
# Names of arrays that go with images of the sky but are none.
BESIDE = re.compile(
    r"(.*[_ -])?(psfs?|rms|wgt|wht|wt|weights?|err|errors?|var|variances?|ivar|invvar|std|sigma"
    r"|noise|masks?|dq|flags?|seg|segm|segmap|exp|exptime|filters|bands|catalog)",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class Stored:
    """An array of a file.

    Attributes:
        name: of the HDU or array; '' if it has none.
        number: of the HDU or page, from 0; None for arrays.
        stored_shape: as it is stored; axes of length 1 do not count.
        read: reads it: numbers of any type; missing pixels are NaN.
        plane_names: what the file calls the planes along the axis of bands; () if it does not say.
        is_8bit: its numbers are from 0 to 255, as those of pictures.
    """

    name: str
    number: int | None
    stored_shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    plane_names: tuple[str, ...] = ()
    is_8bit: bool = False

    def __str__(self) -> str:
        number = "" if self.number is None else f"{self.number} "
        planes = f" of {' '.join(self.plane_names)}" if self.plane_names else ""
        name = f"{self.name:.{LONGEST_TOLD}} " if self.name else ""
        return f"{number}{name}{str(self.stored_shape):.{LONGEST_TOLD}}{planes:.{LONGEST_TOLD}}"

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W), or three numbers of a cube: without axes of length 1."""
        if len(self.stored_shape) <= 2:
            return self.stored_shape
        sides = [side for side in self.stored_shape if side != 1]
        return tuple([1] * (2 - len(sides)) + sides)

    def is_called(self, key: str | int) -> bool:
        """Whether this is its name or number."""
        if isinstance(key, int) and self.number == key:
            return True
        return bool(self.name) and self.name.casefold() == str(key).casefold()

    def is_image(self) -> bool:
        """Whether it may be an image of the sky, or a cube of such: by its shape and name."""
        return len(self.shape) in (2, 3) and min(self.shape) > 0 and not BESIDE.fullmatch(self.name)


@dataclasses.dataclass(frozen=True)
class Band:
    """A band's image: an array, or a plane of a cube."""

    array: Stored
    plane: int | None = None
    axis: int = 0

    def cut(self, pixels: np.ndarray) -> np.ndarray:
        """Its pixels (H, W) in this machine's byte order, of its array as it was read."""
        pixels = pixels.reshape(self.array.shape)
        pixels = pixels if self.plane is None else np.moveaxis(pixels, self.axis, 0)[self.plane]
        return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def find_band(
    stored: Sequence[Stored], band: str, place: Place, number: int, num_bands: int
) -> Band:
    """Where a band is among the arrays of a file.

    Args:
        place: where the user says that it is.
        number: of the band, from 0, among the ``num_bands`` that are in this file.

    Raises:
        ValueError: it is not there, or may be in several places; the message lists what is there.
    """
    if place.key is not None:
        found = [array for array in stored if array.is_called(place.key)]
    else:
        found = [a for a in stored if a.is_called(band) and len(a.shape) == 2]
        found = found or [array for array in stored if array.is_image()]
    at = "" if place.key is None else f" at {place.key}"
    if len(found) != 1:
        many = "no image" if not found else f"{len(found)} images"
        raise UserError(
            f"band {band}{at}: the file has {many} for it; it holds {describe(stored)}. "
            f"Say where it is: --bands {band}=NAME, =NUMBER, =[PLANE] or =NAME[PLANE]"
        )
    array = found[0]
    if len(array.shape) == 3:
        return _find_plane(array, band, place, number, num_bands)
    if len(array.shape) != 2 or place.plane:
        raise UserError(f"band {band}{at}: {array} is no cube of bands")
    if place.key is None and num_bands > 1 and not array.is_called(band):
        raise UserError(
            f"band {band}: the file holds one image, {array}, for {num_bands} bands; a file a "
            f"band is given by {{band}} in file_loc, or by columns file_loc_{band}, ..."
        )
    return Band(array)


def _find_plane(array: Stored, band: str, place: Place, number: int, num_bands: int) -> Band:
    """The plane of a cube that a band is in."""
    names = [name.casefold() for name in array.plane_names]
    if place.plane is not None:
        axis = _band_axis(array, len(names) or (min(array.shape[0], array.shape[2])))
        if place.plane >= array.shape[axis]:
            raise UserError(f"band {band}: {array} has no plane {place.plane}; the first is 0")
        return Band(array, place.plane, axis)
    if names:
        if names.count(band.casefold()) != 1:
            raise UserError(
                f"band {band}: the file calls its planes {' '.join(array.plane_names)}; use these "
                f"names, or say which plane it is: --bands {band}=[0]"
            )
        return Band(array, names.index(band.casefold()), _band_axis(array, len(names)))
    if num_bands not in (array.shape[0], array.shape[2]):
        raise UserError(
            f"band {band}: {array} is not for {num_bands} bands; say its planes: {band}=[0] ..."
        )
    return Band(array, number, _band_axis(array, num_bands))


def _band_axis(array: Stored, num_planes: int) -> int:
    """The axis of a cube's bands: 0 or 2, the one of this length."""
    axes = [axis for axis in (0, 2) if array.shape[axis] == num_planes]
    if len(axes) != 1:
        raise UserError(f"{array} does not tell which axis is that of its {num_planes} bands")
    return axes[0]


def only_image(stored: Sequence[Stored]) -> Stored:
    """The only image of a file, for which no bands were asked.

    Raises:
        ValueError: there is none, or there are several; the message lists what is there.
    """
    images = [array for array in stored if array.is_image()]
    if len(images) != 1:
        many = "no image" if not images else f"{len(images)} images"
        cure = ". Say which are the bands: --bands NAME=NUMBER ..." if images else ""
        raise UserError(f"{many} in this file; it holds {describe(stored)}{cure}")
    return images[0]


def describe(stored: Sequence[Stored]) -> str:
    """What a file holds, in words."""
    told = [str(array) for array in stored[:MOST_LISTED]]
    return (", ".join(told) + (", ..." if len(stored) > MOST_LISTED else "")) or "nothing"
