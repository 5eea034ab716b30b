"""A folder's images are found through links; what is passed over is counted and named."""

import files_people_have
import pytest

from zoobot.data import listing
from zoobot.data.folder import ImageFolder


@pytest.fixture
def folder(tmp_path):
    pytest.importorskip("astropy")
    (tmp_path / "stamps").mkdir()
    return tmp_path / "stamps"


def test_links_are_followed_once_and_content_counts_where_no_suffix_does(folder):
    expected = files_people_have.messy_folder(folder)
    found = ImageFolder(folder)
    assert dict(zip(found.ids(), found.files, strict=True)) == expected


def test_other_files_are_counted_and_five_are_named(folder, capfd, tmp_path):
    files_people_have.messy_folder(folder)
    listing.write_listing(folder, tmp_path / "galaxies.arrow")
    told = capfd.readouterr().err
    assert "8 images; passed over 14 others" in told
    assert told.count("(") == 5
    assert "'._g0.png' (hidden)" in told
    names = {name for name, _ in ImageFolder(folder).passed_over}
    assert {"notes.txt", "g4.png.part", "loop", "linked/back", "gone", ".hidden"} <= names


def test_a_folder_of_images_alone_is_listed_without_a_word(folder, capfd, tmp_path):
    (folder / "a.png").write_bytes(b"")
    listing.write_listing(folder, tmp_path / "galaxies.arrow")
    assert capfd.readouterr().err == ""


def test_a_real_folder_keeps_its_path_where_a_link_to_it_comes_first(folder):
    (folder / "b").mkdir()
    (folder / "b" / "g0.png").write_bytes(b"")
    (folder / "a").symlink_to(folder / "b")
    assert ImageFolder(folder).files == ["b/g0.png"]


def test_many_links_to_links_are_listed_in_no_time(folder):
    for i in range(40):
        (folder / str(i)).mkdir()
        for name in "ab":
            (folder / str(i) / name).symlink_to(folder / str(i + 1))
    (folder / "40").mkdir()
    (folder / "40" / "g0.png").write_bytes(b"")
    assert ImageFolder(folder).files == ["40/g0.png"]


def test_images_whose_names_are_no_utf_8_are_counted_and_one_is_named(folder, tmp_path):
    (folder / "deep").mkdir()
    for parent in (folder, folder / "deep"):
        files_people_have.latin_1_name(parent)
    told = r"^image 'galaxia_\\udcf1.png' in '.*deep', and 1 more: its name is not UTF-8, rename it"
    with pytest.raises(ValueError, match=told):
        listing.write_listing(folder, tmp_path / "galaxies.arrow")


def test_another_files_latin_1_name_does_not_stop_the_listing(folder, capfd, tmp_path):
    (folder / "g0.png").write_bytes(b"")
    name = files_people_have.latin_1_name(folder)
    path = folder / name.decode("utf-8", "surrogateescape")
    path.rename(path.with_suffix(".txt"))
    listing.write_listing(folder, tmp_path / "galaxies.arrow")
    assert "1 images; passed over 1 others" in capfd.readouterr().err


def test_stems_are_ids_where_they_are_unique(folder):
    for name in ("a/g0.png", "b/g1.fits.fz"):
        (folder / name).parent.mkdir()
        (folder / name).write_bytes(b"")
    assert ImageFolder(folder).ids("stem") == ["g0", "g1"]
    (folder / "b" / "g0.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="such as 'a/g0.png' and 'b/g0.jpg': rename them, or use"):
        ImageFolder(folder).ids("stem")


def test_arrays_are_listed_for_models_of_bands(folder):
    for name in ("a.npz", "b.h5", "c.fits", "d.txt"):
        (folder / name).write_bytes(b"")
    assert ImageFolder(folder).files == ["c.fits"]
    found = ImageFolder(folder, arrays=True)
    assert found.files == ["a.npz", "b.h5", "c.fits"]
    assert found.ids("stem") == ["a", "b", "c"]
