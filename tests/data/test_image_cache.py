import gc
import multiprocessing
import os

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from comparing import assert_same_run
from conftest import draw_galaxies
from PIL import Image
from ranks import as_ranks
from small_shards import write

from zoobot.data import CatalogDataModule, image_cache, loaders, reading
from zoobot.data.bands.spec import ImageSpec
from zoobot.data.catalog import read_catalog
from zoobot.data.dataset import CatalogDataset
from zoobot.data.device_batches import to_device
from zoobot.data.device_cache import FIRST_BATCHES, DeviceCache
from zoobot.data.image_cache import keep_images
from zoobot.data.images import ImageError
from zoobot.data.reading import prepare_reading
from zoobot.data.shards.reader import open_shards
from zoobot.data.views.config import default_view_config
from zoobot.data.views.cpu import GalaxyView
from zoobot.data.views.device import DeviceView
from zoobot.models.finetune import FinetuneableZoobotTree
from zoobot.system import distributed
from zoobot.system.errors import UserError
from zoobot.trainer import Trainer

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def frame(small_catalog):
    return read_catalog(small_catalog)


def view(size_px=16):
    config = default_view_config()
    config.output_size = size_px
    return GalaxyView(config)


def keep_on_cpu(dataset, *others):
    """Stands for a GPU's cache: that of another device, the CPU."""
    if dataset.is_only_decoded:
        dataset.on_device = DeviceCache(dataset.fitted_shape, CPU)


def remove_images(frame):
    for path in frame["file_loc"]:
        os.unlink(path)


def epochs_of(loader, number=2):
    images = []
    for epoch in range(number):
        loader.set_epoch(epoch)
        ready = [to_device(batch, CPU) for batch in loader]
        images.append({i: x for b in ready for i, x in zip(b["id_str"], b["image"], strict=True)})
    return images


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("transform", [view(), DeviceView(view(), 40)], ids=["cpu", "device"])
def test_views_of_kept_images_are_those_of_images_read_again(frame, transform, num_workers):
    datasets = [CatalogDataset(frame, None, transform, seed=1, cache="memory") for _ in range(2)]
    keep_images(datasets[1], CPU)
    plain, kept = (loaders.train_loader(d, 16, num_workers=num_workers) for d in datasets)
    expected = epochs_of(plain)
    first = epochs_of(kept, 1)
    assert datasets[1].in_memory.num_kept() == 60
    remove_images(frame)
    assert same(first[0], expected[0])
    assert same(epochs_of(kept)[1], expected[1])


def test_views_of_images_kept_on_a_device_are_those_of_images_read_again(frame):
    transform = DeviceView(view(), 40)
    plain, dataset = (CatalogDataset(frame, None, transform, seed=1) for _ in range(2))
    keep_on_cpu(dataset)
    expected = epochs_of(loaders.train_loader(plain, 10), 3)
    loader = loaders.train_loader(dataset, 10)
    epochs_of(loader, 2)  # the first batches of the first epoch are kept in the second
    remove_images(frame)
    found = epochs_of(loader, 3)
    for epoch, images in enumerate(found):
        assert same(images, expected[epoch])
    loader.set_epoch(2)
    batch = next(iter(loader))
    assert len(batch["image"]) == 0
    assert batch["image"].shape[1:] == (3, 40, 40)


def test_a_batch_of_images_kept_and_read_has_them_in_the_galaxies_order(frame):
    dataset = CatalogDataset(frame, None, DeviceView(view(), 40), seed=1)
    expected = torch.from_numpy(np.stack([dataset.pixels(i) for i in (5, 3, 9, 1)]))
    cache = DeviceCache(dataset.fitted_shape, CPU)
    dataset.on_device = cache
    for _ in range(FIRST_BATCHES + 1):
        cache.complete(dataset.batch(0, [3, 1]))
    batch = dataset.batch(0, [5, 3, 9, 1])
    assert len(batch["image"]) == 2
    assert torch.equal(cache.complete(batch), expected.permute(0, 3, 1, 2))


def test_batches_for_users_are_whole_with_images_kept_on_a_device(frame):
    dataset = CatalogDataset(frame, None, DeviceView(view(), 40), seed=1)
    keep_on_cpu(dataset)
    users = loaders.CatalogLoader(loaders.train_loader(dataset, 10))
    for _ in range(3):
        assert sum(len(batch["image"]) for batch in users) == 60


@pytest.mark.parametrize("augment", ["cpu", "device"])
def test_a_run_is_bitwise_the_same_with_and_without(frame, tree, tmp_path, monkeypatch, augment):
    runs = {"none": "none", "memory": "memory"} | ({"device": "x"} if augment == "device" else {})
    for name, cache in runs.items():
        if name == "device":
            monkeypatch.setattr(reading, "keep_images", keep_on_cpu)
        data = CatalogDataModule(
            tree.label_cols, view(32), view(32), frame, batch_size=16, num_workers=0,
            augment=augment, cache=cache,
        )  # fmt: skip
        torch.manual_seed(0)
        encoder = timm.create_model("test_resnet", num_classes=0)
        model = FinetuneableZoobotTree(encoder=encoder, schema=tree, seed=0)
        Trainer(tmp_path / name, max_epochs=3, device="cpu", show_progress=False).fit(model, data)
        if name != "none":
            assert_same_run(tmp_path / "none", tmp_path / name)


def test_grey_and_other_sizes_are_kept_too_and_larger_ones_read_again(frame, tmp_path):
    sides = [40, 30, 50, 40]
    paths = frame["file_loc"][:4].tolist()
    for path, side in zip(paths, sides, strict=True):
        Image.open(path).resize((side, side + 2)).save(path)
    dataset = CatalogDataset(frame[:4], None, view(), channels=1, cache="memory")
    expected = [dataset.pixels(i) for i in range(4)]
    keep_images(dataset, CPU)
    dataset.in_memory._slot_bytes = 40 * 42
    first = [dataset.batch(e, range(4))["image"] for e in range(2)]
    assert dataset.in_memory.num_kept() == 3
    for i in (0, 1, 3):
        assert np.array_equal(dataset.in_memory.get(i, None), expected[i])
    dataset.in_memory = None
    assert all(torch.equal(dataset.batch(e, range(4))["image"], first[e]) for e in range(2))


def test_an_image_that_cannot_be_read_is_named_in_every_epoch(frame):
    with open(frame["file_loc"][7], "wb") as file:
        file.write(b"no image")
    dataset = CatalogDataset(frame, None, view(), cache="memory")
    keep_images(dataset, CPU)
    for _ in range(2):
        with pytest.raises(ImageError, match="g7.png"):
            list(loaders.eval_loader(dataset, 8))


def test_memory_is_given_back_with_the_dataset(frame):
    dataset = CatalogDataset(frame, None, view(), cache="memory")
    keep_images(dataset, CPU)
    descriptor = dataset.in_memory._memory.address[2]
    os.fstat(descriptor)
    del dataset
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_what_is_kept_is_told_with_its_size(frame):
    dataset = CatalogDataset(frame, None, view(), cache="auto")
    assert keep_images(dataset, CPU, "training") == (
        "cache: 60 training images, 0.00029 GB of memory"
    )
    assert keep_images(CatalogDataset(frame, None, view()), CPU) == ""


def test_auto_goes_on_without_where_nothing_fits_and_memory_refuses(frame, monkeypatch):
    monkeypatch.setattr(image_cache, "free_bytes", lambda: 2 * 1000)
    monkeypatch.setattr(image_cache, "half_of_free", lambda _: 1000)
    dataset = CatalogDataset(frame, None, DeviceView(view(), 40), cache="auto")
    assert keep_images(dataset, GPU, "training") == (
        "cache: the 60 training images are not kept: 0.00029 GB are more than half of what the GPU "
        "has free, 1e-06 GB; 0.00029 GB are more than half of the free memory, 1e-06 GB"
    )
    assert dataset.in_memory is None
    assert dataset.on_device is None
    for cache, device in (("memory", CPU), ("device", GPU)):
        dataset.cache = cache
        with pytest.raises(UserError, match=f"^--cache {cache}: .* use --cache auto, or none$"):
            keep_images(dataset, device)


def test_auto_takes_the_gpu_before_memory_where_views_are_made_there(frame, monkeypatch):
    monkeypatch.setattr(image_cache, "half_of_free", lambda _: 10**9)
    on_gpu = CatalogDataset(frame, None, DeviceView(view(), 40), cache="auto")
    assert keep_images(on_gpu, GPU).endswith("of the GPU's memory")
    assert on_gpu.in_memory is None
    on_cpu = CatalogDataset(frame, None, view(), cache="auto")
    keep_images(on_cpu, GPU)
    assert on_cpu.in_memory is not None
    with pytest.raises(UserError, match="their views are made on the CPU"):
        keep_images(CatalogDataset(frame, None, view(), cache="device"), GPU)


def test_a_gpu_without_room_once_training_has_begun_is_told_and_images_are_read(frame, monkeypatch):
    monkeypatch.setattr("zoobot.data.device_cache.half_of_free", lambda _: 1000)
    dataset = CatalogDataset(frame, None, DeviceView(view(), 40))
    keep_on_cpu(dataset)
    loader = loaders.train_loader(dataset, 10)
    with pytest.warns(UserWarning, match="they are read every epoch") as told:
        found = epochs_of(loader)
    assert len(told) == 1
    dataset.on_device = None
    assert same(found[1], epochs_of(loaders.train_loader(dataset, 10))[1])


def test_a_device_cache_without_a_gpu_and_an_unknown_one_are_refused(frame):
    with pytest.raises(UserError, match="--cache device needs a GPU"):
        keep_images(CatalogDataset(frame, None, view(), cache="device"), CPU)
    with pytest.raises(UserError, match="cache='ram': use one of auto, none, device, memory"):
        keep_images(CatalogDataset(frame, None, view(), cache="ram"), CPU)


def test_the_processes_of_a_node_share_what_one_of_them_read(tmp_path, tree, monkeypatch):
    frame = read_catalog(draw_galaxies(tmp_path, tree, 8))
    monkeypatch.setattr(distributed, "local_rank", lambda: distributed.rank())
    monkeypatch.setattr(distributed, "barrier", lambda: distributed.gather(None))

    def cache_of_a_rank():
        dataset = CatalogDataset(frame, None, view(), cache="memory")
        keep_images(dataset, CPU)
        dataset.batch(0, [distributed.rank()])
        return dataset.in_memory

    kept = as_ranks(3, cache_of_a_rank)
    assert [cache.num_kept() for cache in kept] == [3, 3, 3]


def test_raw_pixels_of_shards_are_not_kept_in_memory(frame, monkeypatch):
    dataset = CatalogDataset(frame, None, view(), cache="auto")
    dataset.galaxies.raw_px = 40
    assert keep_images(dataset, CPU) == ""
    assert dataset.in_memory is None


def test_images_of_another_view_are_not_taken_for_those_that_are_kept(frame):
    dataset = CatalogDataset(frame, None, view(), cache="memory")
    keep_images(dataset, CPU)
    dataset.batch(0, range(60))
    dataset.transform = DeviceView(view(), 20)
    assert dataset.batch(0, range(60))["image"].shape == (60, 3, 20, 20)


def test_one_epoch_keeps_nothing(frame):
    dataset = CatalogDataset(frame, None, view(), cache="memory")
    loader = loaders.train_loader(dataset, 16)
    assert prepare_reading((loader, None), CPU, epochs=1) == ""
    assert dataset.in_memory is None
    assert prepare_reading((loader, None), CPU, epochs=2).startswith("cache: 60 training images, ")
    assert dataset.in_memory is not None


@pytest.mark.parametrize("cache", ["device", "ram"])
def test_a_cache_that_cannot_be_had_is_refused_also_for_one_epoch(frame, cache):
    loader = loaders.train_loader(CatalogDataset(frame, None, view(), cache=cache), 16)
    with pytest.raises(UserError, match="--cache device needs a GPU|cache='ram': use one of"):
        prepare_reading((loader, None), CPU, epochs=1)


def test_a_second_training_goes_on_with_what_is_kept(frame):
    dataset = CatalogDataset(frame, None, view(), cache="memory")
    keep_images(dataset, CPU)
    dataset.batch(0, range(60))
    assert keep_images(dataset, CPU) == ""
    assert dataset.in_memory.num_kept() == 60


def read(dataset, galaxies):
    dataset.batch(0, galaxies)


def test_workers_that_are_spawned_share_what_is_kept_and_take_no_images_of_the_device(frame):
    dataset = CatalogDataset(frame, None, DeviceView(view(), 40), cache="memory")
    keep_images(dataset, CPU)
    keep_on_cpu(dataset)
    for _ in range(FIRST_BATCHES + 1):
        dataset.on_device.complete(dataset.batch(0, [0, 1]))
    assert dataset.on_device.__getstate__()["_images"] is None
    worker = multiprocessing.get_context("spawn").Process(target=read, args=(dataset, range(6)))
    worker.start()
    worker.join(60)
    assert dataset.in_memory.num_kept() == 6
    assert dataset.on_device.missing(range(6)) == [2, 3, 4, 5]


@pytest.fixture
def cubes(tmp_path):
    """12 galaxies of bands g and r, float cubes."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(12):
        path = tmp_path / f"g{i}.npy"
        np.save(path, rng.normal(size=(2, 30, 36)).astype(np.float32))
        rows.append((f"g{i}", str(path)))
    return pd.DataFrame(rows, columns=["id_str", "file_loc"])


BANDS = ImageSpec(("g", "r"), pixel_scale=(1.0, 1.1)).with_statistics((0.1, 0.0), (1.2, 1.3))


@pytest.mark.parametrize(
    ("transform", "cache"),
    [(view(), "memory"), (DeviceView(view(), 30), "memory"), (DeviceView(view(), 30), "device")],
    ids=["cpu, memory", "device, memory", "device, device"],
)
def test_views_of_kept_bands_are_those_of_bands_read_again(cubes, transform, cache):
    plain, kept = (CatalogDataset(cubes, None, transform, spec=BANDS, seed=1) for _ in range(2))
    if cache == "memory":
        kept.cache = cache
        wanted = 2 * 30 * 36 * 4 if isinstance(transform, GalaxyView) else 2 * 30 * 30 * 2
        assert keep_images(kept, CPU) == (
            f"cache: 12 galaxy images, {12 * (12 + wanted) / 1e9:.2g} GB of memory"
        )
    else:
        kept.on_device = DeviceCache(kept.fitted_shape, CPU, kept.fitted_dtype)
    expected = epochs_of(loaders.train_loader(plain, 4), 3)
    loader = loaders.train_loader(kept, 4)
    epochs_of(loader, 2)
    remove_images(cubes)
    found = epochs_of(loader, 3)
    assert all(same(images, expected[epoch]) for epoch, images in enumerate(found))


def test_bands_of_stored_shards_are_kept_too(cubes, tmp_path):
    write(cubes.assign(a=1), tmp_path / "s", ["a"], encoding="raw", img_size=30, spec=BANDS)
    plain, kept = (
        CatalogDataset(open_shards(tmp_path / "s", "train"), None, view(), seed=1, cache=cache)
        for cache in ("none", "memory")
    )
    keep_images(kept, CPU)
    for epoch in range(2):
        batches = [dataset.batch(epoch, range(12))["image"] for dataset in (plain, kept)]
        assert torch.equal(*batches)
    assert kept.in_memory.num_kept() == 12


def test_bands_of_different_sizes_are_not_kept_and_read_on(cubes, tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    for i in range(12):
        for band, size in (("g", 30), ("r", 15 if i == 5 else 30)):
            np.save(tmp_path / f"{band}{i}.npy", rng.normal(size=(size, size)))
    cubes["file_loc"] = [f"{tmp_path}/{{band}}{i}.npy" for i in range(12)]
    spec = ImageSpec(("g", "r"))
    dataset = CatalogDataset(cubes, None, view(), spec=spec, cache="auto")
    assert keep_images(dataset, CPU) == (
        "cache: the 12 galaxy images are not kept: their bands are not of one size"
    )
    dataset = CatalogDataset(cubes, None, view(), spec=spec, cache="memory")
    with pytest.raises(UserError, match="--cache memory: .* bands are not of one size: use"):
        keep_images(dataset, CPU)
    monkeypatch.setattr(image_cache, "NUM_SIZED", 2)  # the others have bands of one size
    keep_images(dataset, CPU)
    dataset.batch(0, range(12))
    assert dataset.in_memory.num_kept() == 11
    plain = CatalogDataset(cubes, None, view(), spec=spec)
    assert torch.equal(*(d.batch(1, range(12))["image"] for d in (plain, dataset)))
