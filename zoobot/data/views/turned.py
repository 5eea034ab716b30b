"""One galaxy, turned: the views that predictions are averaged over."""

import copy

import torch

from zoobot.data.views.config import affine_ranges
from zoobot.data.views.cpu import GalaxyView
from zoobot.system.errors import UserError


class TurnedViews(GalaxyView):
    """A view turned through ``num_views`` equal angles, the first not at all.

    A galaxy has no upper side, but a model's answer depends a little on how it lies; a mean over
    angles does less so and is more often right (Dieleman, Willett & Dambre 2015, MNRAS 450, 1441).

    Args:
        view: a view of ours.

    Raises:
        ValueError: another transform, or a view that crops in a way that goes with no rotation.
    """

    def __init__(self, view: GalaxyView, num_views: int):
        if not isinstance(view, GalaxyView):
            raise UserError(f"{num_views} views need a view of ours to turn, not {view!r:.60}")
        super().__init__(view.config)
        self.views = [self._turned(360 * i / num_views) for i in range(num_views)]

    def _turned(self, angle_deg: float) -> GalaxyView:
        config = copy.deepcopy(self.config)
        affine = dict(config.random_affine or {"degrees": 0})
        low, high = affine_ranges(affine)[0]
        config.random_affine = affine | {"degrees": (low + angle_deg, high + angle_deg)}
        return GalaxyView(config)

    def __call__(self, image, rng=None) -> torch.Tensor:
        """An image to uint8 (num_views * C, S, S); see ``GalaxyView``."""
        return torch.cat([view(image, rng) for view in self.views])
