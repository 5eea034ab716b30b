"""``Schema``: a decision tree of questions, their answers, and which answers lead to a question.

A label column is named by its question and answer: ``bar-dr5`` + ``_strong``. The label columns,
the model's outputs, and every tensor with a dimension Q (questions) or A (answers) have the order
of the tree's questions and answers.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch

from zoobot.limits.text import check_name
from zoobot.schemas.question import Answer, Question
from zoobot.system.errors import UserError, did_you_mean

DEEPEST_INDENT = 40  # levels that are indented when the tree is written as text
MAX_ANSWERS = 2000
Probabilities = TypeVar("Probabilities", np.ndarray, torch.Tensor)
Item = TypeVar("Item")


class Schema:
    """A decision tree, and the indices that the loss, the metrics and the statistics need.

    Args:
        question_answer_pairs: question -> endings of its answers, such as
            ``{"bar": ["_strong", "_weak", "_no"]}``.
        dependencies: question -> the label column of the answer after which it is asked, or a list
            of them, or None if every volunteer is asked. Other keys are ignored, because published
            dictionaries have them.
        label_cols: if given, must be the label columns in the tree's order.

    Raises:
        ValueError: if questions form a cycle, a question is asked after an unknown answer, an
            answer appears twice, a question has fewer than two answers or no dependency, there are
            more than ``MAX_ANSWERS`` answers, a name can't be printed, or ``label_cols`` are in
            another order.
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
        """Group the questions so that those that lead to a question are in earlier groups."""
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
        """ValueError unless ``label_cols`` are the tree's label columns in the tree's order."""
        label_cols = list(label_cols)
        if label_cols == self.label_cols:
            return
        missing = [c for c in self.label_cols if c not in label_cols]
        extra = [c for c in label_cols if c not in self._answers_by_text]
        if missing or extra:
            raise UserError(
                f"label columns don't match the tree: missing {missing[:5]}, unknown {extra[:5]}"
            )
        pairs = zip(label_cols, [*self.label_cols, None], strict=False)
        place = next(i for i, (given, expected) in enumerate(pairs) if given != expected)
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
        """Number of answers of each question, in order. The loss needs it."""
        return tuple(len(question.answers) for question in self.questions)

    @cached_property
    def question_index_groups(self) -> list[tuple[int, int]]:
        """Index of the first and of the last label column of each question."""
        return [(question.start_index, question.end_index) for question in self.questions]

    @cached_property
    def question_of_answer(self) -> torch.Tensor:
        """(A,) int64: index of the question of each answer."""
        return torch.repeat_interleave(torch.tensor(self.question_sizes))

    @cached_property
    def campaigns(self) -> dict[str, list[int]]:
        """Campaign -> indices of its questions, for trees made of several campaigns.

        The campaign is the text after the last hyphen: ``dr5`` in ``bar-dr5``. If any campaign
        would have only one question, the tree has no campaigns, and the dict is empty.
        """
        groups: dict[str, list[int]] = {}
        for question in self.questions:
            groups.setdefault(question.text.rpartition("-")[2], []).append(question.index)
        return groups if min(map(len, groups.values())) > 1 else {}

    def get_question(self, text: str) -> Question:
        """The question with this name; ValueError if there is none."""
        return _look_up(self._questions_by_text, text, "question")

    def get_answer(self, text: str) -> Answer:
        """The answer with this label column; ValueError if there is none."""
        return _look_up(self._answers_by_text, text, "answer")

    def proportion_asked(self, answer_probabilities: Probabilities) -> Probabilities:
        """The expected share of volunteers who are asked each question.

        It is 1 for a first question. For others it is the sum, over the answers that lead to the
        question, of the probability that a volunteer is asked for that answer and gives it. No
        volunteer is taken to give two of these answers; where one can, the sum is cut at 1.

        Args:
            answer_probabilities: (..., A) array or tensor; the answers of each question sum to 1.

        Returns:
            (..., Q), an array or a tensor like the argument.
        """
        asked, _ = self._walk(answer_probabilities)
        return asked

    def joint_probabilities(self, answer_probabilities: Probabilities) -> Probabilities:
        """The probability that a volunteer is asked for each answer and gives it: (..., A)."""
        _, joint = self._walk(answer_probabilities)
        return joint

    def joint_p(self, answer_probabilities: Probabilities, answer_text: str) -> Probabilities:
        """The probability that a volunteer is asked for this answer and gives it: (...)."""
        return self.joint_probabilities(answer_probabilities)[
            ..., self.get_answer(answer_text).index
        ]

    def _walk(self, probabilities: Probabilities) -> tuple[Probabilities, Probabilities]:
        """``proportion_asked`` (..., Q) and ``joint_probabilities`` (..., A), level by level."""
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
        """The indices that ``_walk`` needs, for each level below the first.

        They are: the level's questions; the answers that lead to them; and for each of these
        answers, the place of its question in the level.
        """
        steps = []
        for level in self.levels[1:]:
            pairs = [(a.index, i) for i, q in enumerate(level) for a in q.asked_after]
            parents, child = zip(*pairs, strict=True)
            steps.append(([q.index for q in level], list(parents), torch.tensor(child)))
        return steps

    def to_dict(self) -> dict:
        """The tree in the format of ``--schema tree.json``, for ``from_dict``."""
        return {
            q: {"answers": answers, "asked_after": self.dependencies[q]}
            for q, answers in self.question_answer_pairs.items()
        }

    @classmethod
    def from_dict(cls, tree: Mapping) -> "Schema":
        """Make a schema from ``{question: {"answers": [...], "asked_after": ...}}``."""
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

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and list(self.to_dict().items()) == list(
            other.to_dict().items()
        )

    __hash__ = None

    def __repr__(self) -> str:
        return f"Schema({len(self.questions)} questions, {len(self.answers)} answers)"

    def __str__(self) -> str:
        """The tree as text. A question is indented below the first answer that leads to it."""
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


def _look_up(items: dict[str, Item], text: str, kind: str) -> Item:
    """The item of this name; ValueError with similar names if there is none."""
    if text not in items:
        raise UserError(f"no {kind} {text!r} in this tree{did_you_mean(text, items)}")
    return items[text]


def _compact(parents: list[Answer]) -> str | list[str] | None:
    """The label columns of the answers: a list of several, one text, or None."""
    texts = [answer.text for answer in parents]
    return texts if len(texts) > 1 else texts[0] if texts else None
