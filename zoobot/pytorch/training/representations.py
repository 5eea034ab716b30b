"""``ZoobotEncoder``, at the import path of Zoobot 2.x; see ``zoobot.predictions.models``."""

from zoobot.predictions.models import ZoobotEncoder

__all__ = ["ZoobotEncoder"]
