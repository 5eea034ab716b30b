"""Packed FITS images are read as plain ones."""

import bz2

import files_people_have
import numpy as np
import pytest

from zoobot.data import images
from zoobot.data.images import ImageError, read_image

pytest.importorskip("astropy")


def test_packed_fits_reads_as_plain(tmp_path):
    plain = np.asarray(read_image(files_people_have.fits_bytes())).astype(int)
    for name, content in files_people_have.packed().items():
        (tmp_path / name).write_bytes(content)
        image = np.asarray(read_image(tmp_path / name)).astype(int)
        assert np.abs(image - plain).max() <= (1 if name.startswith("lossy") else 0), name


@pytest.mark.parametrize("codec", ["RICE_1", "GZIP_1", "GZIP_2", "NOCOMPRESS"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32])
def test_counts_in_tiles_are_read_exactly(codec, dtype):
    counts = np.round(np.clip(files_people_have.galaxy(sky=100), 0, 255)).astype(dtype)
    cube = np.stack([counts, counts // 2, counts // 4])
    for pixels in (counts, cube) if dtype is np.uint8 else (counts,):
        tiled = read_image(files_people_have.tiled_bytes(pixels, codec))
        plain = read_image(files_people_have.fits_bytes(pixels))
        np.testing.assert_array_equal(np.asarray(tiled), np.asarray(plain))


def test_tiles_of_a_real_survey(real_data):
    folder = real_data / "survey_images" / "rice_compressed"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    for path in folder.iterdir():
        assert np.asarray(read_image(path)).std() > 1


def test_bzip2_is_unpacked_to_a_limit_only(monkeypatch):
    content = bz2.compress(files_people_have.fits_bytes())
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 5000)
    with pytest.raises(ImageError, match="over the limit of 5,000 bytes"):
        read_image(content)
