"""``Question`` and ``Answer``: what a decision tree is made of."""

from dataclasses import dataclass, field


@dataclass(eq=False)
class Answer:
    """One answer of a question.

    Attributes:
        text: the name of its label column.
        index: its place among all label columns.
        next_questions: the questions that are asked after it.
    """

    text: str
    question: "Question" = field(repr=False)
    index: int
    next_questions: list["Question"] = field(default_factory=list, repr=False)

    @property
    def pretty_text(self) -> str:
        """The answer as plain words, such as ``featured or disk``."""
        suffix = self.text[len(self.question.text) :]
        return suffix.strip("_").replace("-", " ").replace("_", " ")


@dataclass(eq=False)
class Question:
    """One question.

    Attributes:
        index: its place among all questions.
        parents: the answers that lead to it. If empty, every volunteer is asked.
    """

    text: str
    index: int
    answers: list[Answer] = field(default_factory=list, repr=False)
    parents: list[Answer] = field(default_factory=list, repr=False)

    @property
    def asked_after(self) -> Answer | list[Answer] | None:
        """The answer that leads to it, a list of several, or None: as in a tree's file."""
        return self.parents if len(self.parents) > 1 else self.parents[0] if self.parents else None

    @property
    def start_index(self) -> int:
        """The place of its first answer among all label columns."""
        return self.answers[0].index

    @property
    def end_index(self) -> int:
        """The place of its last answer among all label columns."""
        return self.answers[-1].index

    @property
    def label_cols(self) -> list[str]:
        """The label columns of its answers."""
        return [answer.text for answer in self.answers]
