"""Decision trees: questions, their answers, and the answers that lead to each question.

A label column is named question + answer (``bar-dr5`` + ``_strong``). The order of the questions
and of their answers is the order of the label columns, of the model's outputs, and of every
tensor with a dimension A (answers) or Q (questions) in this package.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from zoobot.limits.text import check_name
from zoobot.system.errors import UserError, did_you_mean

DEEPEST_INDENT = 40  # of the tree as text
MAX_ANSWERS = 2000


@dataclass(eq=False)
class Answer:
    """One answer. ``text`` is its label column, ``index`` its place among all label columns."""

    text: str
    question: "Question" = field(repr=False)
    index: int
    next_questions: list["Question"] = field(default_factory=list, repr=False)

    @property
    def pretty_text(self) -> str:
        """The answer for a figure: ``featured or disk``."""
        suffix = self.text[len(self.question.text) :]
        return suffix.strip("_").replace("-", " ").replace("_", " ")


@dataclass(eq=False)
class Question:
    """One question. Its answers are the label columns ``start_index`` to ``end_index`` inclusive.

    ``asked_after`` lists the answers that lead to it; an empty list means that everyone is asked.
    """

    text: str
    index: int
    answers: list[Answer] = field(default_factory=list, repr=False)
    asked_after: list[Answer] = field(default_factory=list, repr=False)

    @property
    def start_index(self) -> int:
        return self.answers[0].index

    @property
    def end_index(self) -> int:
        return self.answers[-1].index

    @property
    def label_cols(self) -> list[str]:
        return [answer.text for answer in self.answers]


class Schema:
    """A decision tree with index tensors for the loss, the metrics and the statistics.

    Args:
        question_answer_pairs: question -> its answers as suffixes, as in
            ``{"bar": ["_strong", "_weak", "_no"]}``.
        dependencies: question -> the label column after which it is asked, a list of them, or None
            for a question asked of everyone. Keys that are not questions of this tree are ignored:
            published dictionaries carry them.
        label_cols: if given, must list the label columns in the tree's own order.

    Raises:
        ValueError: for a cycle, an unknown parent, a duplicate answer, a question with fewer than
            two answers, a question without a dependency, more than ``MAX_ANSWERS`` answers, a name
            of control characters, or label columns out of order.
    """

    def __init__(
        self,
        question_answer_pairs: Mapping[str, Sequence[str]],
        dependencies: Mapping[str, str | Sequence[str] | None],
        label_cols: Sequence[str] | None = None,
    ):
        for pairs in (question_answer_pairs, dependencies):
            if not isinstance(pairs, Mapping):
                raise UserError(f"a schema is made of dicts of questions, not {pairs!r:.80}")
        if not question_answer_pairs:
            raise UserError("a schema needs at least one question")
        for question, suffixes in question_answer_pairs.items():
            if isinstance(suffixes, str) or not isinstance(suffixes, Sequence):
                raise UserError(f"question {question!r}: give its answers as a list of texts")
        num_answers = sum(map(len, question_answer_pairs.values()))
        if num_answers > MAX_ANSWERS:
            raise UserError(f"the tree has {num_answers} answers; at most {MAX_ANSWERS}")
        self.question_answer_pairs = {q: list(a) for q, a in question_answer_pairs.items()}
        self.questions: list[Question] = []
        self.answers: list[Answer] = []
        for text, suffixes in self.question_answer_pairs.items():
            self._add_question(text, suffixes)
        self._questions_by_text = {question.text: question for question in self.questions}
        self._answers_by_text = {answer.text: answer for answer in self.answers}
        self._check_unique()
        for question in self.questions:
            self._connect(question, dependencies)
        self.dependencies = {q.text: _compact(q.asked_after) for q in self.questions}
        self.levels = self._sort_into_levels()
        if label_cols is not None:
            self.check_label_cols(label_cols)

    def _add_question(self, text: str, suffixes: Sequence[str]) -> None:
        if not isinstance(text, str) or not text:
            raise UserError(f"a question's name must be a non-empty string, not {text!r}")
        if len(suffixes) < 2:
            raise UserError(f"question {text!r} has {len(suffixes)} answers; it needs at least 2")
        question = Question(text, len(self.questions))
        for suffix in suffixes:
            if not isinstance(suffix, str):
                raise UserError(f"question {text!r} has an answer that is not text: {suffix!r}")
            check_name(text + suffix, f"question {question.index}: answer")
            answer = Answer(text + suffix, question, len(self.answers))
            question.answers.append(answer)
            self.answers.append(answer)
        self.questions.append(question)

    def _check_unique(self) -> None:
        if len(self._answers_by_text) < len(self.answers):
            seen = set()
            for answer in self.answers:
                if answer.text in seen:
                    raise UserError(
                        f"answer {answer.text!r} appears twice; label columns must differ"
                    )
                seen.add(answer.text)

    def _connect(self, question: Question, dependencies: Mapping) -> None:
        if question.text not in dependencies:
            raise UserError(
                f"question {question.text!r} has no entry in the dependencies; "
                "give None for a question that everyone is asked"
            )
        parents = dependencies[question.text]
        parents = [parents] if isinstance(parents, str) else parents or []
        if not isinstance(parents, Sequence):
            raise UserError(
                f"question {question.text!r} is asked after {parents!r:.80}, which is neither a "
                "label column nor a list of them"
            )
        seen = set()
        for text in parents:
            parent = self._answers_by_text.get(text) if isinstance(text, str) else None
            if parent is None:
                raise UserError(
                    f"question {question.text!r} is asked after {text!r}, which is no answer "
                    f"of this tree{did_you_mean(text, self._answers_by_text)}"
                )
            if text in seen:
                raise UserError(f"question {question.text!r} is asked after {text!r} twice")
            seen.add(text)
            question.asked_after.append(parent)
            parent.next_questions.append(question)

    def _sort_into_levels(self) -> list[list[Question]]:
        """Group questions so that each one's parents stand in earlier groups."""
        unplaced_parents = [len(question.asked_after) for question in self.questions]
        levels, level = [], [q for q in self.questions if not q.asked_after]
        while level:
            levels.append(level)
            following = set()
            for child in (c for q in level for answer in q.answers for c in answer.next_questions):
                unplaced_parents[child.index] -= 1
                if unplaced_parents[child.index] == 0:
                    following.add(child.index)
            level = [self.questions[i] for i in sorted(following)]
        if any(unplaced_parents):
            names = ", ".join(q.text for q in self.questions if unplaced_parents[q.index])
            raise UserError(f"the questions form a cycle, each asked after another: {names:.300}")
        return levels

    def check_label_cols(self, label_cols: Sequence[str]) -> None:
        """Raise ValueError unless ``label_cols`` are this tree's columns in this tree's order."""
        label_cols = list(label_cols)
        if label_cols == self.label_cols:
            return
        missing = [c for c in self.label_cols if c not in label_cols]
        extra = [c for c in label_cols if c not in self._answers_by_text]
        if missing or extra:
            raise UserError(
                f"label columns don't match the tree: missing {missing[:5]}, unknown {extra[:5]}"
            )
        place = next(
            (
                i
                for i, (a, b) in enumerate(zip(label_cols, self.label_cols, strict=False))
                if a != b
            ),
            len(self.label_cols),
        )
        raise UserError(
            f"label columns are out of order: position {place} holds {label_cols[place]!r}; "
            "pass schema.label_cols"
        )

    @cached_property
    def label_cols(self) -> list[str]:
        """All label columns, in order."""
        return [answer.text for answer in self.answers]

    @cached_property
    def question_sizes(self) -> tuple[int, ...]:
        """Number of answers of each question, in order: what the loss needs to know."""
        return tuple(len(question.answers) for question in self.questions)

    @cached_property
    def question_index_groups(self) -> list[tuple[int, int]]:
        """First and last label column (inclusive) of each question."""
        return [(question.start_index, question.end_index) for question in self.questions]

    @cached_property
    def question_of_answer(self) -> torch.Tensor:
        """(A,) int64: the index of the question that each label column belongs to."""
        return torch.repeat_interleave(torch.tensor(self.question_sizes))

    @cached_property
    def campaigns(self) -> dict[str, list[int]]:
        """Campaign -> indices of its questions, for trees composed of several campaigns.

        A question's campaign is what follows the last hyphen (``bar-dr5``: ``dr5``), provided that
        every question shares its ending with another one; otherwise the tree has no campaigns.
        """
        groups: dict[str, list[int]] = {}
        for question in self.questions:
            groups.setdefault(question.text.rpartition("-")[2], []).append(question.index)
        return groups if min(map(len, groups.values())) > 1 else {}

    def get_question(self, text: str) -> Question:
        """The question of this name, in constant time; ValueError if there is none."""
        try:
            return self._questions_by_text[text]
        except KeyError:
            near = did_you_mean(text, self._questions_by_text)
            raise UserError(f"no question {text!r} in this tree{near}") from None

    def get_answer(self, text: str) -> Answer:
        """The answer with this label column, in constant time; ValueError if there is none."""
        try:
            return self._answers_by_text[text]
        except KeyError:
            near = did_you_mean(text, self._answers_by_text)
            raise UserError(f"no answer {text!r} in this tree{near}") from None

    def proportion_asked(self, answer_probabilities):
        """The share of volunteers expected to be asked each question.

        1 for a first question; otherwise the sum, over the answers that lead to the question, of
        the probability of reaching and giving that answer.

        Args:
            answer_probabilities: (..., A) array or tensor, each question's answers summing to 1.

        Returns:
            (..., Q), of the same kind as the input.
        """
        asked, _ = self._walk(answer_probabilities)
        return asked

    def joint_probabilities(self, answer_probabilities):
        """The probability that a volunteer is asked for and gives each answer: (..., A)."""
        _, joint = self._walk(answer_probabilities)
        return joint

    def joint_p(self, answer_probabilities, answer_text: str):
        """The probability, (...), that a volunteer walks down to this answer and gives it."""
        return self.joint_probabilities(answer_probabilities)[
            ..., self.get_answer(answer_text).index
        ]

    def _walk(self, probabilities):
        """Go down the tree level by level. Returns asked (..., Q) and joint (..., A)."""
        p = torch.as_tensor(probabilities)
        if p.shape[-1] != len(self.answers):
            raise UserError(f"expected {len(self.answers)} answers, got shape {tuple(p.shape)}")
        asked = p.new_ones(*p.shape[:-1], len(self.questions))
        question_of_answer = self.question_of_answer.to(p.device)
        for questions, parents, child in self._parent_indices:
            joint = p[..., parents] * asked[..., question_of_answer[parents]]
            sums = p.new_zeros(*p.shape[:-1], len(questions))
            sums.index_add_(-1, child.to(p.device), joint)
            asked[..., questions] = sums.clamp_(max=1)
        joint = p * asked[..., question_of_answer]
        if isinstance(probabilities, np.ndarray):
            return asked.numpy(), joint.numpy()
        return asked, joint

    @cached_property
    def _parent_indices(self) -> list[tuple[list[int], list[int], torch.Tensor]]:
        """For each level below the first: its questions, their parents, each parent's child."""
        steps = []
        for level in self.levels[1:]:
            pairs = [(a.index, i) for i, q in enumerate(level) for a in q.asked_after]
            parents, child = zip(*pairs, strict=True)
            steps.append(([q.index for q in level], list(parents), torch.tensor(child)))
        return steps

    def to_dict(self) -> dict:
        """The tree in the format of ``--schema tree.json``; ``from_dict`` reads it back."""
        return {
            q: {"answers": answers, "asked_after": self.dependencies[q]}
            for q, answers in self.question_answer_pairs.items()
        }

    @classmethod
    def from_dict(cls, tree: Mapping) -> "Schema":
        """Build a schema from ``{question: {"answers": [...], "asked_after": ...}}``."""
        if not isinstance(tree, Mapping):
            raise UserError("a tree must be an object of questions")
        for question, entry in tree.items():
            known = {"answers", "asked_after"}
            if not isinstance(entry, Mapping) or set(entry) - known or "answers" not in entry:
                raise UserError(
                    f"question {question!r} must hold 'answers' (a list) and 'asked_after' "
                    f"(null, a label column, or a list of them), not {entry!r:.80}"
                )
            after = entry.get("asked_after")
            if not isinstance(entry["answers"], list) or not isinstance(after, str | list | None):
                raise UserError(
                    f"question {question!r}: 'answers' must be a list, "
                    "'asked_after' null, text or a list"
                )
        return cls(
            {q: entry["answers"] for q, entry in tree.items()},
            {q: entry.get("asked_after") for q, entry in tree.items()},
        )

    def __eq__(self, other) -> bool:
        return isinstance(other, Schema) and list(self.to_dict().items()) == list(
            other.to_dict().items()
        )

    __hash__ = None

    def __repr__(self) -> str:
        return f"Schema({len(self.questions)} questions, {len(self.answers)} answers)"

    def __str__(self) -> str:
        """The tree as indented text, each question under the first answer that leads to it."""
        lines, waiting = [], [(root, 0) for root in reversed(self.levels[0])]
        while waiting:
            question, depth = waiting.pop()
            after = ", ".join(a.text for a in question.asked_after)
            answers = ", ".join(a.pretty_text for a in question.answers)
            indent = "  " * min(depth, DEEPEST_INDENT)
            reason = f"  (after {after})" if after else ""
            lines.append(f"{indent}{question.text}: {answers}{reason}")
            below = [c for a in question.answers for c in a.next_questions if c.asked_after[0] is a]
            waiting += [(child, depth + 1) for child in reversed(below)]
        return "\n".join(lines)


def _compact(parents: list[Answer]) -> str | list[str] | None:
    texts = [answer.text for answer in parents]
    return texts if len(texts) > 1 else texts[0] if texts else None
