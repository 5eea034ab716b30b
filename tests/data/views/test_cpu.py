"""A view is one resample of the right place, rightly distributed, without aliasing."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as T
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from torchvision.transforms.functional import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from zoobot.data.views.config import (
    GalaxyViewConfig,
    default_view_config,
    fast_view_config,
    minimal_view_config,
    zoomed_view_configs,
)
from zoobot.data.views.cpu import (
    GalaxyView,
    apply_transform,
    decoded_alike,
    get_galaxy_transform,
    resample,
)
from zoobot.data.views.geometry import (
    ViewParameters,
    compose_matrices,
    erase_boxes,
    sample_matrix,
    sample_view_parameters,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def noise(width=64, height=64, blur_px=0):
    image = Image.fromarray(rng().integers(0, 256, (height, width, 3), dtype=np.uint8))
    return image.filter(ImageFilter.GaussianBlur(blur_px)) if blur_px else image


def chw(image):
    return np.moveaxis(np.atleast_3d(np.asarray(image)), -1, 0).astype(int)


def one_view(**changes):
    """Parameters of one view that changes nothing but what is given."""
    values = {
        "rotation_deg": 0.0,
        "shift_frac": (0.0, 0.0),
        "zoom": 1.0,
        "shear_deg": (0.0, 0.0),
        "window_frac": (0.0, 0.0, 1.0, 1.0),
        "flip": (False, False),
        "erase_size_frac": np.zeros((0, 2)),
        "erase_place": np.zeros((0, 2)),
        **changes,
    }
    return ViewParameters(**{name: np.asarray(value)[None] for name, value in values.items()})


def homogeneous(matrix):
    return np.vstack([matrix, [0, 0, 1]])


def supersampled(image, matrix, size, factor=8):
    """Mean over each view pixel's area of the image as squares of constant brightness."""
    pixels = np.pad(np.asarray(image, dtype=float), ((1, 1), (1, 1), (0, 0)))
    points = (np.arange(size * factor) + 0.5) / factor
    x, y = np.meshgrid(points, points)
    where = np.floor(np.tensordot(matrix, np.stack([x, y, np.ones_like(x)]), 1)).astype(int)
    columns = np.clip(where[0], -1, image.width) + 1
    rows = np.clip(where[1], -1, image.height) + 1
    return pixels[rows, columns].reshape(size, factor, size, factor, 3).mean(axis=(1, 3))


# Geometry


unit = st.floats(-1, 1)


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[unit] * 6), st.booleans(), st.booleans(), st.tuples(*[st.integers(1, 500)] * 3))
def test_the_matrix_undoes_the_operations_applied_one_after_the_other(draw, across, down, sizes):
    width, height, size = sizes
    angle, zoom, shift = 180 * draw[0], 1.5 + draw[1], (0.3 * draw[2], 0.3 * draw[3])
    shear = (40 * draw[4], 40 * draw[5])
    parameters = one_view(
        rotation_deg=angle, zoom=zoom, shift_frac=shift, shear_deg=shear, flip=(across, down)
    )
    side = min(width, height)
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    tan_x, tan_y = (math.tan(math.radians(s)) for s in shear)

    def shifted(x, y):
        return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])

    forward = [
        shifted(-width / 2, -height / 2),
        np.array([[1, -tan_x, 0], [0, 1, 0], [0, 0, 1]]),
        np.array([[1, 0, 0], [-tan_y, 1, 0], [0, 0, 1]]),
        np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]),
        np.diag([zoom, zoom, 1]),
        shifted(shift[0] * side, shift[1] * side),
        np.diag([-1 if across else 1, -1 if down else 1, 1]),
        np.diag([size / side, size / side, 1]),
        shifted(size / 2, size / 2),
    ]
    steps = np.eye(3)
    for step in forward:
        steps = step @ steps
    matrix = compose_matrices(parameters, (width, height), size)
    assert matrix.shape == (1, 2, 3)
    assert matrix.dtype == np.float64
    error = np.abs(homogeneous(matrix[0]) @ steps - np.eye(3)).max()
    assert error < 1e-9 * 1000


def test_the_affine_is_torchvisions():
    image = noise(101, 101, blur_px=3)
    for seed in range(5):
        angle, *shear = rng(seed).uniform(-40, 40, 3)
        zoom, shift = 1 + 0.4 * seed / 5, [7, -4 * seed]
        theirs = TF.affine(image, angle, shift, zoom, shear, InterpolationMode.BILINEAR)
        parameters = one_view(
            rotation_deg=angle, zoom=zoom, shear_deg=shear, shift_frac=np.array(shift) / 101
        )
        matrix = compose_matrices(parameters, image.size, 101)[0]
        ours = image.transform(
            (101, 101), Image.Transform.AFFINE, tuple(matrix.ravel()), Image.Resampling.BILINEAR
        )
        assert np.abs(chw(ours) - chw(theirs)).mean() < 0.05


def test_geometry_works_on_a_batch():
    config = default_view_config()
    parameters = sample_view_parameters(config, rng(), 50)
    sizes = rng().integers(50, 500, (50, 2))
    together = compose_matrices(parameters, sizes, 224)
    boxes = erase_boxes(parameters, 224)
    assert boxes.shape == (50, 5, 4)
    for index in (0, 31):
        values = dataclasses.asdict(parameters).items()
        alone = ViewParameters(**{name: value[index : index + 1] for name, value in values})
        matrix = compose_matrices(alone, tuple(sizes[index]), 224)[0]
        np.testing.assert_allclose(together[index], matrix, rtol=1e-12)
        np.testing.assert_array_equal(boxes[index], erase_boxes(alone, 224)[0])


def test_sample_matrix_is_the_matrix_of_the_sampled_parameters():
    config = default_view_config()
    matrix = sample_matrix(config, (424, 300), rng(3))
    parameters = sample_view_parameters(config, rng(3))
    np.testing.assert_array_equal(matrix, compose_matrices(parameters, (424, 300), 224)[0])


def test_a_view_that_changes_nothing_returns_the_image():
    image = noise(64, 64)
    config = GalaxyViewConfig(output_size=64)
    np.testing.assert_array_equal(get_galaxy_transform(config)(image).numpy(), chw(image))


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (one_view(flip=(True, False)), Image.Transpose.FLIP_LEFT_RIGHT),
        (one_view(flip=(False, True)), Image.Transpose.FLIP_TOP_BOTTOM),
        (one_view(flip=(True, True)), Image.Transpose.ROTATE_180),
        (one_view(rotation_deg=90), Image.Transpose.ROTATE_270),  # Pillow's are anticlockwise
        (one_view(rotation_deg=-90), Image.Transpose.ROTATE_90),
        (one_view(rotation_deg=180), Image.Transpose.ROTATE_180),
    ],
)
@pytest.mark.parametrize("side", [64, 63])
def test_flips_and_right_angles_are_exact(parameters, expected, side):
    image = noise(side, side)
    view = resample(image, compose_matrices(parameters, image.size, side)[0], side)
    np.testing.assert_array_equal(chw(view), chw(image.transpose(expected)))


@pytest.mark.parametrize("sizes", [(101, 101, 51), (101, 101, 151), (200, 121, 64), (60, 300, 64)])
def test_a_centred_galaxy_stays_centred(sizes):
    width, height, size = sizes
    y, x = np.mgrid[:height, :width] + 0.5
    distance = (x - width / 2) ** 2 + (y - height / 2) ** 2
    galaxy = Image.fromarray((250 * np.exp(-distance / 60)).astype(np.uint8))
    config = default_view_config()
    config.output_size, config.random_affine["translate"] = size, None
    config.erase_iterations = 0
    view = get_galaxy_transform(config)
    grid = np.arange(size) + 0.5
    for seed in range(10):
        light = view(galaxy, rng(seed))[0].numpy().astype(float)
        centre = [light.sum(axis) @ grid / light.sum() for axis in (0, 1)]
        assert np.abs(np.array(centre) - size / 2).max() < 0.1


def test_the_square_covers_the_shorter_side_and_keeps_the_shape():
    image = noise(90, 60)
    view = get_galaxy_transform(GalaxyViewConfig(output_size=60))
    np.testing.assert_array_equal(view(image).numpy(), chw(image)[:, :, 15:75])
    tall = image.transpose(Image.Transpose.TRANSPOSE)
    np.testing.assert_array_equal(view(tall).numpy(), chw(tall)[:, 15:75])


def test_what_rotates_in_from_beyond_the_square_is_shown_and_beyond_the_image_is_black():
    turned = one_view(rotation_deg=45)
    square, wide = (Image.new("RGB", (side, 100), (200, 100, 50)) for side in (100, 300))
    views = [
        chw(resample(i, compose_matrices(turned, i.size, 100)[0], 100)) for i in (square, wide)
    ]
    assert views[0][:, 0, 0].tolist() == [0, 0, 0]
    assert (views[1][:, 50, :] == [[200], [100], [50]]).all()
    black = [(view.max(axis=0) == 0).mean() for view in views]
    assert black[0] == pytest.approx(3 - 2 * math.sqrt(2), abs=0.01)  # square less octagon
    assert black[1] == pytest.approx(black[0] / 2, abs=0.01)


# Antialiasing


@pytest.mark.parametrize("period_px", [2.0, 2.7, 3.3])
@pytest.mark.parametrize("angle", [0.0, 30.0])
def test_detail_finer_than_the_view_is_averaged_out(period_px, angle):
    y, x = np.mgrid[:256, :256]
    wave = 127.5 + 127.5 * np.cos(2 * np.pi * (0.8 * x + 0.6 * y) / period_px)
    image = Image.fromarray(wave.round().astype(np.uint8))
    plain = compose_matrices(one_view(rotation_deg=angle), image.size, 64)[0]
    view = chw(resample(image, plain, 64))[0, 16:48, 16:48]
    assert view.mean() == pytest.approx(wave.mean(), rel=0.015)
    assert view.std() < 0.25 * wave.std()
    aliased = chw(resample(image, plain, 64, "nearest"))[0, 16:48, 16:48]
    assert aliased.std() > 0.8 * wave.std()


@pytest.mark.parametrize("size", [24, 40, 64, 100, 150])
def test_the_default_view_agrees_with_supersampling(size):
    image = noise(160, 160, blur_px=1)
    config = default_view_config()
    config.output_size = size
    contrast = np.asarray(image).std()
    for seed in range(4):
        matrix = sample_matrix(config, image.size, rng(seed))
        truth = supersampled(image, matrix, size)
        view = np.asarray(resample(image, matrix, size), dtype=float)
        assert np.sqrt(np.mean((view - truth) ** 2)) < 0.2 * contrast
        assert view.mean() == pytest.approx(truth.mean(), rel=0.01)


def test_views_of_a_smooth_image_agree_with_supersampling_closely():
    image = noise(160, 160, blur_px=5)
    for size in (24, 64, 150):
        for seed in range(4):
            config = default_view_config()
            config.output_size = size
            matrix = sample_matrix(config, image.size, rng(seed))
            truth = supersampled(image, matrix, size)
            error = np.abs(np.asarray(resample(image, matrix, size)) - truth)
            assert np.median(error) < 1.0


def test_decoding_no_more_than_needed_shows_the_same_view(tmp_path):
    from zoobot.data.images import read_image

    path = tmp_path / "galaxy.jpg"
    noise(424, 424, blur_px=4).save(path, quality=95)
    config = default_view_config()
    config.output_size = 96
    view = get_galaxy_transform(config)
    small = read_image(path, min_side_px=view.min_side_px)
    assert small.width == 212
    difference = view(small, rng(1)).int() - view(read_image(path), rng(1)).int()
    assert difference.abs().float().mean() < 1.5


# Distributions


def test_parameters_follow_their_ranges():
    config = default_view_config()
    num = 20_000
    p = sample_view_parameters(config, rng(), num)

    def is_uniform(values, low, high):
        assert low <= values.min()
        assert values.max() <= high
        shares = np.histogram(values, 10, (low, high))[0] / len(values)
        np.testing.assert_allclose(shares, 0.1, atol=0.01)

    is_uniform(p.rotation_deg, -90, 90)
    is_uniform(p.zoom, 1.2, 1.4)
    for axis in (0, 1):
        is_uniform(p.shift_frac[:, axis], -0.1, 0.1)
        is_uniform(p.shear_deg[:, axis], 0, 20)
        assert p.flip[:, axis].mean() == pytest.approx(0.5, abs=0.015)
    columns = [p.rotation_deg, p.zoom, *p.shift_frac.T, *p.shear_deg.T, *p.flip.T.astype(float)]
    columns += [*p.erase_place[:, 0].T, *p.erase_place[:, 1].T]
    correlations = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(correlations).max() < 0.04
    size = p.erase_size_frac.reshape(-1, 2)
    is_uniform(size.prod(axis=1), 0.002 - 1e-12, 0.007 + 1e-12)
    is_uniform(np.log(size[:, 1] / size[:, 0]), math.log(0.5) - 1e-9, math.log(2) + 1e-9)
    is_uniform(p.erase_place.ravel(), 0, 1)


def test_matrices_have_the_moments_of_torchvisions_random_affine():
    config = default_view_config()
    config.flip_prob = 0.0
    num, side = 4000, 424
    p = sample_view_parameters(config, rng(), num)
    ours = compose_matrices(p, (side, side), side)
    torch.manual_seed(0)
    affine = T.RandomAffine(**config.random_affine)
    from torchvision.transforms.functional import _get_inverse_affine_matrix

    theirs = []
    blank = torch.zeros(1, side, side)
    for _ in range(num):
        draw = affine.make_params([blank])
        args = draw["angle"], draw["translate"], draw["scale"], draw["shear"]
        inverse = _get_inverse_affine_matrix([side / 2, side / 2], *args)
        theirs.append(np.reshape(inverse, (2, 3)))
    theirs = np.array(theirs)
    spread = theirs.std(axis=0)
    assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 0.08 * spread).all()
    np.testing.assert_allclose(ours.std(axis=0), spread, rtol=0.05)


def test_erased_rectangles_have_the_right_number_area_and_place():
    config = GalaxyViewConfig(output_size=200, erase_iterations=5)
    view = get_galaxy_transform(config)
    white = Image.new("RGB", (200, 200), (255, 255, 255))
    erased, where = [], np.zeros((200, 200))
    for seed in range(300):
        pixels = view(white, rng(seed)).numpy()
        assert set(np.unique(pixels)) <= {0, 255}
        assert (pixels == pixels[0]).all()
        erased.append((pixels[0] == 0).mean())
        where += pixels[0] == 0
    assert np.mean(erased) == pytest.approx(5 * 0.0045 * 0.99, rel=0.05)  # few overlap
    assert max(erased) <= 5 * 0.0075
    quarters = where.reshape(2, 100, 2, 100).sum(axis=(1, 3)) / where.sum()
    assert np.abs(quarters - 0.25).max() < 0.06
    boxes = erase_boxes(sample_view_parameters(config, rng(), 500), 200)
    assert boxes.shape == (500, 5, 4)
    assert boxes.min() >= 0
    assert (boxes[..., :2] + boxes[..., 2:]).max() <= 200


def test_erasing_can_be_rare_large_or_off():
    white = Image.new("L", (50, 50), 255)
    config = GalaxyViewConfig(output_size=50, erase_iterations=1)
    config.random_erasing = {"p": 0.25, "scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
    blacked = [not get_galaxy_transform(config)(white, rng(i)).any() for i in range(400)]
    assert np.mean(blacked) == pytest.approx(0.25, abs=0.07)
    config.erase_iterations = 0
    assert (get_galaxy_transform(config)(white, rng()) == 255).all()


def test_random_resized_crop_draws_areas_and_stays_inside():
    config = GalaxyViewConfig(output_size=32, random_resized_crop={"scale": (0.3, 0.6)})
    p = sample_view_parameters(config, rng(), 5000)
    corner, size = p.window_frac[:, :2], p.window_frac[:, 2:]
    area, ratio = size.prod(axis=1), size[:, 0] / size[:, 1]
    assert (area.min(), area.max()) == pytest.approx((0.3, 0.6), abs=0.01)
    assert (ratio.min(), ratio.max()) == pytest.approx((0.75, 4 / 3), abs=0.01)
    assert corner.min() >= 0
    assert (corner + size).max() <= 1 + 1e-12
    image = noise(64, 64)
    parameters = one_view(window_frac=(0.25, 0.5, 0.5, 0.5))
    view = resample(image, compose_matrices(parameters, image.size, 32)[0], 32)
    np.testing.assert_array_equal(chw(view), chw(image)[:, 32:, 16:48])


def test_rotation_prob_rotates_that_often():
    config = GalaxyViewConfig(rotation_prob=0.3)
    angles = sample_view_parameters(config, rng(), 5000).rotation_deg
    assert (angles != 0).mean() == pytest.approx(0.3, abs=0.03)
    assert 85 < np.abs(angles).max() <= 90


# The view


def test_the_same_generator_gives_the_same_view_and_another_a_different_one():
    view, image = get_galaxy_transform(default_view_config()), noise(100, 100)
    assert torch.equal(view(image, rng(1)), view(image, rng(1)))
    assert not torch.equal(view(image, rng(1)), view(image, rng(2)))
    generator = rng(1)
    assert not torch.equal(view(image, generator), view(image, generator))


def test_without_a_generator_torchs_seed_decides():
    view, image = get_galaxy_transform(default_view_config()), noise(100, 100)
    torch.manual_seed(5)
    first, second = view(image), view(image)
    torch.manual_seed(5)
    assert torch.equal(view(image), first)
    assert not torch.equal(first, second)


def configs():
    crop = GalaxyViewConfig(random_resized_crop={"scale": (0.7, 0.8)}, flip_prob=0.5)
    turned = GalaxyViewConfig(center_crop=True, rotation_prob=1.0)
    return [default_view_config(), minimal_view_config(), fast_view_config(), crop, turned]


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(configs()),
    st.tuples(st.integers(1, 80), st.integers(1, 80), st.integers(1, 60)),
    st.sampled_from(["L", "RGB"]),
    st.sampled_from(["bilinear", "nearest"]),
    st.integers(0, 10**6),
)
def test_any_image_gives_bytes_of_the_asked_size(config, sizes, mode, interpolation, seed):
    width, height, size = sizes
    config = dataclasses.replace(config, output_size=size, interpolation_method=interpolation)
    view = get_galaxy_transform(config)(noise(width, height).convert(mode), rng(seed))
    assert view.dtype == torch.uint8
    assert view.shape == ({"L": 1, "RGB": 3}[mode], size, size)


def test_one_pixel_fills_the_view():
    dot = Image.new("RGB", (1, 1), (9, 99, 199))
    view = get_galaxy_transform(minimal_view_config())(dot)
    assert view.shape == (3, 224, 224)
    assert (view.permute(1, 2, 0) == torch.tensor([9, 99, 199])).all()


def test_tensors_and_arrays_are_taken_as_images_are():
    view, image = get_galaxy_transform(default_view_config()), noise(80, 70)
    expected = view(image, rng())
    pixels = np.array(image)
    assert torch.equal(view(pixels, rng()), expected)
    assert torch.equal(view(torch.from_numpy(pixels).permute(2, 0, 1), rng()), expected)
    grey = pixels[..., 0]
    assert torch.equal(view(grey, rng()), view(grey[..., None], rng()))
    assert torch.equal(view(torch.from_numpy(grey)[None], rng()), view(grey, rng()))
    assert view(image.convert("RGBA"), rng()).shape == (3, 224, 224)
    for wrong in (pixels.astype(np.float32), torch.rand(3, 8, 8), "a.png", pixels[..., :2]):
        with pytest.raises(ValueError, match=r"uint8 pixels, not|need 1 or 3 channels"):
            view(wrong, rng())


def test_greyscale_gives_one_channel():
    config = minimal_view_config()
    config.greyscale = True
    image = noise(50, 50)
    view = get_galaxy_transform(config)(image)
    assert view.shape == (1, 224, 224)
    plain = get_galaxy_transform(minimal_view_config())(image.convert("L"))
    assert torch.equal(view, plain)


def test_the_minimal_view_is_a_central_zoom_that_enlarges_as_torchvision_does():
    image = noise(120, 120, blur_px=1)
    view = get_galaxy_transform(minimal_view_config())
    assert torch.equal(view(image, rng(1)), view(image, rng(2)))
    pixels = TF.pil_to_tensor(image)[:, 10:110, 10:110]
    theirs = TF.resize(pixels, [224, 224], antialias=True)
    assert (view(image).int() - theirs.int()).abs()[:, 3:-3, 3:-3].max() <= 2


def test_the_fixed_view_of_a_zoom_is_at_its_middle():
    train, fixed = zoomed_view_configs(2.0, 2.6)
    assert GalaxyView(train).config.random_affine["scale"] == (2.0, 2.6)
    middle = minimal_view_config()
    middle.random_affine["scale"] = (2.3, 2.3)
    assert fixed == middle


@pytest.mark.parametrize("shrink", [2, 4, 5])
def test_the_minimal_view_shrinks_to_the_mean_over_the_area_of_its_pixels(shrink):
    image = noise(240, 240)
    config = minimal_view_config()
    config.output_size = 200 // shrink
    middle = chw(image)[:, 20:220, 20:220].astype(float)
    size = config.output_size
    mean = middle.reshape(-1, size, shrink, size, shrink).mean((2, 4))
    assert np.abs(get_galaxy_transform(config)(image).numpy() - mean).max() <= 1


def test_fixed_and_random_views_are_equally_sharp():
    image = noise(128, 128, blur_px=0.5)  # a wider filter for the fixed view makes it 1.25
    fixed, turned = minimal_view_config(), minimal_view_config()
    fixed.output_size = turned.output_size = 64
    turned.random_affine = {"degrees": (44, 46), "scale": (1.2, 1.2)}
    contrasts = [
        get_galaxy_transform(config)(image, rng(0)).float()[:, 16:48, 16:48].std().item()
        for config in (fixed, turned)
    ]
    assert contrasts[1] == pytest.approx(contrasts[0], rel=0.15)


@pytest.mark.parametrize("sizes", [(60, 60), (61, 61), (90, 75), (300, 224), (20, 20), (21, 90)])
def test_the_fast_view_is_torchvisions_centre_crop(sizes):
    config = fast_view_config()
    config.output_size = 60
    image = noise(*sizes)
    expected = chw(T.CenterCrop(60)(image))
    np.testing.assert_array_equal(get_galaxy_transform(config)(image).numpy(), expected)


def test_fixed_crop_is_the_image():
    config = GalaxyViewConfig(output_size=40)
    config.fixed_crop = {
        "lower_left_x": 10, "lower_left_y": 20, "upper_right_x": 50, "upper_right_y": 60
    }  # fmt: skip
    view, image = get_galaxy_transform(config), noise(80, 80)
    np.testing.assert_array_equal(view(image).numpy(), chw(image)[:, 20:60, 10:50])
    with pytest.raises(ValueError, match="outside an image"):
        view(noise(30, 30))


@pytest.mark.parametrize("size_px", [64, 80, 96, 160, 176, 224])
def test_views_of_a_run_are_of_jpegs_decoded_alike_and_keep_this_in_their_config(size_px):
    train, test = default_view_config(), minimal_view_config()
    train.output_size = test.output_size = size_px
    views = GalaxyView(train), GalaxyView(test)
    alike = decoded_alike(*views)
    assert alike[0] is views[0]
    assert views[1].config.min_side_px == 0
    assert [view.min_side_px for view in alike] == [math.ceil(1.4 * size_px)] * 2
    assert GalaxyView(alike[1].config.changes()).min_side_px == alike[0].min_side_px


def test_where_one_transform_needs_every_pixel_all_get_it():
    usual, cropped = GalaxyView(minimal_view_config()), GalaxyView(fast_view_config())
    for other in (cropped, lambda image: image):
        view, same = decoded_alike(usual, other)
        assert view.min_side_px is None
        assert GalaxyView(view.config.changes()).min_side_px is None
        assert same is other


@pytest.mark.parametrize("value", [-1, 2.5, "all", True])
def test_what_is_no_side_to_decode_at_is_refused(value):
    with pytest.raises(ValueError, match="min_side_px=.*: give a whole number >= 0, or None"):
        GalaxyView({"min_side_px": value})


def test_min_side_px_is_what_the_largest_zoom_needs():
    assert GalaxyView(default_view_config()).min_side_px == 314
    assert GalaxyView(minimal_view_config()).min_side_px == 269
    assert GalaxyView(fast_view_config()).min_side_px is None
    crop = GalaxyViewConfig(output_size=100, random_resized_crop={"scale": (0.25, 1.0)})
    assert GalaxyView(crop).min_side_px == 200
    assert GalaxyView(GalaxyViewConfig(output_size=100)).min_side_px == 100


def test_a_view_keeps_its_settings_when_the_config_is_edited_later():
    config = default_view_config()
    view = get_galaxy_transform(config)
    config.output_size = 10
    config.random_affine["degrees"] = 0
    assert view(noise()).shape == (3, 224, 224)
    assert view.config.random_affine["degrees"] == 90
    assert default_view_config().random_affine["degrees"] == 90


def test_a_mapping_is_a_config():
    view = get_galaxy_transform({"output_size": 32, "center_crop": True})
    assert view(noise()).shape == (3, 32, 32)
    with pytest.raises(ValueError, match="GalaxyViewConfig, not int"):
        get_galaxy_transform(224)


# Misuse


def test_a_misspelt_setting_is_an_error_with_the_near_match():
    config = default_view_config()
    with pytest.raises(ValueError, match="no view setting 'output_sise', did you mean 'output_siz"):
        config.output_sise = 64
    with pytest.raises(ValueError, match="no view setting 'zzz'; known: output_size, "):
        config.zzz = 64


AFFINE = default_view_config().random_affine


@pytest.mark.parametrize(
    ("field", "value", "cure"),
    [
        ("output_size", 0, "whole number >= 1"),
        ("output_size", 22.5, "whole number >= 1"),
        ("output_size", (224, 112), "views are square: give the side in pixels"),
        ("interpolation_method", "bicubic", "'bilinear', 'nearest'"),
        ("flip_prob", 1.5, "from 0 to 1"),
        ("flip_prob", None, "from 0 to 1"),
        ("erase_iterations", -1, "whole number >= 0"),
        ("greyscale", "yes", "True or False"),
        ("random_affine", True, "a dict with degrees"),
        ("random_affine", {"scale": (1, 2)}, "'degrees' is missing"),
        ("random_affine", {**AFFINE, "angle": 3}, "unknown key 'angle'"),
        ("random_affine", {**AFFINE, "degrees": (90, -90)}, "low first"),
        ("random_affine", {**AFFINE, "scale": (0, 1)}, "low first"),
        ("random_affine", {**AFFINE, "scale": 1.2}, "low first"),
        ("random_affine", {**AFFINE, "translate": (0.1,)}, "each 0 to 1"),
        ("random_affine", {**AFFINE, "translate": (20, 20)}, "each 0 to 1"),
        ("random_affine", {**AFFINE, "shear": (0, 90)}, "from -89 to 89"),
        ("random_affine", {**AFFINE, "shear": (0, 20, 0)}, "x_low, x_high"),
        ("random_affine", {**AFFINE, "shear": (0, float("nan"))}, "x_low, x_high"),
        ("center_crop", True, "can't be combined with random_affine"),
        ("random_resized_crop", {"scale": (0.7, 0.8)}, "can't be combined with random_affine"),
        ("rotation_prob", 0.5, "random_affine rotates already"),
        ("fixed_crop", {"lower_left_x": 1}, "is missing"),
        ("fixed_crop", True, "a dict with lower_left_x"),
        ("random_erasing", {"scale": (0.1, 2)}, "from 0 to 1"),
        ("random_erasing", {"ratio": (0, 2)}, "from 0.001"),
        ("random_erasing", {"value": 7}, "unknown key 'value'"),
        ("color_jitter_prob", 0.5, r"compose with torchvision instead: .*ColorJitter"),
        ("posterize", {"bits": 4}, "RandomPosterize"),
        ("elastic_prob", 0.1, "ElasticTransform"),
        ("random_perspective", {"p": 1}, "RandomPerspective"),
        ("normalize", {"mean": [0], "std": [1]}, "T.Normalize"),
        ("flux_to_jpg_like_dynamic_range", {}, None),
        ("flux_to_jpg_like_dynamic_range", {"arcsinh_q": 1}, "fits_scaling"),
    ],
)
def test_misuse_names_the_setting_the_value_and_the_cure(field, value, cure):
    config = default_view_config()
    setattr(config, field, value)
    if cure is None:
        get_galaxy_transform(config)
        return
    with pytest.raises(ValueError, match=f"^view setting {field}.*=.*{cure}"):
        get_galaxy_transform(config)


def test_torchvisions_short_forms_of_an_affine_are_taken():
    config = GalaxyViewConfig(random_affine={"degrees": (10, 20), "shear": 5})
    p = sample_view_parameters(config, rng(), 2000)
    assert (p.rotation_deg.min(), p.rotation_deg.max()) == pytest.approx((10, 20), abs=0.1)
    assert (p.shear_deg[:, 0].min(), p.shear_deg[:, 0].max()) == pytest.approx((-5, 5), abs=0.1)
    assert not p.shear_deg[:, 1].any()
    assert (p.zoom == 1).all()
    assert not p.shift_frac.any()


# Other transforms


def test_torchvision_transforms_are_applied_to_bytes():
    image = noise(40, 40)
    view = get_galaxy_transform(default_view_config())
    assert torch.equal(apply_transform(view, image, rng()), view(image, rng()))
    resized = apply_transform(T.Resize((20, 20)), image)
    assert type(resized) is torch.Tensor
    assert (resized.dtype, resized.shape) == (torch.uint8, (3, 20, 20))
    floats = apply_transform(T.Compose([T.ToDtype(torch.float64, scale=True)]), image)
    assert floats.dtype == torch.float32
    assert floats.numpy() == pytest.approx(chw(image) / 255)
    torch.manual_seed(0)
    first = apply_transform(T.RandomResizedCrop(20), image)
    torch.manual_seed(0)
    assert torch.equal(apply_transform(T.RandomResizedCrop(20), image), first)


def test_a_view_composes_with_torchvision():
    chain = T.Compose([get_galaxy_transform(fast_view_config()), T.ToDtype(torch.float32, True)])
    view = apply_transform(chain, noise(300, 300))
    assert view.shape == (3, 224, 224)
    assert 0 < view.mean() < 1


def test_a_transform_that_gives_no_image_is_refused():
    for transform in (lambda i: 3, lambda i: i[0], lambda i: i.long()):
        with pytest.raises(ValueError, match="the transform gave"):
            apply_transform(transform, noise())
