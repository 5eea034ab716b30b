"""The loop on a GPU, traced without one.

The tensors of ``FakeTensorMode`` have a shape, a type and a device, but no values. An operation on
tensors of two devices raises an error, and so does one for which the host would wait until the GPU
tells it a value. autograd's engine needs a real GPU, so gradients are made up.
"""

import contextlib
import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from zoobot import engine
from zoobot.data.device_batches import to_device
from zoobot.losses import dirichlet_multinomial_nll
from zoobot.metrics import Means, VoteMeasures
from zoobot.models.tree import ZoobotTree
from zoobot.optim import make_scheduler
from zoobot.runs.watch import STEPS_IN_FLIGHT
from zoobot.schemas import get_schema

# With a real GPU, torch makes a tensor on it before it makes a fake one.
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real GPU here")
CUDA = torch.device("cuda", 7)  # what is kept for a device is not kept for one that is there
MODE = FakeTensorMode()  # one for all tests: what one of them keeps is another's too
TREE = get_schema("gz_evo_v1_schema")
NUM, FITTED_PX, VIEW_PX = 4, 48, 32


class Traced(Exception):
    """Enough steps were traced: an epoch's end does wait for the GPU."""


class FakeStream:
    """Stands for a stream, or an event, of a GPU that is not there."""

    def __init__(self, *_, **__):
        pass

    def record_event(self, *_):
        return self

    def wait_event(self, _):
        pass

    def wait_stream(self, _):
        pass


@pytest.fixture
def gpu(monkeypatch):
    """A GPU whose tensors have no values; the mode is entered by the test."""
    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, FakeStream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    return MODE


@pytest.fixture(scope="module")
def real_model():
    return ZoobotTree(schema=TREE, architecture_name="test_convnext")


@pytest.fixture
def model(gpu, real_model):
    """A model on the GPU."""
    model = copy.deepcopy(real_model)
    with gpu:
        for module in model.modules():
            for name, p in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(gpu.from_tensor(p).detach().to(CUDA)))
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, gpu.from_tensor(buffer).to(CUDA))
        model.measure = VoteMeasures(TREE)
    return model


def make_batch():
    """Fitted images whose views are left to the device, as a loader gives them."""
    return {
        "image": torch.zeros(NUM, FITTED_PX, FITTED_PX, 3, dtype=torch.uint8).permute(0, 3, 1, 2),
        "matrix": torch.zeros(NUM, 2, 3),
        "erased": torch.zeros(NUM, 5, 4, dtype=torch.int16),
        "view_px": VIEW_PX,
        "oversampling": 2,
        "id_str": [str(i) for i in range(NUM)],
        "labels": torch.zeros(NUM, len(TREE.label_cols), dtype=torch.int32),
        "label_cols": TREE.label_cols,
    }


class Loader:
    accumulation = 2

    def __init__(self, num_steps):
        self.num_steps = num_steps

    def set_epoch(self, epoch, first_step=0):
        pass

    def __len__(self):
        return self.num_steps * self.accumulation

    def __iter__(self):
        for number in range(1, len(self) + 1):
            ends_step = number % self.accumulation == 0
            place = {"step_galaxies": NUM * self.accumulation, "ends_step": ends_step}
            yield make_batch() | place


def trace(model, monkeypatch):
    """Trace steps of the loop; as many as it launches before it reads what the first one gave."""

    def backward(loss):
        assert loss.device == CUDA
        for p in model.parameters():
            p.grad = torch.empty_like(p)

    def show(steps):
        for number, step in enumerate(steps):
            if number == STEPS_IN_FLIGHT:
                raise Traced
            yield step

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    optimizer = model.configure_optimizers()
    settings = engine.Settings(CUDA, torch.bfloat16)
    scheduler = make_scheduler(optimizer, None, 1, STEPS_IN_FLIGHT)
    means = Means(model.measure.names, CUDA)
    progress = engine.Progress()
    with pytest.raises(Traced):
        engine.train_one_epoch(
            model, Loader(STEPS_IN_FLIGHT + 1), optimizer, scheduler, settings.grad_scaler(),
            settings, progress, means, show=show,
        )  # fmt: skip
    assert progress.step == STEPS_IN_FLIGHT
    return optimizer, means


def test_a_training_step_stays_on_the_device_and_the_host_never_waits(gpu, model, monkeypatch):
    convolution = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    dtypes = []
    convolution.register_forward_hook(lambda module, args, out: dtypes.append(out.dtype))
    with gpu:
        optimizer, means = trace(model, monkeypatch)
    assert {*dtypes} == {torch.bfloat16}
    assert means.totals.device == CUDA
    moments = [m for state in optimizer.state.values() for m in state.values()]
    assert len(moments) == 3 * len(list(model.parameters()))
    assert {m.device for m in moments} == {CUDA}


def test_a_host_that_waits_for_the_device_is_found(gpu, model, monkeypatch):
    right = engine.clip_gradient
    monkeypatch.setattr(engine, "clip_gradient", lambda *a: right(*a) * right(*a).item())
    with gpu, pytest.raises(DataDependentOutputException):
        trace(model, monkeypatch)


def test_a_tensor_on_another_device_is_found(gpu, model, monkeypatch):
    monkeypatch.setattr(model.measure, "_to", lambda device: None)  # what it keeps stays behind
    with gpu, pytest.raises(RuntimeError, match="devices"):
        trace(model, monkeypatch)


def test_views_made_on_the_device_are_float32_channels_last(gpu):
    with gpu:
        images = to_device(make_batch(), CUDA)["image"]
    assert (images.device, images.dtype) == (CUDA, torch.float32)
    assert images.shape == (NUM, 3, VIEW_PX, VIEW_PX)
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_the_gradient_of_the_loss_stays_on_the_device(gpu):
    with gpu:
        x = torch.ones(NUM, len(TREE.label_cols), device=CUDA, requires_grad=True)
        votes = torch.zeros(x.shape, dtype=torch.int32, device=CUDA)
        losses = dirichlet_multinomial_nll(x, votes, TREE.question_sizes)
        assert losses.device == CUDA
        gradient, *_ = losses.grad_fn.apply(torch.ones_like(losses))
    assert (gradient.device, gradient.shape) == (CUDA, x.shape)


@pytest.mark.parametrize("need_grad", [True, False])
def test_the_kernel_for_gpus_is_not_launched_on_tensors_without_values(gpu, need_grad, monkeypatch):
    triton = pytest.importorskip("zoobot.losses_triton")
    monkeypatch.setattr(triton, "launch", None)
    with gpu:
        x = torch.ones(NUM, len(TREE.label_cols), device=CUDA)
        losses, *_ = triton.evaluate(x, x, TREE.question_sizes, need_grad)
    assert losses.device == CUDA


def test_evaluation_and_measures_stay_on_the_device(gpu, model):
    settings = engine.Settings(CUDA, torch.bfloat16)
    with gpu, torch.inference_mode():
        means = Means(model.measure.names, CUDA)
        images, labels = model.batch_to_supervised_tuple(to_device(make_batch(), CUDA))
        with settings.autocast():
            outputs = model.eval()(images).float()
        means.update(*model.measure(model.losses(outputs, labels), outputs, labels))
    assert outputs.device == means.totals.device == CUDA
