import pandas as pd
import pytest
import torch
from PIL import Image

from zoobot.data import CatalogDataModule, CatalogDataset
from zoobot.data.catalog import read_catalog
from zoobot.data.loaders import own_loader
from zoobot.data.views.config import default_view_config, fast_view_config, minimal_view_config
from zoobot.data.views.cpu import GalaxyView
from zoobot.data.views.device import DeviceView
from zoobot.system import cores


@pytest.fixture
def frame(small_catalog):
    return read_catalog(small_catalog)


def ids(loader):
    return [id_str for batch in loader for id_str in batch["id_str"]]


def module(label_cols=("smooth_yes",), **arguments):
    arguments = {"batch_size": 16, "num_workers": 0, **arguments}
    return CatalogDataModule(label_cols and list(label_cols), **arguments)


def test_one_catalog_is_split_and_every_galaxy_is_in_one_part(frame):
    data = module(catalog=frame)
    data.setup()
    parts = [
        ids(loader)
        for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    ]
    assert [len(part) for part in parts] == [42, 6, 12]
    assert sorted(sum(parts, [])) == sorted(frame["id_str"])


def test_the_split_does_not_depend_on_the_order_of_rows(frame):
    first, second = module(catalog=frame), module(catalog=frame.sample(frac=1, random_state=1))
    assert set(first.catalogs["val"]["id_str"]) == set(second.catalogs["val"]["id_str"])


def test_a_test_fraction_of_zero_works(frame):
    data = module(catalog=frame, train_fraction=0.8, val_fraction=0.2, test_fraction=0)
    data.setup()
    assert len(data.datasets["test"]) == 0
    with pytest.raises(ValueError, match="no test galaxies: their catalog is empty"):
        data.test_dataloader()


def test_fewer_galaxies_than_a_batch_are_one_batch(frame):
    data = module(train_catalog=frame.head(5), val_catalog=frame.tail(1), batch_size=256)
    data.setup("fit")
    assert [len(batch["image"]) for batch in data.train_dataloader()] == [5]
    assert next(iter(data.val_dataloader()))["smooth_yes"].shape == (1,)


def test_training_views_are_random_and_all_others_fixed(frame):
    again = {s: frame.assign(id_str=f"{s}-" + frame["id_str"]) for s in ("val", "test")}
    data = module(train_catalog=frame, val_catalog=again["val"], test_catalog=again["test"])
    data.setup()
    for name, same in (("train", False), ("val", True), ("test", True)):
        loader = getattr(data, f"{name}_dataloader")()
        first, second = (
            {i: x for b in loader for i, x in zip(b["id_str"], b["image"], strict=True)}
            for _ in range(2)
        )
        galaxy = min(first)
        assert torch.equal(first[galaxy], second[galaxy]) == same


def test_galaxies_to_predict_come_in_order_and_need_no_labels(frame):
    data = module(predict_catalog=frame[["id_str", "file_loc"]])
    data.setup("predict")
    assert ids(data.predict_dataloader()) == list(frame["id_str"])
    assert set(next(iter(data.predict_dataloader()))) == {"image", "id_str"}


def test_label_cols_none_gives_images_and_ids(frame):
    data = module(label_cols=None, train_catalog=frame)
    data.setup("fit")
    assert set(next(iter(data.train_dataloader()))) == {"image", "id_str"}
    assert isinstance(data.datasets["train"], CatalogDataset)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, "give catalog=, or train_catalog="),
        ({"catalog": "frame", "train_catalog": "frame"}, "not both"),
        ({"catalog": "frame", "test_fraction": 0.5}, "sum to 1"),
        ({"catalog": "twice"}, "appears more than once"),
        ({"catalog": "frame", "label_cols": ["smoth_yes"]}, "no column 'smoth_yes'; did you mean"),
    ],
)
def test_misuse_is_told(frame, arguments, told):
    tables = {"frame": frame, "twice": pd.concat([frame, frame])}
    with pytest.raises(ValueError, match=told):
        module(**{k: tables.get(str(v), v) for k, v in arguments.items()}).setup()


def test_label_cols_must_be_a_list(frame):
    with pytest.raises(ValueError, match=r"use \['ring'\]"):
        CatalogDataModule("ring", catalog=frame)


def test_a_split_without_a_catalog_is_told(frame):
    data = module(train_catalog=frame)
    assert len(ids(data.train_dataloader())) == 60
    with pytest.raises(ValueError, match="no val galaxies: no catalog of them was given"):
        data.val_dataloader()
    with pytest.raises(ValueError, match="no stage 'training'"):
        data.setup("training")


GPU = torch.device("cuda", 0)


def test_validation_and_predictions_decode_a_jpeg_as_training_does(tmp_path):
    path = tmp_path / "a.jpg"
    Image.effect_noise((424, 424), 60).convert("RGB").save(path)
    catalog = pd.DataFrame({"id_str": ["a", "b", "c"], "file_loc": [str(path)] * 3})
    catalog["split"] = ["train", "val", "test"]
    train, fixed = default_view_config(), minimal_view_config()
    train.output_size = fixed.output_size = 160  # 192 of 424 px are enough for a zoom of 1.2
    data = CatalogDataModule(None, GalaxyView(train), GalaxyView(fixed), catalog=catalog)
    data.setup()
    assert [dataset._decoded(0).size for dataset in data.datasets.values()] == [(424, 424)] * 3
    view = GalaxyView(data.val_dataset.describe_images().view)
    alone = CatalogDataModule(None, test_transform=view, predict_catalog=catalog)
    alone.setup("predict")
    assert alone.predict_dataset._decoded(0).size == (424, 424)


def views(data, device):
    """Which kind of view each split's loader has, for a loop on this device."""
    data.setup()
    given = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    return [type(own_loader(loader, device).dataset.transform) for loader in given]


def test_the_loops_device_decides_who_makes_the_views_of_all_splits(frame):
    cpu = torch.device("cpu")
    assert views(module(catalog=frame), cpu) == [GalaxyView] * 3
    assert views(module(catalog=frame), GPU) == [DeviceView] * 3
    assert views(module(catalog=frame, augment="cpu"), GPU) == [GalaxyView] * 3
    assert views(module(catalog=frame, augment="device"), cpu) == [DeviceView] * 3


def test_a_view_that_a_gpu_can_not_make_stays_with_the_workers(frame):
    data = module(catalog=frame, test_transform=GalaxyView(fast_view_config()))
    assert views(data, GPU) == [DeviceView, GalaxyView, GalaxyView]
    data = module(catalog=frame, test_transform=GalaxyView(fast_view_config()), augment="device")
    with pytest.raises(ValueError, match="center_crop can't be made on the device"):
        data.setup("validate")


def test_batches_for_users_have_the_views_of_the_cpu_beside_any_loop(frame):
    data = module(catalog=frame)
    loader = data.val_dataloader()
    before = next(iter(loader))["image"]
    own_loader(loader, GPU)
    assert torch.equal(next(iter(loader))["image"], before)


@pytest.mark.parametrize(("has_gpu", "wanted"), [(False, 2), (True, 6)])
def test_the_number_of_workers_follows_the_hardware_unless_it_is_given(
    frame, monkeypatch, has_gpu, wanted
):
    monkeypatch.setattr(cores, "num_cores", lambda: 8)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert CatalogDataModule(["smooth_yes"], catalog=frame).num_workers == wanted
    assert module(catalog=frame, num_workers=3).num_workers == 3
    with pytest.raises(ValueError, match="num_workers=-1: give 'auto'"):
        module(catalog=frame, num_workers=-1)


def test_a_galaxy_in_two_splits_or_a_catalog_without_images_is_refused(frame):
    with pytest.raises(ValueError, match="20 galaxies are in both val and test, for example"):
        module(train_catalog=frame[:30], val_catalog=frame[30:], test_catalog=frame[40:])
    with pytest.raises(ValueError, match="catalog has neither a file_loc nor an image column"):
        module(catalog=frame.drop(columns="file_loc"))


@pytest.fixture
def with_bad(frame, tmp_path):
    """60 galaxies; the images of g3 (in val) and g50 are no images."""
    for i in (3, 50):
        frame.loc[i, "file_loc"] = str(tmp_path / f"bad{i}.png")
        (tmp_path / f"bad{i}.png").write_bytes(b"<html>")
    return frame.assign(split=["val"] * 10 + ["train"] * 40 + ["test"] * 10)


def test_images_are_looked_at_once_and_bad_ones_listed(with_bad, tmp_path, capsys):
    data = module(catalog=with_bad)
    for _ in range(2):  # not mended: looked at again
        with pytest.raises(ValueError, match="2 of 60 images can't be read"):
            data.look_at_images(tmp_path / "run")
    assert len(pd.read_csv(tmp_path / "run" / "bad_images.csv")) == 2
    with_bad = with_bad.drop(index=[3, 50])
    data = module(catalog=with_bad)
    capsys.readouterr()
    data.look_at_images(tmp_path / "run")
    assert "58 images: looked at" in capsys.readouterr().out
    data.look_at_images(tmp_path / "run")
    assert capsys.readouterr().out == ""


def test_galaxies_of_bad_images_are_left_out_if_asked(with_bad, tmp_path):
    data = module(catalog=with_bad, on_bad_image="drop", predict_catalog=with_bad)
    data.setup()
    data.look_at_images(tmp_path)
    assert [data.num_galaxies(s) for s in ("train", "val", "test")] == [40, 9, 9]
    assert "g3" not in ids(data.val_dataloader())
    assert data.num_galaxies("predict") == 60


def test_nothing_is_looked_at_if_not_wanted(with_bad, tmp_path):
    module(catalog=with_bad, check_images="none").look_at_images(tmp_path)
    for wrong in ({"check_images": "some"}, {"on_bad_image": "record"}):
        with pytest.raises(
            ValueError, match="use one of headers, all, none, and one of error, drop"
        ):
            module(catalog=with_bad, **wrong)
