import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import stats
from torch.overrides import TorchFunctionMode

from zoobot.data.sources import TableGalaxies
from zoobot.data.views.config import default_view_config, fast_view_config, minimal_view_config
from zoobot.data.views.cpu import GalaxyView, resample
from zoobot.data.views.device import (
    LARGEST_FIT,
    DeviceView,
    GalaxyRandom,
    device_view_of,
    warp,
    why_not_divided,
)
from zoobot.data.views.geometry import compose_matrices, erase_boxes, sample_view_parameters
from zoobot.data.views.turned import TurnedViews


def smooth_image(side=140):
    """A galaxy with arms: smooth enough that resampling errors are small."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    arms = 1 + 0.5 * np.cos(2 * angle - 6 * radius)
    rgb = np.exp(-3 * radius)[..., None] * arms[..., None] * [200, 150, 100]
    return Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8))


def as_batch(pixels):
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def default_view(output_size=64, **changes):
    config = default_view_config()
    config.output_size = output_size
    for name, value in changes.items():
        setattr(config, name, value)
    return GalaxyView(config)


def test_random_numbers_are_uniform_and_independent():
    random = GalaxyRandom(1, 2, range(20_000))
    draws = np.concatenate([random.random((20_000, 3)), random.random(20_000)[:, None]], axis=1)
    for column in draws.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    correlation = np.corrcoef(draws.T) - np.eye(4)
    assert np.abs(correlation).max() < 0.03
    neighbours = np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]
    assert abs(neighbours) < 0.03


def test_a_galaxys_numbers_depend_on_seed_epoch_and_galaxy_only():
    together = GalaxyRandom(1, 2, [5, 9, 7]).random((3, 4))
    np.testing.assert_array_equal(GalaxyRandom(1, 2, [9]).random((1, 4))[0], together[1])
    for seed, epoch, index in ((2, 2, 9), (1, 3, 9), (1, 2, 10), (-1, 2, 9)):
        assert not np.any(GalaxyRandom(seed, epoch, [index]).random((1, 4)) == together[1])


def test_views_have_the_distribution_of_those_on_the_cpu():
    config = default_view().config
    num = 4000
    on_device = sample_view_parameters(config, GalaxyRandom(0, 0, range(num)), num)
    on_cpu = sample_view_parameters(config, np.random.default_rng(0), num)
    for name in ("rotation_deg", "shift_frac", "zoom", "shear_deg", "erase_size_frac"):
        first, second = getattr(on_device, name), getattr(on_cpu, name)
        for a, b in zip(first.reshape(num, -1).T, second.reshape(num, -1).T, strict=True):
            assert stats.ks_2samp(a, b).pvalue > 1e-4, name
    matrices = [compose_matrices(p, (80, 80), 64).reshape(num, 6) for p in (on_device, on_cpu)]
    means = [m.mean(axis=0) for m in matrices]
    spreads = [np.cov(m.T) for m in matrices]
    error = np.sqrt(np.diag(spreads[1]) / num)
    assert (np.abs(means[0] - means[1]) < 6 * error + 1e-9).all()
    np.testing.assert_allclose(spreads[0], spreads[1], atol=0.1 * np.diag(spreads[1]).max())
    assert on_device.flip.mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("seed", range(5))
def test_pixels_are_those_of_the_cpu_for_the_same_matrix(seed):
    view = default_view()
    device_view = DeviceView(view)
    fitted = device_view.fit(np.asarray(smooth_image()))
    batch = device_view.draw(seed, 0, [3])
    warped = warp(as_batch(fitted), **batch)[0]
    fitted_image = Image.fromarray(fitted)
    expected = resample(fitted_image, batch["matrix"][0].numpy().astype(float), 64)
    expected = torch.from_numpy(np.array(expected)).permute(2, 0, 1) / 255
    kept = warped.sum(0) > 0
    difference = (warped - expected).abs()[:, kept]
    assert difference.mean() < 1.5 / 255
    assert difference.quantile(0.99) < 6 / 255


def test_the_whole_way_agrees_with_the_view_on_the_cpu_from_the_original_image():
    view = default_view(erase_iterations=0)
    device_view = DeviceView(view)
    image = smooth_image(424)
    parameters = sample_view_parameters(view.config, GalaxyRandom(7, 1, [11]))
    matrix = compose_matrices(parameters, image.size, 64)[0]
    expected = torch.from_numpy(np.array(resample(image, matrix, 64))).permute(2, 0, 1) / 255
    warped = warp(as_batch(device_view.fit(np.asarray(image))), **device_view.draw(7, 1, [11]))[0]
    assert (warped - expected).abs().mean() < 2 / 255


def test_erased_boxes_are_black_and_nothing_else_is():
    device_view = DeviceView(default_view(erase_iterations=3))
    white = torch.full((4, 3, device_view.fitted_px, device_view.fitted_px), 255, dtype=torch.uint8)
    batch = device_view.draw(0, 0, range(4)) | {"matrix": torch.eye(2, 3).repeat(4, 1, 1)}
    warped = warp(white, **batch)
    parameters = sample_view_parameters(device_view.config, GalaxyRandom(0, 0, range(4)), 4)
    for view, boxes in zip(warped, erase_boxes(parameters, 64), strict=True):
        expected = torch.ones(64, 64)
        for left, top, width, height in boxes:
            expected[top : top + height, left : left + width] = 0
        assert torch.equal(view[0], expected)
        assert 0 < expected.mean() < 1


def test_a_view_that_shrinks_a_lot_is_oversampled():
    affine = {"degrees": 0, "scale": (1.0, 3.0)}
    device_view = DeviceView(default_view(32, random_affine=affine, erase_iterations=0))
    assert device_view.oversampling == 3
    checker = np.indices((96, 96)).sum(0) % 2 * 255
    images = torch.from_numpy(checker.astype(np.uint8)).expand(1, 3, 96, 96)
    whole = compose_matrices(
        sample_view_parameters(minimal_view_config().__class__(), np.random.default_rng(0)),
        (96, 96), 32,
    )  # fmt: skip
    batch = device_view.draw(0, 0, [0]) | {"matrix": torch.from_numpy(whole).float()}
    shrunk = warp(images, **batch)
    assert ((shrunk - 4 / 9).abs().minimum((shrunk - 5 / 9).abs()) < 1e-4).all()


def test_fitting_takes_the_centre_and_one_channel_if_asked():
    device_view = DeviceView(default_view(greyscale=True))
    image = smooth_image(200).crop((0, 20, 200, 180))
    fitted = device_view.fit(np.asarray(image))
    assert fitted.shape == (device_view.fitted_px, device_view.fitted_px, 1)
    assert device_view.fit(fitted) is fitted


def test_views_that_cannot_be_divided_are_refused():
    with pytest.raises(ValueError, match="center_crop can't be made on the device"):
        DeviceView(GalaxyView(fast_view_config()))
    with pytest.raises(ValueError, match="not bilinear can't be made on the device"):
        DeviceView(default_view(interpolation_method="nearest"))

    class Redder(GalaxyView):
        """A view of a user's own."""

    for other in (torch.nn.Identity(), Redder(default_view_config())):
        with pytest.raises(ValueError, match="needs a view of ours"):
            DeviceView(other)


def fixed_view(output_size=64):
    config = minimal_view_config()
    config.output_size = output_size
    return GalaxyView(config)


def warped(view, pixels):
    divided = DeviceView(view, pixels.shape[0])
    return warp(as_batch(divided.fit(pixels)), **divided.draw(0, 0, [0]))[0]


@pytest.mark.parametrize("side", [60, 90, 100, 160])
def test_a_fixed_view_is_that_of_the_cpu(side):
    pixels, view = np.array(smooth_image(side)), fixed_view()
    difference = (warped(view, pixels) - view(pixels) / 255).abs()
    assert difference.mean() < 1.5 / 255
    assert difference.quantile(0.99) < 6 / 255


def test_turned_views_are_those_of_the_cpu_one_after_another():
    pixels, views = np.array(smooth_image(100)), TurnedViews(fixed_view(), 3)
    got, wanted = warped(views, pixels), views(pixels) / 255
    assert got.shape == wanted.shape == (9, 64, 64)
    for of_device, of_cpu, other in zip(
        got.split(3), wanted.split(3), wanted.roll(3, 0).split(3), strict=True
    ):
        assert (of_device - of_cpu).abs().mean() < 1.5 / 255
        assert (of_device - other).abs().mean() > 3 / 255


class Functions(TorchFunctionMode):
    """Names of the functions of torch that are called."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names.add(func.__name__)
        return func(*args, **(kwargs or {}))


def test_views_are_exact_whatever_autocast_and_tf32_do_to_matrix_products():
    divided = DeviceView(default_view())
    batch = divided.draw(0, 0, [1])
    fitted = as_batch(divided.fit(np.array(smooth_image())))
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = warp(fitted, **batch)
    with Functions() as seen:
        views = warp(fitted, **batch)
    assert torch.equal(under_autocast, views)
    assert "grid_sample" in seen.names
    assert not [name for name in seen.names if "mm" in name or "mat" in name or "affine" in name]


def galaxies_of(tmp_path, *sides):
    paths = []
    for number, side in enumerate(sides):
        paths.append(str(tmp_path / f"{number}.png"))
        smooth_image(side).save(paths[-1])
    ids = [f"g{i}" for i in range(len(paths))]
    return TableGalaxies(pd.DataFrame({"id_str": ids, "file_loc": paths}))


@pytest.mark.parametrize(
    ("sides", "wanted"),
    [
        ((40, 40, 40), 40),  # all alike: workers do not resize
        ((120, 120), 120),
        ((40, 120, 40), 120),  # none is shown coarser than it is
        ((40, 50, 40), 77),  # 64 px zoomed 1.2
        ((40, 300), 77),
        ((300,), 77),
        ((), 77),
    ],
)
def test_images_are_fitted_to_the_side_that_they_have(tmp_path, sides, wanted):
    assert round(77 * LARGEST_FIT) == 169
    galaxies = galaxies_of(tmp_path, *sides)
    assert device_view_of(fixed_view(), galaxies).fitted_px == wanted


def test_an_image_that_cannot_be_read_does_not_set_the_side(tmp_path):
    galaxies = galaxies_of(tmp_path, 120, 120)
    (tmp_path / "0.png").write_bytes(b"no image")
    assert device_view_of(fixed_view(), galaxies).fitted_px == 120


def test_a_device_view_prints_the_side_on_which_its_pixels_depend():
    assert repr(DeviceView(fixed_view(), 90)) == "DeviceView(fitted_px=90)"
    assert not why_not_divided(fixed_view())
