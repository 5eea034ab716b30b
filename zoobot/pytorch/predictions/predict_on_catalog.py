"""Documented import path; the code is in zoobot.predictions.predict."""

from zoobot.predictions.predict import predict

__all__ = ["predict"]
