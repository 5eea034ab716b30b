"""Before training every bad image is listed with its reason; a run may go on without them."""

import files_people_have
import numpy as np
import pandas as pd
import pytest
from ranks import as_ranks

from zoobot.data import image_check
from zoobot.data.bands.spec import ImageSpec
from zoobot.data.image_check import check_images
from zoobot.data.sources import TableGalaxies
from zoobot.system import distributed

BAD_ROWS = (3, 8, 13, 17, 21, 23)


@pytest.fixture
def splits(tmp_path):
    """24 galaxies, 6 of them bad, in train (12), val (6) and test (6)."""
    pytest.importorskip("astropy")
    bad = iter(files_people_have.bad_downloads().items())
    rows = []
    for i in range(24):
        name, content = next(bad) if i in BAD_ROWS else ("a.jpg", None)
        path = tmp_path / f"g{i}{name[name.index('.') :]}"
        path.write_bytes(content if content is not None else files_people_have.encoded("JPEG"))
        rows.append((f"g{i}", str(path), i % 2))
    table = pd.DataFrame(rows, columns=["id_str", "file_loc", "label"])
    return {"train": table[:12], "val": table[12:18], "test": table[18:]}


@pytest.mark.parametrize("how", ["headers", "all"])
@pytest.mark.parametrize("sampled_pixels", [0, 1000])
def test_every_bad_image_is_listed_with_its_reason(
    splits, tmp_path, how, sampled_pixels, monkeypatch
):
    monkeypatch.setattr(image_check, "SAMPLED_PIXELS", sampled_pixels)
    with pytest.raises(ValueError, match="6 of 24 images can't be read: .*g3.jpg") as caught:
        check_images(splits, how, "error", tmp_path / "run")
    assert "--on-bad-image drop" in str(caught.value)
    listed = pd.read_csv(tmp_path / "run" / "bad_images.csv")
    assert listed["id_str"].tolist() == [f"g{row}" for row in BAD_ROWS]
    assert listed["split"].tolist() == ["train"] * 2 + ["val"] * 2 + ["test"] * 2
    assert listed["image"].map(str).str.contains("g").all()
    for reason, part in zip(
        listed["reason"],
        ["HTML", "empty", "truncated", "truncated", "claims", "ended"],
        strict=True,
    ):
        assert part in reason


def test_without_the_bad_ones_the_rest_is_kept_and_counted_by_split(splits, tmp_path, capfd):
    kept = check_images(splits, "headers", "drop", tmp_path / "run")
    ids = [i for table in kept.values() for i in table["id_str"]]
    assert ids == [f"g{i}" for i in range(24) if i not in BAD_ROWS]
    assert kept["val"].index.tolist() == [0, 1, 2, 3]
    told = capfd.readouterr()
    assert "6 of 24" in told.err
    assert "2 of 12 train, 2 of 6 val, 2 of 6 test" in told.err
    assert "24 images: looked at pixels of 24" in told.out
    assert len(pd.read_csv(tmp_path / "run" / "bad_images.csv")) == 6


def test_a_split_that_would_be_empty_is_refused(splits, tmp_path):
    splits["val"] = splits["val"].iloc[[1, 5]]
    with pytest.raises(ValueError, match="none of the 2 val images can be read"):
        check_images(splits, "headers", "drop", tmp_path / "run")


def test_ranks_share_the_images_and_agree(splits, tmp_path, monkeypatch, capfd):
    alone = check_images(splits, "headers", "drop", tmp_path / "run")
    monkeypatch.setattr(distributed, "barrier", lambda: distributed.gather(None))
    looked_at, look_at = [], image_check.look_at
    monkeypatch.setattr(image_check, "look_at", lambda *a: looked_at.append(a[0]) or look_at(*a))
    for kept in as_ranks(3, lambda: check_images(splits, "headers", "drop", tmp_path / "run")):
        for split, table in alone.items():
            pd.testing.assert_frame_equal(kept[split], table)
    assert len(looked_at) == 24
    with pytest.raises(ValueError, match="6 of 24"):
        as_ranks(2, lambda: check_images(splits, "headers", "error", tmp_path / "run"))


def test_missing_files_are_told_beyond_the_sample_too(splits, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(image_check, "MOST_HEADERS", 9)
    monkeypatch.setattr(image_check, "SAMPLED_HEADERS", 1)
    table = splits["train"].drop(index=[3, 8]).assign(file_loc="gone.jpg")
    with pytest.raises(ValueError, match=r"10 of 10 image files are missing: gone.jpg, .*, \.\.\."):
        check_images({"train": table}, "headers", "error", tmp_path / "run")
    table = splits["train"].drop(index=[3, 8])
    table.loc[[1, 5], "file_loc"] = "gone.jpg"
    kept = check_images({"train": table}, "headers", "drop", tmp_path / "run")
    assert len(kept["train"]) == 8
    assert "10 images: looked at pixels of 1, and whether all files are there" in (
        capfd.readouterr().out
    )


def test_images_that_show_nothing_are_warned_of_by_count(tmp_path, capfd):
    pytest.importorskip("astropy")
    shades = [0, 0, 255, 90]
    contents = [
        files_people_have.encoded("PNG", np.full((8, 8, 3), shade, np.uint8)) for shade in shades
    ]
    contents += [
        files_people_have.fits_bytes(np.full((8, 8), 7.0)),
        files_people_have.with_no_data()["one -9999"][0],
        files_people_have.encoded("JPEG"),
    ]
    table = pd.DataFrame({"id_str": list("abcdefg"), "image": contents})
    assert check_images({"train": table}, "headers", "error", tmp_path)["train"] is table
    told = capfd.readouterr()
    assert "5 of 7 images show nothing" in told.err
    assert "3 black, 1 white, 1 of one grey or colour" in told.err
    assert "'a', 'b', 'c', 'd', 'e'" in told.err
    assert "-9999 is taken for no data in 1 of 7 images" in told.out


def test_embedded_images_are_looked_at_and_named_by_id(tmp_path):
    struct = {"bytes": b"", "path": None}
    table = pd.DataFrame({"id_str": ["a", "b"], "image": [files_people_have.HTML, struct]})
    with pytest.raises(ValueError, match="2 of 2 .*id_str 'a' .an HTML page.*id_str 'b' .empty"):
        check_images({"train": table}, "headers", "error", tmp_path)
    listed = pd.read_csv(tmp_path / "bad_images.csv", keep_default_na=False)
    assert listed["image"].tolist() == ["", ""]


def test_no_cell_of_the_list_is_a_formula(tmp_path):
    table = pd.DataFrame({"id_str": ["=1+1", "-7"], "file_loc": ["@a.png", "=b.png"]})
    with pytest.raises(ValueError, match="bad_images.csv"):
        check_images({"train": table}, "headers", "error", tmp_path)
    listed = pd.read_csv(tmp_path / "bad_images.csv", dtype=str)
    assert listed["id_str"].tolist() == ["'=1+1", "-7"]
    assert listed["image"].tolist() == ["'@a.png", "'=b.png"]


def test_shards_are_not_looked_at_which_is_said_and_none_says_nothing(splits, tmp_path, capfd):
    shards = {"train": TableGalaxies(splits["train"])}
    assert check_images(shards, "headers", "error", tmp_path / "run") is shards
    assert "shards are not looked at" in capfd.readouterr().out
    assert check_images(splits, "none", "error", tmp_path / "run") is splits
    with pytest.raises(ValueError, match="drop needs --check-images headers or all"):
        check_images(splits, "none", "drop", tmp_path / "run")
    assert capfd.readouterr() == ("", "")


def test_an_earlier_list_goes_when_all_images_are_mended(splits, tmp_path):
    check_images(splits, "headers", "drop", tmp_path)
    good = {"train": splits["train"].drop(index=[3, 8])}
    check_images(good, "headers", "error", tmp_path)
    assert not (tmp_path / "bad_images.csv").exists()


@pytest.fixture
def cubes(tmp_path):
    """6 cubes of bands g and r: g1 is cut short, g3 lacks a band, g4 and g5 have constant bands."""
    cube = np.random.default_rng(0).normal(size=(2, 20, 20)).astype(np.float32)
    rows = []
    for i in range(6):
        path = tmp_path / f"g{i}.npy"
        np.save(path, np.where(np.array([i > 4, i > 3])[:, None, None], 7, cube)[: 1 + (i != 3)])
        rows.append((f"g{i}", str(path)))
    path = tmp_path / "g1.npy"
    path.write_bytes(path.read_bytes()[:-40])
    return {"train": pd.DataFrame(rows, columns=["id_str", "file_loc"])}


@pytest.mark.parametrize("sampled_pixels", [0, 1000])
def test_bands_that_are_not_there_are_found_by_headers_and_damage_by_pixels(
    cubes, tmp_path, sampled_pixels, monkeypatch, capfd
):
    monkeypatch.setattr(image_check, "SAMPLED_PIXELS", sampled_pixels)
    spec = ImageSpec(("g", "r"))
    kept = check_images(cubes, "headers", "drop", tmp_path / "run", spec=spec)
    bad = ["g3"] if sampled_pixels == 0 else ["g1", "g3"]
    listed = pd.read_csv(tmp_path / "run" / "bad_images.csv")
    assert listed["id_str"].tolist() == bad
    assert "(1, 20, 20), for 2 bands" in listed["reason"].tolist()[-1]
    assert kept["train"]["id_str"].tolist() == [f"g{i}" for i in range(6) if f"g{i}" not in bad]
    with pytest.raises(ValueError, match=f"{len(bad)} of 6 images can't be read"):
        check_images(cubes, "headers", "error", tmp_path / "run", spec=spec)


def test_bands_of_one_value_are_counted_by_band(cubes, tmp_path, capfd):
    check_images(cubes, "all", "drop", tmp_path, spec=ImageSpec(("g", "r")))
    told = capfd.readouterr()
    assert "bands have one value in all pixels, r of 2, g of 1, of 6 images: id_str 'g4', 'g5'" in (
        told.err
    )
    assert "6 images: looked at pixels of 6" in told.out
