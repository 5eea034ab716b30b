import gc
import multiprocessing
import time
import warnings

import pytest
import torch
from torchvision.transforms import v2 as T

from zoobot.data import CatalogDataset, catalog, loaders
from zoobot.data.device_batches import to_device
from zoobot.data.images import ImageError
from zoobot.data.views.config import default_view_config
from zoobot.data.views.cpu import GalaxyView
from zoobot.data.views.device import DeviceView
from zoobot.data.views.turned import TurnedViews
from zoobot.system import memory
from zoobot.system.errors import UserError
from zoobot.trainer import Trainer


def by_id(loader):
    images = {}
    for batch in loader:
        images.update(zip(batch["id_str"], batch["image"], strict=True))
    return images


def test_a_batch_holds_uint8_images_ids_and_all_label_columns_in_one_tensor(dataset):
    batch = next(iter(loaders.eval_loader(dataset, batch_size=8)))
    assert batch["image"].shape == (8, 3, 16, 16)
    assert batch["image"].dtype == torch.uint8
    assert batch["id_str"] == [f"g{i}" for i in range(8)]
    assert torch.equal(batch["labels"], dataset.galaxies.labels(range(8)))
    assert batch["label_cols"] == dataset.label_cols


def test_a_batch_for_users_holds_float_images_and_an_entry_a_label_column(dataset):
    galaxies = loaders.eval_loader(dataset, batch_size=8)
    batch, inner = next(iter(loaders.CatalogLoader(galaxies))), next(iter(galaxies))
    assert torch.equal(batch["image"], inner["image"].float() / 255)
    assert set(batch) == {"image", "id_str", *dataset.label_cols}
    for i, column in enumerate(dataset.label_cols):
        assert torch.equal(batch[column], inner["labels"][:, i].long())


def test_every_pass_over_a_loader_for_users_is_another_epoch(dataset):
    loader = loaders.CatalogLoader(loaders.train_loader(dataset, 60))
    first, second = by_id(loader), by_id(loader)
    assert list(first) != list(second)
    assert not any(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("first_step", [0, 1])
def test_steps_that_are_joined_tell_of_the_whole(dataset, first_step):
    loader = loaders.RegroupedLoader(loaders.train_loader(dataset, 16, accumulation=2), 3)
    loader.set_epoch(0, first_step)
    told = [(batch["step_galaxies"], batch["ends_step"]) for batch in loader]
    whole = [(45, False)] * 5 + [(45, True)] + [(15, False), (15, True)]
    assert loader.num_steps == 2
    assert told == whole[6 * first_step :]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_views_left_to_the_device_are_a_function_of_seed_epoch_and_galaxy(
    small_catalog, num_workers
):
    config = default_view_config()
    config.output_size = 16
    frame = catalog.read_catalog(small_catalog)
    views = []
    for batch_size in (16, 60):
        dataset = CatalogDataset(frame, None, DeviceView(GalaxyView(config), 40), seed=1)
        loader = loaders.train_loader(dataset, batch_size, num_workers=num_workers)
        loader.set_epoch(2)
        images = {}
        for batch in loader:
            ready = to_device(batch, torch.device("cpu"))
            assert ready["image"].shape[1:] == (3, 16, 16)
            images.update(zip(ready["id_str"], ready["image"], strict=True))
        views.append(images)
    assert len(views[0]) == 60
    assert all(torch.allclose(image, views[1][key], atol=1e-6) for key, image in views[0].items())


def test_batches_for_users_hold_finished_views_whoever_makes_them(small_catalog):
    config = default_view_config()
    config.output_size = 16
    frame = catalog.read_catalog(small_catalog)
    dataset = CatalogDataset(frame, None, DeviceView(GalaxyView(config), 40), seed=1)
    batch = next(iter(loaders.CatalogLoader(loaders.train_loader(dataset, 8))))
    assert batch["image"].shape[1:] == (3, 16, 16)
    assert batch["image"].dtype == torch.float32


def test_any_torchvision_transform_is_a_function_of_seed_epoch_and_galaxy(small_catalog):
    frame = catalog.read_catalog(small_catalog)
    crop = T.RandomResizedCrop(16)
    epochs = []
    for num_workers, epoch in ((0, 4), (2, 4), (0, 5)):
        dataset = CatalogDataset(frame, None, crop, seed=1)
        loader = loaders.train_loader(dataset, 16, num_workers=num_workers)
        loader.set_epoch(epoch)
        epochs.append(by_id(loader))
    assert all(torch.equal(image, epochs[1][key]) for key, image in epochs[0].items())
    assert not any(torch.equal(image, epochs[2][key]) for key, image in epochs[0].items())


def test_a_galaxy_looks_the_same_with_any_number_of_workers(dataset):
    views = []
    for num_workers in (0, 1, 2):
        loader = loaders.train_loader(dataset, batch_size=16, num_workers=num_workers)
        loader.set_epoch(3)
        views.append(by_id(loader))
    assert len(views[0]) == 60
    for other in views[1:]:
        assert all(torch.equal(views[0][key], other[key]) for key in views[0])


def test_views_differ_between_epochs_and_between_the_galaxies_of_different_workers(dataset):
    # the same image for every galaxy
    dataset.galaxies._sources = dataset.galaxies._sources.take([0] * 60)
    loader = loaders.train_loader(dataset, batch_size=16, num_workers=2)
    epochs = []
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        epochs.append(by_id(loader))
    seen = {image.numpy().tobytes() for images in epochs for image in images.values()}
    assert len(seen) == 120


def test_an_unreadable_image_is_named(dataset, small_catalog):
    (small_catalog.parent / "images" / "g7.png").write_bytes(b"no image")
    for num_workers in (0, 1):
        with pytest.raises(ImageError, match="g7.png"):
            list(loaders.eval_loader(dataset, 8, num_workers))
    with pytest.raises(ImageError, match="g7.png"):
        dataset[7]


def test_a_users_mistake_in_a_worker_is_told_as_in_the_process_itself(dataset):
    dataset.transform = T.Compose(
        [T.RandomCrop(16), T.Lambda(lambda x: x[:, : 8 + x[0, 0, 0] % 2])]
    )
    with pytest.raises(UserError, match="^the transform gives images of different shapes"):
        for _ in loaders.eval_loader(dataset, 60, num_workers=1):
            pass


def test_a_loader_ends_its_own_workers_and_no_other_process(dataset):
    other = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
    other.start()
    before = {*multiprocessing.active_children()}
    loader = loaders.eval_loader(dataset, 8, num_workers=1)
    list(loader)
    (worker,) = {*multiprocessing.active_children()} - before
    del loader
    gc.collect()
    worker.join(20)
    assert not worker.is_alive()
    assert other.is_alive()
    other.kill()


def test_loaders_and_trainers_change_neither_malloc_nor_the_warnings_filter(dataset, tmp_path):
    memory.keep_freed_memory.cache_clear()
    before = [*warnings.filters]
    list(loaders.eval_loader(dataset, 8))
    Trainer(tmp_path)
    assert memory.keep_freed_memory.cache_info().currsize == 0
    assert warnings.filters == before


def fixed(**settings):
    return GalaxyView({"output_size": 16, **settings})


GPU = torch.device("cuda", 0)


def test_a_gpu_makes_the_views_of_every_loader_and_a_cpu_of_none(small_catalog):
    frame = catalog.read_catalog(small_catalog)
    dataset = CatalogDataset(frame, None, fixed())
    for loader in (loaders.eval_loader(dataset, 8), loaders.train_loader(dataset, 8)):
        for given in (loader, loaders.CatalogLoader(loader)):
            assert loaders.own_loader(given) is loader
            assert loaders.own_loader(given, torch.device("cpu")) is loader
            of_gpu = loaders.own_loader(given, GPU)
            assert isinstance(of_gpu.dataset.transform, DeviceView)
            assert loaders.own_loader(given, GPU) is of_gpu  # and its workers
            assert of_gpu.sampler is loader.sampler
            assert of_gpu.dataset.describe_images() == dataset.describe_images()
        assert isinstance(loader.dataset.transform, GalaxyView)


def test_views_that_a_gpu_makes_are_those_of_the_cpu(small_catalog):
    frame = catalog.read_catalog(small_catalog)
    loader = loaders.eval_loader(CatalogDataset(frame, None, fixed()), 60)
    (of_cpu,), (of_gpu,) = list(loader), list(loader.made_for(GPU))
    views = to_device(of_gpu, torch.device("cpu"))["image"]
    assert views.shape == of_cpu["image"].shape
    assert (views - of_cpu["image"] / 255).abs().mean() < 2 / 255
    assert of_gpu["id_str"] == of_cpu["id_str"]


@pytest.mark.parametrize(
    ("augment", "transform"),
    [("cpu", fixed()), ("auto", fixed(center_crop=True)), ("auto", T.CenterCrop(16))],
)
def test_views_stay_on_the_cpu_where_told_and_where_a_gpu_can_not_make_them(
    small_catalog, augment, transform
):
    frame = catalog.read_catalog(small_catalog)
    dataset = CatalogDataset(frame, None, transform, augment=augment)
    loader = loaders.eval_loader(dataset, 8)
    assert loader.made_for(GPU) is loader


def test_whoever_asks_for_the_device_gets_it_or_an_error(small_catalog):
    frame = catalog.read_catalog(small_catalog)
    dataset = CatalogDataset(frame, None, fixed(), augment="device")
    assert isinstance(dataset.transform, DeviceView)
    with pytest.raises(UserError, match="center_crop can't be made on the device"):
        CatalogDataset(frame, None, fixed(center_crop=True), augment="device")
    with pytest.raises(UserError, match="augment='gpu': use one of auto, cpu, device"):
        CatalogDataset(frame, None, fixed(), augment="gpu")


def num_ahead(dataset, batch_size, num_workers, **loading):
    return loaders.eval_loader(dataset, batch_size, num_workers, **loading).num_ahead


def test_batches_ahead_are_of_the_workers_there_are_and_bounded_in_bytes(
    small_catalog, monkeypatch
):
    frame = catalog.read_catalog(small_catalog)
    divided = CatalogDataset(frame, None, DeviceView(fixed(), 32))
    divided.galaxies.raw_px = 32
    assert num_ahead(divided, 8, 12) == 4 * loaders.MOST_THREADS  # no thread more
    assert num_ahead(divided, 8, 2, prefetch_factor=3) == 6
    batch_bytes = 8 * 3 * 32 * 32
    monkeypatch.setattr(loaders, "MOST_BYTES_AHEAD", 8 * batch_bytes)
    assert num_ahead(divided, 8, 4) == 8
    assert num_ahead(divided, 8, 3) == 6
    assert num_ahead(divided, 8, 2) == 8
    assert num_ahead(divided, 60, 4) == 4  # one for each worker
    of_processes = CatalogDataset(frame, None, fixed(output_size=32))
    loader = loaders.eval_loader(of_processes, 8, 2, prefetch_factor=9)
    assert loader.num_ahead == 8
    assert loader._loader.prefetch_factor == 4


@pytest.mark.parametrize(
    ("transform", "channels"),
    [
        (fixed(), 3),
        (fixed(), 1),
        (fixed(greyscale=True), 3),
        (TurnedViews(fixed(), 3), 3),
        (DeviceView(fixed(), 40), 3),
        (DeviceView(TurnedViews(fixed(), 3), 40), 1),
        (DeviceView(fixed(greyscale=True), 40), 3),
    ],
)
def test_the_size_of_images_is_known_before_one_is_read(small_catalog, transform, channels):
    frame = catalog.read_catalog(small_catalog)
    dataset = CatalogDataset(frame, None, transform, channels=channels)
    assert dataset.image_bytes == dataset.batch(0, [0])["image"].nbytes


def test_a_samplers_largest_batch_is_known_before(dataset):
    for sampler in (
        loaders.train_loader(dataset, 16, accumulation=3).sampler,
        loaders.eval_loader(dataset, 16).sampler,
    ):
        assert max(len(indices) for _, indices in sampler) == sampler.largest_batch


def test_threads_that_make_batches_compute_on_one_core(small_catalog, monkeypatch):
    frame = catalog.read_catalog(small_catalog)
    dataset = CatalogDataset(frame, None, DeviceView(fixed(), 40))
    numbers, batch = set(), dataset.batch

    def noting(*key):
        numbers.add(torch.get_num_threads())
        return batch(*key)

    monkeypatch.setattr(dataset, "batch", noting)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        list(loaders.eval_loader(dataset, 8, 2))
        assert (numbers, torch.get_num_threads()) == ({1}, 2)
    finally:
        torch.set_num_threads(before)
