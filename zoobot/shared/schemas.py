"""Decision trees, at the import path of Zoobot 2.x; the code is in ``zoobot.schemas``."""

from functools import cache

from zoobot import schemas
from zoobot.schemas import Answer, Question, get_schema, schema_names

__all__ = ["Answer", "Question", "Schema"]


class Schema(schemas.Schema):
    """A decision tree, which has the names of Zoobot 2.x too.

    Each answer has ``next_question``: the last of those that are asked after it, or None.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for answer in self.answers:
            answer.next_question = answer.next_questions[-1] if answer.next_questions else None

    @property
    def named_index_groups(self) -> dict[Question, tuple[int, int]]:
        """Question -> index of the first and of the last of its label columns."""
        return dict(zip(self.questions, self.question_index_groups, strict=True))


@cache
def __getattr__(name: str) -> Schema:
    """Named schemas are attributes of this module. Each is built when it is first used."""
    if name not in schema_names():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return Schema.from_dict(get_schema(name).to_dict())


def __dir__() -> list[str]:
    """What there is in this module, the named schemas too."""
    return sorted([*__all__, *schema_names()])
