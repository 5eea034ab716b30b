"""Image-reading workers that crash, hang, or are told to stop."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading

import pytest
from conftest import REPO

from zoobot.data import CatalogDataset, catalog, loaders
from zoobot.data.views.config import minimal_view_config
from zoobot.data.views.cpu import GalaxyView
from zoobot.data.views.device import DeviceView


@pytest.fixture
def dataset(small_catalog, tree):
    config = minimal_view_config()
    config.output_size = 16
    return CatalogDataset(catalog.read_catalog(small_catalog), tree.label_cols, GalaxyView(config))


def failing(dataset, do):
    """The dataset, whose galaxy 9 does this when it is read."""
    image = dataset._image
    dataset._image = lambda index, *rest: do() if index == 9 else image(index, *rest)
    return dataset


def batches_before_the_failure(loader):
    batches, failure = [], None
    try:
        for batch in loader:
            batches.append(batch)
    except loaders.WorkerError as error:
        failure = str(error)
    return len(batches), failure


def test_a_worker_that_crashes_is_an_error_that_names_its_galaxies(dataset):
    dataset = failing(dataset, lambda: os._exit(11))
    loader = loaders.eval_loader(dataset, 4, num_workers=1)
    count, told = batches_before_the_failure(loader)
    assert count <= 2  # what was ready before may be lost with the worker
    assert "id_str g" in told
    assert "an image-reading worker failed" in told


def test_a_worker_process_that_hangs_is_an_error_after_the_timeout(dataset):
    dataset = failing(dataset, lambda: threading.Event().wait())
    loader = loaders.eval_loader(dataset, 4, num_workers=1, timeout_s=1)
    count, told = batches_before_the_failure(loader)
    assert count == 2
    assert "id_str g8, g9, g10, g11: " in told
    assert "timed out" in told


def test_a_worker_thread_that_hangs_is_an_error_after_the_timeout(dataset):
    dataset.transform = DeviceView(dataset.transform, 16)
    dataset = failing(dataset, lambda: threading.Event().wait())
    loader = loaders.eval_loader(dataset, 4, num_workers=2, timeout_s=1)
    count, told = batches_before_the_failure(loader)
    assert count == 2
    assert "id_str g8, g9, g10, g11: no batch within 1 s" in told


def test_a_process_with_hanging_workers_ends(small_catalog, tmp_path):
    script = tmp_path / "hang.py"
    script.write_text(
        "import argparse, sys, threading\n"
        "from zoobot.script import run_script\n"
        "from zoobot.data import CatalogDataset, catalog, loaders\n"
        "def main(_):\n"
        "    data = CatalogDataset(catalog.read_catalog(sys.argv[1]))\n"
        "    data._image = lambda *_: threading.Event().wait()\n"
        "    next(iter(loaders.eval_loader(data, 4, num_workers=1, timeout_s=1)))\n"
        "run_script(main, lambda: argparse.Namespace(debug=False))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script), str(small_catalog)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(REPO)},
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: an image-reading worker failed")
    assert done.stderr.count("\n") == 1


def test_workers_outlive_what_asks_the_run_to_stop(dataset):
    loader = loaders.eval_loader(dataset, 4, num_workers=2)
    batches = iter(loader)
    ids = list(next(batches)["id_str"])
    for process in multiprocessing.active_children():
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            os.kill(process.pid, number)
    for batch in batches:
        ids += batch["id_str"]
    assert ids == [f"g{i}" for i in range(60)]
