"""What the benchmarks share: galaxies, training, tables, results."""

import argparse
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from bench_loss import describe_machine
from PIL import Image

from zoobot import engine, optim
from zoobot.create_shards import write_shards
from zoobot.data.dataset import ImagesSeen
from zoobot.data.demo.catalog import JPEG_QUALITY, simulate_catalog
from zoobot.data.shards.reader import Shards, open_shards
from zoobot.data.views.config import default_view_config
from zoobot.data.views.cpu import get_galaxy_transform
from zoobot.data.views.device import VIEW_KEYS
from zoobot.models import speed
from zoobot.models.tree import ZoobotTree
from zoobot.runs import numerics
from zoobot.schemas import get_schema
from zoobot.script import set_up_process
from zoobot.system import distributed

RESULTS = Path(__file__).parent / "results"
TREE = get_schema("gz_evo_v1_schema")  # 76 questions, 239 answers
LABEL = "label"  # the one label column that the peer reads
SURVEY_SIZE_PX = 424


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
    add("--smoke", action="store_true", help="tiny, to see that it runs; on a CPU")
    return parser


def add_image_options(parser: argparse.ArgumentParser) -> None:
    """Options of the benchmarks that read files."""
    parser.add_argument("--images", type=Path, help="catalog with file_loc, instead of simulated")
    parser.add_argument("--num-images", type=int, default=None)


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Options of the benchmarks that read files and run beside the peer."""
    add_image_options(parser)
    save_help = "write benchmarks/results/NAME-DEVICE.json"
    parser.add_argument("--save", action="store_true", help=save_help)
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
    """The catalog's galaxies as shards, written by as many processes as there are cores."""
    num_writers = os.cpu_count() or 1
    write_shards(
        catalog,
        label_cols,
        folder,
        encoding=encoding,
        img_size=img_size,
        galaxies_a_shard=min(1024, max(64, -(-len(catalog) // num_writers))),
        num_workers=num_writers if len(catalog) > 64 else 0,
        show_progress=False,
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
        batch = {k: v for k, v in batch.items() if k not in VIEW_KEYS}  # its views are made
        self.batch = batch | {"step_galaxies": len(batch["image"]), "ends_step": True}
        self.num_steps = num_steps

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """No effect: every epoch is the same."""

    def __iter__(self) -> Iterator[dict]:
        place = {"step_galaxies": len(self.batch["image"]), "ends_step": True}
        return (self.batch | place for _ in range(self.num_steps))


class Training:
    """A model with all that epochs of training need; one of several ranks if there are several.

    It is set up as ``Trainer`` does; ``compile`` is one of ``zoobot.options.COMPILE``.
    """

    def __init__(
        self,
        model: ZoobotTree,
        device: str | torch.device,
        precision: str = "auto",
        optimizer: torch.optim.Optimizer | None = None,
        compile: str = "off",
    ):
        where = torch.device(device)
        dtype = engine.choose_dtype(precision, where)
        self.settings = engine.Settings(where, dtype)
        self.model = model.to(where, memory_format=torch.channels_last)
        set_up_model(self.model, self.settings, compile)
        self._wrapped = distributed.wrap(self.model, where)
        self._optimizer = optimizer or model.configure_optimizers()
        self._scheduler = optim.make_scheduler(self._optimizer, None, 1, 1)
        self._scaler, self._progress = self.settings.grad_scaler(), engine.Progress()

    def epoch(self, loader, show: Callable[[Iterable], Iterable] = iter) -> dict[str, float]:
        """Train on the loader's galaxies once; ``show`` is as for ``engine.train_one_epoch``."""
        return engine.train_one_epoch(
            self._wrapped,
            loader,
            self._optimizer,
            self._scheduler,
            self._scaler,
            self.settings,
            self._progress,
            show=show,
        )


def set_up_model(model: ZoobotTree, settings: engine.Settings, compile: str) -> None:
    """Have a model run as in a training, or in evaluation, whose batches have one size."""
    numerics.try_convolutions(settings.device)
    speed.set_up(model, settings.device, settings.dtype, compile, 1, None, None)


def forward(model: ZoobotTree, images: torch.Tensor, settings: engine.Settings) -> torch.Tensor:
    """What the model predicts, without gradients."""
    with torch.inference_mode(), settings.autocast():
        return model(images)


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
