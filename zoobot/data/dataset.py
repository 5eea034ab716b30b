"""The galaxies of a catalog as a torch dataset: one by one, or as batches for the loop.

What a galaxy looks like in an epoch depends on (seed, epoch, galaxy) only: not on the worker, the
rank, the batch size or where a run was interrupted.
"""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.utils.data import Dataset

from zoobot.data.bands.image import BandImage, offsets, read_band_image, sides_px, stack_bands
from zoobot.data.bands.spec import ImageSpec, spec_of_stored
from zoobot.data.device_batches import float_images
from zoobot.data.device_cache import DeviceCache
from zoobot.data.images import ImageError, ImageSource, image_of, pixels_in, read_image, read_pixels
from zoobot.data.memory_cache import MemoryCache
from zoobot.data.sources import Galaxies, TableGalaxies
from zoobot.data.views.config import minimal_view_config
from zoobot.data.views.cpu import GalaxyView, apply_transform, get_galaxy_transform
from zoobot.data.views.device import DeviceView, device_view_of, why_not_divided
from zoobot.data.views.turned import TurnedViews
from zoobot.system.errors import UserError

AUGMENT = ("auto", "cpu", "device")


@dataclasses.dataclass(frozen=True)
class ImagesSeen:
    """How the images that a model was validated with were made; it is saved with the model.

    Attributes:
        fits_scaling: brightness of FITS images, see ``read_image``.
        image_size: side of the view in pixels.
        view: the view's settings that differ from those of ``GalaxyViewConfig()``.
        transform: what a transform that is not ours prints as.
        bands: an ``ImageSpec`` as plain types; None for 8-bit images.

    Each is None where it is not known.
    """

    fits_scaling: str | None = None
    image_size: int | None = None
    view: dict | None = None
    transform: str | None = None
    bands: dict | None = None

    def to_dict(self) -> dict:
        """The attributes that are known."""
        return {key: value for key, value in vars(self).items() if value is not None}

    @classmethod
    def from_dict(cls, description: dict) -> "ImagesSeen":
        """From a model's description, which holds the attributes beside others."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: description.get(name) for name in names})


class Decoder(Protocol):
    """Decodes JPEGs that workers leave to it; see ``zoobot.data.decode_gpu``."""

    def jpeg(self, source: ImageSource) -> bytes | None:
        """The file of an image that is left to it; None if a worker is to decode it."""

    def ahead(self, batches: Iterable[dict]) -> Iterator[dict]:
        """Batches with all their images, the next one made while one is used."""


class CatalogDataset(Dataset):
    """Galaxies of a catalog: ``dataset[i]`` is a dict of image, id_str and labels.

    Args:
        catalog: with ``id_str``, ``file_loc`` or ``image``, and the label columns; or galaxies of
            another source, see ``zoobot.data.sources``.
        label_cols: columns of numbers; None for no labels, or for those of shards.
        transform: a view, or any torchvision v2 transform; by default a fixed view of 224 px. A
            ``DeviceView`` leaves the view to the device, for the loop.
        target_transform: called by ``dataset[i]`` with a galaxy's dict of labels, returns another.
        channels: 1 or 3, of the image before the transform.
        fits_scaling: brightness of FITS images.
        spec: of images of any bands, in floats; None for 8-bit images. Shards have their own, which
            this must agree with.
        seed: of the transform's random draws.
        augment: who makes the views in a loop. ``auto``: the loop's device if it is a GPU and the
            view can be divided (see ``zoobot.data.views.device``), else the CPU; ``cpu``;
            ``device``: the device, whatever it is.
        cache: where ``image_cache.keep_images`` keeps decoded images.
        decode: where ``decode_gpu.choose_decoder`` has JPEGs decoded.

    Raises:
        ValueError: for a missing column, a label that is no number, or a view that can't be
            divided with ``augment='device'``.
    """

    def __init__(
        self,
        catalog: pd.DataFrame | Galaxies,
        label_cols: Sequence[str] | None = None,
        transform: Callable | None = None,
        target_transform: Callable | None = None,
        *,
        channels: int = 3,
        fits_scaling: str = "asinh",
        spec: ImageSpec | None = None,
        seed: int = 0,
        augment: str = "auto",
        cache: str = "none",
        decode: str = "cpu",
    ):
        if augment not in AUGMENT:
            raise UserError(f"augment={augment!r}: use one of {', '.join(AUGMENT)}")
        if isinstance(catalog, pd.DataFrame):
            catalog = TableGalaxies(catalog, label_cols)
        elif not isinstance(catalog, Galaxies):
            raise UserError(f"a catalog is a pandas DataFrame, not a {type(catalog).__name__}")
        elif label_cols is not None and list(label_cols) != catalog.label_cols:
            raise UserError(f"labels {label_cols} asked for, but there are {catalog.label_cols}")
        if catalog.shard_sizes is not None:
            spec = spec_of_stored(spec, catalog.spec)
        self.galaxies = catalog
        self.label_cols = catalog.label_cols
        self.transform = transform or get_galaxy_transform(minimal_view_config())
        if augment == "device" and not self.is_only_decoded:
            self.transform = device_view_of(self.transform, catalog, spec)
        self._augment = augment
        self.target_transform = target_transform
        self.spec = spec
        self.channels = channels if spec is None else len(spec.bands)
        self._offset = None if spec is None else offsets(spec)
        self.fits_scaling = fits_scaling
        self.seed = seed
        self.cache = cache
        self.decode = decode
        self.in_memory: MemoryCache | None = None  # both are set by ``image_cache.keep_images``
        self.on_device: DeviceCache | None = None
        self.decoder: Decoder | None = None  # set by ``decode_gpu.choose_decoder``

    def __len__(self) -> int:
        return len(self.galaxies)

    def __getitem__(self, index: int) -> dict:
        """One galaxy, read now, its view drawn from torch's generator.

        Returns:
            ``image`` float32 (C, H, W) in 0-1, ``id_str``, and one number a label column.

        Raises:
            ImageError: the image can't be read.
        """
        image = {"image": self._image(index)[None]} | self._to_standardise()
        galaxy = {"image": float_images(image)[0], "id_str": self.galaxies.id_str(index)}
        values = self.galaxies.labels([index])[0].tolist()
        labels = dict(zip(self.label_cols, values, strict=True))
        return galaxy | (self.target_transform(labels) if self.target_transform else labels)

    def batch(self, epoch: int, indices: Sequence[int]) -> dict:
        """These galaxies as they look in this epoch.

        ``image`` lacks those that can't be read: ``errors`` has place in the batch -> reason.
        ``no_data`` lists the values that were taken for no data, once for each image. With
        ``on_device``, ``image`` also lacks those that are kept there; with ``decoder``, those in
        ``jpegs``, place -> file.
        """
        images, jpegs, errors, no_data = [], {}, {}, []
        cache = self.on_device
        places = range(len(indices)) if cache is None else cache.missing(indices)
        for place in places:
            index = indices[place]
            jpeg = self.decoder and self.decoder.jpeg(self.galaxies.source(index))
            if jpeg:
                jpegs[place] = jpeg
                continue
            try:
                images.append(self._image(index, (self.seed, epoch, index), no_data))
            except ImageError as error:
                errors[place] = str(error)
        ids = [self.galaxies.id_str(i) for i in indices]
        batch = {} if cache is None else cache.parts(indices, places)
        batch |= {"id_str": ids, "errors": errors, "no_data": no_data, **self._to_standardise()}
        if images:
            batch["image"] = self._stack(images)
        if self.decoder is not None:
            decoded = [place for place in places if place not in errors and place not in jpegs]
            batch |= {"jpegs": jpegs, "places_decoded": decoded}
        if self.is_only_decoded:
            read = [index for place, index in enumerate(indices) if place not in errors]
            batch |= self.transform.draw(self.seed, epoch, read)
        if self.label_cols:
            batch["labels"] = self.galaxies.labels(indices)
        return batch

    def ids_of(self, indices: Sequence[int]) -> list[str]:
        """The ids of these galaxies."""
        return [self.galaxies.id_str(i) for i in indices]

    def made_for(self, device: torch.device) -> "CatalogDataset":
        """These galaxies for a loop on this device, to which views may be left; see ``augment``."""
        if device.type != "cuda" or self._augment != "auto" or why_not_divided(self.transform):
            return self
        made = copy.copy(self)
        made.transform = device_view_of(self.transform, self.galaxies, self.spec)
        made.in_memory = made.on_device = made.decoder = None
        return made

    @property
    def is_only_decoded(self) -> bool:
        """Whether views are left to the device."""
        return isinstance(self.transform, DeviceView)

    @property
    def is_only_copied(self) -> bool:
        """Whether making a batch only copies pixels: those of raw shards in their own size."""
        raw_px = self.galaxies.raw_px
        return raw_px is not None and self.is_only_decoded and self.transform.fitted_px == raw_px

    @property
    def image_bytes(self) -> int | None:
        """Bytes of a galaxy's image in a batch; None if the transform is not one of ours."""
        view = self.transform
        if not isinstance(view, GalaxyView | DeviceView):
            return None
        side_px = view.fitted_px if self.is_only_decoded else view.config.output_size
        num_views = len(view.views) if isinstance(view, TurnedViews) else 1
        channels = 1 if view.config.greyscale else self.channels
        value_bytes = 1 if self.spec is None else 2 if self.is_only_decoded else 4
        return num_views * channels * side_px**2 * value_bytes

    def describe_images(self) -> ImagesSeen:
        """How images become what a model is shown."""
        brightness = {"fits_scaling": self.fits_scaling}
        if self.spec is not None:
            brightness = {"bands": self.spec.to_dict()}
        if not isinstance(self.transform, GalaxyView | DeviceView):
            return ImagesSeen(transform=repr(self.transform), **brightness)
        config = self.transform.config
        return ImagesSeen(image_size=config.output_size, view=config.changes(), **brightness)

    @property
    def keeps_images(self) -> bool:
        """Whether decoded images are kept, and are those that its view needs."""
        if self.on_device is not None:
            return True
        return self.in_memory is not None and self.in_memory.view is self.transform

    @property
    def fitted_dtype(self) -> torch.dtype:
        """Of the images of a view that is left to the device."""
        return torch.uint8 if self.spec is None else torch.float16

    @property
    def fitted_shape(self) -> tuple[int, int, int, int]:
        """(N, F, F, C) of the images of a view that is left to the device."""
        side_px = self.transform.fitted_px
        channels = 1 if self.transform.config.greyscale else self.channels
        return len(self), side_px, side_px, channels

    def pixels(self, index: int, no_data: list | None = None) -> np.ndarray:
        """A galaxy's pixels, of which any view of it is made; see ``batch``.

        Returns:
            uint8 (H, W, C); of bands, float16 (F, F, C) for views on the device, else float32
            (C, H, W): an empty array if they are not of one size.
        """
        decoded = self._decoded(index, no_data)
        if isinstance(decoded, BandImage):
            return stack_bands(decoded)
        return decoded if self.is_only_decoded else pixels_in(decoded)

    def _image(
        self, index: int, seed: tuple[int, int, int] | None = None, no_data: list | None = None
    ):
        """A galaxy's view (C, H, W); or, for a view on the device, pixels (H, W, C).

        Values that were taken for no data are added to the list ``no_data``, if it was read now.
        """
        if self.in_memory is None or self.in_memory.view is not self.transform:
            image = self._decoded(index, no_data)
        else:
            image = self.in_memory.get(index, lambda: self.pixels(index, no_data))
            image = image if self.is_only_decoded else self._image_of(index, image)
        return image if self.is_only_decoded else apply_transform(self.transform, image, seed)

    def _image_of(self, index: int, pixels: np.ndarray) -> Image.Image | BandImage:
        """The image that has these ``pixels``."""
        if self.spec is None:
            return image_of(pixels)
        if pixels.size == 0:
            return self._decoded(index)
        is_stored = self.galaxies.raw_px is not None
        sides = (float(len(pixels[0])),) * len(pixels) if is_stored else sides_px(self.spec, pixels)
        return BandImage(tuple(pixels), sides)

    def _decoded(
        self, index: int, no_data: list | None = None
    ) -> Image.Image | BandImage | np.ndarray:
        """A galaxy's image as its views need it; for views on the device, fitted pixels."""
        source = self.galaxies.source(index)
        name = None if isinstance(source, str) else f"id_str {self.galaxies.id_str(index)!r}"
        view = self.transform
        if self.spec is not None:
            if self.is_only_copied:
                return np.asarray(source, np.float16)
            bands = read_band_image(source, self.spec, name)
            if no_data is not None:
                no_data += bands.no_data
            return view.fit(bands) if self.is_only_decoded else bands
        if self.is_only_decoded:
            pixels = read_pixels(source, self.channels, self.fits_scaling, name, no_data)
            return view.fit(pixels)
        min_side_px = view.min_side_px if isinstance(view, GalaxyView) else None
        image = read_image(source, self.channels, self.fits_scaling, min_side_px, name=name)
        if no_data is not None:
            no_data += image.info.get("no_data", ())
        return image

    def _to_standardise(self) -> dict:
        """By what ``float_images`` divides bands, and what it then subtracts: (C,) each."""
        found = {}
        if self.is_only_copied and self.spec is not None and self.spec.std is not None:
            found["spread"] = torch.tensor(self.spec.std, dtype=torch.float32)
        if self._offset is not None:
            found["offset"] = torch.from_numpy(self._offset)
        return found

    def _stack(self, images: list) -> torch.Tensor:
        """(B, C, H, W) in the views' own memory order (H, W, C), a fifth of reordering's cost."""
        if isinstance(images[0], np.ndarray):
            return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        shapes = {tuple(image.shape) for image in images}
        if len(shapes) > 1:
            raise UserError(
                f"the transform gives images of different shapes, {sorted(shapes)[:3]}: "
                "end it with a resize or crop to one size"
            )
        return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)
