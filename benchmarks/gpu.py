"""One command for one GPU: first that it computes what a CPU does, then how fast.

    python benchmarks/gpu.py --save
    python benchmarks/gpu.py --smoke

Galaxies are simulated on the spot. If something is computed wrongly, a line says what, and the exit
code is 1. The whole stays within ``--minutes``: parts for which too little time is left are
skipped, and named. Speeds are medians of rounds in turn; ``limit`` says what bounds them. With
``--smoke`` everything runs on a CPU, tiny; there the checks compare the CPU with itself.
"""

import argparse
import contextlib
import copy
import dataclasses
import functools
import io
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import bench_loss
import torch
from bench_common import (
    SMOKE,
    TREE,
    KeptBatch,
    Training,
    alternate,
    device_name,
    flops_a_step,
    forward,
    images_per_s,
    make_catalog,
    make_model,
    make_parser,
    make_shards,
    matmul_flops_per_s,
    microseconds,
    print_table,
    save,
    settle,
    training_view,
)

from zoobot import engine, optim
from zoobot.data.dataset import CatalogDataset
from zoobot.data.device_batches import to_device
from zoobot.data.loaders import eval_loader, train_loader
from zoobot.data.sources import RowsOf
from zoobot.data.views.device import VIEW_KEYS, device_view_of, warp
from zoobot.losses import dirichlet_multinomial_nll
from zoobot.predictions.files import read_predictions
from zoobot.predictions.models import view_of
from zoobot.predictions.predict import predict_to_file
from zoobot.runs import checkpoint
from zoobot.runs.folder import Run

NUM_CHECKED = 64  # galaxies of a check
PREFETCH = 2  # batches a worker: those of 512 raw images are 138 MB each


class Wrong(Exception):
    """Something was computed wrongly."""


@dataclasses.dataclass
class Bench:
    """What all parts need; galaxies and models are made when first asked for."""

    args: argparse.Namespace
    folder: Path

    @functools.cached_property
    def device(self) -> torch.device:
        return torch.device(self.args.device)

    @functools.cached_property
    def catalog(self):
        return make_catalog(self.args, self.folder)

    @functools.cached_property
    def shards(self) -> dict:
        """Encoding -> galaxies of the catalog."""
        size_px = self.args.shard_px
        return {
            encoding: make_shards(
                self.catalog, TREE.label_cols, self.folder / encoding, encoding, size_px
            )
            for encoding in ("raw", "jpeg")
        }

    @functools.cached_property
    def raw(self) -> CatalogDataset:
        """Raw galaxies in training views, which are left to the device."""
        view = device_view_of(training_view(self.args.image_size), self.shards["raw"])
        return CatalogDataset(self.shards["raw"], transform=view)

    def few_galaxies(self, encoding: str) -> RowsOf:
        """The first galaxies of the shards."""
        shards = self.shards[encoding]
        return RowsOf(shards, range(min(NUM_CHECKED, len(shards))))

    @functools.cached_property
    def few(self) -> dict:
        """A batch of a few galaxies, on the CPU, with its views to be made."""
        return self.raw.batch(0, range(min(NUM_CHECKED, len(self.raw))))

    @functools.cached_property
    def kept(self) -> dict:
        """A full batch on the device, its views made."""
        return to_device(self.raw.batch(0, range(self.args.batch_size)), self.device)

    @functools.cached_property
    def peak(self) -> float:
        """FLOP/s that a bfloat16 matrix product reaches."""
        return matmul_flops_per_s(self.args.device, torch.bfloat16, self.args.smoke)

    @property
    def num_steps(self) -> int:
        """Steps of an epoch."""
        return self.args.num_images // self.args.batch_size

    def model(self, **options):
        """A model, the same every time."""
        return make_model(self.args.encoder, self.args.image_size, **options)

    def compile(self, encoder) -> None:
        """``torch.compile``; on a CPU only its tracing, for its compiler takes minutes."""
        torch.compiler.reset()
        on_gpu = self.args.device == "cuda"
        encoder.compile(dynamic=False, **({} if on_gpu else {"backend": "eager"}))

    def rates(self, cases: dict[str, Callable], num_images: int) -> dict[str, float]:
        """Median images a second of work on so many images, in turn."""
        device = self.args.device
        timed = {name: images_per_s(work, num_images, device) for name, work in cases.items()}
        return alternate(timed, self.args.rounds)


def compare(what: str, got: torch.Tensor, wanted: torch.Tensor, rtol: float, atol: float) -> str:
    """How far values are from those wanted, at most; ``Wrong`` if beyond atol + rtol * |wanted|."""
    got, wanted = got.detach().double().cpu(), wanted.detach().double().cpu()
    if got.shape != wanted.shape or not torch.isfinite(got).all():
        raise Wrong(f"{what}: not finite, or {tuple(got.shape)} instead of {tuple(wanted.shape)}")
    error = (got - wanted).abs()
    allowed = atol + rtol * wanted.abs()
    worst = (error / allowed).argmax()
    if (error > allowed).any():
        raise Wrong(
            f"{what}: {got.flatten()[worst]:.7g} instead of {wanted.flatten()[worst]:.7g}; "
            f"{(error > allowed).double().mean():.2%} of the values are off"
        )
    return f"largest error {error.max():.2g} of {wanted.abs().max():.3g}"


def check_loss(bench: Bench) -> str:
    """Loss and gradients are those of a float64 loop over questions on the CPU."""
    sizes = TREE.question_sizes
    x, counts = bench_loss.make_batch(TREE, 64 if bench.args.smoke else 1024, bench.args.device)
    reference = x.detach().double().cpu().requires_grad_()
    losses = dirichlet_multinomial_nll(x, counts, sizes)
    wanted = bench_loss.loop_over_questions(reference, counts.cpu(), sizes)
    losses.sum().backward()
    wanted.sum().backward()
    told = compare("loss", losses, wanted, 1e-4, 1e-4)
    scale = reference.grad.abs().mean().item()
    return f"{told}; gradients: {compare('gradient', x.grad, reference.grad, 1e-4, 1e-4 * scale)}"


def check_precisions(bench: Bench) -> str:
    """A training step in fp32, bf16 and fp16: losses agree, and weights stay finite."""
    batch = to_device(dict(bench.few), bench.device)
    losses = {}
    for precision in engine.PRECISIONS:
        training = Training(bench.model(dropout_rate=0.0), bench.args.device, precision)
        losses[precision] = training.epoch(KeptBatch(batch, 1))["supervised_loss"]
        if not all(torch.isfinite(p).all() for p in training.model.parameters()):
            raise Wrong(f"weights are not finite after a step in {precision}")
    for precision, loss in losses.items():
        wanted = torch.tensor(losses["fp32"])
        compare(f"training loss in {precision}", torch.tensor(loss), wanted, 0.02, 0)
    return ", ".join(f"{precision} {loss:.7g}" for precision, loss in losses.items())


def check_compiled(bench: Bench) -> str:
    """The compiled encoder gives the features of the eager one, but for bfloat16's rounding."""
    images = to_device(dict(bench.few), bench.device)["image"]
    encoder = bench.model().to(bench.device, memory_format=torch.channels_last).encoder.eval()
    compiled = copy.deepcopy(encoder)
    bench.compile(compiled)
    settings = engine.Settings(bench.device, torch.bfloat16)
    wanted, got = (forward(module, images, settings).float() for module in (encoder, compiled))
    atol = 0.05 * wanted.std().item()
    return compare("compiled encoder", got, wanted, 0.03, atol)


def check_views(bench: Bench) -> str:
    """Views made on the device are those made on the CPU."""
    wanted = to_device(dict(bench.few), torch.device("cpu"))["image"]
    got = to_device(dict(bench.few), bench.device)["image"]
    return compare("device views", got, wanted, 0, 1e-3)


def check_resume(bench: Bench) -> str:
    """Two epochs in one go give the weights of one epoch, saved, and one more."""
    whole, first, resumed = (bench.folder / name for name in ("whole", "parts", "parts"))
    with contextlib.redirect_stdout(io.StringIO()):
        wanted = _fit(bench, whole, 2)
        _fit(bench, first, 1)
        state = checkpoint.load_checkpoint(first / "checkpoints" / "last.ckpt")
        got = _fit(bench, resumed, 2, state)
    return compare("weights of a resumed run", got, wanted, 1e-3, 1e-5)


def _fit(bench: Bench, folder: Path, epochs: int, state: dict | None = None) -> torch.Tensor:
    """All weights after training; Adam's epsilon is large, or it would magnify rounding errors."""
    model = bench.model().to(bench.device)
    groups = optim.parameter_groups(model.encoder, model.head, 1e-3, 0.01)
    optimizer = torch.optim.AdamW(groups, eps=1e-2, fused=True)
    few = CatalogDataset(bench.few_galaxies("raw"), transform=bench.raw.transform)
    batch_size = max(2, len(few) // 4)
    train, val = train_loader(few, batch_size), eval_loader(few, batch_size)
    settings = engine.Settings(bench.device, epochs=epochs, patience=epochs)
    with Run(folder, {}, model.describe(), model.metric_key, state, show_progress=False) as run:
        engine.fit(model, optimizer, train, val, settings, run, state)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def check_predictions(bench: Bench) -> str:
    """A file of predictions made on the device holds what one made on the CPU does."""
    values = []
    for device in (bench.args.device, "cpu"):
        path = predict_to_file(
            bench.few_galaxies("jpeg"),
            bench.model(),
            bench.folder / f"checked-{len(values)}.parquet",
            batch_size=16,
            num_workers=bench.args.num_workers,
            device=device,
            precision="fp32",
            show_progress=False,
        )
        values.append(torch.from_numpy(read_predictions(path).values))
    return compare("predictions", *values, 5e-3, 1e-3)


def speed_loss(bench: Bench) -> list[dict]:
    """Loss and gradients against a loop over questions."""
    batch_size = 64 if bench.args.smoke else 4096
    x, counts = bench_loss.make_batch(TREE, batch_size, bench.args.device)

    def step(loss):
        x.grad = None
        loss(x, counts, TREE.question_sizes).sum(1).mean().backward()

    repeats = 2 if bench.args.smoke else 30
    losses = {"ours": dirichlet_multinomial_nll, "loop": bench_loss.loop_over_questions}
    cases = {
        name: lambda loss=loss: microseconds(lambda: step(loss), bench.args.device, repeats)
        for name, loss in losses.items()
    }
    us = alternate(cases, bench.args.rounds)
    shape = f"{len(TREE.question_sizes)} questions, {len(TREE.answers)} answers, batch {batch_size}"
    limit = bench_loss.bound(bench.args.device)
    return [
        row(f"loss and gradients, {shape}", us["ours"], "us", limit),
        row("the same, a loop over questions", us["loop"], "us", "launches of many small kernels"),
        row("loop / ours", us["loop"] / us["ours"], "times", ""),
    ]


def speed_views(bench: Bench) -> list[dict]:
    """Views of a batch of fitted images on the device."""
    batch = bench.raw.batch(0, range(bench.args.batch_size))
    batch = {k: v.to(bench.device) if torch.is_tensor(v) else v for k, v in batch.items()}
    options = [batch[key] for key in VIEW_KEYS]
    images = batch["image"]
    views = warp(images, *options)
    repeats = 2 if bench.args.smoke else 20
    case = {
        "warp": lambda: microseconds(lambda: warp(images, *options), bench.args.device, repeats)
    }
    us = alternate(case, bench.args.rounds)["warp"]
    moved = images.nbytes + views.nbytes
    what = f"device views, {images.shape[-1]} to {views.shape[-1]} px, batch {len(images)}"
    limit = f"memory traffic: {1e-3 * moved / us:.0f} GB/s of pixels in and out, and copies between"
    return [row(what, 1e6 * len(images) / us, "images/s", limit)]


def speed_training(bench: Bench, compiled: bool) -> list[dict]:
    """The step on a batch kept on the device, and epochs from shards, in bfloat16."""
    training = Training(bench.model(), bench.args.device, "bf16")
    flops = flops_a_step(training.model, bench.kept["image"]) / bench.args.batch_size
    if compiled:
        bench.compile(training.model.encoder)
    sources = {"on device": KeptBatch(bench.kept, bench.num_steps)}
    view = training_view(bench.args.image_size)
    for encoding, galaxies in bench.shards.items():
        if compiled and encoding == "jpeg":
            continue
        dataset = CatalogDataset(galaxies, transform=device_view_of(view, galaxies))
        sources[f"from {encoding} shards"] = train_loader(
            dataset, bench.args.batch_size, **loading(bench.args)
        )
    cases = {name: lambda source=source: training.epoch(source) for name, source in sources.items()}
    rates = bench.rates(cases, bench.num_steps * bench.args.batch_size)
    name = f"training, bf16, {'compiled' if compiled else 'eager'}"
    share = flops * rates["on device"] / bench.peak
    rows = []
    for source, rate in rates.items():
        starvation = rate / rates["on device"]
        limit = f"{starvation:.0%} of the step alone, with {bench.args.num_workers} workers"
        if source == "on device":
            limit = f"MFU {share:.1%} of a matrix product's {bench.peak / 1e12:.3g} TFLOP/s"
        rows.append(row(f"{name}, {source}", rate, "images/s", limit))
    return rows


def loading(args: argparse.Namespace) -> dict:
    """Options of loaders."""
    on_gpu = args.device == "cuda"
    return {"num_workers": args.num_workers, "pin_memory": on_gpu, "prefetch_factor": PREFETCH}


def speed_inference(bench: Bench, compiled: bool) -> list[dict]:
    """The forward pass on a batch kept on the device, in bfloat16."""
    model = bench.model().to(bench.device, memory_format=torch.channels_last).eval()
    images = bench.kept["image"]
    share = flops_a_step(model, images) / 3 / bench.peak
    if compiled:
        bench.compile(model.encoder)
    settings = engine.Settings(bench.device, torch.bfloat16)
    repeats = 2 if bench.args.smoke else 20
    work = functools.partial(forward, model, images, settings)
    case = {"forward": lambda: microseconds(work, bench.args.device, repeats)}
    us = alternate(case, bench.args.rounds)["forward"]
    name = f"inference, bf16, {'compiled' if compiled else 'eager'}, on device"
    limit = f"MFU {share / us * 1e6:.1%} of a matrix product's {bench.peak / 1e12:.3g} TFLOP/s"
    return [row(name, 1e6 * len(images) / us, "images/s", limit)]


def speed_files(bench: Bench) -> list[dict]:
    """From shards to a finished file of predictions, workers' start and all, in bfloat16."""
    model, number = bench.model(), itertools.count()
    view = view_of(model)
    raw, jpeg = bench.shards["raw"], bench.shards["jpeg"]

    def predict(galaxies, transform):
        predict_to_file(
            galaxies,
            model,
            bench.folder / f"predictions-{next(number)}.parquet",
            transform=transform,
            batch_size=bench.args.batch_size,
            num_workers=bench.args.num_workers,
            prefetch_factor=PREFETCH,
            device=bench.args.device,
            precision="bf16",
            show_progress=False,
        )

    cases = {
        "raw shards, device view": lambda: predict(raw, device_view_of(view, raw)),
        "jpeg shards, CPU view": lambda: predict(jpeg, view),
    }
    rates = bench.rates(cases, len(raw))
    limit = f"start of {bench.args.num_workers} workers, reading; {len(raw)} galaxies in all"
    return [
        row(f"predictions, bf16, eager, {name} to parquet", rate, "images/s", limit)
        for name, rate in rates.items()
    ]


def row(what: str, value: float, unit: str, limit: str) -> dict:
    """A line of the table of speeds."""
    return {"what": what, "value": round(value, 3), "unit": unit, "limit": limit}


# (name, function, seconds that it takes on a GPU, about)
CHECKS = [
    ("loss and gradients against float64 on the CPU", check_loss, 10),
    ("device views against the CPU's", check_views, 60),  # simulates the galaxies, writes shards
    ("a step in fp32, bf16 and fp16", check_precisions, 20),
    ("two epochs against one and one more", check_resume, 20),
    ("predictions against the CPU's", check_predictions, 25),
    ("compiled encoder against eager", check_compiled, 60),
]
SPEEDS = [
    ("loss", speed_loss, 10),
    ("device views", speed_views, 10),
    ("training, eager", functools.partial(speed_training, compiled=False), 60),
    ("inference, eager", functools.partial(speed_inference, compiled=False), 10),
    ("predictions to a file", speed_files, 50),
    ("training, compiled", functools.partial(speed_training, compiled=True), 120),
    ("inference, compiled", functools.partial(speed_inference, compiled=True), 60),
]


def run_parts(bench: Bench, minutes: float) -> tuple[list[dict], list[dict]]:
    """All checks, then all speeds, as long as there is time: rows of both.

    Raises:
        Wrong: a check failed.
    """
    start = time.monotonic()
    checks, speeds = [], []
    for name, part, estimate_s in CHECKS + SPEEDS:
        begun = time.monotonic() - start
        if begun + estimate_s > 60 * minutes:
            print(f"skipped: {name}: {begun:.0f} s are over, and it needs about {estimate_s} s")
            continue
        result = part(bench)
        seconds = round(time.monotonic() - start - begun, 1)
        if isinstance(result, str):
            print(f"right: {name}: {result} ({seconds} s)", flush=True)
            checks.append({"check": name, "result": result, "seconds": seconds})
        else:
            print(f"timed: {name} ({seconds} s)", flush=True)
            speeds += result
    return checks, speeds


def main(argv: list[str] | None = None) -> list[dict]:
    parser = make_parser(__doc__)
    parser.add_argument("--minutes", type=float, default=9.0, help="at most, in all")
    parser.set_defaults(num_workers=min(12, max(2, (os.cpu_count() or 4) - 2)))
    args = parser.parse_args(argv)
    if not args.smoke and (args.device == "cpu" or not torch.cuda.is_available()):
        parser.error("this is for a GPU, and none is used here: --smoke shows that it runs")
    cuda = {"encoder": "convnext_nano", "batch_size": 512, "num_images": 8192, "distinct": 192}
    settle(args, {}, cuda, SMOKE)
    print(f"device: {device_name(args.device)}; {args.encoder}, {args.image_size} px", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        try:
            checks, speeds = run_parts(Bench(args, Path(folder)), args.minutes)
        except Wrong as error:
            print(f"WRONG: {error}", flush=True)
            sys.exit(1)
    if speeds:
        print_table(speeds)
    save(args, "gpu", checks + speeds)
    return checks + speeds


if __name__ == "__main__":
    main()
