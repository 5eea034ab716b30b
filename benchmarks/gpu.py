"""One command for one GPU: first that it computes what a CPU does, then how fast.

    python benchmarks/gpu.py --out benchmarks/results/gpu.json
    python benchmarks/gpu.py --images catalog.csv --only checks
    python benchmarks/gpu.py --images catalog.csv --only training predictions --minutes 3
    python benchmarks/gpu.py --smoke

Galaxies are those of ``--images``, repeated, or simulated on the spot. A part that computes
something wrongly says what, one that fails shows its traceback; the others go on, and the exit code
is 1. The whole stays within ``--minutes``: parts for which too little time is left are skipped, and
named. The file of ``--out`` is written after each part. Speeds are medians of rounds; those of
epochs count from the third step on, and ``limit`` says what bounds them. With ``--smoke``
everything runs on a CPU, tiny; there the checks compare the CPU with itself.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from bench_common import SMOKE, add_image_options, device_name, make_parser, print_table, settle
from bench_loss import describe_machine
from gpu_bench import Bench
from gpu_checks import CHECKS, Wrong
from gpu_speeds import SPEEDS

from zoobot.models import speed

GROUPS = {"checks": CHECKS, "speeds": SPEEDS}
NAMES = [name for name, _, _ in CHECKS + SPEEDS]
GALAXIES = {"num_images": 2048, "distinct": 192}


def parts_of(chosen: list[str]) -> list[tuple[str, Callable, int]]:
    """The parts of these names, groups in the place of theirs, each once."""
    every = {part[0]: part for part in CHECKS + SPEEDS}
    parts = [p for name in chosen for p in GROUPS.get(name) or [every[name]]]
    return [*dict.fromkeys(parts)]


def run_part(bench: Bench, name: str, work: Callable) -> dict:
    """What became of a part: its result, or that it is wrong or has failed, and why."""
    start = time.monotonic()
    try:
        result = work(bench)
        done = {"rows": result} if isinstance(result, list) else {"result": result}
        done["status"] = "timed" if "rows" in done else "right"
    except Wrong as error:
        done = {"status": "wrong", "result": str(error)}
    except Exception as error:  # whatever it is, the other parts go on
        traceback.print_exc()
        done = {"status": "failed", "result": f"{type(error).__name__}: {error}"}
    return {"part": name, **done, "seconds": round(time.monotonic() - start, 1)}


def run_parts(
    bench: Bench, parts: list[tuple[str, Callable, int]], start: float, write: Callable
) -> list[dict]:
    """Run one part after the other, as long as there is time, and write after each.

    Args:
        start: when the time began to run, by ``time.monotonic``.
        write: called with what became of the parts so far.
    """
    done = []
    for name, work, estimate_s in parts:
        begun = time.monotonic() - start
        if begun + (estimate_s if bench.on_gpu else 0) >= 60 * bench.args.minutes:
            told = f"{begun:.0f} s are over, and it needs about {estimate_s} s"
            done.append({"part": name, "status": "skipped", "result": told})
        else:
            done.append(run_part(bench, name, work))
        tell(done[-1])
        write(done)
    return done


def tell(part: dict) -> None:
    """Print what became of a part, in one line, and the table of its figures."""
    status = part["status"].upper() if part["status"] in ("wrong", "failed") else part["status"]
    result = f": {part['result']}" if "result" in part else ""
    seconds = f" ({part['seconds']} s)" if "seconds" in part else ""
    print(f"{status}: {part['part']}{result}{seconds}", flush=True)
    if "rows" in part:
        print_table(part["rows"])


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_image_options(parser)
    add = parser.add_argument
    only_help = f"parts, in this order: {', '.join([*GROUPS, *NAMES])}"
    choices = [*GROUPS, *NAMES]
    add("--only", nargs="+", default=[*GROUPS], choices=choices, metavar="PART", help=only_help)
    add("--out", type=Path, help="JSON file, written after each part")
    add("--minutes", type=float, default=9.0, help="at most, in all")
    parser.set_defaults(num_workers=min(12, max(2, (os.cpu_count() or 4) - 2)), rounds=2)
    args = parser.parse_args(argv)
    if not args.smoke and (args.device == "cpu" or not torch.cuda.is_available()):
        parser.error("this is for a GPU, and none is used here: --smoke shows that it runs")
    cuda = {"encoder": "convnext_nano", "batch_size": 512, **GALAXIES}
    return settle(args, {}, cuda, SMOKE)


def main(argv: list[str] | None = None) -> list[dict]:
    start, args = time.monotonic(), parse(argv)
    # Read by cuBLAS as it starts, and needed by what is deterministic; the size is a Hopper's own.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as rehearsal:
        bench = Bench(args, Path(folder))
        if not bench.on_gpu:  # only tracing: a CPU's compiler takes minutes
            rehearsal.enter_context(mock.patch.object(speed, "BACKEND", "eager"))
        num_galaxies = len(bench.shards["raw"])  # many processes write them: before CUDA starts
        device = device_name(args.device)
        about = {"environment": describe_machine(args.device, args.load), "device": device}
        told = f"{device}: {args.encoder}, {args.image_size} px, {num_galaxies} galaxies"
        print(f"{told}, written in {time.monotonic() - start:.0f} s", flush=True)

        def write(done: list[dict]) -> None:
            if args.out is not None:
                args.out.write_text(json.dumps({**about, "parts": done}, indent=1) + "\n")

        done = run_parts(bench, parts_of(args.only), start, write)
    bad = [part["part"] for part in done if part["status"] in ("wrong", "failed")]
    if bad:
        print(f"wrong or failed: {', '.join(bad)}", flush=True)
        sys.exit(1)
    return done


if __name__ == "__main__":
    main()
