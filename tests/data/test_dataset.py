import files_people_have
import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2 as T

from zoobot.data import CatalogDataset, catalog
from zoobot.data.images import ImageError
from zoobot.data.loaders import eval_loader
from zoobot.data.views.config import minimal_view_config
from zoobot.data.views.cpu import GalaxyView
from zoobot.data.views.device import DeviceView


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
    dataset = CatalogDataset(
        frame, ["smooth_yes"], target_transform=lambda y: {"half": y["smooth_yes"] / 2}
    )
    assert dataset[0]["half"] == frame["smooth_yes"][0] / 2
    assert "smooth_yes" not in dataset[0]


def test_a_transform_that_gives_different_sizes_is_told(small_catalog):
    frame = catalog.read_catalog(small_catalog)
    sizes = iter(range(10, 99))
    dataset = CatalogDataset(frame, None, lambda image: T.Resize((8, next(sizes)))(image))
    with pytest.raises(ValueError, match="different shapes"):
        dataset.batch(0, [0, 1])


def test_embedded_images_are_read_and_named_by_id(small_catalog):
    frame = pd.read_csv(small_catalog).head(3)
    image_bytes = [(small_catalog.parent / loc).read_bytes() for loc in frame.pop("file_loc")]
    image_bytes[2] = b"rubbish"
    for cells in (image_bytes, [{"bytes": b, "path": None} for b in image_bytes]):
        view = GalaxyView(minimal_view_config())
        dataset = CatalogDataset(frame.assign(image=cells), None, view)
        assert dataset[0]["image"].shape == (3, 224, 224)
        assert dataset[1]["id_str"] == "g1"
        with pytest.raises(ImageError, match="'g2'"):
            dataset[2]


def test_labels_are_optional_and_floats_stay_floats(small_catalog):
    frame = catalog.read_catalog(small_catalog)
    batch = next(iter(eval_loader(CatalogDataset(frame), 4)))
    assert "labels" not in batch
    frame["size"] = np.arange(60) / 4
    dataset = CatalogDataset(frame, ["size", "smooth_yes"])
    assert dataset.galaxies.labels([0]).dtype == torch.float32
    assert dataset.galaxies.labels(range(3))[:, 0].tolist() == [0, 0.25, 0.5]


def test_text_labels_are_refused_with_the_cure(small_catalog):
    frame = catalog.read_catalog(small_catalog).assign(label="spiral")
    with pytest.raises(ValueError, match="'label' holds 'spiral', which is no number; number"):
        CatalogDataset(frame, ["label"])


def test_values_taken_for_no_data_are_told_whoever_makes_the_view():
    pytest.importorskip("astropy")
    image = files_people_have.with_no_data()["one -9999"][0]
    frame = pd.DataFrame({"id_str": ["g0", "g1"], "image": [image, image]})
    view = GalaxyView({"output_size": 16})
    for transform in (view, DeviceView(view)):
        batch = CatalogDataset(frame, transform=transform).batch(0, [0, 1])
        assert batch["no_data"] == [-9999.0, -9999.0]
