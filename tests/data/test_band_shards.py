"""Shards of bands hold what the files hold, with their spec, and refuse to be anything else."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import torch
from small_shards import in_memory, script, write

from zoobot.data import CatalogDataModule, CatalogDataset, default_view_config
from zoobot.data.bands.image import read_band_image
from zoobot.data.bands.spec import ImageSpec
from zoobot.data.bands.statistics import with_statistics
from zoobot.data.device_batches import float_images
from zoobot.data.shards.reader import open_shards, open_splits, read_index, verify
from zoobot.data.sources import RowsOf, TableGalaxies
from zoobot.data.views import get_galaxy_transform, minimal_view_config
from zoobot.data.views.device import DeviceView
from zoobot.system.errors import UserError

SPEC = ImageSpec(("g", "r", "z"))
SIDE = 40


@pytest.fixture
def cubes(tmp_path) -> pd.DataFrame:
    """12 galaxies in three bands, in .npy cubes."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    (tmp_path / "cubes").mkdir()
    rows = []
    for i in range(12):
        galaxy = np.exp(-(x**2 + y**2) / 0.1) * np.array([20, 60, 180])[:, None, None]
        path = tmp_path / "cubes" / f"{i}.npy"
        np.save(path, (galaxy + rng.normal(size=(3, SIDE, SIDE))).astype(np.float32))
        rows.append((f"g{i}", str(path), i))
    return pd.DataFrame(rows, columns=["id_str", "file_loc", "a"])


def written(cubes, folder, spec=SPEC, **changes):
    settings = {"encoding": "raw", "img_size": SIDE, "galaxies_a_shard": 5} | changes
    write(cubes, folder, ["a"], spec=spec, **settings)
    return open_shards(folder, "train")


def file_of(cubes, shards, i):
    return cubes.set_index("id_str").loc[shards.id_str(i), "file_loc"]


def small_view(size=24):
    config = default_view_config()
    config.output_size, config.erase_iterations = size, 0
    return get_galaxy_transform(config)


def test_shards_hold_scaled_bands_before_they_are_standardised(cubes, tmp_path):
    spec = SPEC.with_statistics((0.1, 0.2, 0.3), (2.0, 3.0, 4.0))
    shards = written(cubes, tmp_path / "shards", spec)
    assert shards.spec == spec
    assert (shards.raw_px, shards.channels, shards.shard_sizes) == (SIDE, 3, [4, 4, 4])
    for i in range(12):
        bands = read_band_image(file_of(cubes, shards, i), SPEC).bands
        wanted = np.stack(bands, axis=-1).astype(np.float16)
        np.testing.assert_array_equal(shards.source(i), wanted)
        assert not shards.source(i).flags.owndata
    assert verify(tmp_path / "shards") == 12
    tensors = safetensors.numpy.load_file(tmp_path / "shards/train/shard-00000.safetensors")
    assert (tensors["images"].shape, tensors["images"].dtype) == ((4, SIDE, SIDE, 3), np.float16)


@pytest.mark.parametrize("side", [16, 60])
def test_bands_are_fitted_as_for_views_on_the_device(cubes, tmp_path, side):
    shards = written(cubes, tmp_path / "shards", img_size=side)
    divided = DeviceView(small_view(), side)
    for i in range(3):
        wanted = divided.fit(read_band_image(file_of(cubes, shards, i), SPEC))
        np.testing.assert_array_equal(shards.source(i), wanted)


def test_bands_of_two_pixel_scales_show_one_square_of_sky(tmp_path):
    spec = ImageSpec(("short", "long"), scaling="none", pixel_scale=(1.0, 2.0))
    y, x = np.mgrid[:SIDE, :SIDE]
    fine = ((x > 11) & (x < 28) & (y > 11) & (y < 28)).astype(np.float32)
    coarse = fine.reshape(SIDE // 2, 2, -1, 2).mean((1, 3))
    coarse = np.pad(coarse, 6)  # covers more sky
    for name, band in (("short", fine), ("long", coarse)):
        np.save(tmp_path / f"a_{name}.npy", band)
    galaxies = pd.DataFrame({"id_str": ["a"], "file_loc": [f"{tmp_path}/a_{{band}}.npy"], "a": 1})
    shards = written(galaxies, tmp_path / "shards", spec, img_size=20)
    np.testing.assert_allclose(shards.source(0)[..., 0], shards.source(0)[..., 1], atol=1e-3)
    assert read_band_image(shards.source(0), spec).sides_px == (20.0, 20.0)


@pytest.mark.parametrize("where", ["cpu", "device", "device, another size"])
def test_views_of_shards_are_those_of_the_files(cubes, tmp_path, where):
    spec = with_statistics(SPEC, TableGalaxies(cubes))
    shards = written(cubes, tmp_path / "shards")
    assert with_statistics(SPEC, shards).mean == pytest.approx(spec.mean, rel=1e-3)
    files = cubes.set_index("id_str").loc[[shards.id_str(i) for i in range(12)]].reset_index()
    view = small_view()
    if where != "cpu":
        view = DeviceView(view, SIDE if where == "device" else SIDE - 4)
    images = []
    for source in (files, shards, RowsOf(shards, range(12))):
        dataset = CatalogDataset(source, transform=view, spec=spec, seed=3)
        assert dataset.is_only_copied == (where == "device" and source is not files)
        assert dataset.describe_images().bands == spec.to_dict()
        batch = dataset.batch(1, range(12))
        assert batch["image"].dtype == (torch.float32 if where == "cpu" else torch.float16)
        images.append(float_images(batch))
    assert images[0].std() > 0.5
    for found in images[1:]:
        torch.testing.assert_close(found, images[0], atol=5e-3, rtol=5e-3)


def test_a_data_module_takes_the_bands_of_shards_and_measures_them(cubes, tmp_path):
    written(cubes, tmp_path / "shards")
    splits = open_splits(tmp_path / "shards", ["a"])
    given = {f"{split}_catalog": galaxies for split, galaxies in splits.items()}
    data = CatalogDataModule(["a"], num_workers=0, batch_size=11, **given)
    assert data.channels == 3
    data.setup("fit")
    assert data.spec.bands == SPEC.bands
    assert data.spec.has_statistics
    assert data.datasets["val"].spec == data.spec
    minimal = get_galaxy_transform(minimal_view_config())
    images = float_images(CatalogDataset(splits["train"], transform=minimal, spec=data.spec).batch(
        0, range(11)))  # fmt: skip
    assert images.mean((0, 2, 3)).abs().max() < 0.3


OTHERS = {
    "bands are g r i, but the shards hold g r z": ImageSpec(("g", "r", "i")),
    "bands are z r g, but the shards hold g r z": ImageSpec(("z", "r", "g")),
    "bands are g r, but the shards hold g r z": ImageSpec(("g", "r")),
    "scaling of bands is linear, but the shards were written with asinh": dataclasses.replace(
        SPEC, scaling="linear"
    ),
    "pixel_scale of bands is ": dataclasses.replace(SPEC, pixel_scale=(1.0, 2.0, 3.0)),
}


@pytest.mark.parametrize("message", OTHERS)
def test_other_bands_than_those_of_shards_are_refused(cubes, tmp_path, message):
    shards = written(cubes, tmp_path / "shards")
    with pytest.raises(UserError, match=message):
        CatalogDataset(shards, spec=OTHERS[message])
    with pytest.raises(UserError, match=message):
        CatalogDataModule(["a"], train_catalog=shards, spec=OTHERS[message])


def test_shards_of_8_bit_images_have_no_bands(tmp_path):
    write(in_memory(3), tmp_path, encoding="raw")
    shards = open_shards(tmp_path, "train")
    assert shards.spec is None
    with pytest.raises(UserError, match="bands are g r z, but the shards hold 8-bit images"):
        CatalogDataset(shards, spec=SPEC)


def test_bands_of_8_bits_stay_so_if_they_are_not_scaled(tmp_path):
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (5, SIDE, SIDE), dtype=np.uint8) for _ in range(4)]
    for i, cube in enumerate(pixels):
        np.save(tmp_path / f"{i}.npy", cube)
    files = [str(tmp_path / f"{i}.npy") for i in range(4)]
    cubes = pd.DataFrame({"id_str": list("abcd"), "file_loc": files, "a": range(4)})
    spec = ImageSpec(tuple("grizy"), scaling="none")
    shards = written(cubes, tmp_path / "shards", spec)
    for i in range(4):
        wanted = pixels["abcd".index(shards.id_str(i))]
        assert shards.source(i).dtype == np.uint8
        np.testing.assert_array_equal(np.moveaxis(shards.source(i), -1, 0), wanted)
    dataset = CatalogDataset(shards, transform=DeviceView(small_view(), SIDE))
    batch = dataset.batch(0, range(4))
    assert (batch["image"].dtype, batch["image"].max()) == (torch.float16, 255)
    np.save(tmp_path / "3.npy", pixels[3].astype(np.float32) - 1000)
    with pytest.raises(UserError, match=r"1 of 4 .*3.npy \(pixels from -1000 to "):
        written(cubes, tmp_path / "again", spec)


def test_bands_are_not_encoded_as_jpeg(cubes, tmp_path):
    with pytest.raises(UserError, match="jpeg.* is for 8-bit images .* g r z: use encoding raw"):
        written(cubes, tmp_path / "shards", encoding="jpeg")


@pytest.mark.parametrize(
    "change",
    [
        {"bands": {"bands": ["g", "r"]}},
        {"bands": {"bands": ["g", "r", "r"]}},
        {"bands": 3},
        {"image_dtype": "float64"},
        {"image_dtype": "uint8"},
        {"channels": 5},
        {"format_version": 1},
        {"encoding": "jpeg"},
        {"bands": {"bands": ["g", "r", "i"]}},
    ],
    ids=str,
)
def test_an_altered_index_is_refused(cubes, tmp_path, change):
    shards = written(cubes, tmp_path / "shards")
    path = tmp_path / "shards" / "index.json"
    path.write_text(json.dumps(shards.index | change))
    with pytest.raises(UserError, match="damaged"):
        open_shards(tmp_path / "shards", "train").source(0)


def test_a_band_that_is_missing_is_named_and_nothing_is_finished(cubes, tmp_path):
    np.save(cubes["file_loc"][3], np.zeros((2, SIDE, SIDE), np.float32))
    with pytest.raises(UserError, match=r"1 of 12 images can't be read: .*3.npy \(band g: "):
        written(cubes, tmp_path / "shards")
    with pytest.raises(UserError, match="no index.json"):
        read_index(tmp_path / "shards")


def test_the_script_stores_bands_as_raw_pixels(cubes, tmp_path, capsys):
    cubes.to_csv(tmp_path / "cat.csv", index=False)
    where = ["--labelled-catalog", tmp_path / "cat.csv", "--label-cols", "a", "--eval-size", 2]
    where += ["--img-size", SIDE, "--num-workers", 0, "--shard-dir", tmp_path / "shards"]
    code, _, error = script(capsys, *where, "--bands", *"grz", "--encoding", "jpeg")
    assert (code, "use encoding raw" in error) == (2, True)
    code, _, error = script(capsys, *where, "--bands", *"gr")
    assert (code, "is not for 2 bands" in error) == (2, True), error
    assert not (tmp_path / "shards" / "plan.json").exists(), error
    code, _, error = script(capsys, *where, "--bands", "g=[0]", "z=[2]", "--scaling", "linear")
    assert code == 0, error
    spec = open_shards(tmp_path / "shards", "train").spec
    assert (spec.bands, spec.scaling, str(spec.places["z"])) == (("g", "z"), "linear", "[2]")
    code, _, error = script(capsys, *where, "--bands", "g=[0]", "z=[2]")
    assert (code, "begun with other bands" in error) == (2, True)
