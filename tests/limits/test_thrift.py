"""A struct in Thrift's compact protocol is read in one way, or refused."""

import pytest
from hostile_files import number
from hypothesis import given
from hypothesis import strategies as st

from zoobot.limits import memory, thrift
from zoobot.limits.thrift import DEEPEST, INT_32, INT_64, StructReader
from zoobot.system.errors import UserError


def read(content, wanted=None):
    return StructReader(content).struct({1: INT_32} if wanted is None else wanted)


@given(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1))
def test_numbers_are_read(first, second):
    content = b"\x15" + number(first) + b"\x16" + number(second) + b"\0"
    assert read(content, {1: INT_32, 2: INT_64}) == {1: first, 2: second}


@given(st.integers(0, 2**15 - 1))
def test_a_field_of_any_number_is_found(field):
    assert read(b"\x05" + number(field) + b"\x02\0", {field: INT_32}) == {field: 1}


def test_fields_of_other_kinds_are_passed():
    others = [
        b"\x11",  # true
        b"\x12",  # false
        b"\x13\xff",  # a byte
        b"\x14\x80\x01",  # a number
        b"\x17" + bytes(8),
        b"\x18\x03abc",
        b"\x19\x25\x80\x01\x02",  # two numbers
        b"\x1a\x31\x01\x02\x01",  # a set of three of true and false
        b"\x19\xf7\x02" + bytes(16),  # two floats, counted apart
        b"\x19\x18\x02ab",
        b"\x19\x19\x15\x02",  # a list within a list
        b"\x1c\x15\x02\0",
        b"\x19\x2c\x15\x02\0\0",
    ]
    content = b"".join(others) + b"\x15\x0e\0more"
    reader = StructReader(content)
    assert reader.struct({len(others) + 1: INT_32}) == {len(others) + 1: 7}
    assert content[reader.place :] == b"more"


def test_structs_and_lists_of_them_are_read():
    content = b"\x1c\x15\x02\0" + b"\x19\x2c\x15\x04\0\0" + b"\0"
    wanted = {1: {1: INT_32}, 2: [{1: INT_32}]}
    assert read(content, wanted) == {1: {1: 1}, 2: [{1: 2}, {}]}


@pytest.mark.parametrize(
    "content",
    [
        b"\x15\2\x05\2\2\0",  # readers take the last
        b"\x16\2\0",  # they drop a field of another kind
        b"\x15" + b"\xff" * 4 + b"\x7f\0",  # and the upper half of a number
        b"\x15" + b"\xff" * 10 + b"\1\0",
        b"\x05" + number(-5) + b"\2\0",
        b"\x05" + number(2**15 - 1) + b"\2\x15\2\0",  # they count on from -2**15
        b"\x1b\0\0",  # a map, of which Parquet has none
        b"\x1c" * 100,
        b"\x29\x1a" + b"\x19" * 100,
        b"\x1d\0",
    ],
    ids="twice kind wide long negative beyond map deep lists unknown".split(),
)
def test_a_struct_that_may_be_read_in_two_ways_is_refused(content):
    with pytest.raises(UserError):
        read(content)


@pytest.mark.parametrize("shape", [{}, [{}], INT_64])
def test_a_field_is_of_the_wanted_kind(shape):
    with pytest.raises(UserError):
        read(b"\x15\2\0", {1: shape})
    with pytest.raises(UserError):
        read(b"\x19\x15\2\0", {1: shape})


@given(st.binary(max_size=40))
def test_no_bytes_cause_another_error(content):
    wanted = {1: INT_32, 2: INT_64, 3: {1: INT_32}, 4: [{1: INT_32}]}
    try:
        read(content, wanted)
    except (IndexError, UserError):
        pass


def test_structs_within_structs_are_read_to_a_depth():
    depth = DEEPEST - 1
    assert read(b"\x2c" + b"\x1c" * depth + b"\0" * (depth + 2)) == {}


def test_structs_of_few_bytes_are_counted(monkeypatch):
    monkeypatch.setattr(thrift, "CHECKED_EVERY", 100)
    monkeypatch.setattr(memory, "free_bytes", lambda: 150 * thrift.STRUCT_BYTES)
    content = b"\x19\xfc\xc7\1" + bytes(200)
    with pytest.raises(UserError, match="memory are free"):
        read(content, {1: [{}]})
    with pytest.raises(UserError, match="memory are free"):
        read(content, {})
