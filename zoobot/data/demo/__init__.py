"""The demo catalog: simulated galaxies with simulated votes and known true probabilities."""

from zoobot.data.demo.catalog import DEMO_TREE, demo_catalog, true_probabilities

__all__ = ["DEMO_TREE", "demo_catalog", "true_probabilities"]
