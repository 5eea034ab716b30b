"""Time and peak memory of similar and odd galaxies, from a file of representations.

    python benchmarks/bench_similar.py --rows 1000000 --features 640

Writes random features as ``predict.py --representations`` does, once, then runs
``python -m zoobot.similar`` in a process of its own for each line.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from zoobot.predictions.files import Predictions, open_writer

ROWS_AT_ONCE = 2**14


def write_features(path: Path, num_rows: int, num_features: int) -> None:
    """Features of a hundred clusters, and noise."""
    rng = np.random.default_rng(0)
    columns = [f"feat_{i}" for i in range(num_features)]
    empty = np.empty((0, num_features, 1), np.float32)
    template = Predictions(np.array([], object), empty, columns, None, {"task": "representations"})
    centres = rng.normal(0, 1, (100, num_features)).astype(np.float32)
    with open_writer(path, ".parquet", template, num_rows) as writer:
        for start in range(0, num_rows, ROWS_AT_ONCE):
            rows = np.arange(start, min(start + ROWS_AT_ONCE, num_rows))
            values = centres[rng.integers(0, 100, len(rows))]
            values += rng.normal(0, 0.5, values.shape).astype(np.float32)
            ids = np.array([f"1237648720{row:09d}" for row in rows], dtype=object)
            writer.write(Predictions(ids, values[..., None], columns))


def cpu_seconds() -> float:
    """What ended children have used of all cores."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=640)
    parser.add_argument("--what", nargs="+", default=["--to 1237648720000000007", "--odd"])
    opt = parser.parse_args()
    print("| galaxies | features | what | seconds | on a core | largest process so far, MB |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "features.parquet"
        write_features(path, opt.rows, opt.features)
        for what in opt.what:
            command = [sys.executable, "-m", "zoobot.similar", "--representations", str(path)]
            command += ["--save-loc", f"{name}/out.csv", *what.split()]
            start, before = time.perf_counter(), cpu_seconds()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds = time.perf_counter() - start
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
            used = cpu_seconds() - before
            row = (
                f"{opt.rows:,} | {opt.features} | {what} | {seconds:.0f} | {used:.0f} | {peak:.0f}"
            )
            print(f"| {row} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    main()
