"""What a galaxy costs besides its pixels, against the number of galaxies and of processes.

    python benchmarks/bench_scaling.py --rows 10000 100000 1000000
    python benchmarks/bench_scaling.py --rows --processes 1 2 4

The first simulates catalogs (ids, paths, 34 vote counts) and times what is done once for each: it
should be linear. The second predicts 20,000 small images with as many processes, which share the
cores that there are.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from predict_memory import write_catalogs

from zoobot.data.catalog import read_catalog
from zoobot.data.labels import votes
from zoobot.data.listing import write_listing
from zoobot.data.loaders import TrainSampler
from zoobot.data.sources import TableGalaxies
from zoobot.data.splits import split_catalog
from zoobot.models.tree import ZoobotTree
from zoobot.runs import checkpoint
from zoobot.schemas import get_schema

REPO = Path(__file__).parent.parent
TELLING = 1.2  # a prediction that takes so many times the start tells a rate
SCHEMA = "decals_dr5_ortho_schema"


def simulated_catalog(num_rows: int, label_cols: list[str]) -> pd.DataFrame:
    """Ids, paths and votes of galaxies without images."""
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 40, (num_rows, len(label_cols)), dtype=np.int32)
    table = pd.DataFrame(counts, columns=label_cols)
    table.insert(0, "id_str", [f"J{i:012d}" for i in range(num_rows)])
    table.insert(1, "file_loc", [f"/survey/{i // 1000:06d}/J{i:012d}.jpg" for i in range(num_rows)])
    return table


def once_a_catalog(num_rows: int, folder: Path) -> dict[str, float]:
    """Seconds of what is done once for a catalog before, or in each epoch of, training."""
    label_cols = get_schema(SCHEMA).label_cols
    table = simulated_catalog(num_rows, label_cols)
    table.to_parquet(folder / "catalog.parquet")
    del table
    seconds, start = {}, time.perf_counter()

    def done(name: str) -> None:
        nonlocal start
        seconds[name] = time.perf_counter() - start
        start = time.perf_counter()

    table = read_catalog(folder / "catalog.parquet", label_cols)
    done("read and check")
    votes(table, label_cols)
    done("check votes")
    split_catalog(table)
    done("split")
    TableGalaxies(table, label_cols)
    done("to tensors")
    sum(len(indices) for _, indices in TrainSampler(num_rows, 512))
    done("order of an epoch")
    write_listing(folder / "catalog.parquet", folder / "galaxies.arrow")
    done("listing to predict")
    return seconds


def print_catalog_costs(sizes: list[int]) -> None:
    rows = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as name:
            seconds = once_a_catalog(size, Path(name))
        rows.append((size, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
    names = list(rows[0][1])
    print(f"| galaxies | {' | '.join(f'{name}, us' for name in names)} | peak memory, MB |")
    print("|---" * (len(names) + 2) + "|")
    for size, seconds, peak_mb in rows:
        cells = " | ".join(f"{1e6 * seconds[name] / size:.2f}" for name in names)
        print(f"| {size:,} | {cells} | {peak_mb:.0f} |")


def print_process_costs(processes: list[int], num_rows: int) -> None:
    print("| processes | galaxies a second | start, s |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_catalogs(folder, [100, num_rows])
        model = ZoobotTree(schema=get_schema(SCHEMA), architecture_name="test_resnet")
        description = model.describe() | {"image_size": 32, "view": {"output_size": 32}}
        checkpoint.save_weights(folder / "w.safetensors", model.state_dict(), description)
        for number in processes:
            start = predict_seconds(folder, number, 100)
            seconds = predict_seconds(folder, number, num_rows)
            print(f"| {number} | {rate(num_rows, seconds, start)} | {start:.1f} |")


def rate(num_rows: int, seconds: float, start: float) -> str:
    """Galaxies a second once processes have started; "-" where the start hides it."""
    if seconds < TELLING * start:
        return f"- ({num_rows} galaxies are too few: raise --predicted)"
    return f"{num_rows / (seconds - start):.0f}"


def predict_seconds(folder: Path, num_processes: int, num_rows: int) -> float:
    """Wall time of predict.py under torchrun, one thread and one worker a process."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
        str(num_processes), str(REPO / "predict.py"), "--checkpoint", str(folder / "w.safetensors"),
        "--catalog", str(folder / f"{num_rows}.csv"), "--num-workers", "1", "--device", "cpu",
        "--save-loc", str(folder / f"{num_processes}-{num_rows}.parquet"),
    ]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--processes", type=int, nargs="*", default=[])
    parser.add_argument("--predicted", type=int, default=20_000)
    opt = parser.parse_args()
    torch.set_num_threads(1)
    if opt.rows:
        print_catalog_costs(opt.rows)
    if opt.processes:
        print_process_costs(opt.processes, opt.predicted)


if __name__ == "__main__":
    main()
