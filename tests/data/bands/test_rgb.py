"""Pictures of galaxies in any bands show red as red, and say which bands they are of."""

import numpy as np
import pytest
import torch

from zoobot.data import ImageSpec, galaxy_rgb
from zoobot.data.bands.image import BandImage, read_band_image
from zoobot.data.bands.rgb import in_flux, rgb_bands, white_balance
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
    assert rgb_bands(ImageSpec((*"ugrizy",))) == ("z", "i", "g")
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


def one_source(*flux: float, width_px: float = 4, seed: int = 0) -> np.ndarray:
    """A source of this flux in each band in noise of 1, (C, 48, 48)."""
    y, x = np.mgrid[-24:24, -24:24]
    noise = np.random.default_rng(seed).normal(size=(len(flux), 48, 48))
    source = np.exp(-(x**2 + y**2) / 2 / width_px**2)
    return (noise + np.array(flux)[:, None, None] * source).astype(np.float32)


def redness(picture) -> float:
    red, _, blue = np.asarray(picture).astype(float)[20:28, 20:28].mean((0, 1))
    return red - blue


def saved(tmp_path, *cubes: np.ndarray) -> list[str]:
    np.save(tmp_path / "cubes.npy", np.stack(cubes))
    return [f"{tmp_path}/cubes.npy#{row}" for row in range(len(cubes))]


def test_balanced_together_galaxies_keep_their_colours(tmp_path):
    spec = in_flux(ImageSpec(("g", "r", "z")))
    # z is a shallow band: in units of its noise all galaxies are blue.
    cubes = one_source(200, 200, 40), one_source(100, 200, 120)
    blue, red = (read_band_image(path, spec) for path in saved(tmp_path, *cubes))
    balance = white_balance([blue, red], spec)
    assert redness(galaxy_rgb(blue, spec, balance=balance)) < -30
    assert redness(galaxy_rgb(red, spec, balance=balance)) > 30


def test_colours_in_flux_do_not_depend_on_how_much_of_the_image_a_galaxy_fills(tmp_path):
    spec = ImageSpec(("g", "r", "z"))
    flux = (60, 300, 60)
    paths = saved(tmp_path, one_source(*flux, width_px=3), one_source(*flux, width_px=16))
    found = {}
    for read_as in (spec, in_flux(spec)):
        small, large = (read_band_image(path, read_as) for path in paths)
        balance = [5.0, 1.0, 5.0]  # grey
        pictures = (galaxy_rgb(image, read_as, balance=balance) for image in (small, large))
        greens = [np.asarray(picture)[24, 24].astype(int) for picture in pictures]
        found[read_as.scaling] = max(np.ptp(green) for green in greens)
    assert found["asinh"] > 40
    assert found["linear"] < 10


def test_a_band_of_noise_only_does_not_flood_the_picture():
    spec = in_flux(ImageSpec(("u", "g", "r")))
    image = BandImage(tuple(one_source(0, 200, 200)), (48.0,) * 3)
    for balance in (None, white_balance([image], spec)):
        picture = np.asarray(galaxy_rgb(image, spec, balance=balance)).astype(int)
        corner = picture[:10, :10].mean((0, 1))
        assert corner.max() < 60
        assert picture[24, 24, 0] > picture[24, 24, 2] + 40
