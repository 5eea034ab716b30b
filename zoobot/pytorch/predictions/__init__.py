"""Import path of Zoobot 2.x for predictions; see ``zoobot.predictions``."""
