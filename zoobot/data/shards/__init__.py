"""Shards: the galaxies of a catalog in a few large files."""

from zoobot.data.shards.reader import Shards, open_shards, open_splits, verify

__all__ = ["Shards", "open_shards", "open_splits", "verify"]
