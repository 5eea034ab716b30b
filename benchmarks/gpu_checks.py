"""The checks of ``gpu.py``: a GPU computes what a CPU does, and the host never waits for it.

A check returns a line that says how right it is, or raises ``Wrong``. Differences are measured by
norm: the largest of a million elements says little.
"""

import contextlib
import io
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import bench_loss
import gpu_ranks
import torch
from bench_common import TREE, KeptBatch, Training, forward
from gpu_bench import Bench
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

from zoobot import engine
from zoobot.data.device_batches import on_device, to_device
from zoobot.data.loaders import eval_loader, train_loader
from zoobot.data.views.device import device_view_of
from zoobot.losses import dirichlet_multinomial_nll
from zoobot.predictions.files import read_predictions
from zoobot.predictions.models import view_of
from zoobot.predictions.predict import predict_to_file
from zoobot.runs import checkpoint
from zoobot.trainer import Trainer

BATCHES_COMPARED = 50
NUM_EPOCHS = 6  # of which the memory is watched
WARM_STEPS, WATCHED_STEPS = 2, 3


class Wrong(Exception):
    """Something was computed wrongly."""


def compare(
    what: str,
    got: torch.Tensor,
    wanted: torch.Tensor,
    bound: float,
    start: torch.Tensor | float = 0.0,
) -> str:
    """``Wrong`` if the difference's norm is more than ``bound`` times that of the values.

    Args:
        start: what the values are counted from, for example the weights before a training.
    """
    got, wanted = (values.detach().double().cpu() for values in (got, wanted))
    if got.shape != wanted.shape or not torch.isfinite(got).all():
        raise Wrong(f"{what}: not finite, or {tuple(got.shape)} instead of {tuple(wanted.shape)}")
    error = (
        torch.linalg.vector_norm(got - wanted) / torch.linalg.vector_norm(wanted - start)
    ).item()
    if not error <= bound:
        raise Wrong(f"{what}: off by {error:.3g} of its norm; at most {bound:g} is right")
    return f"{what}: off by {error:.2g} of its norm"


def check_loss(bench: Bench) -> str:
    """Loss and gradients are those of a float64 loop over questions on the CPU."""
    sizes = TREE.question_sizes
    x, counts = bench_loss.make_batch(TREE, 1024 if bench.on_gpu else 64, bench.args.device)
    reference = x.detach().double().cpu().requires_grad_()
    losses = dirichlet_multinomial_nll(x, counts, sizes)
    wanted = bench_loss.loop_over_questions(reference, counts.cpu(), sizes)
    losses.sum().backward()
    wanted.sum().backward()
    told = compare("loss", losses, wanted, 1e-5)
    return f"{told}; {compare('its gradient', x.grad, reference.grad, 1e-4)}"


def check_views(bench: Bench) -> str:
    """Views made on the device are those made on the CPU."""
    wanted = to_device(dict(bench.few_batch), torch.device("cpu"))["image"]
    got = to_device(dict(bench.few_batch), bench.device)["image"]
    return compare("views", got, wanted, 1e-3)


def check_precisions(bench: Bench) -> str:
    """A training step in fp32, bf16 and fp16: losses agree, and weights stay finite."""
    batch = to_device(dict(bench.few_batch), bench.device)
    losses = {}
    for precision in engine.PRECISIONS:
        training = Training(bench.model(dropout_rate=0.0), bench.device, precision)
        losses[precision] = training.epoch(KeptBatch(batch, 1))["supervised_loss"]
        if not all(torch.isfinite(p).all() for p in training.model.parameters()):
            raise Wrong(f"weights are not finite after a step in {precision}")
    wanted = torch.tensor(losses["fp32"])
    for precision, loss in losses.items():
        compare(f"training loss in {precision}", torch.tensor(loss), wanted, 0.02)
    return ", ".join(f"{precision} {loss:.7g}" for precision, loss in losses.items())


class _NoReads(TorchDispatchMode):
    """Refuses to read a number out of a tensor: on a GPU the host would wait for it."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("the host reads a number out of a tensor")
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def host_never_waits(on_gpu: bool) -> Iterator[None]:
    """RuntimeError if the host waits for the GPU in this ``with`` block."""
    if not on_gpu:
        with _NoReads():
            yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def check_sync(bench: Bench) -> str:
    """In a step, its next batch included, the host never waits for the GPU."""
    training = bench.training(compiled=False)
    batches = train_loader(bench.few, max(2, len(bench.few) // 8), pin_memory=bench.on_gpu)
    with contextlib.ExitStack() as watched:  # left after an error too

        def show(steps: Iterable) -> Iterator:
            steps = iter(steps)
            yield from itertools.islice(steps, WARM_STEPS)
            watched.enter_context(host_never_waits(bench.on_gpu))
            yield from itertools.islice(steps, WATCHED_STEPS)
            watched.close()
            yield from steps

        training.epoch(batches, show)
    return f"{WATCHED_STEPS} steps after {WARM_STEPS}"


def check_streams(bench: Bench) -> str:
    """Batches made on a second stream, while the first works, are those made on one, bitwise."""
    batch_size = max(2, len(bench.few) // (2 if bench.on_gpu else 8))
    loader = train_loader(bench.few, batch_size, pin_memory=bench.on_gpu)
    model = bench.model().to(bench.device, memory_format=torch.channels_last).eval()
    settings = engine.Settings(bench.device)
    num_epochs = -(-BATCHES_COMPARED // len(loader))

    def batches() -> Iterator[dict]:
        for epoch in range(num_epochs):
            loader.set_epoch(epoch)
            yield from loader

    wanted = [to_device(batch, bench.device) for batch in batches()]
    same = []
    for got, right in zip(on_device(batches(), bench.device), wanted, strict=True):
        forward(model, got["image"], settings)  # work, for the second stream to run beside
        same += [(got[key] == right[key]).all() for key in ("image", "labels")]
        got["image"].zero_()  # what comes later must not find it in its memory
    if not torch.stack(same).all():
        different = (~torch.stack(same)).sum().item()
        raise Wrong(f"{different} of {len(same)} tensors differ from those made on one stream")
    return f"{len(wanted)} batches are the same, bitwise"


def check_memory(bench: Bench) -> str:
    """Epochs after the second one reserve no more memory on the GPU."""
    training = Training(bench.model(), bench.device, "bf16")
    batch_size = max(2, len(bench.few) // 4)
    train = train_loader(bench.few, batch_size, pin_memory=bench.on_gpu)
    val = eval_loader(bench.few, batch_size, pin_memory=bench.on_gpu)
    reserved_mb = []
    for epoch in range(NUM_EPOCHS):
        train.set_epoch(epoch)
        training.epoch(train)
        engine.evaluate(training.model, val, training.settings)
        reserved_mb.append(torch.cuda.memory_reserved() / 1e6 if bench.on_gpu else 0.0)
    told = ", ".join(f"{mb:.0f}" for mb in reserved_mb)
    if reserved_mb[-1] > 1.02 * reserved_mb[1]:
        raise Wrong(f"memory reserved grows from epoch to epoch: {told} MB")
    return f"reserved after each epoch: {told} MB"


def check_resume(bench: Bench) -> str:
    """Two epochs in one go give the weights of one epoch, saved, and one more.

    Bitwise on a CPU and with ``deterministic``; else nearly.
    """
    start = gpu_ranks.flat(bench.model())
    told = []
    for deterministic in (False, True):
        name = "deterministic" if deterministic else "weights"
        whole, parts = (bench.folder / f"resumed-{name}-{part}" for part in ("whole", "parts"))
        with flags_put_back():
            wanted = _fit(bench, whole, 2, deterministic)
            _fit(bench, parts, 1, deterministic)
            got = _fit(bench, parts, 2, deterministic)
        bitwise = deterministic or not bench.on_gpu
        told.append(compare(name, got, wanted, 0.0 if bitwise else 0.02, start))
    return "; ".join(told)


@contextlib.contextmanager
def flags_put_back() -> Iterator[None]:
    """What a trainer sets for the whole process is at the end as before this ``with`` block."""
    cudnn, memory = torch.backends.cudnn, torch.utils.deterministic
    before = cudnn.deterministic, cudnn.benchmark, memory.fill_uninitialized_memory
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_deterministic)
        cudnn.deterministic, cudnn.benchmark, memory.fill_uninitialized_memory = before


def _fit(bench: Bench, folder: Path, epochs: int, deterministic: bool) -> torch.Tensor:
    """All weights after so many epochs, those that the folder has from before included."""
    model = bench.model()
    model.configure_optimizers = lambda: gpu_ranks.steady_adamw(model)
    batch_size = max(2, len(bench.few) // 4)
    train, val = train_loader(bench.few, batch_size), eval_loader(bench.few, batch_size)
    how = {"device": bench.args.device, "deterministic": deterministic, "show_progress": False}
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = Trainer(folder, max_epochs=epochs, **how)
        trainer.fit(model, train, val, ckpt_path="last")
    state = checkpoint.load_checkpoint(folder / "checkpoints" / "last.ckpt")["model"]
    return torch.cat([state[name].flatten().cpu() for name, _ in model.named_parameters()])


def check_predictions(bench: Bench) -> str:
    """A file of predictions made on the device holds what one made on the CPU does.

    Nearly so if factors are rounded to TF32, as torch does by default: what an untrained model
    predicts differs little from galaxy to galaxy. Views are made in the same way on both.
    """
    galaxies = bench.few_galaxies("jpeg")
    view = device_view_of(view_of(bench.model()), galaxies)

    def predicted(name: str, device: str) -> torch.Tensor:
        path = predict_to_file(
            galaxies,
            bench.model(),
            bench.folder / f"checked-{name}.parquet",
            transform=view,
            batch_size=16,
            num_workers=bench.args.num_workers,
            device=device,
            precision="fp32",
            show_progress=False,
        )
        return torch.from_numpy(read_predictions(path).values)

    wanted, rounded = predicted("cpu", "cpu"), predicted("rounded", bench.args.device)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        exact = predicted("exact", bench.args.device)
    mean_galaxy = wanted.double().mean(0, keepdim=True)
    what = "what galaxies differ in"
    told = compare(what, exact, wanted, 1e-3, mean_galaxy)
    return f"{told}; with TF32, {compare(what, rounded, wanted, 0.3, mean_galaxy)}"


def check_ranks(bench: Bench) -> str:
    """Two ranks on one device, which talk by gloo, get the weights that one gets."""
    galaxies, out = bench.few_galaxies("raw"), bench.folder / "ranks.pt"
    options = {
        "shards": bench.folder / "raw",
        "out": out,
        "encoder": bench.args.encoder,
        "image-size": bench.args.image_size,
        "num-galaxies": len(galaxies),
        "device": bench.device,
    }
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    told = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
    done = subprocess.run(
        [sys.executable, "-m", *torchrun, gpu_ranks.__file__, *told],
        env={"OMP_NUM_THREADS": "1", **os.environ},
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode:
        raise Wrong(f"two ranks on one device failed: {done.stderr[-3000:]}")
    how = (bench.args.encoder, bench.args.image_size, bench.device)
    start = gpu_ranks.flat(bench.model(dropout_rate=0.0))
    wanted = gpu_ranks.train_once(galaxies, *how)
    return compare("weights of two ranks", torch.load(out), wanted, 0.02, start)


def check_compile(bench: Bench) -> str:
    """A compiled training step gives the losses and gradient of the eager one, nearly.

    bfloat16 rounds elsewhere in the two.
    """
    batch, found = to_device(dict(bench.few_batch), bench.device), {}
    counters.clear()
    for compile in ("off", "on"):
        training = Training(bench.model(dropout_rate=0.0), bench.device, "bf16", compile=compile)
        model = training.model.train()
        images, labels = model.batch_to_supervised_tuple(batch)
        with training.settings.autocast():
            outputs = model(images).float()
        losses = model.losses(outputs, labels)
        losses.sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        found[compile] = losses, gradient
    if not counters["stats"]["unique_graphs"]:
        raise Wrong("nothing was compiled")
    told = compare("losses of the compiled step", found["on"][0], found["off"][0], 0.03)
    return f"{told}; {compare('its gradient', found['on'][1], found['off'][1], 0.05)}"


# (name, function, seconds that it takes on a GPU, about)
CHECKS: list[tuple[str, Callable[[Bench], str], int]] = [
    ("check-loss", check_loss, 5),
    ("check-views", check_views, 10),
    ("check-precisions", check_precisions, 15),
    ("check-sync", check_sync, 10),
    ("check-streams", check_streams, 10),
    ("check-memory", check_memory, 15),
    ("check-resume", check_resume, 30),
    ("check-predictions", check_predictions, 20),
    ("check-ranks", check_ranks, 30),
    ("check-compile", check_compile, 45),
]
