import math

import pytest
import timm
import torch
from torch import nn

from zoobot import optim

ENCODERS = {
    "resnet18": 5,
    "convnext_atto": 5,
    "vit_tiny_patch16_224": 13,
    "efficientnet_b0": 8,
    "swin_tiny_patch4_window7_224": 5,
}


@pytest.fixture(scope="module", params=ENCODERS)
def encoder(request):
    model = timm.create_model(request.param, num_classes=0)
    model.expected_blocks = ENCODERS[request.param]
    return model


def test_blocks_are_the_stem_and_the_stages_and_norms_count_with_the_block_below(encoder):
    layer_of = optim.layer_of_parameters(encoder)
    assert sorted(set(layer_of.values())) == list(range(encoder.expected_blocks))
    assert set(layer_of) == {name for name, _ in encoder.named_parameters()}


def test_rates_decay_from_the_top_block_and_the_head_has_the_full_rate(encoder):
    head = nn.Linear(3, 2)
    groups = optim.parameter_groups(encoder, head, 0.1, 0.05, layer_decay=0.5)
    rate_of = {id(p): g["lr"] for g in groups for p in g["params"]}
    layer_of = optim.layer_of_parameters(encoder)
    top = encoder.expected_blocks - 1
    assert all(rate_of[id(p)] == 0.1 for p in head.parameters())
    for name, parameter in encoder.named_parameters():
        assert rate_of[id(parameter)] == pytest.approx(0.1 * 0.5 ** (top - layer_of[name]))


def test_every_parameter_is_in_exactly_one_group(encoder):
    head = nn.Linear(3, 2)
    groups = optim.parameter_groups(encoder, head, 0.1, 0.05)
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for m in (encoder, head) for p in m.parameters())
    assert {g["name"] for g in groups} == {"head", "encoder", "encoder, norms and biases"}


def test_weight_decay_spares_head_norms_biases_and_embeddings(encoder):
    head = nn.Linear(3, 2)
    decay_of = {
        id(p): g["weight_decay"]
        for g in optim.parameter_groups(encoder, head, 0.1, 0.05, layer_decay=0.75)
        for p in g["params"]
    }
    assert all(decay_of[id(p)] == 0 for p in head.parameters())
    for name, parameter in encoder.named_parameters():
        spared = parameter.ndim == 1 or name in ("pos_embed", "cls_token")
        spared = spared or "relative_position_bias_table" in name
        assert decay_of[id(parameter)] == (0 if spared else 0.05), name


def test_layer_decay_of_zero_trains_head_and_top_block_only(encoder):
    groups = optim.parameter_groups(encoder, nn.Linear(3, 2), 0.1, 0.05, layer_decay=0)
    layer_of = optim.layer_of_parameters(encoder)
    trained = {id(p) for group in groups for p in group["params"]}
    for name, parameter in encoder.named_parameters():
        assert (id(parameter) in trained) == (layer_of[name] == encoder.expected_blocks - 1)


def test_an_encoder_without_groups_is_one_block():
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    groups = optim.parameter_groups(encoder, nn.Linear(2, 2), 0.1, 0.05, layer_decay=0.5)
    assert {g["lr"] for g in groups} == {0.1}


def test_warm_up_then_cosine_to_zero():
    scales = [optim.lr_scale(step, 100, 10) for step in range(101)]
    assert scales[:10] == [(i + 1) / 10 for i in range(10)]
    assert scales[10] == 1.0
    assert scales[55] == pytest.approx(0.5)
    assert scales[100] == pytest.approx(0.0)
    assert all(a >= b for a, b in zip(scales[10:], scales[11:], strict=False))
    assert optim.lr_scale(10**9, 100, 10) == pytest.approx(0.0)
    assert optim.lr_scale(90, 100, 10, "constant") == 1.0


def test_each_group_keeps_its_own_rate_under_a_schedule():
    head, encoder = nn.Linear(2, 2), nn.Linear(2, 2)
    groups = optim.parameter_groups(encoder, head, 0.1, 0.05)
    groups[1]["lr"] = 0.02
    optimizer = optim.adamw(groups)
    for scale in (0.5, 0.25, 1.0):
        optim.set_lr(optimizer, scale)
        assert math.isclose(optimizer.param_groups[0]["lr"], 0.1 * scale)
        assert math.isclose(optimizer.param_groups[1]["lr"], 0.02 * scale)


def test_frozen_parameters_are_left_out():
    encoder = nn.Linear(2, 2).requires_grad_(False)
    groups = optim.parameter_groups(encoder, nn.Linear(2, 2), 0.1, 0.05)
    assert [g["name"] for g in groups] == ["head"]
    assert isinstance(optim.adamw(groups), torch.optim.AdamW)
