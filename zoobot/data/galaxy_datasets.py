"""Names of galaxy-datasets, at which scripts for Zoobot 2.x look for data modules."""

from collections.abc import Callable
from typing import Any

from zoobot.data import huggingface
from zoobot.data.datamodule import CatalogDataModule
from zoobot.data.loaders import CatalogLoader
from zoobot.data.views.cpu import GalaxyView
from zoobot.system.errors import UserError

GalaxyViewTransform = GalaxyView

WITHOUT_EFFECT = ("use_memory", "album")
_CONFIG = "write config = default_view_config(), config."
_VIEW = "write the transform with torchvision.transforms.v2"
OF_VIEWS = {
    "resize_after_crop": f"{_CONFIG}output_size = 224",
    "greyscale": f"{_CONFIG}greyscale = True",
    "crop_scale_bounds": f"{_CONFIG}random_affine.scale = (1.1, 1.2), zooms of the image's side",
    "crop_ratio_bounds": f"{_CONFIG}random_affine.shear = (0, 5, 0, 5), in degrees",
    "custom_albumentation_transform": _VIEW,
    "custom_torchvision_transform": _VIEW,
    "requested_transform": _VIEW,
}


class HuggingFaceDataModule(CatalogDataModule):
    """A ``CatalogDataModule`` of a ``DatasetDict``.

    Args:
        dataset_dict: with the splits ``train``, ``validation``, ``test`` or ``predict``; see
            ``huggingface.splits_of``.
        train_transform, test_transform: see ``CatalogDataModule``.
        target_transform: not supported.
        iterable: without effect: a ``Dataset`` is read by number, an ``IterableDataset`` as a
            stream, which needs ``steps_per_epoch``.
        label_cols: by default all columns of numbers of the first split.
        others: see ``CatalogDataModule``.

    Raises:
        ValueError: see ``CatalogDataModule``.
    """

    def __init__(
        self,
        dataset_dict: Any,
        train_transform: Callable | None = None,
        test_transform: Callable | None = None,
        batch_size: int = 256,
        num_workers: int | str = "auto",
        prefetch_factor: int | None = 4,
        seed: int = 42,
        iterable: bool = False,
        target_transform: Callable | None = None,
        label_cols: list[str] | None = None,
        **others,
    ):
        if not huggingface.is_dict(dataset_dict):
            raise UserError(f"dataset_dict is a DatasetDict, not a {type(dataset_dict).__name__}")
        if target_transform is not None:
            raise UserError("target_transform: change the labels before, dataset_dict.map(...)")
        self.dataset_dict = dataset_dict
        if label_cols is None:
            label_cols = huggingface.number_columns(next(iter(dataset_dict.values())))
        super().__init__(
            label_cols,
            train_transform,
            test_transform,
            catalog=dataset_dict,
            batch_size=batch_size,
            num_workers=num_workers,
            prefetch_factor=prefetch_factor or 4,
            seed=seed,
            **others,
        )

    def get_predict_dataloader(self, split: str) -> CatalogLoader:
        """The galaxies of a split of the dict, in order and in the fixed view."""
        galaxies = CatalogDataModule(
            None,
            test_transform=self.test_transform,
            predict_catalog=self.dataset_dict[split],
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            channels=self.channels,
        )
        return galaxies.predict_dataloader()


class GalaxyDataModule(CatalogDataModule):
    """``CatalogDataModule`` by its earlier name, when it made the views itself.

    Raises:
        ValueError: for an argument of such a view, with what to write instead; or see
            ``CatalogDataModule``.
    """

    def __init__(self, label_cols: list[str] | None, **others):
        for name in OF_VIEWS.keys() & others.keys():
            raise UserError(
                f"GalaxyDataModule has no {name}: {OF_VIEWS[name]}, and give CatalogDataModule "
                "train_transform=get_galaxy_transform(config), and another as test_transform="
            )
        others = {name: value for name, value in others.items() if name not in WITHOUT_EFFECT}
        super().__init__(label_cols, **others)
