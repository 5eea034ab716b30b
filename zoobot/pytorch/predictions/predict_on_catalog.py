"""Documented import path; the code is in zoobot.predict."""

from zoobot.predict import predict

__all__ = ["predict"]
