"""Whatever a file holds, it is read or refused with a ValueError; and the fuzzer sees who doesn't.

A few inputs of each kind, the same in every run; thousands with ``python tests/faults/fuzz.py``.
"""

import json

import fuzz
import pytest
import watched
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kinds import KINDS, Kind

import train
from zoobot.data import catalog, images
from zoobot.data.shards.reader import open_shards
from zoobot.runs import checkpoint
from zoobot.schemas import Schema, load_schema

INPUTS_A_KIND = 6
FEW = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
ANSWERS = st.lists(st.sampled_from(["_a", "_b", "_c"]) | SCALARS, max_size=4)
PARENTS = st.sampled_from(["p_a", "q_b", None]) | VALUES
TREES = VALUES | st.dictionaries(
    st.sampled_from(["p", "q"]),
    st.fixed_dictionaries({"answers": ANSWERS | VALUES}, optional={"asked_after": PARENTS}),
)
HEADS = st.sampled_from(
    [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"RIFF", b"SIMPLE  =", b"\x1f\x8b"]
    + [b"PAR1", b"id_str,file_loc\n", b"PK\x03\x04", b"\x80\x02", b"{", b"\x10" + bytes(7) + b"{"]
)


def accepts(read, *arguments) -> bool:
    """Whether a file is read, as against refused with a ValueError."""
    try:
        read(*arguments)
    except ValueError:
        return False
    return True


def written(folder, name, content):
    (folder / name).write_bytes(content)
    return folder / name


def test_a_sample_of_every_kind_is_read_or_refused(tmp_path):
    numbers = range(INPUTS_A_KIND * len(KINDS))
    outcomes = list(fuzz.run_all(numbers, 7, 2, tmp_path))
    assert [(o.number, o.result, o.reason) for o in outcomes if o.failed] == []
    assert sorted(o.number for o in outcomes) == list(numbers)


@pytest.mark.parametrize("kind", KINDS)
def test_an_input_is_a_function_of_seed_and_number(kind):
    number = list(KINDS).index(kind) + 60 * len(KINDS)
    first = fuzz.make_input(3, number)
    assert first == fuzz.make_input(3, number)
    assert first[0] == kind
    assert any(fuzz.make_input(4, number + i * len(KINDS)) != first for i in range(3))


def read_keys(folder):
    return {}["absent"]


def loop(folder):
    while True:
        pass


def write_elsewhere(folder):
    (folder.parent / "elsewhere" / "stray").touch()


def take_memory(folder):
    try:
        bytearray(2**40)
    except MemoryError as error:
        raise ValueError("refused, but only for lack of memory") from error


def end(folder):
    import os

    os._exit(3)


@pytest.mark.parametrize(
    ("read", "result"),
    [
        (read_keys, "error"),
        (loop, "time"),
        (write_elsewhere, "stray"),
        (take_memory, "memory"),
        (end, "crash"),
    ],
)
def test_a_failure_is_found_saved_and_replayed(tmp_path, monkeypatch, capsys, read, result):
    def steps(folder):
        yield lambda: read(folder)

    monkeypatch.setitem(KINDS, "schema", Kind(lambda rng: {"a": b"x"}, steps))
    monkeypatch.setattr(watched, "TIME_LIMIT_S", 0.1)
    words = ["--inputs", "1", "--first", "1", "--failures", str(tmp_path), "--processes", "1"]
    assert fuzz.main(words) == 1
    assert f"0-1-schema.zip: {result}" in capsys.readouterr().out
    assert fuzz.main(["--replay", str(tmp_path / "0-1-schema.zip")]) == 1
    assert capsys.readouterr().out.startswith(result)


def test_an_input_that_can_not_be_made_is_a_failure_that_says_why(tmp_path):
    def make(seed, number):
        raise MemoryError("too large")

    worker = watched.Worker(tmp_path, 0, make)
    worker.start(0)
    worker.pipe.poll(10)
    outcome = worker.poll(10)
    assert outcome.failed
    assert outcome.reason == "it can't be made: MemoryError: too large"


def test_texts_that_are_a_gigabyte_in_parquet_are_made_without_it(tmp_path, monkeypatch):
    monkeypatch.setattr(watched, "MEMORY_LIMIT", 2**30)
    outcomes = list(fuzz.run_all(range(7103, 7104), 3, 1, tmp_path))
    assert [(o.number, o.result, o.reason) for o in outcomes if o.failed] == []


@FEW
@given(TREES)
def test_any_json_value_is_a_tree_or_refused(tmp_path, value):
    path = written(tmp_path, "tree.json", json.dumps(value).encode())
    if accepts(load_schema, path):
        tree = load_schema(path)
        assert Schema.from_dict(json.loads(json.dumps(tree.to_dict()))) == tree


@FEW
@given(VALUES | st.dictionaries(st.sampled_from(["lr", "betas", "seed", "compile"]), VALUES))
def test_any_yaml_value_is_a_config_or_refused(tmp_path, value):
    path = written(tmp_path, "run.yaml", yaml.safe_dump(value).encode())
    accepts(train.parse, ["--config", str(path)])


@FEW
@given(st.text())
def test_any_text_is_a_config_or_refused(tmp_path, text):
    path = written(tmp_path, "run.yaml", text.encode())
    accepts(train.parse, ["--config", str(path)])


@FEW
@given(HEADS, st.binary(max_size=200))
def test_any_bytes_are_an_image_or_refused(head, rest):
    accepts(images.read_image, head + rest)
    accepts(images.read_pixels, head + rest)


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.fits", "a.ecsv", "a.vot"])
@FEW
@given(HEADS, st.binary(max_size=200))
def test_any_bytes_are_a_catalog_or_refused(tmp_path, name, head, rest):
    accepts(catalog.read_catalog, written(tmp_path, name, head + rest))


@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors"])
@FEW
@given(HEADS, st.binary(max_size=200))
def test_any_bytes_are_a_model_or_refused(tmp_path, name, head, rest):
    assert not accepts(checkpoint.load_model, written(tmp_path, name, head + rest))


@FEW
@given(VALUES.map(json.dumps).map(str.encode) | st.binary(max_size=200))
def test_any_bytes_are_an_index_of_shards_or_refused(tmp_path, content):
    written(tmp_path, "index.json", content)
    assert not accepts(open_shards, tmp_path, "train")
