"""``ImageSpec``: what a model's images are made of. It is saved with the model's weights.

A band is named by the user. Where it is found in a galaxy's file is said by a short text, a place:

    VIS_FLUX       the HDU, or the array of an .npz or HDF5 file, of this name
    3              HDU number 3; 0 is the first
    [1]            plane 1 of the cube; 0 is the first
    images[1]      plane 1 of the array or HDU of this name

Without a place a band is the HDU or array that has its name, the plane that the file itself calls
so, or, in a cube with as many planes as there are bands, the plane in its order.
"""

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoobot.limits.text import read_json
from zoobot.options import BAND_SCALINGS
from zoobot.system.errors import UserError, did_you_mean

MOST_BANDS = 100
PLACE = re.compile(r"(?P<key>[^\[\]=]*)(\[(?P<plane>\d{1,4})\])?")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a band is in a file; see the module's docstring.

    Attributes:
        key: name or number of an HDU, or name of an array; None: the only one.
        plane: number of a cube's plane; None: it is no cube, or the planes are in the bands' order.
    """

    key: str | int | None = None
    plane: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Place":
        """From the text that says it.

        Raises:
            ValueError: it is none.
        """
        found = PLACE.fullmatch(text.strip())
        if not found or not text.strip():
            raise UserError(
                f"{text!r} is no place of a band: use NAME, NUMBER, [PLANE], NAME[PLANE]"
            )
        key, plane = found["key"].strip() or None, found["plane"]
        key = int(key) if key and key.isdecimal() else key
        return cls(key, None if plane is None else int(plane))

    def __str__(self) -> str:
        plane = "" if self.plane is None else f"[{self.plane}]"
        return f"{'' if self.key is None else self.key}{plane}"


@dataclasses.dataclass(frozen=True)
class ImageSpec:
    """The bands of a model's images, in the model's order, and how their numbers are scaled.

    Attributes:
        bands: their names.
        places: band -> where it is; of bands that are not in it, see the module's docstring.
        scaling: one of ``options.BAND_SCALINGS``, see ``bands.scaling``.
        softening: for asinh, in units of the sky noise: below it, the scaling is nearly linear.
        noise: sky noise of each band in the file's units; None: measured in each image.
        pixel_scale: of each band, in any one unit: then all bands show the square of sky that all
            of them cover. None: the images of all bands cover the same square.
        mean, std: of each band's scaled pixels in the training set; None before they are measured.

    Raises:
        ValueError: for bands that repeat, or values of other kinds.
    """

    bands: tuple[str, ...]
    places: Mapping[str, Place] = dataclasses.field(default_factory=dict)
    scaling: str = "asinh"
    softening: float = 5.0
    noise: tuple[float, ...] | None = None
    pixel_scale: tuple[float, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self):
        bands = self.bands
        for band in bands:
            _check_name(band)
        if not 1 <= len(bands) <= MOST_BANDS or len({*bands}) < len(bands):
            raise UserError(f"bands {' '.join(bands):.200}: give 1 to {MOST_BANDS}, each once")
        for band in self.places.keys() - {*bands}:
            raise UserError(f"a place is given for band {band!r}, but bands are {' '.join(bands)}")
        if self.scaling not in BAND_SCALINGS:
            near, known = did_you_mean(str(self.scaling), BAND_SCALINGS), ", ".join(BAND_SCALINGS)
            raise UserError(f"scaling {self.scaling!r:.40}: use one of {known}{near}")
        if self.scaling == "lupton" and len(bands) != 3:
            raise UserError(f"scaling lupton is for 3 bands, blue to red, not {len(bands)}")
        for name in ("noise", "pixel_scale", "std"):
            _check_numbers(name, getattr(self, name), len(bands), above=0.0)
        _check_numbers("mean", self.mean, len(bands))
        _check_numbers("softening", (self.softening,), 1, above=0.0)

    def with_statistics(self, mean: Sequence[float], std: Sequence[float]) -> "ImageSpec":
        """The same, with the mean and the spread of the training set."""
        return dataclasses.replace(self, mean=tuple(mean), std=tuple(std))

    def is_scaled_as(self, other: "ImageSpec") -> bool:
        """Whether both have the same bands in one order, in pixels that mean the same."""
        names = ("bands", "scaling", "softening", "noise")
        return all(vars(self)[name] == vars(other)[name] for name in names)

    @property
    def has_statistics(self) -> bool:
        """Whether the mean and the spread are known."""
        return self.mean is not None and self.std is not None

    def told_statistics(self) -> str:
        """The mean and the spread, in words."""
        each = zip(self.bands, self.mean, self.std, strict=True)
        told = (f"{band} {mean:.3g} \u00b1 {std:.3g}" for band, mean, std in each)
        return f"{', '.join(told)} after scaling by {self.scaling}"

    def to_dict(self) -> dict[str, Any]:
        """As plain types; what is not known is left out.

        How bands are scaled is always said: another default, some day, must not change what a saved
        model means.
        """
        found = {"bands": [*self.bands]}
        if self.places:
            found["places"] = {band: str(place) for band, place in self.places.items()}
        for field in dataclasses.fields(self)[2:]:
            value = getattr(self, field.name)
            if value is not None:
                found[field.name] = [*value] if isinstance(value, tuple) else value
        return found

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ImageSpec":
        """From plain types, as ``to_dict`` and JSON files have them.

        Raises:
            ValueError: for an unknown name, or a value of another kind.
        """
        if not isinstance(values, Mapping):
            raise UserError(f"bands are told by {values!r:.60}, not by a dict")
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                near = did_you_mean(str(name), known)
                raise UserError(f"unknown entry {name!r:.60} of images{near}")
        values = dict(values)
        places = values.get("places") or {}
        if not isinstance(places, Mapping):
            raise UserError(f"places are {places!r:.60}: give band -> place")
        values["places"] = {str(b): Place.parse(str(place)) for b, place in places.items()}
        for name in ("bands", "noise", "pixel_scale", "mean", "std"):
            value = values.get(name)
            if isinstance(value, list | tuple):
                values[name] = tuple(value)
            elif value is not None or name == "bands":
                raise UserError(f"{name} is {value!r:.60}: give a list, an entry a band")
        return cls(**values)


def _check_name(band: Any) -> None:
    """ValueError unless this is a name that a band can have."""
    if not isinstance(band, str) or not re.fullmatch(r"[^\s=\[\]{}/\\]{1,40}", band):
        raise UserError(f"{band!r:.60} is no name of a band: use letters and numbers")


def _check_numbers(name: str, values: Any, num: int, above: float = -math.inf) -> None:
    """ValueError unless ``values`` is None or ``num`` finite numbers above a number."""
    if values is None:
        return
    is_sound = isinstance(values, tuple) and len(values) == num
    if not is_sound or not all(
        isinstance(value, int | float) and above < value < math.inf for value in values
    ):
        least = "" if above == -math.inf else f" above {above:g}"
        raise UserError(f"{name} is {values!r:.80}: give {num} numbers{least}, one a band")


def parse_bands(words: Sequence[str]) -> ImageSpec:
    """From the words of ``--bands``: ``g r z``, or with places, ``g=1 r=3 z=images[2]``.

    Raises:
        ValueError: for a word that is neither.
    """
    places = {}
    for word in words:
        band, given, place = word.partition("=")
        if given:
            places[band] = Place.parse(place)
    return ImageSpec(tuple(word.partition("=")[0] for word in words), places)


def read_spec(path: str | Path) -> ImageSpec:
    """From a JSON file with the entries of ``ImageSpec``.

    Raises:
        ValueError: the file is missing, no JSON, or has other entries.
    """
    try:
        values = read_json(path)
        if not isinstance(values, dict):
            raise UserError('it must hold {"bands": [...], ...}')
        return ImageSpec.from_dict(values)
    except OSError as error:
        raise UserError(f"image spec {path} can't be read: {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"image spec {path} is no JSON: {error}") from error
    except UserError as error:
        raise UserError(f"image spec {path}: {error}") from error


def spec_of_stored(asked: ImageSpec | None, stored: ImageSpec | None) -> ImageSpec | None:
    """The spec of images in shards, which were scaled when they were stored; None: 8-bit images.

    Args:
        asked: what the user or a model asks for; None: what there is. Its mean and spread go first.
        stored: what the shards hold.

    Raises:
        ValueError: they differ in bands, their order, or in how bands are scaled.
    """
    if asked is None:
        return stored
    _check_same_names(asked, stored, "the shards hold", ": they can't be changed, write them anew")
    for name in ("scaling", "softening", "noise", "pixel_scale"):
        ask, found = vars(asked)[name], vars(stored)[name]
        if ask != found and (name != "pixel_scale" or ask is not None):
            raise UserError(
                f"{name} of bands is {ask}, but the shards were written with {found}: leave "
                "--bands out, as shards know theirs, or write the shards anew"
            )
    return stored.with_statistics(asked.mean, asked.std) if asked.has_statistics else stored


def check_same_bands(asked: ImageSpec | None, trained: ImageSpec | None) -> None:
    """ValueError unless a model sees the bands that it was trained on, in their order."""
    _check_same_names(asked, trained, "the model was trained on")


def _check_same_names(
    asked: ImageSpec | None, known: ImageSpec | None, of_known: str, cure: str = ""
) -> None:
    names = [" ".join(spec.bands) if spec else "8-bit images" for spec in (asked, known)]
    if names[0] != names[1]:
        raise UserError(f"bands are {names[0]}, but {of_known} {names[1]}{cure}")
