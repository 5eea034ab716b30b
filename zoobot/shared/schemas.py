"""Documented import path; the code is in zoobot.schemas."""

from zoobot.schemas import (
    Answer,
    Question,
    Schema,
    __getattr__,
)

__all__ = ["Answer", "Question", "Schema", "__getattr__"]
