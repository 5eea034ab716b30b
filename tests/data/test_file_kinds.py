"""A file is what its content says: read under any name, or called by what it is."""

import files_people_have
import numpy as np
import pytest
from PIL import Image

from zoobot.data.file_kinds import image_stem, is_image_name
from zoobot.data.images import ImageError, check_image, read_image, read_pixels

pytest.importorskip("astropy")


def test_an_image_is_read_whatever_its_suffix(tmp_path):
    for name, (content, same) in files_people_have.misnamed().items():
        path = tmp_path / name
        path.write_bytes(content)
        expected = np.asarray(read_image(same))
        for source in (path, content):
            np.testing.assert_array_equal(np.asarray(read_image(source)), expected, name)
        np.testing.assert_array_equal(read_pixels(str(path)), expected, name)
        check_image(path)


def test_a_jpeg_of_several_pictures_is_whole_or_cut_off(tmp_path):
    pictures = [Image.new("RGB", (20, 20), (50 * i, 0, 0)) for i in range(3)]
    pictures[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=pictures[1:])
    check_image(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[:700])
    with pytest.raises(ImageError):
        check_image(tmp_path / "cut.jpg")


def test_what_is_no_image_is_called_what_it_is(tmp_path):
    for name, (content, called) in files_people_have.no_images().items():
        path = tmp_path / name
        path.write_bytes(content)
        for look in (read_image, check_image):
            with pytest.raises(ImageError) as caught:
                look(path)
            assert str(caught.value).startswith(f"{path}: ")
            assert called in str(caught.value)
            assert "\n" not in str(caught.value)


def test_a_download_that_broke_off_is_found_without_decoding_whole_ones(tmp_path, monkeypatch):
    for name, content in files_people_have.bad_downloads().items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match=name):
            check_image(tmp_path / name)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)  # decodes
    for form in ("JPEG", "PNG", "WEBP", "TIFF"):
        check_image(files_people_have.encoded(form))
    check_image(files_people_have.fits_bytes())


def test_bytes_behind_an_image_are_no_fault():
    for form in ("JPEG", "PNG"):
        check_image(files_people_have.encoded(form) + b"more")
        check_image(files_people_have.encoded(form) + bytes(3000))


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("g0.png", "g0"),
        ("a/g0.FITS.FZ", "a/g0"),
        ("g0.fit.bz2", "g0"),
        ("J01.5-02.5.fits.gz", "J01.5-02.5"),
        ("J01.5-02.5", "J01.5-02.5"),
        ("g0.csv.gz", "g0.csv.gz"),
        ("g0.txt", "g0.txt"),
    ],
)
def test_a_stem_lacks_the_suffix_of_an_image_and_no_other(name, stem):
    assert image_stem(name) == stem
    assert is_image_name(name) == (stem != name)


def test_arrays_are_images_only_where_bands_are_asked_for():
    for name in ("a/g0.npy", "a/g0.NPZ", "a/g0.h5", "a/g0.hdf5"):
        assert not is_image_name(name)
        assert is_image_name(name, arrays=True)
        assert image_stem(name, arrays=True) == "a/g0"
    assert image_stem("a/g0.fits", arrays=True) == "a/g0"


def test_a_file_of_bands_is_told_how_to_name_them():
    named = files_people_have.no_images()
    for content in (
        named["cube.fits"][0],
        b"PK\x03\x04",
        b"\x89HDF\r\n\x1a\n",
        named["five.tif"][0],
    ):
        with pytest.raises(ImageError, match="--bands g r z"):
            check_image(content)
