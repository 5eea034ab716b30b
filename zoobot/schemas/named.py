"""Get a decision tree: one of Galaxy Zoo by its name, or your own from a JSON file."""

import json
from functools import cache
from pathlib import Path

from zoobot.limits.text import read_json
from zoobot.schemas.question import Answer, Question
from zoobot.schemas.schema import Schema
from zoobot.system.errors import UserError, did_you_mean

__all__ = ["Answer", "Question", "Schema", "get_schema", "load_schema", "schema_names"]
TREES_DIR = Path(__file__).parent / "trees"


def load_schema(path: str | Path) -> Schema:
    """Read your own decision tree from a JSON file.

    Raises:
        ValueError: if there is no such file, or it is not a decision tree.
    """
    try:
        tree = read_json(path, object_pairs_hook=_unique_keys)
        return Schema.from_dict(tree)
    except FileNotFoundError:
        raise UserError(f"no schema file {path}") from None
    except RecursionError:
        raise UserError(f"schema {path}: its lists or objects are nested too deeply") from None
    except (ValueError, OSError) as error:
        raise UserError(f"schema {path}: {error}") from None


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The pairs as a dict; ValueError if a key appears twice."""
    unique = {}
    for key, value in pairs:
        if key in unique:
            raise UserError(f"{key!r} appears twice")
        unique[key] = value
    return unique


@cache
def _named_trees() -> dict[str, list[tuple[str, str]]]:
    """Schema name -> its parts: the name of a tree's file and the suffix of the campaign."""
    return json.loads((TREES_DIR / "named.json").read_text(encoding="utf-8"))


def schema_names() -> list[str]:
    """The names of all named schemas, sorted."""
    return sorted(_named_trees())


@cache
def _named_schema(name: str) -> Schema:
    """Build a named schema from the trees of its campaigns."""
    tree = {}
    for file_name, suffix in _named_trees()[name]:
        part = load_schema(TREES_DIR / f"{file_name}.json")
        for question in part.questions:
            after = [
                a.question.text + suffix + a.text[len(a.question.text) :] for a in question.parents
            ]
            answers = part.question_answer_pairs[question.text]
            tree[question.text + suffix] = {"answers": answers, "asked_after": after}
    return Schema.from_dict(tree)


def get_schema(schema: "str | Path | Schema") -> Schema:
    """Get a schema by its name or from a ``.json`` file. A ``Schema`` is returned as it is.

    Raises:
        ValueError: if there is no such name or file (similar names are suggested), or the file is
            not a decision tree.
    """
    if isinstance(schema, Schema):
        return schema
    if str(schema) in _named_trees():
        return _named_schema(str(schema))
    if str(schema).endswith(".json"):
        return load_schema(schema)
    near = did_you_mean(str(schema), _named_trees())
    raise UserError(f"no schema named {str(schema)!r}{near}; names: {', '.join(schema_names())}")


def __getattr__(name: str) -> Schema:
    """Named schemas are attributes of this module. Each is built when it is first used."""
    if name in _named_trees():
        return _named_schema(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
