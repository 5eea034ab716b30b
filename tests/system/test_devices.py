"""Apple's GPUs have no float64: everything runs on a fake of one, and on a real one where it is."""

import contextlib

import numpy as np
import pandas as pd
import pytest
import torch
from fake_mps import fake_mps

from zoobot import engine, optim
from zoobot.data import CatalogDataset, catalog, loaders
from zoobot.data.device_batches import to_device
from zoobot.data.views.config import minimal_view_config
from zoobot.data.views.cpu import GalaxyView
from zoobot.metrics import Means
from zoobot.models import FinetuneableZoobotClassifier, FinetuneableZoobotRegressor, ZoobotTree
from zoobot.predictions.predict import predict_to_file
from zoobot.runs.watch import Watch
from zoobot.system import distributed
from zoobot.system.devices import keep_generators, widest_float
from zoobot.system.errors import UserError

CPU = torch.device("cpu")


@contextlib.contextmanager
def real_mps():
    if not torch.backends.mps.is_available():
        pytest.skip("no Apple GPU here")
    yield torch.device("mps")


@pytest.fixture(params=[fake_mps, real_mps], ids=["fake", "real"])
def mps(request):
    return request.param


def tree_model(tree):
    return ZoobotTree(schema=tree, architecture_name="test_resnet", dropout_rate=0.0), None


def classifier(tree):
    return FinetuneableZoobotClassifier(num_classes=3, label_col="kind", **FROM), "kind"


def regressor(tree):
    return FinetuneableZoobotRegressor(label_col="brightness", **FROM), "brightness"


FROM = {
    "name": "test_resnet",
    "timm_kwargs": {"pretrained": False},
    "head_dropout_prob": 0.0,
}
MODELS = {"tree": tree_model, "classes": classifier, "numbers": regressor}


@pytest.fixture
def frame(small_catalog):
    """Galaxies with votes, a class and a number, which is in float64."""
    frame = catalog.read_catalog(small_catalog)
    return frame.assign(kind=frame["bar_weak"] % 3, brightness=frame["smooth_yes"] / 7)


def run(device, frame, make, tree, folder):
    """Metrics of an epoch of training and of an evaluation, and predictions."""
    torch.manual_seed(0)
    model, column = make(tree)
    config = minimal_view_config()
    config.output_size = 32
    dataset = CatalogDataset(frame, [column] if column else tree.label_cols, GalaxyView(config))
    model.learn_from_labels(frame)
    model.to(device, memory_format=torch.channels_last)
    optimizer = model.configure_optimizers()
    settings = engine.Settings(device, engine.choose_dtype("fp32", device))
    batches = loaders.train_loader(dataset, 16, accumulation=2)
    scheduler = optim.make_scheduler(optimizer, None, 1, batches.num_steps)
    with Watch(device) as watch:
        train = engine.train_one_epoch(
            model, batches, optimizer, scheduler, settings.grad_scaler(), settings,
            engine.Progress(), watch=watch,
        )  # fmt: skip
        evaluated = engine.evaluate(model, loaders.eval_loader(dataset, 16), settings, watch)
    path = predict_to_file(
        frame, model, folder / f"{device.type}.csv", transform=dataset.transform, batch_size=16,
        num_workers=0, device=device.type, precision="fp32", show_progress=False,
    )  # fmt: skip
    return train, evaluated, pd.read_csv(path)


@pytest.mark.parametrize("kind", MODELS)
def test_training_evaluation_and_prediction_are_those_of_a_cpu(kind, mps, frame, tree, tmp_path):
    with mps() as device:
        *there, predicted = run(device, frame, MODELS[kind], tree, tmp_path)
    *here, expected = run(CPU, frame, MODELS[kind], tree, tmp_path)
    for metrics, reference in zip(there, here, strict=True):
        assert metrics == pytest.approx(reference, rel=1e-3)
    assert list(predicted["id_str"]) == list(expected["id_str"])
    np.testing.assert_allclose(predicted.iloc[:, 1:], expected.iloc[:, 1:], rtol=1e-2, atol=1e-4)


def test_the_fake_refuses_float64_and_tensors_of_two_devices():
    with fake_mps() as device:
        there = torch.ones(3, device=device)
        for make in (
            there.double,
            lambda: torch.zeros(2, dtype=torch.float64, device=device),
            lambda: torch.ones(2, dtype=torch.float64).to(device),
        ):
            with pytest.raises(TypeError, match="no float64"):
                make()
        with pytest.raises(AssertionError, match="on the CPU and on mps"):
            there + torch.ones(3)


@pytest.mark.parametrize("place", ["losses", "batch_to_supervised_tuple", "measure"])
def test_float64_anywhere_in_the_step_is_noticed(place, frame, tree, tmp_path):
    def make(tree):
        model, column = classifier(tree)
        real = getattr(model, place)

        def in_float64(*arguments):
            found = real(*arguments)
            return found.double() if place == "losses" else tuple(x.double() for x in found)

        in_float64.names = getattr(real, "names", None)
        object.__setattr__(model, place, in_float64)
        return model, column

    with fake_mps() as device, pytest.raises(TypeError, match="no float64"):
        run(device, frame, make, tree, tmp_path)


def test_labels_in_float64_reach_the_device_in_float32(mps):
    batch = {"image": torch.zeros(1, 3, 4, 4), "label": torch.ones(1, dtype=torch.float64)}
    with mps() as device:
        assert to_device(batch, device)["label"].dtype == torch.float32
    assert to_device(batch, CPU)["label"].dtype == torch.float64


def test_means_without_float64_are_added_up_in_float64(mps):
    with mps() as device:
        means = Means(["loss"], device)
        for _ in range(3):
            big = torch.full((1, 1), 2.0**25, device=device)
            means.update(big, torch.ones_like(big))
            means.update(torch.ones_like(big), torch.ones_like(big))
        assert means.result()["loss"] == (3 * 2**25 + 3) / 6


def test_a_step_that_is_not_sound_is_not_taken(mps):
    """Torch's fused steps on MPS can't be called off."""
    with mps() as device:
        weight = torch.nn.Parameter(torch.ones(2).to(device))
        optimizer = optim.adamw([{"params": [weight], "lr": 0.1}])
        weight.grad = torch.full_like(weight, float("nan"))
        scaler = engine.Settings(device).grad_scaler()
        engine.take_step(optimizer, scaler, torch.ones((), device=device))
        assert weight.tolist() == [1.0, 1.0]
        assert not optimizer.defaults["fused"]


def test_auto_takes_an_apple_gpu_for_one_process_only(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert distributed.choose_device("auto").type == "mps"
    assert distributed.choose_device("cpu") == CPU
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    assert distributed.choose_device("auto") == CPU
    with pytest.raises(UserError, match="2 processes would share it"):
        distributed.choose_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match="there is none here"):
        distributed.choose_device("mps")


def test_precision_on_an_apple_gpu_is_float32_unless_asked_otherwise(monkeypatch, mps):
    monkeypatch.delenv("ZOOBOT_AUTO_PRECISION", raising=False)
    with mps() as device:
        assert engine.choose_dtype("auto", device) == torch.float32
        assert engine.choose_dtype("bf16", device) == torch.bfloat16
        assert widest_float(device) == torch.float32
    assert widest_float(CPU) == torch.float64


def test_generators_are_put_back(mps):
    before = torch.get_rng_state()
    with mps() as device, keep_generators(device):
        torch.manual_seed(5)
    assert torch.equal(torch.get_rng_state(), before)
