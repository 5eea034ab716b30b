import numpy as np
import pytest

from zoobot.system.errors import LONGEST_NAME, UserError, check_count, did_you_mean, one_line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("convnext_nan", "; did you mean 'convnext_nano'?"),
        ("18", "; did you mean 'resnet18'?"),
        ("zzz", ""),
        ("x" * (LONGEST_NAME + 1), ""),
    ],
)
def test_similar_names_are_suggested(text, expected):
    assert did_you_mean(text, ["resnet18", "convnext_nano"]) == expected


def test_a_message_is_one_line_that_can_not_change_a_terminal():
    assert one_line("a\n b\t\x1b[31mred caf\u00e9") == "a b \\x1b[31mred caf\u00e9"


def test_a_mistake_of_the_user_is_a_value_error():
    assert issubclass(UserError, ValueError)


@pytest.mark.parametrize("value", [0, -3, 1.5, 16.0, "4", True, None])
def test_a_count_is_a_whole_number_of_one_or_more(value):
    check_count("batch_size", 1)
    check_count("batch_size", np.int64(7))
    with pytest.raises(UserError, match=r"batch_size=.*: give a whole number of 1 or more"):
        check_count("batch_size", value)
