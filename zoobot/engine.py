"""THE loop: train_one_epoch, evaluate, fit. The only place that calls backward() and step().

A model given to this loop is an ``nn.Module`` whose ``forward`` takes images (B, C, H, W) in 0-1
and which also has

- ``batch_to_supervised_tuple(batch) -> (images, labels)``
- ``losses(outputs, labels) -> (B, K)`` float32; a galaxy's loss is the sum of its row
- ``measure(losses, outputs, labels) -> values, weights`` of shape (B, M), and ``measure.names``;
  the first is the loss on which the best epoch is chosen
- ``metric_key(split, name) -> str``: how a metric is called in the logs
- ``describe() -> dict``: how to build the model again
- ``freeze_encoder(frozen)``, if ``Settings.frozen_epochs`` is used.

A batch is a dict with ``image``, uint8 or already float in 0-1, and whatever else the model wants.
A loader has a length in batches; that of the training galaxies also ``accumulation``, ``num_steps``
and ``set_epoch(epoch, first_step)``, after which it gives that epoch's batches from that step on.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from zoobot import optim
from zoobot.data.dataset import float_images
from zoobot.metrics import Means
from zoobot.runs.resume import (
    Progress,
    rank_state,
    restore,
    restore_finite_buffers,
)
from zoobot.runs.watch import Watch
from zoobot.system import distributed
from zoobot.system.memory import keep_freed_memory

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the loop needs to know besides model and data."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    epochs: int = 30
    patience: int = 8
    scheduler_kwargs: dict | None = None  # of timm.scheduler.create_scheduler_v2; None: constant
    frozen_epochs: int = 0  # first epochs, in which the encoder is frozen; patience starts after
    grad_clip: float | None = 0.3
    seed: int = 42
    save_top_k: int = 1  # -1: all
    save_every_minutes: float = 30.0  # within an epoch; every epoch's end is saved
    max_skipped_steps: int = 10  # in a row, because a loss or gradient is not finite

    def autocast(self):
        """Autocast to ``dtype``; float32 is autocast switched off."""
        enabled = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype, enabled=enabled)

    def grad_scaler(self) -> torch.amp.GradScaler:
        """A gradient scaler that does something for float16 only."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of autocast: ``auto`` is bfloat16 where the hardware has it, else float32."""
    if precision != "auto":
        return PRECISIONS[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float32
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    fast = any(getattr(torch.cpu, check, bool)() for check in checks)
    return torch.bfloat16 if fast else torch.float32


def to_device(batch: dict, device: torch.device) -> dict:
    """Move a batch's tensors without waiting; images become float32 in 0-1, channels last.

    What the workers left to the device of their views is done here.
    """
    moved = {
        key: value.to(device, non_blocking=True) if torch.is_tensor(value) else value
        for key, value in batch.items()
    }
    moved["image"] = moved["image"].contiguous(memory_format=torch.channels_last)
    return moved | {"image": float_images(moved)}


def on_device(batches: Iterable[dict], device: torch.device) -> Iterator[dict]:
    """Batches as ``to_device`` makes them; on a GPU the next is made while this one is used.

    Copies (from pinned memory) and views of the next batch run on a stream of their own.
    """
    if device.type != "cuda":
        yield from (to_device(batch, device) for batch in batches)
        return
    aside, ahead = torch.cuda.Stream(device), None
    for batch in itertools.chain(batches, [None]):
        with torch.cuda.stream(aside):
            moved = None if batch is None else to_device(batch, device)
            ready = aside.record_event()
        if ahead is not None:
            yield _handed_over(*ahead, device)
        ahead = (moved, ready)


def _handed_over(batch: dict, ready: torch.cuda.Event, device: torch.device) -> dict:
    """A batch that another stream made, for use on the current one once it is ready."""
    stream = torch.cuda.current_stream(device)
    stream.wait_event(ready)
    for value in batch.values():
        if torch.is_tensor(value):
            value.record_stream(stream)
    return batch


def seed_step(seed: int, step: int) -> None:
    """Reseed torch from (seed, step, rank): a resumed run draws what it would have drawn."""
    torch.manual_seed(((seed * 1_000_003 + step) * 65_537 + distributed.rank()) % 2**63)


def steps_of(loader: Iterable[dict], accumulation: int) -> Iterator[list[dict]]:
    """Group an epoch's micro-batches into optimiser steps; the last may be shorter."""
    batches = iter(loader)
    while step := list(itertools.islice(batches, accumulation)):
        yield step


def count_galaxies(micro_batches: list[dict], device: torch.device) -> torch.Tensor:
    """Number of galaxies in this step over all ranks, as a device tensor."""
    local = sum(len(batch["image"]) for batch in micro_batches)
    return distributed.all_reduce_sum(torch.full((), float(local), device=device))


def train_one_epoch(
    model: nn.Module,
    loader,
    optimizer: torch.optim.Optimizer,
    scheduler,
    scaler: torch.amp.GradScaler,
    settings: Settings,
    progress: Progress,
    means: Means | None = None,
    watch: Watch | None = None,
    show=iter,
) -> dict[str, float]:
    """Train on every galaxy once; returns the epoch's metrics as they were while training.

    A step whose loss or gradient is not finite on any rank is taken on none.

    The gradient of a step is that of the mean loss over its galaxies, however many ranks and
    micro-batches they are dealt to: each galaxy's loss counts ``world_size / num_galaxies``, which
    DistributedDataParallel's average over ranks turns into ``1 / num_galaxies``.
    """
    raw = distributed.unwrap(model)
    model.train()
    means = means or Means(raw.measure.names, settings.device)
    watch = watch or Watch(settings.device)
    batches = on_device(loader, settings.device)
    for micro_batches in show(steps_of(batches, loader.accumulation)):
        seed_step(settings.seed, progress.step)
        scheduler.step_update(progress.step)
        num_galaxies = count_galaxies(micro_batches, settings.device)
        for i, batch in enumerate(micro_batches):
            is_last = i == len(micro_batches) - 1
            images, labels = raw.batch_to_supervised_tuple(batch)
            with distributed.gradient_sync(model, now=is_last):
                with settings.autocast():
                    outputs = model(images)
                losses = raw.losses(outputs, labels)  # (B, K)
                loss = losses.sum() * (distributed.world_size() / num_galaxies)
                scaler.scale(loss).backward()
            with torch.no_grad():
                finite = watch.look_at(batch, losses)
                means.update(*raw.measure(losses, outputs, labels), finite)
        scaler.unscale_(optimizer)
        norm = clip_gradient(model, settings.grad_clip)
        take_step(optimizer, scaler, unsound=watch.agree(None if scaler.is_enabled() else norm))
        optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        progress.epoch_step += 1
        watch.act()
    watch.act(wait=True)
    return means.result()


def clip_gradient(model: nn.Module, most: float | None) -> torch.Tensor:
    """Norm of the gradient, as a device tensor; the gradient is scaled down to norm ``most``."""
    parameters = [p for p in model.parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in parameters])
    if most:
        nn.utils.clip_grads_with_norm_(parameters, most, norm)
    return norm


def take_step(
    optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, unsound: torch.Tensor
) -> None:
    """The optimiser's step, but not if ``unsound`` is 1.0; fused ones see to that on the device.

    An enabled scaler skips by itself what its scale made overflow.
    """
    if scaler.is_enabled():
        scaler.step(optimizer)
        scaler.update()
    elif optimizer.defaults.get("fused"):
        optimizer.grad_scale, optimizer.found_inf = None, unsound
        optimizer.step()
        del optimizer.grad_scale, optimizer.found_inf
    elif not unsound:
        optimizer.step()


@torch.inference_mode()
def evaluate(
    model: nn.Module, loader, settings: Settings, watch: Watch | None = None
) -> dict[str, float]:
    """Metrics over every galaxy of the loader, each once, summed over ranks."""
    raw = distributed.unwrap(model)
    raw.eval()
    means = Means(raw.measure.names, settings.device)
    in_common = min(distributed.gather(len(loader))) if watch else 0
    for number, batch in enumerate(on_device(loader, settings.device), start=1):
        images, labels = raw.batch_to_supervised_tuple(batch)
        with settings.autocast():
            outputs = raw(images)
        means.update(*raw.measure(raw.losses(outputs, labels), outputs, labels))
        if number <= in_common:
            watch.agree()
            watch.act(wait=number == in_common)
    return means.result()


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    train_loader,
    val_loader,
    settings: Settings,
    run,
    resume_from: dict | None = None,
) -> Progress:
    """Train until ``epochs`` are done or ``patience`` epochs brought nothing better.

    Args:
        optimizer: with groups as ``optim.parameter_groups`` makes them.
        run: a ``logs.Run``, which writes metrics and checkpoints.
        resume_from: a state that ``logs.Run.save`` wrote; the run goes on as if never interrupted.

    Raises:
        ValueError: if an epoch's loss is not finite, or too many steps in a row were skipped.
        Preempted: after SIGTERM or SIGUSR1, once the state is saved.
    """
    keep_freed_memory()
    raw = model.to(settings.device, memory_format=torch.channels_last)
    kwargs, num_steps = settings.scheduler_kwargs, train_loader.num_steps
    scheduler = optim.make_scheduler(optimizer, kwargs, settings.epochs, num_steps)
    scaler, progress = settings.grad_scaler(), Progress(num_steps=num_steps)
    means = Means(raw.measure.names, settings.device)
    if resume_from is not None:
        progress = restore(resume_from, raw, optimizer, scheduler, scaler, means, num_steps)

    def save() -> bool:
        state = {
            "progress": dataclasses.asdict(progress),
            "model": raw.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scaler": scaler.state_dict(),
            "ranks": distributed.gather(rank_state(raw, means)) if progress.epoch_step else [],
        }
        return run.save(state, raw.state_dict())

    def skipped(step_galaxies: list[str], bad_galaxies: list[str], steps_ago: int) -> None:
        progress.skipped += 1
        restore_finite_buffers(statistics)
        step = progress.step - steps_ago
        run.log_skipped(progress.epoch + 1, step, step_galaxies, bad_galaxies)

    model = None
    every_s = 60 * settings.save_every_minutes
    with Watch(settings.device, save, every_s, settings.max_skipped_steps, skipped) as watch:
        while progress.is_going_on(settings):
            if model is None or progress.epoch == settings.frozen_epochs:
                if settings.frozen_epochs:
                    raw.freeze_encoder(progress.epoch < settings.frozen_epochs)
                model = distributed.wrap(raw, settings.device)
            statistics = [(b, b.clone()) for b in raw.buffers() if b.is_floating_point()]
            train_loader.set_epoch(progress.epoch, progress.epoch_step)
            ranks_differ = progress.epoch_step < num_steps
            bar = run.progress_bar(f"epoch {progress.epoch + 1}", num_steps, progress.epoch_step)
            train = train_one_epoch(
                model, train_loader, optimizer, scheduler, scaler, settings, progress,
                means, watch, bar,
            )  # fmt: skip
            train["learning_rate"] = optimizer.param_groups[0]["lr"]
            if progress.skipped:
                train["skipped_steps"] = progress.skipped
            if ranks_differ:
                distributed.average_buffers(raw)
            validation = evaluate(raw, val_loader, settings, watch)
            loss = run.log_epoch(progress.epoch + 1, train, validation, raw.measure.names[0])
            before = dataclasses.replace(progress)
            progress.record(loss, settings.save_top_k)
            scheduler.step(progress.epoch, loss)
            means.reset()
            if not watch.save():
                progress.rank_as(before)
    return progress
