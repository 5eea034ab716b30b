import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoobot import schemas
from zoobot.schemas import (
    Schema,
    get_schema,
    load_schema,
    schema_names,
)
from zoobot.system.errors import did_you_mean

DESI = "desi_schema"


def random_probabilities(schema, shape=(5,), seed=0):
    logits = torch.randn(*shape, len(schema.answers), generator=torch.Generator().manual_seed(seed))
    parts = logits.double().split(schema.question_sizes, dim=-1)
    return torch.cat([part.softmax(-1) for part in parts], dim=-1)


def test_all_named_trees_can_be_imported_by_their_documented_names():
    from zoobot.shared.schemas import decals_dr5_ortho_schema, gz_evo_v2_schema

    assert len(schema_names()) == 21
    assert decals_dr5_ortho_schema is get_schema("decals_dr5_ortho_schema")
    assert (len(gz_evo_v2_schema.questions), len(gz_evo_v2_schema.answers)) == (86, 279)


# What the release that the trees came from routes otherwise than the surveys did.
AFTER_NOT_EDGE_ON = ["has-spiral-arms", "bar", "bulge-size"]
AFTER_ARMS = ["spiral-winding", "spiral-arm-count"]
NOT_OF_ARTIFACTS = ["something-odd", "merging"]


def without_routing(tree, questions):
    known = {name: q["answers"] for name, q in tree.items()}
    after = {name: q["asked_after"] for name, q in tree.items() if name not in questions}
    return list(known.items()), after


def test_named_trees_are_the_published_facts_but_for_the_surveys_routing(real_data):
    facts = json.loads((real_data / "decision_trees.json").read_text())
    assert sorted(facts) == schema_names()
    mended = tuple([*AFTER_NOT_EDGE_ON, *AFTER_ARMS, *NOT_OF_ARTIFACTS])
    for name, tree in facts.items():
        ours = get_schema(name).to_dict()
        routed = {question for question in tree if question.startswith(mended)}
        assert without_routing(ours, routed) == without_routing(tree, routed), name


def answers_before(schema, question):
    return [answer.text for answer in schema.get_question(question).asked_after]


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("gz2_ortho_schema", "-gz2"), ("gz_ukidss_schema", "-ukidss"), ("gz_evo_v2_schema", "-gz2")],
)
def test_face_on_questions_of_gz2_follow_not_edge_on(name, suffix):
    schema = get_schema(name)
    for question in AFTER_NOT_EDGE_ON:
        assert answers_before(schema, question + suffix) == [f"disk-edge-on{suffix}_no"]


@pytest.mark.parametrize("name", schema_names())
def test_who_sees_no_arms_is_not_asked_of_them_and_who_sees_an_artifact_of_no_merger(name):
    schema = get_schema(name)
    for question in schema.questions:
        if question.text.startswith(tuple(AFTER_ARMS)):
            assert [a.pretty_text for a in question.asked_after] == ["yes"]
            assert question.asked_after[0].question.text.startswith("has-spiral-arms")
        if question.text.startswith(tuple(NOT_OF_ARTIFACTS)):
            told = [answer.pretty_text for answer in question.asked_after]
            assert told in (["smooth", "featured or disk"], ["smooth", "features"])


@pytest.mark.parametrize(
    ("file", "name", "least"),
    [
        ("gz2_votes/catalog.csv", "gz2_ortho_schema", 0.995),
        ("decals_votes.csv", "desi_schema", 0.99),
    ],
)
def test_real_volunteers_were_asked_what_the_tree_says(real_data, file, name, least):
    """A question has as many votes as the answers that lead to it."""
    votes, schema = pd.read_csv(real_data / file), get_schema(name)
    checked = 0
    for question in schema.questions:
        before = [answer.text for answer in question.asked_after]
        if before and {*before, *question.label_cols} <= {*votes}:
            asked, answered = votes[before].sum(axis=1), votes[question.label_cols].sum(axis=1)
            if question.text.startswith("merging"):  # answers changed within the campaign
                answered = votes.filter(regex="^merging_").sum(axis=1)
            share = (asked == answered).mean()
            assert share >= (0.97 if question.text.startswith("merging") else least), question.text
            checked += 1
    assert checked >= 9


@pytest.mark.parametrize("name", schema_names())
def test_every_named_tree_has_consistent_indices(name):
    schema = get_schema(name)
    assert [a.index for a in schema.answers] == list(range(sum(schema.question_sizes)))
    for question, (start, end) in zip(schema.questions, schema.question_index_groups, strict=True):
        assert schema.label_cols[start : end + 1] == question.label_cols
        assert (schema.question_of_answer[start : end + 1] == question.index).all()
    for answer in schema.answers:
        assert schema.get_answer(answer.text) is answer
        assert all(answer in child.asked_after for child in answer.next_questions)


def test_campaigns_are_found_in_composed_trees_only():
    campaigns = get_schema("gz_evo_v2_schema").campaigns
    assert list(campaigns) == ["dr12", "dr5", "dr8", "gz2", "candels", "hubble", "cd", "euclid"]
    assert sum(map(len, campaigns.values())) == 86
    assert get_schema(DESI).campaigns == {}


def test_proportion_asked_multiplies_down_the_tree():
    schema = get_schema(DESI)
    p = random_probabilities(schema)
    asked = schema.proportion_asked(p)
    featured = p[:, schema.get_answer("smooth-or-featured_featured-or-disk").index]
    not_edge_on = p[:, schema.get_answer("disk-edge-on_no").index]
    arms = p[:, schema.get_answer("has-spiral-arms_yes").index]
    index = schema.get_question("spiral-winding").index
    torch.testing.assert_close(asked[:, index], featured * not_edge_on * arms)
    smooth = p[:, schema.get_answer("smooth-or-featured_smooth").index]
    torch.testing.assert_close(asked[:, schema.get_question("merging").index], smooth + featured)
    assert (asked[:, 0] == 1).all()


def test_joint_p_is_the_chance_to_walk_down_to_an_answer():
    schema = get_schema(DESI)
    p = random_probabilities(schema)
    joint = schema.joint_probabilities(p)
    tight = schema.get_answer("spiral-winding_tight")
    expected = schema.proportion_asked(p)[:, tight.question.index] * p[:, tight.index]
    torch.testing.assert_close(schema.joint_p(p, "spiral-winding_tight"), expected)
    torch.testing.assert_close(joint[:, tight.index], expected)


def test_a_question_after_several_answers_adds_their_paths():
    schema = Schema(
        {"a": ["_x", "_y", "_z"], "b": ["_p", "_q"], "merging": ["_yes", "_no"]},
        {"a": None, "b": "a_x", "merging": ["a_y", "b_p"]},
    )
    p = np.array([0.5, 0.3, 0.2, 0.4, 0.6, 0.1, 0.9])
    np.testing.assert_allclose(schema.proportion_asked(p), [1, 0.5, 0.3 + 0.5 * 0.4])


@given(st.sampled_from(schema_names()), st.integers(0, 1000))
def test_joint_probabilities_of_a_question_sum_to_the_proportion_asked(name, seed):
    schema = get_schema(name)
    p = random_probabilities(schema, (2, 3), seed)
    joint = schema.joint_probabilities(p)
    sums = torch.zeros(2, 3, len(schema.questions), dtype=p.dtype)
    sums.index_add_(-1, schema.question_of_answer, joint)
    torch.testing.assert_close(sums, schema.proportion_asked(p))
    assert ((joint >= 0) & (joint <= 1)).all()


def test_numpy_in_numpy_out():
    schema = get_schema(DESI)
    p = random_probabilities(schema).numpy()
    assert isinstance(schema.proportion_asked(p), np.ndarray)
    assert schema.joint_probabilities(p).shape == p.shape


def test_a_tree_survives_json(tmp_path):
    path = tmp_path / "tree.json"
    path.write_text(json.dumps(get_schema("gz2_ortho_schema").to_dict()))
    assert get_schema(path) == get_schema("gz2_ortho_schema")
    assert get_schema(str(path)) != get_schema(DESI)


def test_dead_keys_in_the_dependencies_are_ignored():
    assert Schema({"a": ["_x", "_y"]}, {"a": None, "gone": "a_x"}).label_cols == ["a_x", "a_y"]


@pytest.mark.parametrize(
    ("pairs", "dependencies", "message"),
    [
        ({"a": ["_x", "_y"], "b": ["_x", "_y"]}, {"a": "b_x", "b": "a_x"}, "cycle"),
        ({"a": ["_x", "_y"]}, {"a": "a_x"}, "cycle"),
        ({"a": ["_x", "_y"]}, {"a": "b_x"}, "no answer of this tree"),
        (
            {"a": ["_xx", "_yy"], "b": ["_x", "_y"]},
            {"a": None, "b": "a_xy"},
            "did you mean .*'a_xx'",
        ),
        ({"a": ["_x", "_x"]}, {"a": None}, "appears twice"),
        ({"a": ["_b_x", "_y"], "a_b": ["_x", "_y"]}, {"a": None, "a_b": None}, "appears twice"),
        ({"a": ["_x"]}, {"a": None}, "at least 2"),
        ({"a": ["_x", "_y"]}, {}, "no entry in the dependencies"),
        ({}, {}, "at least one question"),
    ],
)
def test_broken_trees_are_refused_with_the_reason(pairs, dependencies, message):
    with pytest.raises(ValueError, match=message):
        Schema(pairs, dependencies)


def test_label_columns_must_be_in_the_trees_order():
    pairs, dependencies = {"a": ["_x", "_y"], "b": ["_x", "_y"]}, {"a": None, "b": None}
    Schema(pairs, dependencies, label_cols=["a_x", "a_y", "b_x", "b_y"])
    with pytest.raises(ValueError, match="position 0 holds 'a_y'"):
        Schema(pairs, dependencies, label_cols=["a_y", "a_x", "b_x", "b_y"])
    with pytest.raises(ValueError, match=r"missing \['b_y'\], unknown \['c'\]"):
        Schema(pairs, dependencies, label_cols=["a_x", "a_y", "b_x", "c"])
    with pytest.raises(ValueError, match="position 4"):
        Schema(pairs, dependencies, label_cols=["a_x", "a_y", "b_x", "b_y", "a_x"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("[]", "must be an object"),
        ('{"a": ["_x", "_y"]}', "must hold 'answers'"),
        ('{"a": {"answers": "xy", "asked_after": null}}', "'answers' must be a list"),
        ('{"a": {"answers": ["_x", "_y"], "after": null}}', "must hold 'answers'"),
        ('{"a": {"answers": ["_x", 3], "asked_after": null}}', "not text: 3"),
        ('{"a": {"answers": ["_x", "_y"]}, "a": {"answers": ["_p", "_q"]}}', "'a' appears twice"),
        ('{"a": {"answers": ["_x", "_y"], "asked_after": [["a_x"]]}}', "after ['a_x'], which"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": {"answers": ["_x", "_y"]}, "b": {"answers": [' + '"_x", ' * 10_000 + '"_y"]}}',
         "10003 answers; at most 2000"),
    ],
)  # fmt: skip
def test_a_broken_tree_file_is_named(tmp_path, text, message):
    path = tmp_path / "tree.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="tree.json.*" + message.replace("[", r"\[")):
        load_schema(path)


def test_a_misspelt_name_is_answered_with_near_ones():
    with pytest.raises(ValueError, match="did you mean 'gz_evo_v2_schema'"):
        get_schema("gz_evo_v2_shema")
    with pytest.raises(ValueError, match="no schema file"):
        get_schema("absent.json")
    with pytest.raises(ValueError, match="did you mean 'bar_no'"):
        get_schema(DESI).get_answer("bar_noo")
    with pytest.raises(ValueError, match="no question 'baar'"):
        get_schema(DESI).get_question("baar")
    with pytest.raises(AttributeError):
        schemas.absent_schema  # noqa: B018


def test_a_tree_prints_as_an_indented_outline():
    lines = str(get_schema(DESI)).splitlines()
    assert lines[0] == "smooth-or-featured: smooth, featured or disk, artifact"
    assert "      spiral-winding: tight, medium, loose  (after has-spiral-arms_yes)" in lines
    assert len(lines) == 10


@pytest.mark.parametrize("pairs", [3, {"a": 3}, {"a": "xy"}, {"a": None}, ["a"]])
def test_pairs_that_are_no_lists_of_answers_are_refused(pairs):
    with pytest.raises(ValueError, match="dicts of questions|list of texts"):
        Schema(pairs, {"a": None})
    with pytest.raises(ValueError, match="dicts of questions|neither a label|no answer"):
        Schema({"a": ["_x", "_y"]}, pairs if pairs != {"a": None} else 3)


def test_a_chain_of_a_thousand_questions_is_sorted_and_printed_at_once():
    num_questions = 1000
    pairs = {f"q{i}": ["_yes", "_no"] for i in reversed(range(num_questions))}
    after = {f"q{i}": f"q{i - 1}_yes" if i else None for i in range(num_questions)}
    schema = Schema(pairs, after)
    assert [level[0].text for level in schema.levels[:3]] == ["q0", "q1", "q2"]
    lines = str(schema).splitlines()
    assert len(lines) == num_questions
    assert lines[-1].strip().startswith("q999: yes, no")
    with pytest.raises(ValueError, match="form a cycle"):
        Schema(pairs, after | {"q0": "q999_no"})


def test_a_very_long_name_is_not_compared_with_others():
    assert did_you_mean("x" * 100_000, ["x" * 99_999]) == ""
