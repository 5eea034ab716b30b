"""Import path of Zoobot 2.x for encoders, heads and ``ZoobotTree``; see ``zoobot.models``."""
