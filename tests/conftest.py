"""Small galaxies, trees and catalogs that the tests share."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import settings
from PIL import Image

from zoobot.data import CatalogDataset, default_view_config, get_galaxy_transform
from zoobot.data.catalog import read_catalog
from zoobot.schemas import Schema

REPO = Path(__file__).parent.parent

# The same examples every time, however busy the machine is.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")


def pytest_addoption(parser):
    parser.addoption(
        "--auto-precision",
        choices=["bf16", "fp32"],
        help="what `--precision auto` is, in scripts too; by default what this processor has",
    )


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes long; runs only with -m slow")
    if chosen := config.getoption("--auto-precision"):
        os.environ["ZOOBOT_AUTO_PRECISION"] = chosen


def pytest_collection_modifyitems(config, items):
    if not config.option.markexpr:
        for item in filter(lambda item: item.get_closest_marker("slow"), items):
            item.add_marker(pytest.mark.skip(reason="slow: run with -m slow"))


@pytest.fixture(params=["fp32", "bf16"])
def precision(request) -> str:
    """Both precisions that ``auto`` may be; a processor without bfloat16 emulates it."""
    return request.param


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real galaxies and votes; tests that need it are skipped without it."""
    folder = Path(os.environ.get("ZOOBOT_TEST_DATA", REPO.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real galaxies: set ZOOBOT_TEST_DATA")
    return folder


@pytest.fixture
def tree() -> Schema:
    """Three questions, seven answers, two levels."""
    return Schema(
        {"smooth": ["_yes", "_no"], "bar": ["_strong", "_weak", "_no"], "merging": ["_yes", "_no"]},
        {"smooth": None, "bar": "smooth_no", "merging": None},
    )


def draw_galaxies(folder: Path, tree: Schema, num_galaxies: int, size_px: int = 40) -> Path:
    """Write a catalog of random blobs whose brightness and colour drive random votes."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[-1 : 1 : size_px * 1j, -1 : 1 : size_px * 1j]
    rows = []
    for i in range(num_galaxies):
        redness, width = rng.random(), rng.uniform(0.2, 0.6)
        blob = np.exp(-(x**2 + y**2) / width**2)[..., None] * [1, 0.5, 1 - redness]
        pixels = np.clip(255 * blob + rng.normal(0, 8, blob.shape), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"g{i}.png")
        smooth = rng.binomial(20, 0.1 + 0.8 * redness)
        bar = rng.multinomial(20 - smooth, [0.2, 0.3, 0.5])
        merging = rng.binomial(20, 0.1)
        rows.append([f"g{i}", f"images/g{i}.png", smooth, 20 - smooth, *bar, merging, 20 - merging])
    path = folder / "catalog.csv"
    pd.DataFrame(rows, columns=["id_str", "file_loc", *tree.label_cols]).to_csv(path, index=False)
    return path


@pytest.fixture
def small_catalog(tmp_path, tree) -> Path:
    """60 galaxies of 40 px."""
    return draw_galaxies(tmp_path, tree, 60)


@pytest.fixture
def dataset(small_catalog, tree) -> CatalogDataset:
    """``small_catalog`` in training views of 16 px."""
    frame = read_catalog(small_catalog)
    config = default_view_config()
    config.output_size = 16
    return CatalogDataset(frame, tree.label_cols, get_galaxy_transform(config), seed=1)


@pytest.fixture(autouse=True)
def _one_thread():
    """Keep tests from fighting over the cores."""
    torch.set_num_threads(1)
