"""Galaxies of any bands are shown in the bands asked for, and the caption says which."""

import numpy as np
import pandas as pd
import pytest
from conftest import draw_galaxies
from PIL import Image

from zoobot.data.bands.spec import ImageSpec
from zoobot.data.catalog import read_catalog
from zoobot.data.demo import DEMO_TREE, demo_catalog
from zoobot.evaluation.pictures import Pictures
from zoobot.evaluation.run_figures import plot_galaxies
from zoobot.schemas import load_schema
from zoobot.system.errors import UserError

SPEC = ImageSpec(("g", "r", "i", "z"))
TREE = load_schema(DEMO_TREE)


@pytest.fixture(scope="module")
def galaxies(tmp_path_factory):
    cache = tmp_path_factory.mktemp("demo")
    path = demo_catalog(40, size_px=48, cache_dir=cache, bands=SPEC.bands)
    return read_catalog(path, TREE.label_cols)


def redness(picture):
    """Of the middle: red less blue."""
    red, _, blue = np.asarray(picture).astype(float)[18:30, 18:30].mean((0, 1))
    return red - blue


def test_spheroids_look_red_beside_blue_discs(galaxies):
    pictures = Pictures(SPEC, ("z", "r", "g")).balanced_on(galaxies)
    plain = galaxies[galaxies["star_flux_ratio"] == 0]
    colour = plain.apply(lambda row: redness(pictures.read(row)), axis=1)
    is_red = plain["bulge_to_total"] == 1
    is_blue = plain["bulge_to_total"] < 0.3
    assert min(is_blue.sum(), is_red.sum()) >= 5
    assert colour[is_red].median() > 15
    assert colour[is_blue].median() < 0
    assert colour[is_red].min() > colour[is_blue].median()


def test_one_band_is_shown_in_grey(galaxies):
    pictures = Pictures(SPEC, ["i"])
    assert pictures.balanced_on(galaxies) is pictures
    pixels = np.asarray(pictures.read(galaxies.iloc[0]))
    assert (pixels == pixels[..., :1]).all()
    assert pictures.caption == "band i in grey"


def test_captions_name_the_bands():
    assert Pictures(SPEC, ("z", "r", "g")).caption == "red z, green r, blue g"
    assert Pictures(SPEC).caption == "red z, green i, blue g"
    assert Pictures().caption == ""


def test_images_of_8_bits_are_shown_as_they_are(tmp_path, tree):
    table = read_catalog(draw_galaxies(tmp_path, tree, 3))
    pictures = Pictures().balanced_on(table)
    with Image.open(table["file_loc"][1]) as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(np.asarray(pictures.read(table.iloc[1])), expected)


def test_what_can_not_be_read_has_no_picture(galaxies, tmp_path):
    lost = galaxies.assign(file_loc=str(tmp_path / "a.npy#0"))
    for pictures in (Pictures(SPEC).balanced_on(lost), Pictures()):
        assert pictures.read(lost.iloc[0]) is None
    assert Pictures(SPEC).read(pd.Series({"id_str": "a"})) is None


def test_bands_that_the_images_lack_are_named_at_once():
    with pytest.raises(UserError, match="z r u: give red, green and blue, or one band, of g r i z"):
        Pictures(SPEC, ("z", "r", "u"))
    with pytest.raises(UserError, match="z r g are asked for, but these are 8-bit images"):
        Pictures(None, ("z", "r", "g"))


def test_the_figure_of_galaxies_shows_bands(galaxies, tmp_path):
    pixels = []
    for bands in (("z", "r", "g"), ("g", "r", "z")):
        path = tmp_path / "galaxies.png"
        plot_galaxies(galaxies, TREE, path, rows=1, pictures=Pictures(SPEC, bands))
        image = np.asarray(Image.open(path).convert("RGB")).astype(int)
        pixels.append(image[:-60])  # without the caption
    galaxy = np.abs(pixels[0] - pixels[1]).max(axis=2) > 30
    assert galaxy.sum() > 100
    np.testing.assert_array_equal(pixels[0][galaxy], pixels[1][galaxy][:, ::-1])
