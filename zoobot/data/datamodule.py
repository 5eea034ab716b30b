"""CatalogDataModule: training, validation, test and prediction galaxies of catalogs, as loaders."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch

from zoobot.data import huggingface
from zoobot.data.bands.spec import ImageSpec, spec_of_stored
from zoobot.data.bands.statistics import with_statistics
from zoobot.data.catalog import (
    SPLITS,
    check_ids,
    check_not_reserved,
    require_columns,
    require_images,
)
from zoobot.data.dataset import CatalogDataset
from zoobot.data.image_check import check_images, check_options
from zoobot.data.loaders import (
    CatalogLoader,
    GalaxyLoader,
    eval_loader,
    train_loader,
)
from zoobot.data.sources import Galaxies, TableGalaxies, image_frame, label_frame
from zoobot.data.splits import overlap, split_catalog, strata_of
from zoobot.data.stream_loaders import (
    StreamedCatalogLoader,
    StreamedDataset,
    eval_stream_loader,
    train_stream_loader,
)
from zoobot.data.streams import GalaxyStream, check_reading, check_steps
from zoobot.data.views.config import default_view_config, minimal_view_config
from zoobot.data.views.cpu import decoded_alike, get_galaxy_transform
from zoobot.system import distributed
from zoobot.system.cores import choose_num_workers
from zoobot.system.errors import UserError, check_count

STAGES = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("predict",)}


class CatalogDataModule:
    """Loaders over the galaxies of one catalog, which is split, or of separate catalogs.

    A catalog is a table with ``id_str``, ``file_loc`` (or ``image``, encoded bytes) and the label
    columns. It may also be a ``Dataset`` of Hugging Face's ``datasets``, a ``DatasetDict`` (in
    ``catalog``), or a stream: an ``IterableDataset``.

    Args:
        label_cols: label columns; None for galaxies without labels.
        train_transform: for training galaxies: a view, or any torchvision v2 transform; by default
            ``default_view_config()``'s.
        test_transform: for all others; by default ``minimal_view_config()``'s. If there are
            galaxies to train on, JPEGs are decoded at one size for both, see
            ``views.cpu.decoded_alike``.
        catalog: split by its ``split`` column if it has one, else by the fractions and a seeded
            hash of ``id_str``, each class in proportion (``splits.strata_of``).
        train_catalog, val_catalog, test_catalog, predict_catalog: instead of ``catalog``.
        batch_size: galaxies of an optimiser step, over all processes.
        num_workers, prefetch_factor: image-reading workers of each process (``auto``: see
            ``system.cores.choose_num_workers``), and the batches that each makes ahead, see
            ``GalaxyLoader``.
        seed: of the split, the order and the views.
        channels, fits_scaling: of 8-bit images, see ``CatalogDataset``.
        spec: of images of any bands, in floats. If it lacks the mean and spread of the bands, they
            are measured on the training galaxies before the first dataset is made, and are then in
            the attribute ``spec``: every process must make its datasets at the same time. Shards
            have their own.
        grad_accumulation: micro-batches of an optimiser step.
        augment: who makes the views of all splits, ``auto``, ``cpu`` or ``device``; see
            ``CatalogDataset``.
        check_images, on_bad_image: what ``look_at_images`` looks at, and what it does with images
            that can't be read: see ``image_check.check_images``.
        cache: where a trainer keeps decoded images of training and validation galaxies, ``auto``,
            ``none``, ``device`` or ``memory``; see ``image_cache.keep_images``.
        decode: where it has their JPEGs decoded, ``auto``, ``cpu`` or ``gpu``; see
            ``decode_gpu.choose_decoder``.
        steps_per_epoch: steps that make an epoch, if the training galaxies are a stream.
        shuffle_buffer: galaxies of such a stream among which the next is drawn.

    After ``setup`` the attributes ``train_dataset``, ``val_dataset``, ``test_dataset`` and
    ``predict_dataset`` are the datasets of its stage.

    Catalogs may also be galaxies of another source, such as shards (``zoobot.data.shards``).

    Raises:
        ValueError: for both kinds of catalog or none, ids that repeat, a galaxy in two of training,
            validation and test, no column of images, or fractions that don't sum to 1; from
            ``setup``, for labels that are missing or no numbers.
    """

    def __init__(
        self,
        label_cols: Sequence[str] | None,
        train_transform: Callable | None = None,
        test_transform: Callable | None = None,
        catalog: pd.DataFrame | None = None,
        train_fraction: float = 0.7,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        train_catalog: pd.DataFrame | None = None,
        val_catalog: pd.DataFrame | None = None,
        test_catalog: pd.DataFrame | None = None,
        predict_catalog: pd.DataFrame | None = None,
        batch_size: int = 256,
        num_workers: int | str = "auto",
        prefetch_factor: int = 4,
        seed: int = 42,
        *,
        channels: int = 3,
        fits_scaling: str = "asinh",
        grad_accumulation: int = 1,
        augment: str = "auto",
        check_images: str = "headers",
        on_bad_image: str = "error",
        cache: str = "none",
        decode: str = "cpu",
        spec: ImageSpec | None = None,
        steps_per_epoch: int | None = None,
        shuffle_buffer: int = 1000,
    ):
        if isinstance(label_cols, str):
            raise UserError(f"label_cols is a list of columns: use [{label_cols!r}]")
        self.label_cols = list(label_cols or [])
        check_not_reserved(self.label_cols, "label column")
        check_options(check_images, on_bad_image)
        self.train_transform = train_transform or get_galaxy_transform(default_view_config())
        self.test_transform = test_transform or get_galaxy_transform(minimal_view_config())
        self.catalogs = {
            "train": train_catalog,
            "val": val_catalog,
            "test": test_catalog,
            "predict": predict_catalog,
        }
        if catalog is not None:
            given = [s for s in ("train", "val", "test") if self.catalogs[s] is not None]
            if given:
                raise UserError(f"give catalog= to be split, or {given[0]}_catalog=, not both")
            fractions = (train_fraction, val_fraction, test_fraction)
            if huggingface.is_one(catalog):
                self.catalogs |= huggingface.splits_of(catalog, self.label_cols, fractions, seed)
            else:
                require_columns(catalog, ["id_str"], "catalog")
                check_ids(catalog, "catalog")
                strata = strata_of(catalog, self.label_cols)
                self.catalogs |= split_catalog(catalog, fractions, seed, "catalog", strata)
        elif all(table is None for table in self.catalogs.values()):
            raise UserError("give catalog=, or train_catalog= and val_catalog=, ...")
        if self.catalogs["train"] is not None:
            alike = decoded_alike(self.train_transform, self.test_transform)
            self.train_transform, self.test_transform = alike
        check_count("batch_size", batch_size)
        for split, catalog in self.catalogs.items():
            labels = self.label_cols if split != "predict" else []
            if huggingface.is_dataset(catalog):
                self.catalogs[split] = huggingface.galaxies_of(catalog, labels, split)
            elif huggingface.is_stream(catalog):
                check_reading(cache, decode)
                steps = check_steps(steps_per_epoch) if split == "train" else 0
                options = (steps * batch_size, shuffle_buffer, seed)
                self.catalogs[split] = GalaxyStream(catalog, labels, split, *options)
        if steps_per_epoch and not isinstance(self.catalogs["train"], GalaxyStream):
            raise UserError("steps_per_epoch is for streams: else an epoch is all galaxies")
        for split, table in self.catalogs.items():
            if not isinstance(table, pd.DataFrame | None) and table.shard_sizes is not None:
                spec = spec_of_stored(spec, table.spec)
            if isinstance(table, pd.DataFrame):
                require_columns(table, ["id_str"], f"{split}_catalog")
                require_images(table, f"{split}_catalog")
                check_ids(table, f"{split}_catalog")
        with_ids = pd.DataFrame | huggingface.HuggingFaceGalaxies
        labelled = {s: t for s, t in self.catalogs.items() if isinstance(t, with_ids)}
        labelled.pop("predict", None)
        labelled = {split: label_frame(galaxies) for split, galaxies in labelled.items()}
        if found := overlap(labelled):
            raise UserError(found)
        check_count("grad_accumulation", grad_accumulation)
        self.batch_size = batch_size
        self.num_workers = choose_num_workers(num_workers, torch.cuda.is_available())
        self.prefetch_factor = prefetch_factor
        self.seed = seed
        self.spec = spec
        self.channels = channels if spec is None else len(spec.bands)
        self.fits_scaling = fits_scaling
        self.grad_accumulation = grad_accumulation
        self.steps_per_epoch = steps_per_epoch
        self.augment = augment
        self.check_images = check_images
        self.on_bad_image = on_bad_image
        self.images_are_checked = False
        self.cache = cache
        self.decode = decode
        self.datasets: dict[str, CatalogDataset] = {}

    def prepare_data(self) -> None:
        """Nothing: scripts for Lightning call it, where data modules may download."""

    def look_at_images(self, save_dir: str | Path) -> None:
        """Look at the images of training, validation and test galaxies, once.

        Every process must call it. ``Trainer.fit`` does, before it trains.

        Args:
            save_dir: the folder for the list of images that can't be read, ``bad_images.csv``.

        Raises:
            ValueError: images can't be read, unless their galaxies are to be left out.
        """
        if self.images_are_checked:
            return
        labelled = {s: self.catalogs[s] for s in SPLITS if self.catalogs[s] is not None}
        kept = check_images(
            labelled,
            self.check_images,
            self.on_bad_image,
            save_dir,
            channels=self.channels,
            fits_scaling=self.fits_scaling,
            spec=self.spec,
            seed=self.seed,
        )
        for split, galaxies in kept.items():
            if galaxies is not self.catalogs[split]:
                self.catalogs[split] = galaxies
                if self.datasets.pop(split, None) is not None:
                    delattr(self, f"{split}_dataset")
        self.images_are_checked = True

    def setup(self, stage: str | None = None) -> None:
        """Make the datasets of a stage: ``fit``, ``validate``, ``test`` or ``predict``; None: all.

        Raises:
            ValueError: for another stage, or labels that are missing or no numbers.
        """
        if stage not in (None, *STAGES):
            raise UserError(f"no stage {stage!r}: use {', '.join(STAGES)}")
        for split in STAGES.get(stage, self.catalogs):
            if self.catalogs[split] is not None:
                self._make(split)

    def _make(self, split: str) -> None:
        """Make a split's dataset, unless it is there."""
        if split not in self.datasets:
            self.datasets[split] = self._dataset(split)
            setattr(self, f"{split}_dataset", self.datasets[split])

    def _measured_spec(self) -> ImageSpec | None:
        """The spec, with the mean and spread of the training galaxies' bands."""
        if self.spec is None or self.spec.has_statistics:
            return self.spec
        galaxies = self.catalogs["train"]
        if galaxies is None or isinstance(galaxies, GalaxyStream):
            raise UserError(
                "the bands' mean and spread are not known, and there are no training galaxies to "
                "measure them on (a stream is none): give the spec of the model, "
                "zoobot.models.spec_of(model)"
            )
        if isinstance(galaxies, pd.DataFrame):
            galaxies = TableGalaxies(galaxies)
        self.spec = with_statistics(self.spec, galaxies, self.seed)
        if distributed.is_main():
            print(f"bands of the training galaxies: {self.spec.told_statistics()}", flush=True)
        return self.spec

    def _dataset(self, split: str) -> CatalogDataset:
        view = self.train_transform if split == "train" else self.test_transform
        options = {
            "channels": self.channels,
            "fits_scaling": self.fits_scaling,
            "spec": self._measured_spec(),
            "seed": self.seed,
            "augment": self.augment,
        }
        if isinstance(self.catalogs[split], GalaxyStream):
            return StreamedDataset(self.catalogs[split], view, **options)
        labels = self.label_cols if split != "predict" else None
        options |= {"cache": self.cache, "decode": self.decode}
        return CatalogDataset(self.catalogs[split], labels, view, **options)

    def _table_or_source(self, split: str) -> pd.DataFrame | Galaxies:
        if isinstance(self.catalogs[split], GalaxyStream):
            raise UserError(f"the {split} galaxies are a stream, which can't be had as a table")
        return self.catalogs[split]

    def labels(self, split: str) -> pd.DataFrame:
        """``id_str`` and at least the label columns of a split's galaxies."""
        return label_frame(self._table_or_source(split))

    def table(self, split: str, most: int | None = None) -> pd.DataFrame:
        """A catalog of a split's galaxies, the first ``most`` of them; of shards, with images."""
        galaxies = self._table_or_source(split)
        if isinstance(galaxies, pd.DataFrame):
            return galaxies[:most]
        return image_frame(galaxies, range(len(galaxies))[:most])

    def num_galaxies(self, split: str) -> int:
        """How many galaxies a split has; 0 without a catalog of them, or if that is not known."""
        return 0 if self.catalogs[split] is None else len(self.catalogs[split])

    def loader(self, split: str) -> GalaxyLoader:
        """Batches of ``train`` (shuffled), ``val``, ``test`` or ``predict`` for the loop."""
        if self.catalogs[split] is None:
            raise UserError(f"there are no {split} galaxies: no catalog of them was given")
        self._make(split)
        dataset = self.datasets[split]
        loading = {
            "num_workers": self.num_workers,
            "pin_memory": torch.cuda.is_available(),
            "prefetch_factor": self.prefetch_factor,
        }
        if isinstance(dataset, StreamedDataset):
            if split != "train":
                return eval_stream_loader(dataset, self.batch_size, **loading)
            steps = (self.steps_per_epoch, self.grad_accumulation)
            return train_stream_loader(dataset, self.batch_size, *steps, **loading)
        if len(dataset) == 0:
            raise UserError(f"there are no {split} galaxies: their catalog is empty")
        if split == "train":
            return train_loader(dataset, self.batch_size, self.grad_accumulation, **loading)
        return eval_loader(dataset, self.batch_size, **loading)

    def train_dataloader(self) -> CatalogLoader:
        """Shuffled training galaxies in random views: image, id_str, an entry a label column."""
        return self._for_users("train")

    def val_dataloader(self) -> CatalogLoader:
        """Validation galaxies, in order."""
        return self._for_users("val")

    def test_dataloader(self) -> CatalogLoader:
        """Test galaxies, in order."""
        return self._for_users("test")

    def predict_dataloader(self) -> CatalogLoader:
        """Galaxies to predict, in order, without labels."""
        return self._for_users("predict")

    def _for_users(self, split: str) -> CatalogLoader:
        loader = self.loader(split)
        is_stream = isinstance(loader.dataset, StreamedDataset)
        return (StreamedCatalogLoader if is_stream else CatalogLoader)(loader)
