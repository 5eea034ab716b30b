"""The demo in bands, from training to the report: the same commands as for pictures."""

import json
import re
from functools import partial

import pytest

import predict
import train
from zoobot import evaluate
from zoobot.data import demo
from zoobot.data.demo import catalog
from zoobot.predictions.files import read_predictions


@pytest.fixture
def small_demo(tmp_path, monkeypatch):
    small = partial(catalog.demo_catalog, 40, size_px=32, cache_dir=tmp_path)
    for module, name in (
        (demo, "demo_catalog"),
        (predict, "demo_catalog"),
        (evaluate, "demo_catalog"),
    ):
        monkeypatch.setattr(module, name, small)
    return tmp_path


def pictures_of(page):
    data = re.search(r'<script id="data"[^>]*>(.*?)</script>', page.read_text(), re.S)[1]
    data = json.loads(data)
    assert all(galaxy["image"] for galaxy in data["galaxies"])
    return data["pictures"]


def test_the_demo_is_trained_on_predicted_and_shown_in_bands(small_demo):
    run = small_demo / "run"
    train.main(
        train.parse(
            f"--bands g r i z y --rgb-bands z r g --encoder test_resnet --image-size 32 --epochs 1"
            f" --num-workers 0 --save-dir {run}".split()
        )
    )
    assert pictures_of(run / "report" / "report.html") == "red z, green r, blue g"
    saved = small_demo / "p.parquet"
    words = f"--checkpoint {run}/best.safetensors --catalog demo --num-workers 0 --save-loc {saved}"
    predict.main(predict.parse(words.split()))
    assert read_predictions(saved).metadata["bands"]["bands"] == [*"grizy"]
    words = f"--predictions {saved} --catalog demo --report-dir {small_demo}/report --rgb-bands i"
    evaluate.main(evaluate.parse(words.split()))
    assert pictures_of(small_demo / "report" / "report.html") == "band i in grey"


def test_bands_for_pictures_are_checked_before_training(small_demo):
    words = f"--encoder test_resnet --image-size 32 --save-dir {small_demo}/run --num-workers 0"
    for more, told in (
        (
            "--bands g r z --rgb-bands z r i",
            "z r i: give red, green and blue, or one band, of g r z",
        ),
        ("--rgb-bands z r g", "these are 8-bit images: leave --rgb-bands out"),
        ("--bands g r w", "the demo in bands g r w: use some of u g r i z y"),
    ):
        with pytest.raises(ValueError, match=told):
            train.main(train.parse([*words.split(), *more.split()]))
    assert not (small_demo / "run" / "best.safetensors").exists()
