"""What the benchmarks share: galaxies, training, timing in turn, tables, results, the peer."""

import argparse
import io
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from bench_loss import describe_machine
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from zoobot import engine, optim
from zoobot.create_shards import write_shards
from zoobot.data.dataset import ImagesSeen
from zoobot.data.demo.catalog import JPEG_QUALITY, simulate_catalog
from zoobot.data.shards.reader import Shards, open_shards
from zoobot.data.views.config import default_view_config
from zoobot.data.views.cpu import get_galaxy_transform
from zoobot.models.tree import ZoobotTree
from zoobot.schemas import get_schema
from zoobot.script import set_up_process

RESULTS = Path(__file__).parent / "results"
TREE = get_schema("gz_evo_v1_schema")  # 76 questions, 239 answers
LABEL = "label"  # the one label column that the peer reads
SURVEY_SIZE_PX = 424
PEER_STEPS = 20  # of a training epoch, fixed in the peer's script
PEER_TIMEOUT_S = 3600


def make_parser(doc: str) -> argparse.ArgumentParser:
    """The options that all benchmarks of the pipeline have."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", choices=["cpu", "cuda"], default=None, help="by default a GPU if there is one")
    add("--num-workers", type=int, default=2)
    add("--batch-size", type=int, default=None)
    add("--image-size", type=int, default=None, help="of the views, pixels; by default 224")
    add("--encoder", default=None, help="timm's name")
    add("--rounds", type=int, default=3, help="of timing in turn")
    add("--save", action="store_true", help="write benchmarks/results/NAME-DEVICE.json")
    add("--smoke", action="store_true", help="tiny, to see that it runs; on a CPU")
    return parser


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Options of the benchmarks that read files and run beside the peer."""
    parser.add_argument("--images", type=Path, help="catalog with file_loc, instead of simulated")
    parser.add_argument("--num-images", type=int, default=None)
    parser.add_argument("--peer-python", type=Path, help="interpreter with zoobot 2.9")
    parser.add_argument(
        "--peer-script", type=Path, help="runs one of its cases and prints a line of JSON"
    )


def settle(args: argparse.Namespace, cpu: dict, cuda: dict, smoke: dict) -> argparse.Namespace:
    """Fill in the options that were left out, and set the process up as the scripts do."""
    set_up_process()
    args.device = "cpu" if args.smoke else args.device
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    args.load = os.getloadavg()[0]
    args.rounds = 1 if args.smoke else args.rounds
    sizes = {"image_size": 224, "galaxy_px": SURVEY_SIZE_PX, "shard_px": 300, "distinct": 128}
    sizes |= cuda if args.device == "cuda" else cpu
    for name, value in (sizes | (smoke if args.smoke else {})).items():
        if args.smoke or getattr(args, name, None) is None:
            setattr(args, name, value)
    return args


SMOKE = {
    "encoder": "test_convnext",
    "image_size": 32,
    "galaxy_px": 64,
    "shard_px": 48,
    "distinct": 8,
    "batch_size": 8,
    "num_images": 32,
    "num_workers": 1,
}


def make_catalog(args: argparse.Namespace, folder: Path) -> pd.DataFrame:
    """``num_images`` galaxies with ``LABEL`` and random votes; few images are repeated."""
    if getattr(args, "images", None):
        distinct = pd.read_csv(args.images, dtype={"id_str": str})
        here = args.images.resolve().parent
        files = [str(here / file) for file in distinct["file_loc"].head(args.num_images)]
    else:
        files = simulate_files(folder / "galaxies", args.distinct, args.galaxy_px)
    num = args.num_images
    rng = np.random.default_rng(0)
    shape = (num, len(TREE.label_cols))
    votes = rng.integers(1, 20, shape) * (rng.random(shape) < 0.4)
    catalog = pd.DataFrame(votes, columns=TREE.label_cols)
    catalog.insert(0, "id_str", [f"galaxy-{i:07d}" for i in range(num)])
    catalog.insert(1, "file_loc", [files[i % len(files)] for i in range(num)])
    return catalog.assign(**{LABEL: np.arange(num) % 4})


def repeat(catalog: pd.DataFrame, num: int) -> pd.DataFrame:
    """So many galaxies: those of the catalog, over and over, with ids of their own."""
    catalog = catalog.iloc[np.arange(num) % len(catalog)].reset_index(drop=True)
    return catalog.assign(id_str=[f"galaxy-{i:07d}" for i in range(num)])


def simulate_files(folder: Path, num: int, size_px: int) -> list[str]:
    """JPEG files of simulated galaxies.

    They are drawn at half their size and enlarged: the noise of survey images spans pixels too, and
    files of single-pixel noise would be several times as large as theirs.
    """
    folder.mkdir(parents=True)
    files = []
    for image in simulate_catalog(num, 0, size_px // 2)["image"]:
        large = Image.open(io.BytesIO(image)).resize((size_px, size_px), Image.Resampling.BICUBIC)
        files.append(str(folder / f"{len(files)}.jpg"))
        large.save(files[-1], quality=JPEG_QUALITY)
    return files


def make_shards(
    catalog: pd.DataFrame, label_cols: list[str], folder: Path, encoding: str, img_size: int
) -> Shards:
    """The catalog's galaxies as shards."""
    options = {"num_workers": os.cpu_count() or 1, "galaxies_a_shard": 1024}
    write_shards(
        catalog,
        label_cols,
        folder,
        encoding=encoding,
        img_size=img_size,
        show_progress=False,
        **options,
    )
    return open_shards(folder, "train")


def training_view(image_size: int):
    """The default training view in this size."""
    config = default_view_config()
    config.output_size = image_size
    return get_galaxy_transform(config)


def make_model(encoder: str, image_size: int, **options) -> ZoobotTree:
    """A model of ``TREE`` with the same random weights every time."""
    torch.manual_seed(0)
    model = ZoobotTree(schema=TREE, architecture_name=encoder, **options)
    model.images_seen = ImagesSeen(image_size=image_size)
    return model


class KeptBatch:
    """A loader that gives one batch, kept on the device, time after time."""

    def __init__(self, batch: dict, num_steps: int):
        self.batch = batch | {"step_galaxies": len(batch["image"]), "ends_step": True}
        self.num_steps = num_steps

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """No effect: every epoch is the same."""

    def __iter__(self) -> Iterator[dict]:
        return (dict(self.batch) for _ in range(self.num_steps))


class Training:
    """A model with all that epochs of training need."""

    def __init__(self, model: ZoobotTree, device: str, precision: str = "auto"):
        where = torch.device(device)
        dtype = engine.choose_dtype(precision, where)
        self.settings = engine.Settings(where, dtype)
        self.model = model.to(where, memory_format=torch.channels_last)
        self._optimizer = model.configure_optimizers()
        self._scheduler = optim.make_scheduler(self._optimizer, None, 1, 1)
        self._scaler, self._progress = self.settings.grad_scaler(), engine.Progress()

    def epoch(self, loader) -> dict[str, float]:
        """Train on the loader's galaxies once."""
        return engine.train_one_epoch(
            self.model,
            loader,
            self._optimizer,
            self._scheduler,
            self._scaler,
            self.settings,
            self._progress,
        )


def forward(model: ZoobotTree, images: torch.Tensor, settings: engine.Settings) -> torch.Tensor:
    """What the model predicts, without gradients."""
    with torch.inference_mode(), settings.autocast():
        return model(images)


def synchronize(device: str) -> None:
    """Wait for a GPU's work."""
    if device == "cuda":
        torch.cuda.synchronize()


def images_per_s(work: Callable, num_images: int, device: str) -> Callable[[], float]:
    """A function that does the work once and returns its images a second."""

    def timed() -> float:
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        return num_images / (time.perf_counter() - start)

    return timed


def microseconds(work: Callable, device: str, repeats: int) -> float:
    """Mean microseconds a call, back to back; on a GPU by its own clock (CUDA events)."""
    for _ in range(3):
        work()
    if device == "cpu":
        start = time.perf_counter()
        for _ in range(repeats):
            work()
        return 1e6 * (time.perf_counter() - start) / repeats
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for _ in range(repeats):
        work()
    end.record()
    end.synchronize()
    return 1e3 * begin.elapsed_time(end) / repeats


def alternate(
    cases: dict[str, Callable[[], float]], rounds: int, fresh: Collection[str] = ()
) -> dict[str, float]:
    """Median figure of each case; they are called in turn: A B A B.

    Args:
        cases: name -> function that returns a figure.
        fresh: those that start anew at each call and so are not called to warm up.
    """
    for name, measure in cases.items():
        if name not in fresh:
            measure()
    figures = {name: [] for name in cases}
    for _ in range(rounds):
        for name, measure in cases.items():
            figures[name].append(measure())
    return {name: statistics.median(values) for name, values in figures.items()}


def flops_a_step(model: ZoobotTree, images: torch.Tensor) -> float:
    """Floating-point operations of a training step on these images: 3 times the forward pass's."""
    counter = FlopCounterMode(display=False)
    was_training = model.training
    model.eval()
    with torch.no_grad(), counter:
        model(images[:1])
    model.train(was_training)
    return 3.0 * counter.get_total_flops() * len(images)


def matmul_flops_per_s(device: str, dtype: torch.dtype, smoke: bool = False) -> float:
    """FLOP/s of a large matrix product: what the device reaches, not what its maker tells."""
    side = 256 if smoke else 8192 if device == "cuda" else 1024
    a, b = torch.randn(2, side, side, device=device).to(dtype).unbind(0)
    repeats = 3 if device == "cpu" else 30
    times = [microseconds(lambda: a @ b, device, repeats) for _ in range(3)]
    return 2 * side**3 / (1e-6 * statistics.median(times))


class Peer:
    """Zoobot 2.9 in an interpreter of its own, on the same galaxies.

    Args:
        catalog: with ``file_loc`` and ``LABEL``.
        folder: an empty one to work in.
    """

    def __init__(self, args: argparse.Namespace, catalog: pd.DataFrame, folder: Path):
        if args.peer_script is None:
            raise SystemExit("error: --peer-python needs --peer-script")
        folder.mkdir(parents=True)
        self._command = [str(args.peer_python.absolute()), str(args.peer_script.absolute())]
        self._options = {
            "images": folder / "catalog.csv",
            "out": folder / "out",
            "image-size": args.image_size,
            "batch-size": args.batch_size,
            "num-workers": args.num_workers,
            "encoder": args.encoder,
            "device": args.device,
        }
        self._folder = folder
        catalog[["id_str", "file_loc", LABEL]].to_csv(self._options["images"], index=False)

    def images_per_s(self, case: str, **options) -> float:
        """Run one of its cases; the last figure that it prints, when it is warm.

        Raises:
            RuntimeError: it failed, or printed no figure.
        """
        options = {k: v for k, v in (self._options | options).items() if v is not None}
        told = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        done = subprocess.run(
            [*self._command, case, *told],
            cwd=self._folder,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},  # ours, of its name
            capture_output=True,
            text=True,
            timeout=PEER_TIMEOUT_S,
        )
        lines = [json.loads(x) for x in done.stdout.splitlines() if x.startswith("{")]
        figures = [line["images_per_s"] for line in lines if "images_per_s" in line]
        if done.returncode or not figures:
            raise RuntimeError(f"the peer's {case} failed: {done.stderr[-2000:]}")
        return figures[-1]


def print_table(rows: list[dict]) -> None:
    """Rows as a markdown table; columns that none has a value for are left out."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    names = [name for name in names if any(row.get(name) is not None for row in rows)]
    print("| " + " | ".join(name.replace("_", " ") for name in names) + " |")
    print("|" + "---|" * len(names))
    for row in rows:
        print("| " + " | ".join(_cell(row.get(name)) for name in names) + " |", flush=True)


def _cell(value) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return "" if value is None else str(value)


def device_name(device: str) -> str:
    """``cpu``, or the GPU's name in a form for file names."""
    if device == "cpu":
        return "cpu"
    return "-".join(torch.cuda.get_device_name().lower().split())


def save(args: argparse.Namespace, name: str, rows: list[dict]) -> None:
    """Write the rows to ``results`` if ``--save`` was given."""
    if not args.save:
        return
    device = device_name(args.device)
    result = {
        "environment": describe_machine(args.device, args.load),
        "device": device,
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{device}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {path}")
