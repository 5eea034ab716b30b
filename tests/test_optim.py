import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from zoobot import optim

ENCODERS = {
    "resnet18": 5,
    "convnext_atto": 5,
    "vit_tiny_patch16_224": 13,
    "efficientnet_b0": 8,
    "swin_tiny_patch4_window7_224": 5,
    "maxvit_rmlp_pico_rw_256": 5,
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
        spared = spared or "relative_position_bias_table" in name or ".rel_pos." in name
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


def rates(kwargs, epochs=10, steps_per_epoch=10, groups=None):
    """Each step's learning rates, a row a step."""
    groups = groups or optim.parameter_groups(nn.Linear(2, 2), nn.Linear(2, 2), 0.1, 0.05)
    optimizer = optim.adamw(groups)
    scheduler = optim.make_scheduler(optimizer, kwargs, epochs, steps_per_epoch)
    rows = []
    for step in range(epochs * steps_per_epoch):
        scheduler.step_update(step)
        rows.append([group["lr"] for group in optimizer.param_groups])
        if (step + 1) % steps_per_epoch == 0:
            scheduler.step((step + 1) // steps_per_epoch, metric=1.0)
    return torch.tensor(rows, dtype=torch.float64)


def test_warm_up_then_cosine_to_zero():
    head = rates(optim.warm_then("cosine", 10, 1, 0.1))[:, 0]
    assert head[0] == pytest.approx(0.001)
    assert (head[:10].diff() > 0).all()
    assert head[10] == pytest.approx(0.1)
    assert head[55] == pytest.approx(0.05)
    assert (head[10:].diff() <= 0).all()
    assert head[-1] < 1e-4


def test_a_constant_rate_with_and_without_warm_up():
    assert torch.equal(
        rates(None),
        torch.full((100, 2), 0.1, dtype=torch.float64)[:, :1].expand(-1, rates(None).shape[1]),
    )
    head = rates(optim.warm_then("constant", 10, 2, 0.1))[:, 0]
    assert (head[:20].diff() > 0).all()
    assert (head[20:] == 0.1).all()


@pytest.mark.parametrize(
    "kwargs",
    [
        {"sched": "cosine", "num_epochs": 8, "warmup_epochs": 2, "warmup_lr": 0.0},
        {"sched": "cosine", "step_on_epochs": True},
        {"sched": "step", "decay_epochs": 3},
        {"sched": "multistep", "decay_milestones": [2, 5]},
        {"sched": "poly"},
        {"sched": "tanh"},
        {"sched": "plateau", "patience_epochs": 1},
    ],
)
@pytest.mark.filterwarnings("ignore:PlateauLRScheduler")
def test_under_every_schedule_groups_keep_their_share_of_the_heads_rate(kwargs):
    encoder = timm.create_model("test_resnet", num_classes=0)
    groups = optim.parameter_groups(encoder, nn.Linear(2, 2), 0.1, 0.05, layer_decay=0.5)
    shares = torch.tensor([group["lr_scale"] for group in groups], dtype=torch.float64)
    rows = rates(kwargs, groups=groups)
    torch.testing.assert_close(rows, rows[:, :1] * shares)
    assert rows[:, 0].max() > 1.5 * rows[-1, 0], "the schedule does nothing"


@pytest.mark.parametrize(
    ("kwargs", "told"),
    [
        ({"shed": "cosine"}, "unknown setting 'shed'; did you mean 'sched'"),
        ({"sched": "cosin"}, "cosin"),
        ({"sched": "none"}, "no schedule 'none'"),
    ],
)
def test_a_wrong_schedule_is_named(kwargs, told):
    with pytest.raises(ValueError, match=told):
        rates(kwargs)


def test_the_table_of_groups_has_a_line_each():
    encoder = timm.create_model("test_vit", num_classes=0)
    groups = optim.parameter_groups(encoder, nn.Linear(64, 2), 1e-4, 0.05, layer_decay=0.75)
    lines = optim.group_table(groups).splitlines()
    assert len(lines) == len(groups) + 1
    assert lines[1].split() == ["head", "130", "0.0001", "0"]
    assert sum(int(line.split()[-3].replace(",", "")) for line in lines[1:]) == 130 + sum(
        p.numel() for p in encoder.parameters()
    )


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "test_vit", "swin_tiny_patch4_window7_224"]
)
def test_position_embeddings_train_at_the_rate_of_the_stem(name):
    encoder = timm.create_model(name, num_classes=0)
    groups = optim.parameter_groups(encoder, nn.Linear(2, 2), 0.1, 0.05, layer_decay=0.5)
    rate_of = {id(p): g["lr"] for g in groups for p in g["params"]}
    rate = {n: rate_of[id(p)] for n, p in encoder.named_parameters()}
    stem = rate["patch_embed.proj.weight"]
    assert stem == min(rate.values())
    assert all(r == stem for n, r in rate.items() if n in ("pos_embed", "cls_token"))


def test_frozen_parameters_are_left_out():
    encoder = nn.Linear(2, 2).requires_grad_(False)
    groups = optim.parameter_groups(encoder, nn.Linear(2, 2), 0.1, 0.05)
    assert [g["name"] for g in groups] == ["head"]
    assert isinstance(optim.adamw(groups), torch.optim.AdamW)


FUSED = {
    "SGD": (torch.optim.SGD, {"lr": 0.1}),
    "momentum": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "Adam": (torch.optim.Adam, {"lr": 0.1}),
    "AdamW": (torch.optim.AdamW, {"lr": 0.1}),
}


@pytest.mark.parametrize(("kind", "arguments"), FUSED.values(), ids=FUSED)
def test_an_optimiser_that_is_fused_skips_steps_on_the_device(kind, arguments):
    weights = [nn.Parameter(torch.linspace(-1, 1, 5)) for _ in range(2)]
    plain, fused = (kind([weight], **arguments) for weight in weights)
    optim.fuse(fused)
    assert (optim.is_fused(plain), optim.is_fused(fused)) == (False, True)
    for step, unsound in enumerate([1.0, 0.0, 0.0, 1.0, 0.0]):
        for weight in weights:
            weight.grad = torch.linspace(1, 2, 5) * (step + 1)
        if not unsound:
            plain.step()
        fused.grad_scale, fused.found_inf = None, torch.tensor(unsound)
        fused.step()
        torch.testing.assert_close(weights[1], weights[0])


@pytest.mark.parametrize(
    "optimizer",
    [
        torch.optim.RMSprop([torch.ones(2)]),
        torch.optim.AdamW([torch.ones(2)], foreach=True),
        torch.optim.SGD([torch.ones(2)], momentum=0.9, dampening=0.1),
    ],
    ids=["no fused step", "told how", "dampening"],
)
def test_an_optimiser_that_cannot_be_fused_is_left_as_it_is(optimizer):
    before = optimizer.state_dict()
    optim.fuse(optimizer)
    assert optimizer.state_dict() == before


def test_a_rate_of_the_stem_needs_one_of_the_head():
    with pytest.raises(ValueError, match="a learning rate of the stem needs"):
        optim.parameter_groups(nn.Linear(2, 2), nn.Linear(2, 2), 0.0, 0.0, stem={"weight": 1.0})


def test_fine_groups_have_the_rates_of_timms_own_layer_decay():
    encoder = timm.create_model("convnext_nano", num_classes=0)
    ours = optim.parameter_groups(
        encoder, nn.Linear(2, 2), 1e-4, 0.05, layer_decay=0.75, layer_groups="fine"
    )
    theirs = param_groups_layer_decay(encoder, layer_decay=0.75)
    scales = [
        {id(p): group["lr_scale"] for group in groups for p in group["params"]}
        for groups in (ours[1:], theirs)
    ]
    assert scales[0] == pytest.approx(scales[1])
    assert min(scales[0].values()) == pytest.approx(0.75**15)
    with pytest.raises(ValueError, match="layer_groups='coarse': use one of blocks, fine"):
        optim.layer_of_parameters(encoder, "coarse")
