import numpy as np
import pandas as pd
import pytest
import torch
from hugging_face import datasets, galaxies, picture, png

from zoobot.data import CatalogDataModule, huggingface
from zoobot.data.huggingface import galaxies_of, number_columns, source_of, splits_of
from zoobot.data.images import read_image
from zoobot.data.sources import Galaxies
from zoobot.predictions.files import read_predictions
from zoobot.predictions.predict import predict_to_file
from zoobot.runs.data_digest import known_galaxies
from zoobot.system.errors import UserError

THIRDS = (0.7, 0.1, 0.2)


def module(label_cols=("label",), **arguments):
    arguments = {"batch_size": 8, "num_workers": 0, **arguments}
    return CatalogDataModule(label_cols and list(label_cols), **arguments)


def ids(loader):
    return [id_str for batch in loader for id_str in batch["id_str"]]


def as_path(folder):
    (folder / "p").mkdir()
    for i in range(6):
        (folder / "p" / f"{i}.png").write_bytes(png(i))
    return [str(folder / "p" / f"{i}.png") for i in range(6)]


@pytest.mark.parametrize("kind", ["pillow", "bytes", "path", "image of path", "file_loc"])
def test_images_of_every_kind_are_those_that_were_put_in(kind, tmp_path):
    plain = galaxies(range(6)).remove_columns("image")
    dataset = {
        "pillow": lambda: galaxies(range(6)),
        "bytes": lambda: plain.add_column("image", [png(i) for i in range(6)]),
        "path": lambda: plain.add_column("image", as_path(tmp_path)),
        "image of path": lambda: plain.add_column("image", as_path(tmp_path)).cast_column(
            "image", datasets.Image()
        ),
        "file_loc": lambda: plain.add_column("file_loc", as_path(tmp_path)),
    }[kind]()
    source = galaxies_of(dataset, ["label"])
    assert isinstance(source, Galaxies)
    for i in range(6):
        assert np.array_equal(read_image(source.source(i)), picture(i))
    assert source.labels([3, 2]).tolist() == [[1], [0]]
    batch = next(iter(module(train_catalog=dataset).train_dataloader()))
    assert set(batch) == {"image", "id_str", "label"}


def test_images_stay_undecoded_on_disk_until_they_are_asked_for(tmp_path):
    galaxies(range(6)).save_to_disk(tmp_path / "d")
    source = galaxies_of(datasets.load_from_disk(str(tmp_path / "d")), ["label"])
    assert source.source(3)[:4] == b"\x89PNG"
    assert source._images.cache_files


def test_an_image_elsewhere_is_read_as_the_package_reads_it():
    import fsspec

    with fsspec.open("memory://galaxies/5.png", "wb") as file:
        file.write(png(5))
    source = source_of({"bytes": None, "path": "memory://galaxies/5.png"}, "g5", fetches=True)
    assert np.array_equal(read_image(source), picture(5))


def test_a_dict_goes_into_the_data_module_by_its_splits():
    whole = galaxies(range(40))
    parts = {"train": range(20), "validation": range(20, 24), "test": range(24, 40)}
    given = datasets.DatasetDict({name: whole.select(rows) for name, rows in parts.items()})
    given["predict"] = whole.select(range(5)).remove_columns("label")
    data = module(catalog=given)
    data.setup()
    assert {s: data.num_galaxies(s) for s in data.catalogs} == {
        "train": 20, "val": 4, "test": 16, "predict": 5,
    }  # fmt: skip
    assert ids(data.val_dataloader()) == [f"g{i}" for i in range(20, 24)]
    assert set(next(iter(data.predict_dataloader()))) == {"image", "id_str"}


def test_without_val_a_tenth_of_the_training_galaxies_are_and_train_alone_is_split():
    whole = galaxies(range(50))
    both = {"train": whole.select(range(40)), "test": whole.select(range(40, 50))}
    data = module(catalog=datasets.DatasetDict(both))
    assert [data.num_galaxies(s) for s in ("train", "val", "test")] == [36, 4, 10]
    alone = splits_of(datasets.DatasetDict(train=whole), ["label"], THIRDS, 42)
    assert [len(alone[s]) for s in ("train", "val", "test")] == [35, 5, 10]
    frame = whole.select_columns(["id_str", "label"]).to_pandas().assign(file_loc="x")
    as_table = module(catalog=frame)
    for split in ("train", "val", "test"):  # the same galaxies as of a table
        told = list(as_table.catalogs[split]["id_str"])
        assert list(module(catalog=whole).labels(split)["id_str"]) == told


def test_a_galaxy_without_id_is_called_after_its_split_and_row():
    nameless = galaxies(range(6)).remove_columns("id_str")
    data = module(train_catalog=nameless, val_catalog=nameless)
    assert ids(data.val_dataloader()) == [f"val-{i}" for i in range(6)]


def refused():
    few = galaxies(range(6))
    return {
        "no column 'image'; it has": few.rename_column("image", "cutout"),
        "appears more than once": datasets.concatenate_datasets([few, few]),
        "no column 'lable'": few.rename_column("label", "labels"),
        "which is no number": few.remove_columns("label").add_column("label", ["a"] * 6),
        "transform of its own": few.with_transform(lambda rows: rows),
    }


@pytest.mark.parametrize("told", refused())
def test_a_dataset_that_can_not_be_used_is_refused_with_a_cure(told):
    column = "lable" if "lable" in told else "label"  # codespell:ignore lable
    with pytest.raises(ValueError, match=told):
        module([column], train_catalog=refused()[told])


def test_misused_dicts_are_told():
    few = galaxies(range(6))
    with pytest.raises(ValueError, match="split 'full' is unknown: leave it out, or name them"):
        module(catalog=datasets.DatasetDict(full=few))
    with pytest.raises(ValueError, match="'dev' is one more of 'val'"):
        module(catalog=datasets.DatasetDict(val=few, dev=few))
    with pytest.raises(ValueError, match="6 galaxies are in both train and val"):
        module(catalog=datasets.DatasetDict(train=few, validation=few))
    with pytest.raises(ValueError, match="a stream can't be split: give train_catalog="):
        module(catalog=few.to_iterable_dataset(), steps_per_epoch=1)
    with pytest.raises(ValueError, match="is None: give encoded bytes, a path"):
        source_of({"of": "nothing"}, "g1", fetches=False)
    with pytest.raises(ValueError, match="is None: give encoded bytes, a path"):
        source_of(None, "g1", fetches=False)


@pytest.mark.parametrize("scheme", ["http", "https", "ftp", "s3", "hf", "file", "zip"])
def test_an_image_at_an_address_is_refused_and_not_fetched(scheme, monkeypatch):
    def fetch(*_, **__):
        raise AssertionError("it is fetched")

    monkeypatch.setattr(datasets.Image, "decode_example", fetch)
    address = f"{scheme}://host/x.png"
    dataset = galaxies(range(6)).remove_columns("image")
    for images in ([address] * 6, [{"path": address, "bytes": None}] * 6):
        read = galaxies_of(dataset.add_column("image", images))
        with pytest.raises(UserError, match=f"'g0'.*{scheme}://.*download"):
            read.source(0)


HOSTILE = {
    "lists": [[1], [2]] * 3,
    "dicts": [{"a": 1}] * 6,
    "texts": ["x"] * 6,
    "nothing": [None] * 6,
    "bytes": [b"\xff"] * 6,
    "parts of an image": [{"path": 3, "bytes": 4}] * 6,
    "addresses of no kind": ["weird://x"] * 6,
    "addresses": ["http://127.0.0.1:9/x.png"] * 6,
    "names with a null": ["a\0b"] * 6,
}


@pytest.mark.parametrize("column", ["image", "file_loc", "label", "id_str"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_columns_of_wrong_kinds_are_refused_in_a_line(kind, column):
    plain = galaxies(range(6)).remove_columns("image" if column == "file_loc" else column)
    dataset = plain.add_column(column, HOSTILE[kind])
    with pytest.raises(UserError) as caught:
        list(module(train_catalog=dataset).train_dataloader())
    assert "\n" not in str(caught.value)


def test_bad_images_are_looked_at_listed_and_left_out(tmp_path):
    pictures = [png(i) for i in range(20)]
    pictures[4] = b"<html>"
    whole = galaxies(range(20)).remove_columns("image").add_column("image", pictures)
    with pytest.raises(ValueError, match="1 of 20 images can't be read: id_str 'g4'"):
        module(train_catalog=whole).look_at_images(tmp_path)
    data = module(train_catalog=whole, on_bad_image="drop")
    data.look_at_images(tmp_path)
    assert sorted(ids(data.train_dataloader())) == sorted(f"g{i}" for i in range(20) if i != 4)


def test_changed_images_or_labels_change_the_digest():
    def digest(dataset):
        return known_galaxies(module(train_catalog=dataset), {}).digest().summary["train"]["sha256"]

    whole = galaxies(range(6))
    assert digest(whole) == digest(whole.select(range(6)[::-1]))
    other = whole.remove_columns("image").add_column("image", [png(i) for i in [9, *range(1, 6)]])
    assert digest(other) != digest(whole)


def test_numbers_are_told_from_texts_and_images():
    whole = galaxies(range(3), z=[0.5] * 3, name=["a"] * 3, ok=[True] * 3)
    assert number_columns(whole) == ["label", "smooth_yes", "smooth_no", "z", "ok"]


class Brightness(torch.nn.Module):
    def forward(self, images):
        return images.mean((2, 3))


def test_a_dataset_is_predicted_into_a_file_in_its_order(tmp_path):
    options = {"label_cols": ["r", "g", "b"], "show_progress": False, "num_workers": 0}
    whole = galaxies([4, 1, 250])
    path = predict_to_file(whole, Brightness(), tmp_path / "p.csv", **options)
    told = read_predictions(path).to_frame()
    assert list(told["id_str"]) == ["g4", "g1", "g250"]
    assert np.allclose(told["r"] * 255, [4, 1, 250], atol=1)
    with pytest.raises(ValueError, match="a stream can't be predicted into a file"):
        predict_to_file(whole.to_iterable_dataset(), Brightness(), tmp_path / "s.csv", **options)
    with pytest.raises(ValueError, match=r"choose one, dataset\['test'\]"):
        predict_to_file(datasets.DatasetDict(test=whole), Brightness(), tmp_path / "s.csv")


def test_tables_are_none_of_these():
    frame = pd.DataFrame({"id_str": ["a"]})
    assert not huggingface.is_one(frame)
    assert huggingface.to_predict(frame) is frame
