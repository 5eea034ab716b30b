import dataclasses
import itertools
import json
import math
import os
import signal
import types

import pytest
import torch
from comparing import metrics_without_pace
from ranks import as_ranks

from zoobot import engine, optim
from zoobot.data.device_batches import to_device
from zoobot.data.samplers import Step, TrainSampler, in_steps
from zoobot.metrics import ExampleMeasures
from zoobot.models.tree import ZoobotTree
from zoobot.runs.folder import Run
from zoobot.runs.watch import Watch
from zoobot.system import distributed

CPU = torch.device("cpu")


class Batches(list):
    """Batches in memory with what the loop asks of a loader."""

    def __init__(self, batches, accumulation=1):
        steps = [batches[i : i + accumulation] for i in range(0, len(batches), accumulation)]
        told = (Step(sum(len(b["image"]) for b in step), len(step)) for step in steps)
        super().__init__(in_steps(batches, told))
        self.num_steps = len(steps)

    def set_epoch(self, epoch, first_step=0):
        pass


def galaxies(tree, sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    total = sum(sizes)
    images = torch.randint(0, 256, (total, 3, 32, 32), dtype=torch.uint8, generator=generator)
    votes = torch.randint(0, 9, (total, 7), generator=generator)
    return [
        {"image": i, "labels": v, "id_str": ["g"] * len(i)}
        for i, v in zip(images.split(sizes), votes.split(sizes), strict=True)
    ]


def make_model(tree, encoder="test_convnext", dropout_rate=0.0):
    torch.manual_seed(0)
    return ZoobotTree(schema=tree, architecture_name=encoder, dropout_rate=dropout_rate)


def train(tree, batches, **changes):
    model = make_model(tree)
    groups = optim.parameter_groups(model.encoder, model.head, 1e-3, 0.0)
    optimizer = torch.optim.SGD(groups)
    settings = engine.Settings(CPU, **changes)
    scheduler = optim.make_scheduler(optimizer, None, settings.epochs, batches.num_steps)
    scaler = torch.amp.GradScaler("cpu", init_scale=16, enabled=settings.dtype == torch.float16)
    metrics = engine.train_one_epoch(
        model, batches, optimizer, scheduler, scaler, settings, engine.Progress()
    )
    return model, metrics


def assert_same_weights(first, second, **tolerance):
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name, **tolerance)


@pytest.mark.parametrize("sizes", [[8, 8, 8], [10, 10, 4], [23, 1], [5, 9, 7, 2, 1]])
def test_accumulation_over_uneven_micro_batches_takes_the_step_of_the_whole(tree, sizes):
    whole, expected = train(tree, Batches(galaxies(tree, [24])), grad_clip=None)
    parts, metrics = train(tree, Batches(galaxies(tree, sizes), len(sizes)), grad_clip=None)
    assert_same_weights(whole, parts, rtol=1e-5, atol=1e-6)
    assert metrics == pytest.approx(expected, rel=1e-5)


def test_a_short_last_step_is_the_mean_over_its_own_galaxies(tree):
    batches = galaxies(tree, [8, 8, 3])
    grouped, _ = train(tree, Batches(batches, accumulation=2), grad_clip=None)
    merged = {k: torch.cat([b[k] for b in batches[:2]]) for k in ("image", "labels")}
    expected, _ = train(tree, Batches([merged, batches[2]]), grad_clip=None)
    assert_same_weights(expected, grouped, rtol=1e-5, atol=1e-6)


def test_the_loop_takes_one_micro_batch_at_a_time(tree, monkeypatch):
    events = []

    class Told(Batches):
        def __iter__(self):
            for batch in super().__iter__():
                events.append("taken")
                yield batch

    forward = ZoobotTree.forward
    monkeypatch.setattr(ZoobotTree, "forward", lambda *a: events.append("used") or forward(*a))
    train(tree, Told(galaxies(tree, [4, 4, 4, 4, 4]), accumulation=2))
    assert events == ["taken", "used"] * 5


def test_ranks_exchange_nothing_in_a_step_but_gradients_and_flags(tree, monkeypatch):
    sums, exchange = [], distributed.all_reduce_sum
    monkeypatch.setattr(distributed, "all_reduce_sum", lambda x: sums.append(x) or exchange(x))
    train(tree, Batches(galaxies(tree, [4, 4, 4, 4]), accumulation=2))
    assert len(sums) == 2 + 1  # flags of two steps, and the epoch's means


class OneWeightAGalaxy(torch.nn.Module):
    """The gradient of weight i is the weight of galaxy i in its step: images tell numbers."""

    measure = ExampleMeasures()

    def __init__(self, num_galaxies):
        super().__init__()
        self.weights = torch.nn.Parameter(torch.zeros(num_galaxies))

    def batch_to_supervised_tuple(self, batch):
        return batch["image"], batch["image"]

    def forward(self, images):
        return self.weights[images[:, 0, 0, 0].long()]

    def losses(self, outputs, labels):
        return outputs[:, None]


class Dealt(TrainSampler):
    """The sampler's micro-batches as the loop takes them; a galaxy's image is its number."""

    def __iter__(self):
        images = (torch.tensor(b).float().reshape(-1, 1, 1, 1) for _, b in super().__iter__())
        return in_steps(({"image": image} for image in images), self.steps())


def gradients_of_steps(num_galaxies, batch_size, accumulation):
    """One rank's gradient of each step of an epoch: (steps, galaxies)."""
    model = OneWeightAGalaxy(num_galaxies)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    gradients = []
    optimizer.register_step_pre_hook(lambda *_: gradients.append(model.weights.grad.clone()))
    loader = Dealt(num_galaxies, batch_size, accumulation)
    scheduler = types.SimpleNamespace(step_update=lambda step: None)
    settings = engine.Settings(CPU, grad_clip=None)
    engine.train_one_epoch(
        model, loader, optimizer, scheduler, settings.grad_scaler(), settings, engine.Progress()
    )
    return torch.stack(gradients)


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
def test_every_galaxy_counts_once_an_epoch_and_as_much_as_the_others_of_its_step(
    num_ranks, monkeypatch
):
    monkeypatch.setattr(
        distributed, "all_reduce_sum", lambda x: x.copy_(sum(distributed.gather(x.clone())))
    )
    for case in itertools.product(range(num_ranks, 10), range(1, 6), range(1, 4)):
        ranks = as_ranks(num_ranks, lambda case=case: gradients_of_steps(*case))
        mean = torch.stack(ranks).mean(0)  # as DistributedDataParallel makes it
        in_step = (mean > 0).float()
        assert torch.equal(in_step.sum(0), torch.ones(case[0]))
        torch.testing.assert_close(mean, in_step / in_step.sum(1, keepdim=True))


def distance(first, second):
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return math.sqrt(sum((a - b).double().pow(2).sum().item() for a, b in pairs))


def test_gradients_are_clipped_to_the_norm(tree):
    clipped, _ = train(tree, Batches(galaxies(tree, [8])), grad_clip=0.3)
    assert distance(make_model(tree), clipped) == pytest.approx(1e-3 * 0.3, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("grad_clip", [None, 0.3])
def test_a_step_under_autocast_is_that_of_float32_within_rounding(tree, grad_clip, dtype):
    batches = Batches(galaxies(tree, [8]))
    exact, _ = train(tree, batches, grad_clip=grad_clip)
    rounded, _ = train(tree, batches, grad_clip=grad_clip, dtype=dtype)
    assert distance(exact, rounded) < 0.1 * distance(exact, make_model(tree))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_outputs_of_any_head_reach_the_loss_in_float32(tree, dtype):
    class OwnHead(ZoobotTree):
        seen = []

        def forward(self, images):
            return 1 + self.head.linear(self.encoder(images)).abs()

        def losses(self, outputs, labels):
            self.seen.append(outputs.dtype)
            return super().losses(outputs, labels)

    model = OwnHead(schema=tree, architecture_name="test_convnext")
    batches, settings = Batches(galaxies(tree, [4])), engine.Settings(CPU, dtype=dtype)
    optimizer = torch.optim.SGD(optim.parameter_groups(model.encoder, model.head, 1e-3, 0.0))
    scheduler = optim.make_scheduler(optimizer, None, 1, 1)
    engine.train_one_epoch(
        model, batches, optimizer, scheduler, settings.grad_scaler(), settings, engine.Progress()
    )
    collected = []
    engine.evaluate(model, batches, settings, collect=lambda _, x: collected.append(x.dtype))
    assert OwnHead.seen + collected == [torch.float32] * 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_loss_under_autocast_is_near_that_in_float32(tree, dtype):
    batches = Batches(galaxies(tree, [16]))
    model = make_model(tree)
    exact = engine.evaluate(model, batches, engine.Settings(CPU))["supervised_loss"]
    rounded = engine.evaluate(model, batches, engine.Settings(CPU, dtype=dtype))["supervised_loss"]
    assert rounded == pytest.approx(exact, abs=0.05)


def step_with(tree, optimizer_class, spoil, **changes):
    """Two sound steps and a spoilt one between them; returns the model and what was reported."""
    model, reported = make_model(tree, "test_resnet"), []
    groups = optim.parameter_groups(model.encoder, model.head, 1e-3, 0.01)
    optimizer = optimizer_class(groups)
    batches = galaxies(tree, [8, 8, 8])
    batches[1]["id_str"] = [f"bad {i}" for i in range(8)]
    settings = engine.Settings(CPU, **changes)
    losses, calls = model.losses, []

    def spoilt_losses(outputs, labels):
        calls.append(1)
        found = losses(outputs, labels)
        return spoil(found) if len(calls) == 2 else found

    model.losses = spoilt_losses
    watch = Watch(CPU, skipped=lambda *told: reported.append(told))
    metrics = engine.train_one_epoch(
        model,
        Batches(batches),
        optimizer,
        optim.make_scheduler(optimizer, None, 1, 3),
        settings.grad_scaler(),
        settings,
        engine.Progress(),
        watch=watch,
    )
    return model, optimizer, reported, metrics


@pytest.mark.parametrize("kind", [torch.optim.SGD, optim.adamw], ids=["SGD", "AdamW"])
def test_a_fused_optimiser_does_not_have_the_host_read_the_flag(kind, monkeypatch):
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = kind([{"params": [weight], "lr": 0.1}])
    optim.fuse(optimizer)
    scaler = engine.Settings(CPU).grad_scaler()
    weight.grad = torch.ones(2)

    def read(tensor):
        raise AssertionError("the host has waited")

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "__bool__", read)
        engine.take_step(optimizer, scaler, torch.tensor(1.0))
        engine.take_step(optimizer, scaler, torch.tensor(0.0))
    assert (weight < 1).all()


def nan_for_galaxy_3(losses):
    return losses * torch.where(torch.arange(len(losses)) == 3, math.nan, 1.0)[:, None]


class _InfiniteGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, losses):
        return losses.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.inf


@pytest.mark.parametrize("grad_clip", [None, 0.3])
@pytest.mark.parametrize(
    "optimizer", [torch.optim.SGD, torch.optim.AdamW, optim.adamw], ids=["SGD", "AdamW", "fused"]
)
@pytest.mark.parametrize(
    ("spoil", "bad"),
    [(nan_for_galaxy_3, ["bad 3"]), (_InfiniteGradient.apply, [])],
    ids=["loss", "gradient"],
)
def test_a_step_that_is_not_finite_is_not_taken_and_its_galaxies_are_named(
    tree, optimizer, spoil, bad, grad_clip
):
    model, used, reported, metrics = step_with(tree, optimizer, spoil, grad_clip=grad_clip)
    assert reported == [([f"bad {i}" for i in range(8)], bad, 0)]
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    steps = {int(state["step"]) for state in used.state_dict()["state"].values() if "step" in state}
    assert steps <= {2}
    assert math.isfinite(metrics["supervised_loss"])
    if bad:  # all spoilt steps are skipped alike
        again, *_ = step_with(tree, optimizer, _InfiniteGradient.apply, grad_clip=grad_clip)
        assert_same_weights(model, again, rtol=0, atol=0)


def test_an_overflow_of_fp16_is_left_to_the_scaler(tree):
    model, _, reported, _ = step_with(
        tree, optim.adamw, _InfiniteGradient.apply, dtype=torch.float16
    )
    assert reported == []
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_statistics_that_a_step_has_spoilt_are_put_back():
    before = torch.tensor([1.0, 2.0])
    now = torch.tensor([math.nan, 5.0])
    engine.restore_finite_buffers([(now, before)])
    assert now.tolist() == [1.0, 5.0]


def test_too_many_skipped_steps_in_a_row_stop_the_run_with_its_state_saved(tree, tmp_path):
    model = make_model(tree)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    losses = model.losses
    model.losses = lambda *a: losses(*a) * (math.nan if model.training else 1.0)
    run = Run(tmp_path / "run", {}, model.describe(), model.metric_key)
    batches = Batches(galaxies(tree, [8] * 5))
    settings = engine.Settings(CPU, max_skipped_steps=3)
    with pytest.raises(ValueError, match="not finite in 3 steps in a row"):
        engine.fit(model, model.configure_optimizers(), batches, batches, settings, run)
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert (state["progress"]["epoch_step"], state["progress"]["skipped"]) == (3, 3)
    assert all(torch.equal(start[name], value) for name, value in state["model"].items())
    lines = (tmp_path / "run" / "skipped_steps.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]


class Stepwise(Batches):
    """Batches that can begin at a step."""

    first_step = 0

    def set_epoch(self, epoch, first_step=0):
        self.first_step = first_step

    def __iter__(self):
        return iter(self[self.first_step :])


def test_a_state_saved_by_two_ranks_goes_on_with_one(tree, tmp_path, monkeypatch):
    batches, val = (kind(galaxies(tree, [8] * 4)) for kind in (Stepwise, Batches))

    def fit_in(folder, state=None):
        model = make_model(tree, "test_resnet")
        run = Run(tmp_path / folder, {}, model.describe(), model.metric_key, state)
        optimizer, settings = model.configure_optimizers(), engine.Settings(CPU, epochs=1)
        engine.fit(model, optimizer, batches, val, settings, run, state)
        return model, metrics_without_pace(tmp_path / folder)

    whole, metrics = fit_in("whole")
    with monkeypatch.context() as patch:
        clip = engine.clip_gradient
        calls = []
        patch.setattr(
            engine,
            "clip_gradient",
            lambda *a: (
                calls.append(len(calls) == 1 and os.kill(os.getpid(), signal.SIGTERM)) or clip(*a)
            ),
        )
        with pytest.raises(SystemExit):
            fit_in("parts")
    last = tmp_path / "parts" / "checkpoints" / "last.ckpt"
    state = torch.load(last, weights_only=True)
    assert state["progress"]["epoch_step"] == 2
    (one,) = state["ranks"]
    state["ranks"] = [
        {
            "totals": share * one["totals"],
            "buffers": {name: value + shift for name, value in one["buffers"].items()},
        }
        for share, shift in ((0.25, 1.0), (0.75, -1.0))
    ]
    again, resumed = fit_in("parts", state)
    assert_same_weights(whole, again, rtol=1e-4, atol=1e-5)
    for first, second in zip(metrics, resumed, strict=True):
        assert first.pop("split") == second.pop("split")
        assert first == pytest.approx(second, rel=1e-4)


def test_evaluation_leaves_weights_and_statistics_alone_and_is_repeatable(tree):
    model = make_model(tree, "test_resnet", dropout_rate=0.5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batches = Batches(galaxies(tree, [8, 3]))
    results = [engine.evaluate(model, batches, engine.Settings(CPU)) for _ in range(2)]
    assert results[0] == results[1]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_float_images_are_taken_as_they_are_and_bytes_are_scaled():
    images = torch.full((1, 3, 2, 2), 51, dtype=torch.uint8)
    for same in (images, images / 255):
        moved = to_device({"image": same}, CPU)["image"]
        assert torch.equal(moved, torch.full((1, 3, 2, 2), 0.2))


def fit(tree, tmp_path, **changes):
    model = make_model(tree)
    settings = engine.Settings(CPU, epochs=5, **changes)
    run = Run(tmp_path / "run", {}, model.describe(), model.metric_key)
    batches = Batches(galaxies(tree, [8, 8]))
    return engine.fit(model, model.configure_optimizers(), batches, batches, settings, run)


def scripted_losses(monkeypatch, losses):
    remaining = iter(losses)
    real = engine.evaluate
    monkeypatch.setattr(
        engine, "evaluate", lambda *a, **k: {**real(*a, **k), "supervised_loss": next(remaining)}
    )


def test_training_stops_when_patience_runs_out_and_keeps_the_best(tree, tmp_path, monkeypatch):
    scripted_losses(monkeypatch, [3.0, 2.0, 2.5, 2.4, 1.0])
    progress = fit(tree, tmp_path, patience=2, save_top_k=2)
    assert (progress.epoch, progress.best_epoch, progress.best_loss) == (4, 2, 2.0)
    files = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert files == ["epoch=2.ckpt", "epoch=4.ckpt", "last.ckpt", "previous.ckpt"]


def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_last_checkpoint(
    tree, tmp_path, monkeypatch
):
    scripted_losses(monkeypatch, [3.0, math.nan])
    with pytest.raises(ValueError, match="validation loss of epoch 2 is nan"):
        fit(tree, tmp_path)
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["progress"]["epoch"] == 1


def test_progress_ranks_epochs_by_loss():
    progress = engine.Progress()
    for loss in (3.0, 1.0, 2.0, 4.0):
        progress.record(loss, 2)
    assert progress.kept == [[1.0, 2], [2.0, 3]]
    assert dataclasses.asdict(progress)["best_epoch"] == 2


def test_auto_precision_is_one_the_hardware_has():
    assert engine.choose_dtype("auto", CPU) in (torch.bfloat16, torch.float32)
    assert engine.choose_dtype("fp16", CPU) == torch.float16
