"""Decision trees, at the import path of Zoobot 2.x; the code is in ``zoobot.schemas``."""

from zoobot.schemas import (
    Answer,
    Question,
    Schema,
    __getattr__,
)

__all__ = ["Answer", "Question", "Schema", "__getattr__"]
