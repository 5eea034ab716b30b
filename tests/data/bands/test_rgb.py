"""Pictures of galaxies in any bands show red as red, and say which bands they are of."""

import numpy as np
import pytest
import torch

from zoobot.data import ImageSpec, galaxy_rgb
from zoobot.data.bands.image import BandImage
from zoobot.data.bands.rgb import rgb_bands
from zoobot.system.errors import UserError

SPEC = ImageSpec(("g", "r", "i", "z"))


def galaxies(num_bands: int = 4) -> np.ndarray:
    """A blue source left and a red one right, (C, 40, 40), scaled by asinh."""
    y, x = np.mgrid[-1:1:40j, -1:1:40j]
    left, right = (np.exp(-((x - c) ** 2 + y**2) / 0.02) for c in (-0.5, 0.5))
    slope = np.linspace(0.5, 2, num_bands)[:, None, None]
    noise = np.random.default_rng(0).normal(size=(num_bands, 40, 40))
    return np.arcsinh(noise + 200 * (left / slope + right * slope)).astype(np.float32)


def test_the_last_band_is_red_and_the_first_blue():
    image = BandImage(tuple(galaxies()), (40.0,) * 4)
    view = torch.from_numpy(galaxies())
    for given in (image, view, view.numpy()):
        picture = galaxy_rgb(given, SPEC)
        assert (picture.mode, picture.size) == ("RGB", (40, 40))
        pixels = np.asarray(picture).astype(int)
        red, _, blue = pixels[20, 30]
        assert red > blue + 30
        red, _, blue = pixels[20, 10]
        assert blue > red + 30
        assert pixels[:5].mean() < 80
    assert galaxy_rgb(image, SPEC, size_px=64).size == (64, 64)


def test_a_view_of_standardised_bands_gives_the_same_picture():
    mean, std = [0.3, 0.2, 0.1, 0.0], [2.0, 3.0, 4.0, 1.0]
    known = SPEC.with_statistics(mean, std)
    view = (galaxies() - np.array(mean)[:, None, None]) / np.array(std)[:, None, None]
    found = np.asarray(galaxy_rgb(view, known)).astype(int)
    assert np.abs(found - np.asarray(galaxy_rgb(galaxies(), SPEC))).max() <= 1


def test_bands_are_chosen_by_name():
    assert rgb_bands(SPEC) == ("z", "i", "g")
    assert rgb_bands(ImageSpec(("a", "b"))) == ("b",)
    assert rgb_bands(SPEC, ["r"]) == ("r",)
    grey = np.asarray(galaxy_rgb(galaxies(), SPEC, ["r"]))
    assert (grey == grey[..., :1]).all()
    turned = np.asarray(galaxy_rgb(galaxies(), SPEC, ["g", "i", "z"]))
    np.testing.assert_array_equal(turned, np.asarray(galaxy_rgb(galaxies(), SPEC))[..., ::-1])
    for wrong in (["g", "r"], ["y"], ["g", "r", "y"]):
        with pytest.raises(UserError, match="give red, green and blue, or one band, of g r i z"):
            rgb_bands(SPEC, wrong)
    with pytest.raises(UserError, match="is none of 4 bands"):
        galaxy_rgb(galaxies(3), SPEC)
