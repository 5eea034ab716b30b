import os

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from zoobot.data import CatalogDataset, listing
from zoobot.data.sources import TableGalaxies


def catalog_of(folder, num_galaxies, **columns):
    table = pd.DataFrame({"id_str": [f"g{i}" for i in range(num_galaxies)]})
    table["file_loc"] = table["id_str"] + ".png"
    return table.assign(**columns)


def written(source, folder, **options):
    digest = listing.write_listing(source, folder / "galaxies.arrow", **options)
    return digest, listing.open_listing(folder / "galaxies.arrow")


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".ecsv"])
def test_a_catalog_read_in_pieces_is_listed_whole_and_in_order(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(listing, "ROWS_AT_ONCE", 7)
    table = catalog_of(tmp_path, 30, votes=1)
    path = tmp_path / f"catalog{suffix}"
    if suffix == ".csv":
        table.to_csv(path, index=False)
    elif suffix == ".parquet":
        table.to_parquet(path)
    else:
        pytest.importorskip("astropy.table").Table.from_pandas(table).write(path)
    digest, galaxies = written(path, tmp_path)
    assert galaxies["id_str"].to_pylist() == list(table["id_str"])
    assert galaxies["file_loc"].to_pylist() == [str(tmp_path / f"g{i}.png") for i in range(30)]
    table["file_loc"] = [str(tmp_path / name) for name in table["file_loc"]]
    assert written(table, tmp_path)[0] == digest


def test_another_order_or_another_image_has_another_hash(tmp_path):
    table = catalog_of(tmp_path, 5)
    digest, _ = written(table, tmp_path)
    assert written(table[::-1], tmp_path)[0] != digest
    assert written(table.assign(file_loc="x.png"), tmp_path)[0] != digest


def test_embedded_images_are_listed_as_bytes(tmp_path):
    images = [b"\x00", b"", b"abc"]
    table = pd.DataFrame({"id_str": list("abc"), "image": images})
    assert written(table, tmp_path)[1]["image"].to_pylist() == images


def test_one_split_is_listed(tmp_path):
    table = catalog_of(tmp_path, 6, split=["train", "val"] * 3)
    table.to_csv(tmp_path / "catalog.csv", index=False)
    for source in (table, tmp_path / "catalog.csv"):
        _, galaxies = written(source, tmp_path, split="val")
        assert galaxies["id_str"].to_pylist() == ["g1", "g3", "g5"]
    with pytest.raises(ValueError, match="no galaxies with split 'test'"):
        written(table, tmp_path, split="test")


def test_a_folder_lists_images_at_any_depth_with_paths_as_ids(tmp_path):
    folder = tmp_path / "stamps"
    for name in ("b.PNG", "a/one.jpg", "a/two.fits.gz", "a/one.png", "notes.txt", "A/x.tiff"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    _, galaxies = written(folder, tmp_path)
    assert galaxies["id_str"].to_pylist() == [
        "A/x", "a/one.jpg", "a/one.png", "a/two", "b",
    ]  # fmt: skip
    assert all(map(os.path.isabs, galaxies["file_loc"].to_pylist()))
    with pytest.raises(ValueError, match="no images below"):
        written(folder / "empty" if (folder / "empty").mkdir() else folder / "empty", tmp_path)


def test_a_folder_of_parquet_files_is_a_catalog_if_it_is_named_as_one(tmp_path):
    for i in range(2):
        frame = pd.DataFrame({"id_str": [f"g{i}"], "file_loc": [f"/{i}.png"]})
        frame.to_parquet(tmp_path / f"part-{i}.parquet")
    (tmp_path / "thumbnail.png").write_bytes(b"")
    listing.write_listing(tmp_path, tmp_path / "listing", id_from=None)
    assert listing.open_listing(tmp_path / "listing")["id_str"].to_pylist() == ["g0", "g1"]
    with pytest.raises(ValueError, match="as --images"):
        listing.write_listing(tmp_path / "..", tmp_path / "listing", id_from=None)


@pytest.mark.parametrize("rows", [3, 100])
def test_an_id_that_repeats_is_told_also_across_pieces(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(listing, "ROWS_AT_ONCE", rows)
    table = catalog_of(tmp_path, 10)
    table.loc[8, "id_str"] = "g1"
    with pytest.raises(ValueError, match="'g1' appears more than once"):
        written(table, tmp_path)
    assert not (tmp_path / "galaxies.arrow").exists()


def test_ids_of_one_hash_are_no_fault_if_they_differ(tmp_path, monkeypatch):
    monkeypatch.setattr(pd.util, "hash_array", lambda ids: np.zeros(len(ids), np.uint64))
    assert len(written(catalog_of(tmp_path, 5), tmp_path)[1]) == 5


def test_a_missing_id_or_path_is_told_with_its_row(tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "ROWS_AT_ONCE", 3)
    table = catalog_of(tmp_path, 10)
    for column in ("id_str", "file_loc"):
        broken = table.copy()
        broken.loc[7, column] = None
        broken.to_csv(tmp_path / "catalog.csv", index=False)
        with pytest.raises(ValueError, match=f"column '{column}' is empty in row 7"):
            written(tmp_path / "catalog.csv", tmp_path)
    with pytest.raises(ValueError, match="neither a file_loc nor an image"):
        written(table[["id_str"]], tmp_path)
    with pytest.raises(ValueError, match="'image' of id_str 'g0' holds no image: None"):
        written(table[["id_str"]].assign(image=None), tmp_path)
    table.rename(columns={"id_str": "id_string"}).to_csv(tmp_path / "catalog.csv", index=False)
    with pytest.raises(ValueError, match="no column 'id_str'; did you mean 'id_string'"):
        written(tmp_path / "catalog.csv", tmp_path)


def test_ids_of_a_table_that_are_floats_are_refused_as_those_of_a_file(tmp_path):
    with pytest.raises(ValueError, match="holds 5.00025e.17, a rounded number"):
        written(catalog_of(tmp_path, 2).assign(id_str=[5.00025e17, 6.0]), tmp_path)


def test_a_listed_galaxy_can_be_read(tmp_path):
    Image.new("RGB", (30, 30), "red").save(tmp_path / "g0.png")
    table = catalog_of(tmp_path, 1)
    table["file_loc"] = str(tmp_path / "g0.png")
    dataset = CatalogDataset(TableGalaxies(written(table, tmp_path)[1]))
    assert dataset[0]["image"][0].min() == 1
