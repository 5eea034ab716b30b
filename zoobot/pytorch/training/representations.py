"""Documented import path; the code is in zoobot.predictors."""

from zoobot.predictors import ZoobotEncoder

__all__ = ["ZoobotEncoder"]
