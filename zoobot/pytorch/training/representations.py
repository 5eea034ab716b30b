"""Documented import path; the code is in zoobot.predictions.models."""

from zoobot.predictions.models import ZoobotEncoder

__all__ = ["ZoobotEncoder"]
