import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from torchvision.transforms import v2 as T

from zoobot import engine
from zoobot.data import catalog, loaders, samplers
from zoobot.data.device_views import DeviceView
from zoobot.data.images import ImageError
from zoobot.data.views import GalaxyView, default_view_config, minimal_view_config


@pytest.fixture
def dataset(small_catalog, tree):
    frame = catalog.read_catalog(small_catalog)
    config = default_view_config()
    config.output_size = 16
    return loaders.CatalogDataset(frame, tree.label_cols, GalaxyView(config), seed=1)


def as_rank(monkeypatch, rank, world_size):
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(world_size))


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


def test_a_single_galaxy_has_a_float_image_and_plain_labels(dataset, tree):
    torch.manual_seed(0)
    first, second = dataset[3], dataset[3]
    assert first["image"].dtype == torch.float32
    assert 0 <= first["image"].min() < first["image"].max() <= 1
    assert not torch.equal(first["image"], second["image"])
    assert first["id_str"] == "g3"
    assert [first[column] for column in tree.label_cols] == dataset.galaxies.labels([3])[0].tolist()


def test_a_dataset_works_in_torchs_own_loader(dataset):
    batch = next(iter(DataLoader(dataset, batch_size=5)))
    assert batch["image"].shape == (5, 3, 16, 16)
    assert batch["smooth_yes"].tolist() == dataset.galaxies.labels(range(5))[:, 0].tolist()


def test_labels_go_through_the_target_transform(small_catalog):
    frame = catalog.read_catalog(small_catalog)
    dataset = loaders.CatalogDataset(
        frame, ["smooth_yes"], target_transform=lambda y: {"half": y["smooth_yes"] / 2}
    )
    assert dataset[0]["half"] == frame["smooth_yes"][0] / 2
    assert "smooth_yes" not in dataset[0]


@pytest.mark.parametrize("world_size", [1, 2, 4])
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=40), epoch=st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_ranks_share_the_galaxies_of_shards_without_overlap_or_loss(world_size, sizes, epoch):
    dealt = []
    for rank in range(min(world_size, sum(sizes))):
        with pytest.MonkeyPatch.context() as patched:
            as_rank(patched, rank, min(world_size, sum(sizes)))
            sampler = loaders.TrainSampler(sum(sizes), 8, 1, seed=3, shard_sizes=sizes)
            sampler.set_epoch(epoch)
            dealt += [index for _, batch in sampler for index in batch]
    assert sorted(dealt) == list(range(sum(sizes)))


def test_few_shards_are_in_use_at_a_time_and_epochs_differ():
    sizes = [50] * 64
    sampler = loaders.TrainSampler(3200, 100, 1, seed=3, shard_sizes=sizes)
    order = sampler._order()
    for quarter in np.split(order // 50, 4):
        assert len(set(quarter)) == samplers.SHARDS_MIXED
    sampler.set_epoch(1)
    assert not np.array_equal(order, sampler._order())


@pytest.mark.parametrize("num_workers", [0, 2])
def test_views_left_to_the_device_are_a_function_of_seed_epoch_and_galaxy(
    small_catalog, num_workers
):
    config = default_view_config()
    config.output_size = 16
    frame = catalog.read_catalog(small_catalog)
    views = []
    for batch_size in (16, 60):
        dataset = loaders.CatalogDataset(frame, None, DeviceView(GalaxyView(config), 40), seed=1)
        loader = loaders.train_loader(dataset, batch_size, num_workers=num_workers)
        loader.set_epoch(2)
        images = {}
        for batch in loader:
            ready = engine.to_device(batch, torch.device("cpu"))
            assert ready["image"].shape[1:] == (3, 16, 16)
            images.update(zip(ready["id_str"], ready["image"], strict=True))
        views.append(images)
    assert len(views[0]) == 60
    assert all(torch.allclose(image, views[1][key], atol=1e-6) for key, image in views[0].items())


def test_batches_for_users_hold_finished_views_whoever_makes_them(small_catalog):
    config = default_view_config()
    config.output_size = 16
    frame = catalog.read_catalog(small_catalog)
    dataset = loaders.CatalogDataset(frame, None, DeviceView(GalaxyView(config), 40), seed=1)
    batch = next(iter(loaders.CatalogLoader(loaders.train_loader(dataset, 8))))
    assert batch["image"].shape[1:] == (3, 16, 16)
    assert batch["image"].dtype == torch.float32


def test_any_torchvision_transform_is_a_function_of_seed_epoch_and_galaxy(small_catalog):
    frame = catalog.read_catalog(small_catalog)
    crop = T.RandomResizedCrop(16)
    epochs = []
    for num_workers, epoch in ((0, 4), (2, 4), (0, 5)):
        dataset = loaders.CatalogDataset(frame, None, crop, seed=1)
        loader = loaders.train_loader(dataset, 16, num_workers=num_workers)
        loader.set_epoch(epoch)
        epochs.append(by_id(loader))
    assert all(torch.equal(image, epochs[1][key]) for key, image in epochs[0].items())
    assert not any(torch.equal(image, epochs[2][key]) for key, image in epochs[0].items())


def test_a_transform_that_gives_different_sizes_is_told(small_catalog):
    frame = catalog.read_catalog(small_catalog)
    sizes = iter(range(10, 99))
    dataset = loaders.CatalogDataset(frame, None, lambda image: T.Resize((8, next(sizes)))(image))
    with pytest.raises(ValueError, match="different shapes"):
        dataset.batch(0, [0, 1])


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


@given(
    num_galaxies=st.integers(1, 200),
    batch_size=st.integers(1, 64),
    accumulation=st.integers(1, 4),
    world_size=st.sampled_from([1, 2, 3, 4]),
)
def test_every_galaxy_is_trained_on_once_an_epoch(
    num_galaxies, batch_size, accumulation, world_size
):
    with pytest.MonkeyPatch.context() as patch:
        per_rank = []
        for rank in range(world_size):
            as_rank(patch, rank, world_size)
            if num_galaxies < world_size:
                with pytest.raises(ValueError, match="too few"):
                    loaders.TrainSampler(num_galaxies, batch_size, accumulation)
                return
            sampler = loaders.TrainSampler(num_galaxies, batch_size, accumulation)
            per_rank.append(list(sampler))
            assert len(sampler) == len(per_rank[-1])
    assert len({len(batches) for batches in per_rank}) == 1
    if num_galaxies // sampler.num_steps >= world_size:
        assert all(len(batch) > 0 for batches in per_rank for _, batch in batches)
    indices = [index for batches in per_rank for _, batch in batches for index in batch]
    assert sorted(indices) == list(range(num_galaxies))


def test_a_step_holds_the_same_galaxies_for_any_number_of_ranks(monkeypatch):
    def steps(world_size, accumulation):
        shares = []
        for rank in range(world_size):
            as_rank(monkeypatch, rank, world_size)
            sampler = loaders.TrainSampler(103, 16, accumulation, seed=5)
            sampler.set_epoch(2)
            batches = list(sampler)
            k = sampler.accumulation
            indices = [batch for _, batch in batches]
            shares.append([sum(indices[i : i + k], []) for i in range(0, len(batches), k)])
        return [sorted(sum(parts, [])) for parts in zip(*shares, strict=True)]

    assert steps(1, 1) == steps(2, 1) == steps(4, 2) == steps(3, 3)
    assert max(map(len, steps(1, 1))) <= 16


def test_evaluation_neither_pads_nor_drops(monkeypatch):
    for world_size in (1, 2, 3, 7):
        indices = []
        for rank in range(world_size):
            as_rank(monkeypatch, rank, world_size)
            sampler = loaders.EvalSampler(20, 3)
            batches = list(sampler)
            assert len(batches) == len(sampler)
            indices += [index for _, batch in batches for index in batch]
        assert sorted(indices) == list(range(20))


def test_orders_differ_between_epochs_and_seeds():
    orders = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        sampler = loaders.TrainSampler(50, 50, seed=seed)
        sampler.set_epoch(epoch)
        orders.append(tuple(next(iter(sampler))[1]))
    assert len(set(orders)) == 3


def test_an_unreadable_image_is_named(dataset, small_catalog):
    (small_catalog.parent / "images" / "g7.png").write_bytes(b"no image")
    for num_workers in (0, 1):
        with pytest.raises(ImageError, match="g7.png"):
            list(loaders.eval_loader(dataset, 8, num_workers))
    with pytest.raises(ImageError, match="g7.png"):
        dataset[7]


def test_embedded_images_are_read_and_named_by_id(small_catalog):
    frame = pd.read_csv(small_catalog).head(3)
    image_bytes = [(small_catalog.parent / loc).read_bytes() for loc in frame.pop("file_loc")]
    image_bytes[2] = b"rubbish"
    for cells in (image_bytes, [{"bytes": b, "path": None} for b in image_bytes]):
        view = GalaxyView(minimal_view_config())
        dataset = loaders.CatalogDataset(frame.assign(image=cells), None, view)
        assert dataset[0]["image"].shape == (3, 224, 224)
        assert dataset[1]["id_str"] == "g1"
        with pytest.raises(ImageError, match="'g2'"):
            dataset[2]


def test_labels_are_optional_and_floats_stay_floats(small_catalog):
    frame = catalog.read_catalog(small_catalog)
    batch = next(iter(loaders.eval_loader(loaders.CatalogDataset(frame), 4)))
    assert "labels" not in batch
    frame["size"] = np.arange(60) / 4
    dataset = loaders.CatalogDataset(frame, ["size", "smooth_yes"])
    assert dataset.galaxies.labels([0]).dtype == torch.float32
    assert dataset.galaxies.labels(range(3))[:, 0].tolist() == [0, 0.25, 0.5]


def test_text_labels_are_refused_with_the_cure(small_catalog):
    frame = catalog.read_catalog(small_catalog).assign(label="spiral")
    with pytest.raises(ValueError, match="'label' holds 'spiral', which is no number; number"):
        loaders.CatalogDataset(frame, ["label"])
