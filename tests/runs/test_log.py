import json

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from zoobot.runs.log import MetricsLog, constant_metrics, model_metrics

PACES = {
    "train": {"seconds": 30.0, "images_per_s": 411.6, "memory_gb": 1.23},
    "validation": {"seconds": 2.0},
}


@pytest.fixture
def log(tmp_path):
    log = MetricsLog(tmp_path, lambda split, name: f"{split}/{name}", num_epochs=5)
    log.constants = {"validation": {"loss": 2.0, "acc": 0.75}}
    log.open(0)
    yield log
    log.close()


def add(log, epoch=1):
    metrics = {
        "train": {"loss": 1.5, "learning_rate": 0.1},
        "validation": {"loss": 1.25, "acc": 0.5, "question_loss/bar": 0.3},
    }
    return log.add(epoch, metrics, PACES)


def test_an_epoch_is_one_line_of_text_with_pace_and_constants(log):
    assert add(log) == (
        "train: loss 1.5  validation: loss 1.25 (constant 2), acc 0.5 (most frequent class 0.75)  "
        "411.6 images/s, 1.2 GB, 32 s; at most 2 min left"
    )
    assert add(log, 5).endswith("32 s")


def test_the_file_has_pace_and_constants_beside_the_metrics(log, tmp_path):
    add(log)
    train, validation = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert train["images_per_s"] == 411.6
    assert train["memory_gb"] == 1.23
    assert validation["seconds"] == 2.0
    assert validation["validation/constant/loss"] == 2.0
    assert constant_metrics(validation) == {"validation/loss": 2.0, "validation/acc": 0.75}
    assert list(model_metrics(train)) == ["train/loss", "train/learning_rate"]
    assert log.metrics_of(1) == model_metrics(train) | model_metrics(validation)


def test_tensorboard_has_pace_and_pictures(log, tmp_path):
    add(log)
    log.add_picture("validation galaxies", np.zeros((4, 6, 3), np.uint8), 1)
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Scalars("train/images_per_s")[0].value == pytest.approx(411.6)
    (image,) = events.Images("validation galaxies")
    assert (image.width, image.height) == (6, 4)
