"""Gradients of depthwise convolutions in bfloat16 on a CPU, against those of float32."""

import copy

import pytest
import timm
import torch
from torch import nn

from zoobot.engine import Settings
from zoobot.models import depthwise
from zoobot.models.depthwise import FastDepthwise

CPU = torch.device("cpu")
BF16, FP32 = Settings(CPU, torch.bfloat16), Settings(CPU, torch.float32)
LAYERS = {
    "stride": nn.Conv2d(6, 6, 3, 2, 1, groups=6, bias=False),
    "kernel": nn.Conv2d(6, 6, 5, 1, 2, groups=6),
    "both": nn.Conv2d(6, 6, 5, 2, 2, groups=6),
    "dilated": nn.Conv2d(6, 6, (5, 3), (1, 2), (4, 1), (2, 1), groups=6),
}
OTHERS = {
    "small": nn.Conv2d(6, 6, 3, 1, 1, groups=6),
    "grouped": nn.Conv2d(6, 6, 5, 2, 2, groups=3),
    "multiplied": nn.Conv2d(6, 12, 5, 1, 2, groups=6),
    "words": nn.Conv2d(6, 6, 5, 1, "same", groups=6),
    "plain": nn.Conv2d(6, 4, 5, 2, 2),
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def gradients(settings, module, images):
    """Of the images and the weights, and the outputs."""
    module, images = copy.deepcopy(module), images.clone().requires_grad_()
    with settings.autocast():
        outputs = module(images)
    outputs.float().pow(2).sum().backward()
    return [outputs.detach(), images.grad, *(p.grad for p in module.parameters())]


def distance(found, wanted):
    return (found.float() - wanted).norm() / wanted.norm()


@pytest.mark.parametrize("name", LAYERS | OTHERS)
def test_outputs_and_gradients_are_those_of_float32_but_for_rounding(name):
    layer, images = (LAYERS | OTHERS)[name], torch.rand(3, 6, 9, 8)
    found, wanted = gradients(BF16, layer, images), gradients(FP32, layer, images)
    assert found[0].dtype == torch.bfloat16
    assert all(part.dtype == torch.float32 for part in found[1:])
    assert max(distance(*pair) for pair in zip(found, wanted, strict=True)) < 0.01


@pytest.mark.parametrize("name", LAYERS | OTHERS)
def test_outputs_are_the_same_bits_as_without(name):
    layer, images = (LAYERS | OTHERS)[name], torch.rand(3, 6, 9, 8)
    with torch.autocast("cpu", torch.bfloat16):
        wanted = layer(images)
    assert torch.equal(gradients(BF16, layer, images)[0], wanted)


@pytest.mark.parametrize("name", LAYERS | OTHERS)
def test_only_depthwise_convolutions_with_slow_gradients_are_taken(name, monkeypatch):
    taken = []
    apply = depthwise._Depthwise.apply
    monkeypatch.setattr(
        depthwise._Depthwise, "apply", lambda *parts: taken.append(name) or apply(*parts)
    )
    layer, images = (LAYERS | OTHERS)[name], torch.rand(3, 6, 9, 8)
    gradients(FP32, layer, images)
    with torch.no_grad(), BF16.autocast():
        layer(images)
    with torch.inference_mode(), FastDepthwise():
        layer(images)
    assert taken == []
    gradients(BF16, layer, images)
    assert taken == [name] * (name in LAYERS)


@pytest.mark.parametrize(
    "name", ["test_efficientnet", "test_convnext", "tf_mobilenetv3_small_minimal_100"]
)
def test_a_models_gradients_are_no_further_from_float32_than_those_of_autocast_alone(name):
    model = timm.create_model(name, num_classes=5).train()
    images = torch.rand(4, 3, 64, 64)

    def all_gradients(context):
        model.zero_grad()
        with context:
            outputs = model(images)
        outputs.float().pow(2).sum().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    wanted = all_gradients(FP32.autocast())
    alone = distance(all_gradients(torch.autocast("cpu", torch.bfloat16)), wanted)
    assert distance(all_gradients(BF16.autocast()), wanted) < 1.2 * alone + 1e-3


def test_an_image_alone_is_taken_as_torch_takes_it():
    layer, image = LAYERS["both"], torch.rand(6, 9, 8)
    found, wanted = gradients(BF16, layer, image), gradients(FP32, layer, image)
    assert max(distance(*pair) for pair in zip(found, wanted, strict=True)) < 0.01


def test_layers_whose_weights_are_frozen_pass_gradients_on():
    layer = copy.deepcopy(LAYERS["both"]).requires_grad_(False)
    images = torch.rand(3, 6, 9, 8)
    (_, found, *none), (_, wanted, *_) = (gradients(s, layer, images) for s in (BF16, FP32))
    assert distance(found, wanted) < 0.01
    assert none == [None, None]
