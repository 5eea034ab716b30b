"""Bands are scaled by their own sky; what is no flux changes nothing."""

import numpy as np
import pytest

from zoobot.data.bands.scaling import scale_bands
from zoobot.data.bands.spec import ImageSpec
from zoobot.system.errors import UserError


def galaxy(level: float = 0.0, noise: float = 1.0, peak: float = 100.0) -> np.ndarray:
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    sky = np.random.default_rng(1).normal(0, 1, (64, 64))
    return level + noise * (sky + peak * np.exp(-(x**2 + y**2) / 0.02))


def scaled(pixels: np.ndarray, **settings) -> np.ndarray:
    spec = ImageSpec(("r",), **settings)
    return scale_bands([pixels], spec)[0][0]


def test_asinh_is_in_units_of_each_band_s_own_noise():
    for level, noise in ((0, 1), (500, 0.001), (1e7, 30), (-3, 1e-9)):
        image = galaxy(level, noise)
        found = scaled(image)
        p16, sky = np.percentile(image, (16, 50))
        sigma = sky - p16
        wanted = np.arcsinh((image - sky) / (5 * sigma))
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)
        assert found.dtype == np.float32
        assert sigma == pytest.approx(noise, rel=0.1)
        np.testing.assert_allclose(found, scaled(galaxy()), atol=0.02)
    linear = scaled(galaxy(5, 2), scaling="linear", noise=(2.0,))
    assert linear.max() == pytest.approx(galaxy().max(), rel=0.01)
    assert np.abs(scaled(galaxy(), softening=10.0)).max() < np.abs(scaled(galaxy())).max()


@pytest.mark.parametrize("value", [np.nan, -9999.0, -2000.0, 3.4e38, -32768.0])
def test_pixels_without_data_are_sky_and_change_no_other(value):
    image = galaxy()
    holed = image.copy()
    holed[3, 4] = holed[40:44, 50:52] = value
    found, wanted = scaled(holed), scaled(image)
    hole = holed != image
    np.testing.assert_allclose(found[~hole], wanted[~hole], atol=0.01)
    np.testing.assert_array_equal(found[hole], 0)


def test_a_bright_star_leaves_a_ring_of_three_sigma_as_it_is():
    image = galaxy(peak=0)
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    ring = np.abs(np.hypot(x, y) - 0.6) < 0.06
    image[ring] += 3
    starry = image.copy()
    starry[5, 5] = 1e6
    contrast = scaled(starry)[ring].mean() - scaled(starry)[~ring].mean()
    assert contrast == pytest.approx(scaled(image)[ring].mean() - scaled(image)[~ring].mean(), 0.01)
    assert contrast > 2 * scaled(image)[~ring].std()


def test_lupton_keeps_colours():
    bands = [galaxy(peak=p) for p in (50, 100, 200)]
    spec = ImageSpec(("g", "r", "z"), scaling="lupton", noise=(1.0, 1.0, 1.0))
    g, r, z = scale_bands(bands, spec)[0]
    assert z[31, 31] / g[31, 31] == pytest.approx(bands[2][31, 31] / bands[0][31, 31], rel=0.05)
    assert r[31, 31] < 2


def test_percentiles_and_none_are_what_their_names_say():
    image = galaxy(10)
    found = scaled(image, scaling="percentiles")
    assert found.min() == 0
    assert found.max() == pytest.approx(1)
    np.testing.assert_allclose(scaled(image, scaling="none"), image.astype(np.float32))
    image[2, 2] = np.nan
    assert scaled(image, scaling="none")[2, 2] == 0


def test_an_image_without_noise_or_without_pixels():
    drawn = np.zeros((20, 20))
    drawn[8:12, 8:12] = 5
    assert np.isfinite(scaled(drawn)).all()
    assert (scaled(np.full((5, 5), 7.0)) == 0).all()
    with pytest.raises(UserError, match="band r has no finite pixels"):
        scaled(np.full((5, 5), np.nan))


@pytest.mark.parametrize("scaling", ["asinh", "linear", "none"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "uint32", "float16"])
def test_numbers_of_every_type_are_scaled_as_floats(dtype, scaling):
    image = (galaxy(30, 3, 20) % 90).astype(dtype)  # its sky has values above and below
    image[:4] = 65_000 if dtype == "uint16" else 0
    wanted = scaled(image.astype(np.float64), scaling=scaling)
    np.testing.assert_allclose(scaled(image, scaling=scaling), wanted, rtol=1e-4, atol=1e-4)
