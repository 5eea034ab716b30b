"""What tests of hostile files share."""

import pytest


def refused(call, name):
    """The message of a ValueError, one line that names the file."""
    with pytest.raises(ValueError, match="^[^\n]*$") as raised:
        call()
    assert str(name) in str(raised.value)
    return str(raised.value)
