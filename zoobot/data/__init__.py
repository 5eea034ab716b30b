"""Catalogs, images, views and batches."""

from zoobot.data.views import (
    default_view_config,
    fast_view_config,
    get_galaxy_transform,
    minimal_view_config,
)

__all__ = [
    "default_view_config",
    "fast_view_config",
    "get_galaxy_transform",
    "minimal_view_config",
]
