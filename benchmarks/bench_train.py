"""Training end to end, from files to weights, against the same step on a batch kept on the device.

    python benchmarks/bench_train.py
    python benchmarks/bench_train.py --device cuda --data raw --save
    python benchmarks/bench_train.py --peer-python PEER/bin/python --peer-script peer.py

Starvation is the ratio of the two: 1 if the model never waits for galaxies. On a CPU it is below 1
in any case, as the workers need the same cores. ``share of matmul`` is the model FLOPs utilisation:
3 times the forward pass's operations over what a large matrix product of the same type reaches here
(Chowdhery et al. 2022). Both train all of the encoder with AdamW; ours learns the votes of 76
questions, the peer 4 classes.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from bench_common import (
    SMOKE,
    TREE,
    KeptBatch,
    Training,
    add_data_options,
    make_catalog,
    make_model,
    make_parser,
    make_shards,
    print_table,
    repeat,
    save,
    settle,
    training_view,
)
from bench_peer import PEER_STEPS, Peer
from bench_timing import alternate, flops_a_step, images_per_s, matmul_flops_per_s

from zoobot.data.dataset import CatalogDataset
from zoobot.data.device_batches import to_device
from zoobot.data.loaders import train_loader
from zoobot.data.sources import TableGalaxies
from zoobot.data.views.device import device_view_of

STARVED = 0.9


def make_loader(args: argparse.Namespace, catalog, folder: Path):
    """Of JPEG files with views on the CPU, or of raw shards with views on the device."""
    view = training_view(args.image_size)
    if args.data == "raw":
        galaxies = make_shards(catalog, TREE.label_cols, folder / "raw", "raw", args.shard_px)
        view = device_view_of(view, galaxies)
    else:
        galaxies = TableGalaxies(catalog, TREE.label_cols)
    loading = {"num_workers": args.num_workers, "pin_memory": args.device == "cuda"}
    dataset = CatalogDataset(galaxies, transform=view)
    return train_loader(dataset, args.batch_size, **loading)


def variants(device: str) -> dict[str, tuple[str, str]]:
    """Name -> precision, and whether the model is compiled; all are channels-last."""
    if device == "cpu":
        return {"eager": ("auto", "off")}
    return {
        "eager, fp32": ("fp32", "off"),
        "eager, bf16": ("bf16", "off"),
        "compiled, bf16": ("bf16", "on"),
    }


def measure(args: argparse.Namespace, folder: Path) -> list[dict]:
    """Time every variant, on the device and end to end, in turn with the peer."""
    catalog = make_catalog(args, folder)
    loader = make_loader(args, catalog, folder)
    batch = to_device(next(iter(loader)), torch.device(args.device))
    kept, cases, trainings, flops = KeptBatch(batch, loader.num_steps), {}, {}, {}
    for name, (precision, compiled) in variants(args.device).items():
        model = make_model(args.encoder, args.image_size)
        model.to(args.device)
        flops[name] = flops_a_step(model, batch["image"]) / len(batch["image"])
        trainings[name] = training = Training(model, args.device, precision, compile=compiled)
        for what, source, num in (
            ("on device", kept, loader.num_steps * len(batch["image"])),
            ("end to end", loader, args.num_images),
        ):
            work = lambda t=training, s=source: t.epoch(s)  # noqa: E731
            cases[f"{name}, {what}"] = images_per_s(work, num, args.device)
    if args.peer_python:
        cases["peer"] = peer_case(args, catalog, folder, trainings)
    figures = alternate(cases, args.rounds, fresh=["peer"])
    rows = []
    for name, training in trainings.items():
        peak = matmul_flops_per_s(args.device, training.settings.dtype, args.smoke)
        rows.append(_row(name, figures, flops[name] / peak, args))
    return rows


def peer_case(args: argparse.Namespace, catalog, folder: Path, trainings: dict):
    """The peer's training, in the precision of our last variant."""
    dtype = [*trainings.values()][-1].settings.dtype
    peer = Peer(args, repeat(catalog, (PEER_STEPS + 1) * args.batch_size), folder / "peer")
    precision = "32-true" if dtype == torch.float32 else "bf16-mixed"
    return lambda: peer.images_per_s("step", precision=precision)


def _row(name: str, figures: dict, seconds_at_peak: float, args: argparse.Namespace) -> dict:
    on_device, end_to_end = (figures[f"{name}, {x}"] for x in ("on device", "end to end"))
    starvation, share = end_to_end / on_device, on_device * seconds_at_peak
    peer = figures.get("peer")
    return {
        "training": f"{args.encoder}, {args.image_size} px, batch {args.batch_size}, {name}",
        "on_device_images_per_s": round(on_device, 1),
        "end_to_end_images_per_s": round(end_to_end, 1),
        "starvation": round(starvation, 3),
        "share_of_matmul": round(share, 3),
        "peer_images_per_s": peer,
        "times_peer": round(end_to_end / peer, 2) if peer else None,
        "limit": "reading galaxies" if starvation < STARVED else "the model's step",
    }


def main(argv: list[str] | None = None) -> list[dict]:
    parser = make_parser(__doc__)
    add_data_options(parser)
    parser.add_argument("--data", choices=["files", "raw"], default="files")
    args = parser.parse_args(argv)
    settle(
        args,
        {"encoder": "convnext_atto", "batch_size": 32, "num_images": 320},
        {"encoder": "convnext_nano", "batch_size": 512, "num_images": 8192},
        SMOKE,
    )
    num_steps = max(1, args.num_images // args.batch_size)
    args.num_images = num_steps * args.batch_size  # so that all batches have one size
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(args, Path(folder))
    print_table(rows)
    save(args, "train", rows)
    return rows


if __name__ == "__main__":
    main()
