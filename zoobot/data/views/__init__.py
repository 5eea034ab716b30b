"""Views: the transform of a galaxy's image into the image that a model gets."""

from zoobot.data.views.config import (
    GalaxyViewConfig,
    default_view_config,
    fast_view_config,
    minimal_view_config,
    zoomed_view_configs,
)
from zoobot.data.views.cpu import GalaxyView, get_galaxy_transform

__all__ = [
    "GalaxyView",
    "GalaxyViewConfig",
    "default_view_config",
    "fast_view_config",
    "get_galaxy_transform",
    "minimal_view_config",
    "zoomed_view_configs",
]
