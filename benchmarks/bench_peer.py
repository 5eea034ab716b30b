"""Zoobot 2.9, the peer of the benchmarks, in an interpreter of its own."""

import argparse
import json
import os
import subprocess
from pathlib import Path

import pandas as pd
from bench_common import LABEL

PEER_STEPS = 20  # of a training epoch, fixed in the peer's script
PEER_TIMEOUT_S = 3600


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
