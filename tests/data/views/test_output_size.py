import pytest
import torch

from zoobot.data.views import get_galaxy_transform, minimal_view_config


@pytest.mark.parametrize("size", [(64, 64), [64, 64], torch.Size([64, 64]), 64])
def test_a_pair_of_equal_sides_is_one_side(size):
    config = minimal_view_config()
    config.output_size = size
    assert config.output_size == 64
    view = get_galaxy_transform(config)
    assert view(torch.zeros(3, 80, 80, dtype=torch.uint8)).shape == (3, 64, 64)


@pytest.mark.parametrize("size", [(64, 32), (64,), (64, 64, 64), (), "64", (True, True)])
def test_any_other_size_is_told(size):
    config = minimal_view_config()
    config.output_size = size
    with pytest.raises(ValueError, match="output_size=.*: views are square: give the side"):
        get_galaxy_transform(config)
