"""Decision trees: their questions and answers, by name or from a file."""

from zoobot.schemas.named import __getattr__ as __getattr__
from zoobot.schemas.named import get_schema, load_schema, schema_names
from zoobot.schemas.schema import Answer, Question, Schema

__all__ = ["Answer", "Question", "Schema", "get_schema", "load_schema", "schema_names"]
