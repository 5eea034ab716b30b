"""All bands of a view show the same sky, whatever their pixel scales, on the CPU and the device."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from zoobot.data import CatalogDataset, default_view_config, get_galaxy_transform
from zoobot.data.bands.image import BandImage, read_band_image, sides_px
from zoobot.data.bands.spec import ImageSpec
from zoobot.data.bands.statistics import with_statistics
from zoobot.data.dataset import float_images
from zoobot.data.sources import TableGalaxies
from zoobot.data.views import minimal_view_config
from zoobot.data.views.device import DeviceView, warp
from zoobot.system.errors import UserError

SPEC = ImageSpec(("short", "long"), scaling="none", pixel_scale=(0.031, 0.063))
SIZES = (419, 209)  # of JWST's images in two bands


def source_at(x_arcsec: float, y_arcsec: float) -> BandImage:
    """A round source at an offset from the centre, in both bands."""
    bands = []
    for size, scale in zip(SIZES, SPEC.pixel_scale, strict=True):
        y, x = (np.mgrid[:size, :size] - (size - 1) / 2) * scale
        bands.append(np.exp(-((x - x_arcsec) ** 2 + (y - y_arcsec) ** 2) / 0.5**2))
    bands = [band.astype(np.float32) for band in bands]
    return BandImage(tuple(bands), sides_px(SPEC, bands))


def centroids(view: torch.Tensor) -> np.ndarray:
    """(C, 2) x and y in pixels."""
    pixels = view.double().numpy()
    y, x = np.mgrid[: pixels.shape[1], : pixels.shape[2]]
    weights = pixels / pixels.sum((1, 2), keepdims=True)
    return np.stack([(weights * x).sum((1, 2)), (weights * y).sum((1, 2))], axis=1)


@pytest.mark.parametrize("where", ["cpu", "device"])
def test_bands_of_two_pixel_scales_agree_within_a_tenth_of_a_pixel(where):
    config = default_view_config()
    config.output_size, config.erase_iterations = 128, 0
    rng = np.random.default_rng(0)
    view = get_galaxy_transform(config)
    divided, apart = DeviceView(view), []
    for i in range(100):
        image = source_at(*rng.uniform(-1.5, 1.5, 2))
        if where == "cpu":
            made = view(image, np.random.default_rng(i))
        else:
            fitted = torch.from_numpy(divided.fit(image)).permute(2, 0, 1)[None]
            assert fitted.dtype == torch.float16
            made = warp(fitted, **divided.draw(0, 0, [i]))[0]
        first, second = centroids(made)
        apart.append(np.abs(first - second).max())
    assert max(apart) < 0.1


def test_without_pixel_scales_all_bands_cover_the_same_square():
    spec = dataclasses.replace(SPEC, pixel_scale=None)
    assert sides_px(spec, [np.zeros((40, 60)), np.zeros((20, 22))]) == (40, 20)
    assert sides_px(SPEC, [np.zeros((419, 419)), np.zeros((209, 209))]) == pytest.approx(
        (419, 419 * 0.031 / 0.063)
    )


def test_erased_boxes_and_what_lies_outside_are_sky():
    config = default_view_config()
    config.output_size, config.erase_iterations = 32, 5
    config.random_affine = {"degrees": 0, "scale": (0.5, 0.5)}
    ones = BandImage((np.ones((40, 40), np.float32),), (40.0,))
    made = get_galaxy_transform(config)(ones, np.random.default_rng(0))
    assert made.dtype == torch.float32
    assert {0.0, 1.0} <= set(made.unique().tolist())
    assert made[0, 0, 0] == 0
    assert made[0, 16, 9] in (0, 1)


@pytest.fixture
def cubes(tmp_path) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:40j, -1:1:40j]
    rows = []
    for i in range(12):
        galaxy = np.exp(-(x**2 + y**2) / 0.1) * np.array([20, 60, 180])[:, None, None]
        np.save(tmp_path / f"{i}.npy", (galaxy + rng.normal(size=(3, 40, 40))).astype(np.float32))
        rows.append((f"g{i}", str(tmp_path / f"{i}.npy")))
    return pd.DataFrame(rows, columns=["id_str", "file_loc"])


def test_views_of_a_training_set_have_mean_0_and_spread_1(cubes):
    spec = with_statistics(ImageSpec(("g", "r", "z")), TableGalaxies(cubes))
    config = minimal_view_config()
    config.output_size, config.random_affine = 40, False
    dataset = CatalogDataset(cubes, transform=get_galaxy_transform(config), spec=spec)
    images = float_images(dataset.batch(0, range(12)))
    assert images.dtype == torch.float32
    assert images.mean((0, 2, 3)).abs().max() < 1e-5
    torch.testing.assert_close(images.std((0, 2, 3)), torch.ones(3), rtol=1e-3, atol=0)
    torch.testing.assert_close(dataset[5]["image"], images[5])
    assert dataset.channels == 3
    assert dataset.describe_images().bands == spec.to_dict()


def test_statistics_leave_out_what_can_not_be_read_and_refuse_a_constant_band(cubes, tmp_path):
    spec = ImageSpec(("g", "r", "z"))
    wanted = with_statistics(spec, TableGalaxies(cubes[1:]))
    (tmp_path / "0.npy").write_bytes(b"\x93NUMPY cut")
    found = with_statistics(spec, TableGalaxies(cubes))
    assert found.mean == pytest.approx(wanted.mean)
    assert found.std == pytest.approx(wanted.std)
    assert with_statistics(wanted, TableGalaxies(cubes[:1])) is wanted
    with pytest.raises(UserError, match="no image can be read .*0.npy"):
        with_statistics(spec, TableGalaxies(cubes[:1]))
    for path in cubes["file_loc"]:
        np.save(path, np.zeros((3, 40, 40), np.float32))
    with pytest.raises(UserError, match="band g has the same value in all pixels of 12 images"):
        with_statistics(spec, TableGalaxies(cubes))


def test_a_bad_image_of_bands_is_named_in_the_batch(cubes, tmp_path):
    np.save(tmp_path / "3.npy", np.zeros((2, 40, 40), np.float32))
    dataset = CatalogDataset(cubes, spec=ImageSpec(("g", "r", "z")))
    batch = dataset.batch(0, range(12))
    assert list(batch["errors"]) == [3]
    assert "3.npy: band g: " in batch["errors"][3]
    with pytest.raises(ValueError, match="3.npy"):
        read_band_image(tmp_path / "3.npy", dataset.spec)
