"""Predictions from JPEG files to a finished parquet file, against the forward pass alone.

    python benchmarks/bench_predict.py
    python benchmarks/bench_predict.py --peer-python PEER/bin/python --peer-script peer.py

The time from the call to the finished file is all counted: listing the catalog, starting workers,
reading, predicting, writing. Ours predicts 239 answers, the peer 4 classes, with one encoder. If
the peer runs, both predict the same galaxies, 1000 at most, in float32.
"""

import argparse
import itertools
import tempfile
from pathlib import Path

import torch
from bench_common import (
    SMOKE,
    add_data_options,
    forward,
    make_catalog,
    make_model,
    make_parser,
    print_table,
    save,
    settle,
)
from bench_peer import Peer
from bench_timing import alternate, images_per_s

from zoobot import engine
from zoobot.predictions.predict import predict_to_file

PEER_MOST = 1000  # galaxies, fixed in the peer's script
STARVED = 0.9


def measure(args: argparse.Namespace, folder: Path) -> list[dict]:
    """Time predictions end to end, the forward pass and the peer in turn."""
    precision = "fp32" if args.peer_python else "auto"
    catalog = make_catalog(args, folder)
    device = torch.device(args.device)
    settings = engine.Settings(device, engine.choose_dtype(precision, device))
    model = make_model(args.encoder, args.image_size)
    model = model.to(device, memory_format=torch.channels_last).eval()
    shape = (args.batch_size, 3, args.image_size, args.image_size)
    images = torch.rand(shape, device=device).contiguous(memory_format=torch.channels_last)
    number = itertools.count()
    num_steps = max(1, min(20, args.num_images // args.batch_size))

    def end_to_end():
        predict_to_file(
            catalog,
            model,
            folder / f"predictions-{next(number)}.parquet",
            batch_size=args.batch_size,
            num_workers=args.num_workers,
            device=args.device,
            precision=precision,
            show_progress=False,
        )

    def on_device():
        for _ in range(num_steps):
            forward(model, images, settings)

    cases = {
        "end to end": images_per_s(end_to_end, len(catalog), args.device),
        "forward": images_per_s(on_device, num_steps * len(images), args.device),
    }
    if args.peer_python:
        peer = Peer(args, catalog, folder / "peer")
        cases["peer"] = lambda: peer.images_per_s("predict")
    return [_row(alternate(cases, args.rounds, fresh=["peer"]), args)]


def _row(figures: dict[str, float], args: argparse.Namespace) -> dict:
    share, peer = figures["end to end"] / figures["forward"], figures.get("peer")
    return {
        "predictions": f"{args.encoder}, {args.image_size} px, batch {args.batch_size}",
        "galaxies": args.num_images,
        "end_to_end_images_per_s": round(figures["end to end"], 1),
        "forward_images_per_s": round(figures["forward"], 1),
        "starvation": round(share, 3),
        "peer_images_per_s": peer,
        "times_peer": round(figures["end to end"] / peer, 2) if peer else None,
        "limit": "reading images" if share < STARVED else "the forward pass",
    }


def main(argv: list[str] | None = None) -> list[dict]:
    parser = make_parser(__doc__)
    add_data_options(parser)
    args = parser.parse_args(argv)
    settle(
        args,
        {"encoder": "convnext_atto", "batch_size": 32, "num_images": 1000},
        {"encoder": "convnext_nano", "batch_size": 512, "num_images": 8192},
        SMOKE,
    )
    if args.peer_python:
        args.num_images = min(args.num_images, PEER_MOST)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(args, Path(folder))
    print_table(rows)
    save(args, "predict", rows)
    return rows


if __name__ == "__main__":
    main()
