"""Catalogs, images, views and batches."""

from zoobot.data.bands.rgb import galaxy_rgb
from zoobot.data.bands.spec import ImageSpec
from zoobot.data.datamodule import CatalogDataModule
from zoobot.data.dataset import CatalogDataset
from zoobot.data.galaxy_datasets import (
    GalaxyDataModule,
    GalaxyViewTransform,
    HuggingFaceDataModule,
)
from zoobot.data.views.config import (
    default_view_config,
    fast_view_config,
    minimal_view_config,
    zoomed_view_configs,
)
from zoobot.data.views.cpu import get_galaxy_transform

__all__ = [
    "CatalogDataModule",
    "CatalogDataset",
    "GalaxyDataModule",
    "GalaxyViewTransform",
    "HuggingFaceDataModule",
    "ImageSpec",
    "default_view_config",
    "fast_view_config",
    "galaxy_rgb",
    "get_galaxy_transform",
    "minimal_view_config",
    "zoomed_view_configs",
]
