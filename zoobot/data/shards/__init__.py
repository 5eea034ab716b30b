"""Shards: a catalog's galaxies in a few large files."""

from zoobot.data.shards.reader import Shards, open_shards, open_splits, verify

__all__ = ["Shards", "open_shards", "open_splits", "verify"]
