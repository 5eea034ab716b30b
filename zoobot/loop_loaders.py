"""From the galaxies that users give to ``Trainer`` to the loaders that the loop takes."""

import dataclasses
from pathlib import Path

import pandas as pd
import torch

from zoobot.contracts import DataModule, Loader, TrainableModel
from zoobot.data.datamodule import CatalogDataModule
from zoobot.data.foreign_loaders import ForeignLoader
from zoobot.data.loaders import GalaxyLoader, RegroupedLoader, own_loader
from zoobot.runs.data_digest import Known, known_galaxies
from zoobot.system.errors import UserError

LoopLoader = GalaxyLoader | RegroupedLoader | ForeignLoader


@dataclasses.dataclass(frozen=True)
class Loading:
    """How the loop takes a user's loaders.

    Attributes:
        device: of the loop.
        seed: of the order of galaxies in loaders of other packages.
        accumulation: micro-batches a step, when training.
        own_share: of loaders of other packages, see ``ForeignLoader``.
    """

    device: torch.device
    seed: int
    accumulation: int = 1
    own_share: bool | None = None

    def loop_loader(self, loader: Loader | None, model: TrainableModel, split: str) -> LoopLoader:
        """The loader that the loop takes, for a loader of ours or any iterable of batches."""
        if loader is None:
            raise UserError("give a datamodule, or the loaders")
        accumulation = self.accumulation if split == "train" else 1
        ours = own_loader(loader, self.device)
        if ours is not None:
            return ours if accumulation == 1 else RegroupedLoader(ours, accumulation)
        return ForeignLoader(
            loader,
            split,
            accumulation=accumulation,
            seed=self.seed,
            own_share=self.own_share,
            label_cols=model.label_columns(),
            check=model.check_labels,
        )


@dataclasses.dataclass(frozen=True)
class FitGalaxies:
    """The galaxies of a fit.

    Attributes:
        train, val: what the loop takes.
        own_train, own_val: the same if they are loaders of this package, else None.
        known: what is known of the galaxies beforehand, with those of a test too.
        tables: split -> ``id_str`` and labels, which the model can learn.
    """

    train: LoopLoader
    val: LoopLoader
    own_train: GalaxyLoader | None
    own_val: GalaxyLoader | None
    known: Known
    tables: dict[str, pd.DataFrame]


def open_to_fit(
    model: TrainableModel,
    train: Loader | None,
    val: Loader | None,
    datamodule: DataModule | None,
    loading: Loading,
    save_dir: Path,
) -> FitGalaxies:
    """Look at images and labels, and set the loaders up.

    Args:
        train, val: two loaders; or in their place a datamodule.
        save_dir: of the run, where unreadable images are listed.

    Raises:
        ValueError: for labels that the model can't learn, or images that can't be read.
    """
    if isinstance(datamodule, CatalogDataModule):
        datamodule.look_at_images(save_dir)
    known = known_galaxies(datamodule, {})
    tables = known.checked_labels(model.check_labels)  # of test too; before setup
    if datamodule is not None:
        datamodule.setup("fit")
        train, val = datamodule.train_dataloader(), datamodule.val_dataloader()
    if not known.splits:
        known = known_galaxies(None, {"train": train, "val": val})
        tables = known.checked_labels(model.check_labels)
    return FitGalaxies(
        loading.loop_loader(train, model, "train"),
        loading.loop_loader(val, model, "val"),
        own_loader(train, loading.device),
        own_loader(val, loading.device),
        known,
        tables,
    )
