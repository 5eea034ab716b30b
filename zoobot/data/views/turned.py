"""Several views of one galaxy, each at another angle, to average predictions over."""

import copy

import numpy as np
import torch

from zoobot.data.views.config import affine_ranges
from zoobot.data.views.cpu import AnyImage, GalaxyView
from zoobot.system.errors import UserError


class TurnedViews(GalaxyView):
    """A view turned by ``num_views`` angles, evenly spaced over 360 degrees from 0.

    A galaxy can have any orientation, but a model's prediction depends a little on it. The mean
    over angles depends on it less, and is more often right (Dieleman, Willett & Dambre 2015, MNRAS
    450, 1441).

    Args:
        view: the view at angle 0.
        num_views: number of angles.

    Raises:
        ValueError: ``view`` is another transform, or has a setting that ``random_affine`` excludes
            (``center_crop``, ``random_resized_crop``, ``rotation_prob``).
    """

    def __init__(self, view: GalaxyView, num_views: int):
        if not isinstance(view, GalaxyView):
            raise UserError(f"{num_views} views need a view of ours to turn, not {view!r:.60}")
        super().__init__(view.config)
        self.views = [self._turned(360 * i / num_views) for i in range(num_views)]

    def _turned(self, angle_deg: float) -> GalaxyView:
        """The view with ``angle_deg`` added to its rotation."""
        config = copy.deepcopy(self.config)
        affine = dict(config.random_affine or {"degrees": 0})
        low, high = affine_ranges(affine)[0]
        config.random_affine = affine | {"degrees": (low + angle_deg, high + angle_deg)}
        return GalaxyView(config)

    def __call__(self, image: AnyImage, rng: np.random.Generator | None = None) -> torch.Tensor:
        """Make all views of an image: uint8 (num_views * C, S, S); see ``GalaxyView``."""
        return torch.cat([view(image, rng) for view in self.views])
