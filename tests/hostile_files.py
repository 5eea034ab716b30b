"""What tests of hostile files share."""

import pytest


def refused(call, name):
    """The message of a ValueError, one line that names the file."""
    with pytest.raises(ValueError, match="^[^\n]*$") as raised:
        call()
    assert str(name) in str(raised.value)
    return str(raised.value)


def number(value):
    """A number as Thrift writes it in a struct, with which Parquet describes itself."""
    return unsigned(value * 2 if value >= 0 else -value * 2 - 1)


def unsigned(value):
    """A number without a sign, as Thrift writes it: seven bits a byte."""
    found = []
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])
