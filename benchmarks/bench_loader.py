"""Images a second of training loaders, labels included; their batches are dropped.

    python benchmarks/bench_loader.py
    python benchmarks/bench_loader.py --peer-python PEER/bin/python --peer-script peer.py

Each case reads the same galaxies, from JPEG files or from shards of JPEG (300 px) or of raw pixels,
with the default training view: on the CPU, which is all the work, or with the view left to the
device, whose work is not counted here (gpu.py times it). Of one case the images are kept in memory
(``--cache memory``). Workers are started, and every case has
read all galaxies once, before the cases are timed in turn. The peer stands beside the one case that
does what it does; it starts its workers within the time that it tells, which is little of it.

The column ``limit`` comes from a worker's work done in this process: its largest part, and the
share of the time that the workers spent working. The rest is handing batches over and waiting; the
case without workers, in which the main process reads, hands nothing over.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from bench_common import (
    LABEL,
    SMOKE,
    TREE,
    add_data_options,
    make_catalog,
    make_parser,
    make_shards,
    print_table,
    save,
    settle,
    training_view,
)
from bench_peer import Peer
from bench_timing import alternate, images_per_s

from zoobot.data.dataset import CatalogDataset
from zoobot.data.image_cache import keep_images
from zoobot.data.images import read_image, read_pixels
from zoobot.data.loaders import train_loader
from zoobot.data.sources import TableGalaxies
from zoobot.data.views.device import DeviceView, device_view_of

PARTS = ("read", "decode", "view", "labels", "stack")
ALONE = "no workers"
ALIKE = "JPEG files, CPU view"  # the case that does the peer's work
KEPT = "kept in memory"


def make_datasets(args: argparse.Namespace, folder: Path) -> tuple[dict, object]:
    """Case -> dataset, and the catalog."""
    catalog = make_catalog(args, folder)

    def shards(label_cols, encoding):
        where = folder / f"{encoding}-{len(label_cols)}"
        return make_shards(catalog, label_cols, where, encoding, args.shard_px)

    files = TableGalaxies(catalog, [LABEL])
    jpeg, raw = (shards([LABEL], encoding) for encoding in ("jpeg", "raw"))
    view = training_view(args.image_size)
    many = f"{len(TREE.label_cols)} labels"
    galaxies = {
        ALIKE: (files, False),
        f"{ALIKE}, {KEPT}": (files, False),
        f"{ALIKE}, {many}": (TableGalaxies(catalog, TREE.label_cols), False),
        "JPEG files, device view": (files, True),
        "JPEG shards, CPU view": (jpeg, False),
        "JPEG shards, device view": (jpeg, True),
        "raw shards, device view": (raw, True),
        f"raw shards, device view, {ALONE}": (raw, True),
        f"raw shards, device view, {many}": (shards(TREE.label_cols, "raw"), True),
    }
    datasets = {
        name: CatalogDataset(source, transform=device_view_of(view, source) if later else view)
        for name, (source, later) in galaxies.items()
    }
    datasets[f"{ALIKE}, {KEPT}"].cache = "memory"
    keep_images(datasets[f"{ALIKE}, {KEPT}"], torch.device("cpu"))
    return datasets, catalog


def profile(dataset: CatalogDataset, num: int) -> dict[str, float]:
    """Milliseconds an image of a worker's parts, on one thread; ``stack`` is all that is left.

    Of images that are kept, ``view`` is all.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    galaxies, view = dataset.galaxies, dataset.transform
    indices = np.random.default_rng(0).permutation(len(dataset))[:num].tolist()
    spent = dict.fromkeys(PARTS, 0.0)

    def timed(part, work):
        start = time.perf_counter()
        result = work()
        spent[part] += time.perf_counter() - start
        return result

    dataset.batch(0, indices)  # to warm up
    for i in () if dataset.keeps_images else indices:
        source = timed("read", lambda i=i: galaxies.source(i))
        if isinstance(view, DeviceView):
            pixels = timed("decode", lambda source=source: read_pixels(source))
            timed("view", lambda pixels=pixels: view.fit(pixels))
        else:
            image = timed("decode", lambda s=source: read_image(s, min_side_px=view.min_side_px))
            rng = timed("view", lambda i=i: np.random.default_rng((0, 0, i)))
            timed("view", lambda image=image, rng=rng: view(image, rng))
    timed("labels", lambda: galaxies.labels(indices))
    before = sum(spent.values())
    timed("stack", lambda: dataset.batch(1, indices))
    spent["stack"] = max(0.0, spent["stack"] - before)
    if dataset.keeps_images:
        spent["view"], spent["stack"] = spent["stack"], 0.0
    torch.set_num_threads(num_threads)
    return {part: 1e3 * seconds / len(indices) for part, seconds in spent.items()}


def consume(loader) -> None:
    """Read all batches of an epoch, and drop them."""
    loader.set_epoch(getattr(loader.sampler, "epoch", 0) + 1)
    for _ in loader:
        pass


def measure(args: argparse.Namespace, folder: Path) -> list[dict]:
    """Time all cases in turn, the peer among them."""
    datasets, catalog = make_datasets(args, folder)
    workers = {name: 0 if name.endswith(ALONE) else args.num_workers for name in datasets}
    loaders = {
        name: train_loader(dataset, args.batch_size, num_workers=workers[name])
        for name, dataset in datasets.items()
    }
    cases = {
        name: images_per_s(lambda loader=loader: consume(loader), len(loader.dataset), "cpu")
        for name, loader in loaders.items()
    }
    if args.peer_python:
        peer = Peer(args, catalog, folder / "peer")
        cases["peer"] = lambda: peer.images_per_s("loader")
    figures = alternate(cases, args.rounds, fresh=["peer"])
    rows = []
    for name, dataset in datasets.items():
        parts = profile(dataset, 4 * args.batch_size)
        rows.append(_row(name, figures, parts, workers[name]))
    return rows


def _row(name: str, figures: dict, parts: dict[str, float], num_workers: int) -> dict:
    total, largest = sum(parts.values()), max(parts, key=parts.get)
    busy = figures[name] * total / 1e3 / max(1, num_workers)
    alike, _, many = name.rpartition(", ") if name.endswith("labels") else (None, "", "")
    peer = figures.get("peer") if name == ALIKE else None
    return {
        "case": name,
        "images_per_s": round(figures[name], 1),
        "times_one_label": round(figures[name] / figures[alike], 3) if many else None,
        "peer_images_per_s": peer,
        "times_peer": round(figures[name] / peer, 2) if peer else None,
        **{f"{part}_ms": round(ms, 3) for part, ms in parts.items()},
        "limit": f"{largest}, {parts[largest] / total:.0%} of a worker's {total:.1f} ms; "
        f"workers busy {busy:.0%}",
    }


def main(argv: list[str] | None = None) -> list[dict]:
    parser = make_parser(__doc__)
    add_data_options(parser)
    args = parser.parse_args(argv)
    sizes = {"batch_size": 64, "num_images": 1024}
    settle(args, sizes, sizes, SMOKE)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(args, Path(folder))
    print_table(rows)
    save(args, "loader", rows)
    return rows


if __name__ == "__main__":
    main()
