"""Pairs and dependencies of the named decision trees, by the names of Zoobot 2.x.

Those of ``zoobot.shared.schemas.gz2_ortho_schema`` are ``gz2_ortho_pairs``,
``gz2_ortho_dependencies``, ``gz2_ortho_label_cols`` and ``gz2_ortho_questions``, and so on.
Dependencies follow the surveys' own trees (docs/decision_trees.md), and are lists where several
answers lead to a question.
"""

from collections.abc import Mapping, Sequence

from zoobot.schemas import Schema, get_schema, schema_names

PARTS = ("pairs", "dependencies", "label_cols", "questions")
# Trees that had other names here than their schemas, or a part of them, which one had for several.
OTHER_NAMES = {
    "candels_ortho": "gz_candels_ortho_schema",
    "decals_ortho": "decals_all_campaigns_ortho_schema",
    "hubble_ortho": "gz_hubble_ortho_schema",
    "hubble_v2_ortho": "gz_hubble_v2_ortho_schema",
    "jwst": "gz_jwst_schema",
    "rings": "gz_rings_schema",
    "ukidss": "gz_ukidss_schema",
}


def extract_questions_and_label_cols(
    question_answer_pairs: Mapping[str, Sequence[str]],
) -> tuple[list[str], list[str]]:
    """The questions, and the label columns, of question -> endings of its answers."""
    label_cols = [q + a for q, answers in question_answer_pairs.items() for a in answers]
    return list(question_answer_pairs), label_cols


def _trees() -> dict[str, str]:
    """Name without its ending -> name of the schema."""
    return {name.removesuffix("_schema"): name for name in schema_names()} | OTHER_NAMES


def _part(schema: Schema, part: str) -> dict | list[str]:
    if part == "pairs":
        return schema.question_answer_pairs
    if part == "dependencies":
        return schema.dependencies
    return schema.label_cols if part == "label_cols" else [q.text for q in schema.questions]


def __getattr__(name: str) -> dict | list[str]:
    """Pairs, dependencies, label columns or questions of a tree."""
    for part in PARTS:
        tree = name.removesuffix(f"_{part}")
        if tree != name and tree in _trees():
            return _part(get_schema(_trees()[tree]), part)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}: see dir(label_metadata)")


def __dir__() -> list[str]:
    return sorted([*globals(), *(f"{tree}_{part}" for tree in _trees() for part in PARTS)])
