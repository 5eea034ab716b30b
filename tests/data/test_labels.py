import numpy as np
import pandas as pd
import pytest

from zoobot.data.labels import votes


def table(counts):
    return pd.DataFrame({"id_str": [f"g{i}" for i in range(len(counts))], "a_x": counts})


@pytest.mark.parametrize("bad", [np.nan, -1, 2.5, np.inf, 1e12])
def test_a_bad_count_is_named_with_column_galaxy_and_value(bad):
    frame = table([1, 2, bad, 3.0])
    with pytest.raises(ValueError, match="column 'a_x' of id_str 'g2' holds .*no vote count"):
        votes(frame, ["a_x"])


def test_text_in_a_vote_column_is_named():
    with pytest.raises(ValueError, match="id_str 'g1' holds many"):
        votes(table(["1", "many", "3", "4"]), ["a_x"])


def test_whole_floats_are_counts():
    counts = votes(table([0.0, 12.0, 3.0, 0.0]), ["a_x", "a_x"])
    assert counts.dtype == np.int32
    assert counts.tolist() == [[0, 0], [12, 12], [3, 3], [0, 0]]
