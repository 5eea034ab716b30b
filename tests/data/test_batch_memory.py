"""Batches that can't fit into memory are refused before they are made."""

import pytest
from small_models import classifier

from zoobot.data import CatalogDataModule
from zoobot.data.bands.spec import parse_bands
from zoobot.data.batch_memory import check_batches
from zoobot.data.catalog import read_catalog
from zoobot.data.dataset import ImagesSeen
from zoobot.limits import memory
from zoobot.predictions.predict import predict_to_file
from zoobot.system.errors import UserError

IMAGE = 16 * 16 * 3  # bytes


@pytest.fixture
def free(monkeypatch):
    """Sets how many bytes are free."""
    return lambda number: monkeypatch.setattr(memory, "free_bytes", lambda: number)


@pytest.mark.parametrize(
    ("workers", "on_gpu", "needed"), [(1, False, 20 * 5), (1, True, 20), (2, False, 20 * 6)]
)
def test_each_worker_makes_a_batch_and_a_cpu_one_of_floats(dataset, free, workers, on_gpu, needed):
    free(needed * IMAGE)
    check_batches(dataset, 20, workers, on_gpu)
    free(needed * IMAGE - 1)
    with pytest.raises(UserError, match="batches of 20 views of 16 px takes .* bytes of memory"):
        check_batches(dataset, 20, workers, on_gpu)


def test_a_batch_is_no_larger_than_the_catalog_and_bands_are_floats_already(dataset, free):
    free(60 * IMAGE * 5)
    check_batches(dataset, 10**9, 8, on_gpu=False)
    dataset.spec = parse_bands(["g", "r", "i"])
    free(60 * IMAGE * 4 * 2)
    check_batches(dataset, 10**9, 8, on_gpu=False)


def test_a_transform_of_which_the_size_is_not_known_is_not_counted(dataset, free):
    free(0)
    dataset.transform = lambda image: image
    check_batches(dataset, 10**9, 8, on_gpu=False)


def test_a_checkpoint_whose_view_fills_the_memory_is_one_line(small_catalog, tmp_path, free):
    model = classifier()
    model.images_seen = ImagesSeen(image_size=4096)
    free(10**9)
    told = "batches of 60 views of 4,096 px takes 15,.* 1,000,000,000 bytes of memory are free: "
    with pytest.raises(UserError, match=f"{told}give a smaller --batch-size") as caught:
        predict_to_file(read_catalog(small_catalog), model, tmp_path / "p.csv", num_workers=0)
    assert "\n" not in str(caught.value)


def test_options_that_ask_for_more_than_there_is_are_one_line(small_catalog, free):
    table = read_catalog(small_catalog)
    data = CatalogDataModule(["smooth_yes"], train_catalog=table, batch_size=10**6, num_workers=0)
    free(10**6)
    with pytest.raises(UserError, match="batches of 60 views of 224 px"):
        data.train_dataloader()
