"""Import path of Zoobot 2.x for decision trees; the code is in ``zoobot.schemas``."""
