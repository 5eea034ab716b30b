"""The speeds of ``gpu.py``: rows of a figure, its unit and what bounds it."""

import contextlib
import functools
import io
import itertools
import statistics
import time
from collections.abc import Callable

import bench_loss
import torch
from bench_common import TREE, KeptBatch, Training, forward, set_up_model
from bench_timing import FromThird, microseconds, synchronize
from gpu_bench import PREFETCH, Bench, Repeated, row
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torchvision.io import ImageReadMode, decode_jpeg

from zoobot import engine
from zoobot.data.loaders import eval_loader, train_loader
from zoobot.data.sources import RowsOf
from zoobot.data.views.device import VIEW_KEYS, device_view_of, warp
from zoobot.losses import dirichlet_multinomial_nll
from zoobot.predictions.models import view_of
from zoobot.predictions.predict import predict_to_file
from zoobot.trainer import Trainer

BATCH_SIZES = (256, 512, 768, 1024)
TOP = 15  # operations of the profile
PROFILED_STEPS = 5
FINETUNED, VALIDATED, FINETUNING_EPOCHS = (
    20 * 512,
    2 * 512,
    30,
)  # full batches: shapes of other parts
SMALL_FINETUNING = (16, 8, 3)
MARK = "the mark is 60 s, for convnext_nano at 224 px on an H200"


def mean_us(bench: Bench, work: Callable) -> float:
    """Median over rounds of a call's microseconds."""
    repeats = 20 if bench.on_gpu else 2
    case = {"work": lambda: microseconds(work, bench.args.device, repeats)}
    return bench.median(case)["work"]


def speed_ceilings(bench: Bench) -> list[dict]:
    """What no step can exceed: a matrix product, copies on the device and to it."""
    pixels = bench.raw_batch["image"].contiguous()
    pinned = pixels.pin_memory() if bench.on_gpu else pixels
    there = torch.empty_like(pixels, device=bench.device)
    cases = {
        "copy to the device, pinned memory": (1, lambda: there.copy_(pinned, non_blocking=True)),
        "copy to the device, other memory": (1, lambda: there.copy_(pixels)),
        "copy on the device, read and written": (2, lambda: torch.clone(there)),
    }
    if bench.on_gpu:
        cases["into pinned memory"] = (1, pixels.pin_memory)
    rows = [row("matrix product, bf16", bench.peak / 1e12, "TFLOP/s")]
    for what, (times, work) in cases.items():
        gb = times * pixels.nbytes / 1e9
        per_image = f"{pixels.nbytes / len(pixels) / 1e6:.2g} MB an image"
        rows.append(row(what, 1e6 * gb / mean_us(bench, work), "GB/s", per_image))
    return rows


def of_matmul(bench: Bench, images_per_s: float, share: float = 1.0) -> str:
    """Model FLOPs utilisation; ``share`` of a training step's operations."""
    used = share * bench.flops * images_per_s / bench.peak
    return f"MFU {used:.1%} of a matrix product's {bench.peak / 1e12:.3g} TFLOP/s"


def mode(compiled: bool) -> str:
    return "bf16, compiled" if compiled else "bf16, eager"


def speed_training(bench: Bench, compiled: bool) -> list[dict]:
    """The step on a batch kept on the device."""
    limit_of = functools.partial(of_matmul, bench)
    rate = bench.epochs_per_s(bench.training(compiled), bench.kept_batches(), warm=False)
    return [row(f"training, {mode(compiled)}, on device", rate, "images/s", limit_of(rate))]


def speed_inference(bench: Bench, compiled: bool) -> list[dict]:
    """The forward pass on a batch kept on the device."""
    model = bench.model().to(bench.device, memory_format=torch.channels_last).eval()
    settings, images = engine.Settings(bench.device, torch.bfloat16), bench.kept["image"]
    set_up_model(model, settings, "on" if compiled else "off")
    rate = 1e6 * len(images) / mean_us(bench, lambda: forward(model, images, settings))
    limit = of_matmul(bench, rate, share=1 / 3)
    return [row(f"inference, {mode(compiled)}, on device", rate, "images/s", limit)]


def speed_loader(bench: Bench) -> list[dict]:
    """Batches from shards, views left to the device; the batches are dropped."""
    rows = []
    for encoding in ("raw", "jpeg"):
        loader, timer = bench.loader(encoding), FromThird(bench.args.device)
        epoch = itertools.count()

        def drain(loader=loader, timer=timer, epoch=epoch) -> float:
            loader.set_epoch(next(epoch))
            for _ in timer(loader):
                pass
            return bench.args.batch_size * timer.steps_per_s()

        rate = bench.median({encoding: drain}, fresh=[encoding])[encoding]
        limit = f"{bench.args.num_workers} workers; files in the page cache"
        rows.append(row(f"loader alone, {encoding} shards", rate, "images/s", limit))
    return rows


def speed_end_to_end(bench: Bench, compiled: bool) -> list[dict]:
    """Training on galaxies, read or kept, against the same step on one batch on the device."""
    training, rows = bench.training(compiled), []
    alone = bench.epochs_per_s(training, bench.kept_batches(), warm=False)
    for source, cached in (("from raw shards", False), ("from images that are kept", True)):
        rate = bench.epochs_per_s(training, bench.loader("raw", cached=cached), warm=True)
        limit = f"{rate / alone:.1%} of the step on device, with {bench.args.num_workers} workers"
        rows.append(row(f"training, {mode(compiled)}, {source}", rate, "images/s", limit))
    return rows


def speed_finetuning(bench: Bench) -> list[dict]:
    """A whole run of ``Trainer`` over galaxies that are kept, its start apart.

    The start is all that is more than the later epochs' time for each epoch: in the first, images
    are read and the model is compiled. Finetuning all layers is the same work as this training.
    """
    sizes = (FINETUNED, VALIDATED, FINETUNING_EPOCHS) if bench.on_gpu else SMALL_FINETUNING
    num_train, num_val, num_epochs = sizes
    galaxies = Repeated(bench.shards["raw"], -(-num_train // len(bench.shards["raw"])))
    loading = {"num_workers": bench.args.num_workers, "pin_memory": bench.on_gpu}
    loaders = []
    for make, number in ((train_loader, num_train), (eval_loader, num_val)):
        dataset = bench.for_device(RowsOf(galaxies, range(number)))
        dataset.cache = bench.cache
        loaders.append(make(dataset, bench.args.batch_size, **loading, prefetch_factor=PREFETCH))
    begun_s, set_epoch = [], loaders[0].set_epoch

    def noted(*place) -> None:
        synchronize(bench.args.device)
        begun_s.append(time.perf_counter())
        set_epoch(*place)

    loaders[0].set_epoch = noted
    how = {"max_epochs": num_epochs, "patience": num_epochs, "device": bench.args.device}
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = Trainer(
            bench.folder / "finetuning", precision="bf16", compile="on", show_progress=False, **how
        )
        begin = time.perf_counter()
        trainer.fit(bench.model(), *loaders)
        synchronize(bench.args.device)
        end = time.perf_counter()
    seconds = [after - before for before, after in itertools.pairwise(begun_s)]
    later_s = statistics.median(seconds[1:])
    start_s = end - begin - num_epochs * later_s
    what = f"{num_train:,} galaxies x {num_epochs} epochs, {num_val:,} validated, after the start"
    rate = f"{num_train / later_s:,.0f} images/s; the start takes {start_s:.0f} s; {MARK}"
    return [row(what, num_epochs * later_s, "s", rate)]


def speed_predictions(bench: Bench, compiled: bool) -> list[dict]:
    """From raw shards to a finished file of predictions, start and all."""
    model, galaxies, number = bench.model(), bench.repeated("raw"), itertools.count()
    view = device_view_of(view_of(model), galaxies)

    def predict() -> None:
        name = f"predictions-{compiled}-{next(number)}.parquet"
        predict_to_file(
            galaxies,
            model,
            bench.folder / name,
            transform=view,
            batch_size=bench.args.batch_size,
            num_workers=bench.args.num_workers,
            prefetch_factor=PREFETCH,
            device=bench.args.device,
            precision="bf16",
            compile_encoder=compiled,
            show_progress=False,
        )

    rate = bench.images_per_s(predict, len(galaxies))
    what = f"predictions, {mode(compiled)}, raw shards to parquet"
    return [row(what, rate, "images/s", f"{len(galaxies)} galaxies in all, start included")]


def speed_profile(bench: Bench) -> list[dict]:
    """The operations of a training step that take longest."""
    training = bench.training(compiled=False)
    training.epoch(bench.kept_batches(2))
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if bench.on_gpu else [])
    with profile(activities=activities, acc_events=True) as profiled:
        training.epoch(bench.kept_batches(PROFILED_STEPS))

    def own_ms(event) -> float:
        us = event.self_device_time_total if bench.on_gpu else event.self_cpu_time_total
        return us / 1e3 / PROFILED_STEPS

    where = DeviceType.CUDA if bench.on_gpu else DeviceType.CPU  # kernels, or operations
    events = [event for event in profiled.key_averages() if event.device_type == where]
    events.sort(key=own_ms, reverse=True)
    total = sum(map(own_ms, events))
    return [
        row(
            f"profile: {event.key[:80]}",
            own_ms(event),
            "ms a step",
            f"{own_ms(event) / total:.1%}, {event.count / PROFILED_STEPS:g} calls",
        )
        for event in events[:TOP]
    ]


def speed_batch_sizes(bench: Bench) -> list[dict]:
    """Training, eager, by batch size."""
    training, rows = bench.training(compiled=False), []
    for batch_size in BATCH_SIZES if bench.on_gpu else (4, 16):
        place = torch.arange(batch_size, device=bench.device) % bench.args.batch_size
        batch = {"id_str": [str(i) for i in range(batch_size)], "label_cols": TREE.label_cols}
        for key in ("image", "labels"):
            batch[key] = bench.kept[key].to(bench.device)[place]
        batch["image"] = batch["image"].contiguous(memory_format=torch.channels_last)
        what = f"training, {mode(False)}, on device, batches of {batch_size}"
        rows.append(row(what, *_batch_size(bench, training, batch, batch_size)))
    return rows


def _batch_size(bench: Bench, training: Training, batch: dict, batch_size: int) -> tuple:
    """Images a second, their unit, and the memory that it takes; 0 if that is not there."""
    if bench.on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    timer = FromThird(bench.args.device)
    try:
        training.epoch(KeptBatch(batch, bench.num_steps // 3 + 2), timer)
    except torch.OutOfMemoryError:
        return 0.0, "images/s", "out of memory"
    peak_gb = torch.cuda.max_memory_allocated() / 1e9 if bench.on_gpu else 0.0
    return batch_size * timer.steps_per_s(), "images/s", f"{peak_gb:.1f} GB at most"


def speed_jpeg(bench: Bench) -> list[dict]:
    """JPEGs in memory to pixels: by one core, and by the GPU's decoder."""
    galaxies = bench.shards["jpeg"]
    num = min(bench.args.batch_size, len(galaxies))
    encoded = [
        torch.frombuffer(bytearray(bytes(galaxies.source(i))), dtype=torch.uint8)
        for i in range(num)
    ]

    def decode(device: torch.device) -> list[torch.Tensor]:
        return decode_jpeg(encoded, mode=ImageReadMode.RGB, device=device)

    cpu = torch.device("cpu")
    wanted, got = decode(cpu), decode(bench.device)
    off = [(a.float() - b.cpu().float()).abs().mean() for a, b in zip(wanted, got, strict=True)]
    what = f"{num} JPEGs of {tuple(wanted[0].shape)} decoded by"
    differ = f"differ from one core's by {torch.stack(off).mean().item():.2g} of 255"
    rows = []
    for who, device, limit in (("one core", cpu, ""), ("the device", bench.device, differ)):
        rate = bench.images_per_s(lambda device=device: decode(device), num)
        rows.append(row(f"{what} {who}", rate, "images/s", limit))
    return rows


def speed_loss(bench: Bench) -> list[dict]:
    """Loss and gradients against a loop over questions."""
    batch_size = 4096 if bench.on_gpu else 64
    x, counts = bench_loss.make_batch(TREE, batch_size, bench.args.device)

    def step(loss: Callable) -> None:
        x.grad = None
        loss(x, counts, TREE.question_sizes).sum(1).mean().backward()

    ours = mean_us(bench, lambda: step(dirichlet_multinomial_nll))
    loop = mean_us(bench, lambda: step(bench_loss.loop_over_questions))
    shape = f"{len(TREE.question_sizes)} questions, {len(TREE.answers)} answers, batch {batch_size}"
    return [
        row(f"loss and gradients, {shape}", ours, "us", bench_loss.bound(bench.args.device)),
        row("the same, a loop over questions", loop, "us", "launches of many small kernels"),
        row("loop / ours", loop / ours, "times"),
    ]


def speed_views(bench: Bench) -> list[dict]:
    """Views of a batch of fitted images."""
    batch = {k: v.to(bench.device) if torch.is_tensor(v) else v for k, v in bench.raw_batch.items()}
    images, options = batch["image"], [batch[key] for key in VIEW_KEYS]
    views = warp(images, *options)
    us = mean_us(bench, lambda: warp(images, *options))
    moved = images.nbytes + views.nbytes
    what = f"device views, {images.shape[-1]} to {views.shape[-1]} px, batch {len(images)}"
    limit = f"memory traffic: {1e-3 * moved / us:.0f} GB/s of pixels in and out, and copies between"
    return [row(what, 1e6 * len(images) / us, "images/s", limit)]


def _both(name: str, speed: Callable, eager_s: int, compiled_s: int) -> list[tuple]:
    """A speed's two parts, eager and compiled."""
    return [
        (name, functools.partial(speed, compiled=False), eager_s),
        (f"{name}-compiled", functools.partial(speed, compiled=True), compiled_s),
    ]


END_TO_END = _both("end-to-end", speed_end_to_end, 45, 40)
PREDICTIONS = _both("predictions", speed_predictions, 20, 45)
# (name, function, seconds that it takes on a GPU, about), in the order of their worth
SPEEDS: list[tuple[str, Callable[[Bench], list[dict]], int]] = [
    ("ceilings", speed_ceilings, 10),
    *_both("training", speed_training, 20, 70),
    *_both("inference", speed_inference, 10, 45),
    ("loader", speed_loader, 15),
    END_TO_END[1],
    ("finetuning", speed_finetuning, 65),
    PREDICTIONS[1],
    END_TO_END[0],
    PREDICTIONS[0],
    ("profile", speed_profile, 10),
    ("batch-sizes", speed_batch_sizes, 25),
    ("jpeg", speed_jpeg, 10),
    ("loss", speed_loss, 10),
    ("views", speed_views, 5),
]
