"""Decision trees of questions and answers: named ones, and ones read from files."""

from zoobot.schemas.named import __getattr__ as __getattr__
from zoobot.schemas.named import get_schema, load_schema, schema_names
from zoobot.schemas.question import Answer, Question
from zoobot.schemas.schema import Schema

__all__ = ["Answer", "Question", "Schema", "get_schema", "load_schema", "schema_names"]


def __dir__() -> list[str]:
    """What there is in this module, the named schemas too."""
    return sorted([*__all__, *schema_names()])
