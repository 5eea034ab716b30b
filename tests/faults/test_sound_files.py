"""No limit refuses a sound file: what the fuzzer damages is read whole, and so is real data."""

from pathlib import Path

import pytest
import sound

from zoobot.data import catalog, images, labels
from zoobot.data.bands.read import read_bands
from zoobot.data.bands.spec import parse_bands
from zoobot.data.shards.reader import ENCODINGS, verify
from zoobot.data.shards.webdataset import webdataset_catalog
from zoobot.data.sources import TableGalaxies
from zoobot.predictions.files import read_predictions
from zoobot.predictions.models import load_predictor

PLACES = ("g r z", "g=0 r=1", "g=images[0]", "g=[0]", "g=SCI[2]", "g=1", "g")


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def read_somewhere(path: Path) -> list[str]:
    """The ways in which an array's file is read; an AssertionError with all refusals if none."""
    read, told = [], []
    for words in PLACES:
        try:
            read_bands(path, parse_bands(words.split()))
            read.append(words)
        except ValueError as error:
            told.append(str(error))
    assert read, told
    return read


@pytest.mark.parametrize("name", sound.catalogs())
def test_a_sound_catalog_is_read(tmp_path, name):
    files = {key: sound.images()[key] for key in ("rgb.png", "rgb.jpg", "grey.jpg")}
    put(tmp_path, files | {name: sound.catalogs()[name]})
    table = catalog.read_catalog(tmp_path / name, [*sound.LABEL_COLS, "kind", "size"])
    assert labels.votes(table, sound.LABEL_COLS, name).tolist() == (
        sound.catalog()[sound.LABEL_COLS].to_numpy().tolist()
    )
    galaxies = TableGalaxies(table)
    for i in range(len(galaxies)):
        images.read_pixels(galaxies.source(i))


@pytest.mark.parametrize("name", sound.predictions())
def test_sound_predictions_are_read(tmp_path, name):
    put(tmp_path, {name: sound.predictions()[name]})
    assert read_predictions(tmp_path / name).ids.tolist() == ["a", "b"]


@pytest.mark.parametrize("name", [name for name in sound.images() if name != "cube.fits"])
def test_a_sound_image_is_read(tmp_path, name):
    path = put(tmp_path, {name: sound.images()[name]}) / name
    images.read_image(path)
    images.read_image(path.read_bytes(), 1)


@pytest.mark.parametrize("name", [*sound.band_files()])
def test_sound_bands_are_read(tmp_path, name):
    path = put(tmp_path, {name: sound.band_files()[name]}) / name
    read_somewhere(Path(f"{path}#1") if name.startswith("many") else path)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_sound_shards_are_read(tmp_path, encoding):
    put(tmp_path, sound.shards(encoding))
    verify(tmp_path)


def test_a_sound_archive_of_webdataset_is_read(tmp_path):
    put(tmp_path, {"galaxies.tar": sound.webdataset()})
    assert len(webdataset_catalog(tmp_path / "galaxies.tar")) > 1


@pytest.mark.parametrize("name", sound.models())
def test_a_sound_model_is_read(tmp_path, name):
    put(tmp_path, {"a.safetensors": sound.weights_file(name)})
    load_predictor(str(tmp_path / "a.safetensors"))


def test_a_sound_encoder_is_read(tmp_path):
    put(tmp_path, sound.encoder_folder())
    load_predictor(f"local-dir:{tmp_path}", representations=True)


@pytest.mark.parametrize("name", ["gz1_sdss", "gz2_votes", "decals_rings"])
def test_a_real_catalog_and_its_images_are_read(real_data, name):
    table = catalog.read_catalog(real_data / name / "catalog.csv")
    few = table.iloc[:: max(1, len(table) // 20)]
    for file_loc in few["file_loc"]:
        images.read_pixels(file_loc, 3)


def test_all_real_images_of_surveys_are_read(real_data):
    found = sorted((real_data / "survey_images").rglob("*.*"))
    found = [path for path in found if path.suffix not in (".png", ".md")]
    assert len(found) > 30
    for path in found:
        read_somewhere(path)
