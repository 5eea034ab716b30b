"""What a stranger's checkpoint says of its images is told, or refused in a line."""

import pytest

from zoobot.data.dataset import ImagesSeen
from zoobot.models.preparation import preparation
from zoobot.system.errors import UserError

BANDS = {"bands": ["g", "r"], "scaling": "asinh"}


@pytest.mark.parametrize(
    "described",
    [
        {"view": {"random_affine": 3}},
        {"view": {"random_affine": {"degrees": "x"}}},
        {"view": {"random_affine": {"degrees": 0, "scale": [1e999, 1e999]}}},
        {"view": {"output_size": "a"}},
        {"view": {"erase_iterations": 10**30}},
        {"view": {1: 2}},
        {"bands": {"bands": 7}},
        {"bands": {"bands": [1, 2]}},
        {"bands": {"bands": ["g"] * 5000}},
        {"bands": BANDS | {"scaling": "x"}},
        {"bands": BANDS | {"softening": float("nan")}},
        {"bands": BANDS | {"noise": [1]}},
        {"bands": BANDS | {"mean": [1, 2], "std": [0, "x"]}},
        {"bands": BANDS | {"places": [1]}},
        {"bands": BANDS | {1: 2}},
    ],
    ids=range(15),
)
def test_a_hostile_description_of_images_is_one_line(described):
    with pytest.raises(UserError) as caught:
        preparation(ImagesSeen.from_dict(described), 3)
    assert "\n" not in str(caught.value)
