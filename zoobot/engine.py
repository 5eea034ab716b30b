"""THE loop: train_one_epoch, evaluate, fit. The only place that calls backward() and step().

A batch is a dict with ``image``, uint8 or already float in 0-1, ``id_str``, and the labels.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import nn

from zoobot import optim
from zoobot.contracts import Loader, TrainLoader
from zoobot.data.device_batches import on_device
from zoobot.metrics import Means
from zoobot.models.depthwise import FastDepthwise
from zoobot.runs.folder import Run
from zoobot.runs.resume import Progress, rank_state, restore, restore_finite_buffers
from zoobot.runs.watch import FIRST_SCALE, Watch, check_steps_taken
from zoobot.system import distributed
from zoobot.system.errors import UserError

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

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Autocast to ``dtype``; float32 is autocast switched off."""
        is_on = self.dtype != torch.float32
        has_slow_gradients = self.dtype == torch.bfloat16 and self.device.type == "cpu"
        mends = has_slow_gradients and torch.is_grad_enabled()
        with torch.autocast(self.device.type, self.dtype, enabled=is_on):
            with FastDepthwise() if mends else contextlib.nullcontext():
                yield

    def grad_scaler(self) -> torch.amp.GradScaler:
        """A gradient scaler that does something for float16 only."""
        enabled = self.dtype == torch.float16
        return torch.amp.GradScaler(self.device.type, FIRST_SCALE, enabled=enabled)


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of autocast: ``auto`` is bfloat16 where the hardware has it, else float32.

    The environment variable ``ZOOBOT_AUTO_PRECISION`` (bf16, fp16, fp32) says what ``auto`` is.
    """
    if precision == "auto":
        precision = os.environ.get("ZOOBOT_AUTO_PRECISION", "auto")
    if precision in PRECISIONS:
        return PRECISIONS[precision]
    if precision != "auto":
        raise UserError(f"precision {precision!r} is none of auto, {', '.join(PRECISIONS)}")
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float32
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast and device.type == "cpu" else torch.float32


def seed_step(seed: int, step: int) -> None:
    """Reseed torch from (seed, step, rank): a resumed run draws what it would have drawn."""
    torch.manual_seed(((seed * 1_000_003 + step) * 65_537 + distributed.rank()) % 2**63)


def steps_of(batches: Iterator[dict]) -> Iterator[Iterator[dict]]:
    """The optimiser steps of an epoch, each with its micro-batches, taken one after the other."""

    def step_from(batch: dict) -> Iterator[dict]:
        yield batch
        while not batch["ends_step"]:
            batch = next(batches)
            yield batch

    return map(step_from, batches)


def train_one_epoch(
    model: nn.Module,
    loader: TrainLoader,
    optimizer: torch.optim.Optimizer,
    scheduler: optim.Scheduler,
    scaler: torch.amp.GradScaler,
    settings: Settings,
    progress: Progress,
    means: Means | None = None,
    watch: Watch | None = None,
    show: Callable[[Iterable], Iterable] = iter,
) -> dict[str, float]:
    """Train on every galaxy once; returns the epoch's metrics as they were while training.

    ``model`` is a ``Model``, perhaps in DistributedDataParallel; ``show`` draws a progress bar.
    A step whose loss or gradient is not finite on any rank is taken on none.

    The gradient of a step is that of the mean loss over its galaxies, however many ranks and
    micro-batches they are dealt to: each galaxy's loss counts ``world_size / step_galaxies``, which
    DistributedDataParallel's average over ranks turns into ``1 / step_galaxies``.
    """
    module = distributed.unwrap(model)
    model.train()
    means = means or Means(module.measure.names, settings.device)
    watch = watch or Watch(settings.device)
    for micro_batches in show(steps_of(on_device(loader, settings.device))):
        seed_step(settings.seed, progress.step)
        scheduler.step_update(progress.step)
        for batch in micro_batches:
            images, labels = module.batch_to_supervised_tuple(batch)
            with distributed.gradient_sync(model, now=batch["ends_step"]):
                with settings.autocast():
                    outputs = model(images).float()  # the loss is float32, whatever the head
                losses = module.losses(outputs, labels)  # (B, K)
                loss = losses.sum() * (distributed.world_size() / batch["step_galaxies"])
                scaler.scale(loss).backward()
            with torch.no_grad():
                finite = watch.record_losses(batch, losses)
                means.update(*module.measure(losses, outputs, labels), finite)
        scaler.unscale_(optimizer)
        norm = clip_gradient(model, settings.grad_clip)
        unsound = watch.reduce_flags(norm, scaler.scale(torch.ones_like(norm)))
        take_step(optimizer, scaler, unsound)
        optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        progress.epoch_step += 1
        watch.handle_flags()
    watch.handle_flags(wait=True)
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
    """Take the optimiser's step, unless ``unsound`` is 1.0.

    A fused optimiser reads ``unsound`` on the device. For another (``optim.fuse`` says which can't
    be fused) the host waits: what it has done could not be undone. ``GradScaler.step()`` already
    skips steps whose gradients overflowed.
    """
    if scaler.is_enabled():
        scaler.step(optimizer)
        scaler.update()
    elif optim.is_fused(optimizer):
        optimizer.grad_scale, optimizer.found_inf = None, unsound
        optimizer.step()
        del optimizer.grad_scale, optimizer.found_inf
    elif not unsound:
        optimizer.step()


def ignore(batch: dict, outputs: torch.Tensor) -> None:
    """Do nothing with a batch's outputs."""


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: Loader,
    settings: Settings,
    watch: Watch | None = None,
    collect: Callable[[dict, torch.Tensor], None] = ignore,
) -> dict[str, float]:
    """Metrics over every galaxy of the loader, each once, summed over ranks.

    Args:
        model: a ``Model``, perhaps in DistributedDataParallel.
        collect: called with each batch and its float32 outputs.
    """
    module = distributed.unwrap(model).eval()
    means = Means(module.measure.names, settings.device)
    in_common = min(distributed.gather(len(loader))) if watch else 0
    for number, batch in enumerate(on_device(loader, settings.device), start=1):
        images, labels = module.batch_to_supervised_tuple(batch)
        with settings.autocast():
            outputs = module(images).float()
        means.update(*module.measure(module.losses(outputs, labels), outputs, labels))
        collect(batch, outputs)
        if number <= in_common:
            watch.reduce_flags()
            watch.handle_flags()
    if watch:
        watch.handle_flags(wait=True)
    return means.result()


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    train_loader: TrainLoader,
    val_loader: Loader,
    settings: Settings,
    run: Run,
    resume_from: dict | None = None,
    collect: Callable[[dict, torch.Tensor], None] = ignore,
) -> Progress:
    """Train until ``epochs`` are done or ``patience`` epochs brought nothing better.

    Args:
        model: a ``Model``.
        optimizer: with groups as ``optim.parameter_groups`` makes them.
        run: writes metrics and checkpoints.
        resume_from: a state that ``run.save`` wrote; the run goes on as if never interrupted.
        collect: called with each validation batch and its outputs, see ``evaluate``.

    Raises:
        ValueError: if an epoch's loss is not finite, or too many steps in a row were skipped, or
            float16's gradients overflowed in all.
        Interrupted: after Ctrl-C, once the state is saved.
        Preempted: after SIGTERM or SIGUSR1, once the state is saved.
    """
    module = model.to(settings.device, memory_format=torch.channels_last)
    kwargs, num_steps = settings.scheduler_kwargs, train_loader.num_steps
    scheduler = optim.make_scheduler(optimizer, kwargs, settings.epochs, num_steps)
    scaler, progress = settings.grad_scaler(), Progress(num_steps=num_steps)
    means = Means(module.measure.names, settings.device)
    if resume_from is not None:
        progress = restore(resume_from, module, optimizer, scheduler, scaler, means, num_steps)

    def save() -> bool:
        state = {
            "progress": dataclasses.asdict(progress),
            "model": module.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scaler": scaler.state_dict(),
            "ranks": distributed.gather(rank_state(module, means)) if progress.epoch_step else [],
        }
        return run.save(state, module.state_dict())

    def skipped(step_galaxies: list[str], bad_galaxies: list[str], steps_ago: int) -> None:
        progress.skipped += 1
        restore_finite_buffers(buffers)
        step = progress.step - steps_ago
        run.log_skipped(progress.epoch + 1, step, step_galaxies, bad_galaxies)

    ddp_module = None
    every_s = 60 * settings.save_every_minutes
    with Watch(settings.device, save, every_s, settings.max_skipped_steps, skipped) as watch:
        limits = (settings.epochs, settings.patience, settings.frozen_epochs)
        while progress.is_going_on(*limits):
            if ddp_module is None or progress.epoch == settings.frozen_epochs:
                if settings.frozen_epochs:
                    is_frozen = progress.epoch < settings.frozen_epochs
                    module.freeze_encoder(is_frozen)
                    run.say(f"the encoder {'is frozen' if is_frozen else 'is trained from here'}")
                ddp_module = distributed.wrap(module, settings.device)
            buffers = [(b, b.clone()) for b in module.buffers() if b.is_floating_point()]
            train_loader.set_epoch(progress.epoch, progress.epoch_step)
            ranks_differ = progress.epoch_step < num_steps
            bar = run.progress_bar(f"epoch {progress.epoch + 1}", num_steps, progress.epoch_step)
            train = train_one_epoch(
                ddp_module, train_loader, optimizer, scheduler, scaler, settings, progress,
                means, watch, bar,
            )  # fmt: skip
            run.end_training(means.num_galaxies)
            train["learning_rate"] = optimizer.param_groups[0]["lr"]
            if progress.skipped:
                train["skipped_steps"] = progress.skipped
            if ranks_differ:
                distributed.average_buffers(module)
            validation = evaluate(module, val_loader, settings, watch, collect)
            loss = run.log_epoch(progress.epoch + 1, train, validation, module.measure.names[0])
            before = dataclasses.replace(progress)
            progress.record(loss, settings.save_top_k)
            scheduler.step(progress.epoch, loss)
            means.reset()
            if not watch.save():
                progress.rank_as(before)
    check_steps_taken(scaler, progress.step)
    return progress
