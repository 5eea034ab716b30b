"""Pixels without data move no other pixel's brightness; what looks like such but is flux stays."""

import files_people_have
import numpy as np
import pytest

from zoobot.data.brightness import find_ends, find_no_data, low_and_median, some_of
from zoobot.data.images import read_image

FILES = [
    "one -9999", "one -99", "one -1e+30", "one -3.4e+38", "one nan", "corner -9999", "corner -99",
    "corner -1e+30", "corner -3.4e+38", "corner nan", "two values", "corner 1e20", "corner 9999",
    "zeros around a bias", "zeros around counts", "-32768", "BLANK", "BLANK within the range",
    "BLANK of floats", "BZERO with BLANK",
]  # fmt: skip


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("scaling", ["asinh", "linear"])
def test_pixels_without_data_are_black_and_leave_the_others_as_they_are(name, scaling):
    pytest.importorskip("astropy")
    content, where, flux = files_people_have.with_no_data()[name]
    image = np.asarray(read_image(content, 1, scaling)).astype(int)
    low, high = flux[~where].min(), np.percentile(flux[~where], 99.7)
    unit = np.clip((flux - low) / (high - low), 0, 1)
    unit = np.arcsinh(unit) / np.arcsinh(1) if scaling == "asinh" else unit
    assert np.abs(image - 255 * unit)[~where].max() <= 0.51
    assert (image[where] == 0).all()


def test_every_kind_of_file_is_tried():
    assert sorted(files_people_have.with_no_data()) == sorted(FILES)


def test_the_values_taken_for_no_data_are_told():
    pytest.importorskip("astropy")
    files = files_people_have.with_no_data()
    for name, told in (("two values", [-9999, -99]), ("zeros around a bias", [0]), ("BLANK", None)):
        assert read_image(files[name][0]).info.get("no_data") == told


def test_dead_pixels_of_many_values_do_not_set_the_low_end():
    flux = files_people_have.galaxy(side_px=64)
    dead = flux.copy()
    dead[::9, 7] = np.linspace(-600, -300, 8)
    least = np.sort(flux, axis=None)[:10]
    assert least[0] <= find_ends(dead.ravel())[0] <= least[9]


RNG = np.random.default_rng(0)
Y, X = np.mgrid[-1:1:64j, -1:1:64j]
BLOB = np.exp(-(X**2 + Y**2) / 0.05)


@pytest.mark.parametrize(
    "flux",
    [
        RNG.normal(0, 1, (64, 64)) + 1e5 * (BLOB > 0.9),
        RNG.poisson(0.2, (64, 64)),
        RNG.poisson(0.1 + 3 * BLOB) / 7.3,
        RNG.poisson(0.01, (64, 64)),
        np.where(BLOB > 1e-3, BLOB, 0),
        (BLOB > 0.5) * 1.0,
        100 * X + RNG.normal(0, 1, (64, 64)),
        np.minimum(RNG.normal(5e3, 50, (64, 64)) + 2e5 * BLOB, 65535),
        np.arange(4096),
    ],
    ids="star,photons,exposure,few photons,noise-free,mask,slope,saturated,ramp".split(","),
)
def test_flux_is_not_taken_for_no_data(flux):
    flux = np.asarray(flux, dtype=np.float32).ravel()
    assert find_no_data(flux) == []
    assert find_ends(flux)[:2] == (flux.min(), pytest.approx(np.percentile(flux, 99.7), rel=1e-5))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int16, np.uint8])
def test_the_sky_and_what_lies_below_it_are_percentiles(dtype):
    rng = np.random.default_rng(0)
    for size in (1, 2, 3, 100, 4097, 20_000):
        pixels = rng.normal(100, 20, size).astype(dtype)
        wanted = np.percentile(some_of(pixels), (16, 50))
        np.testing.assert_allclose(low_and_median(pixels), wanted, rtol=1e-14)
