"""``ZoobotEncoder``, at the import path of Zoobot 2.x; see ``zoobot.predictions.models``."""

from zoobot.predictions import models
from zoobot.pytorch.training.old_arguments import hub_name, takes_old_arguments

__all__ = ["ZoobotEncoder"]


@takes_old_arguments
class ZoobotEncoder(models.ZoobotEncoder):
    __doc__ = models.ZoobotEncoder.__doc__

    @classmethod
    def load_from_name(cls, name: str, channels: int = 3) -> "ZoobotEncoder":
        """See ``zoobot.predictions.models``; the name may be ``OWNER/NAME`` alone."""
        return super().load_from_name(hub_name(name), channels)
