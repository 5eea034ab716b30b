"""Peak memory of a prediction against the number of galaxies: it should not grow.

    python benchmarks/predict_memory.py --rows 20000 200000

A hundred small JPEG images are predicted over and over, by a tiny encoder, with 30 answers and 5
dropout passes. Main process and its image-reading workers are counted, each at its own peak.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from zoobot.data.dataset import ImagesSeen
from zoobot.models.tree import ZoobotTree
from zoobot.predictions.predict import predict_to_file
from zoobot.schemas import get_schema
from zoobot.script import set_up_process


def peak_mb(who: int) -> float:
    """Largest resident memory so far of this process, or of any ended child, in MB."""
    return resource.getrusage(who).ru_maxrss / 1024


def measure(folder: Path, num_rows: int, num_workers: int, results) -> None:
    model = ZoobotTree(schema=get_schema("gz2_ortho_schema"), architecture_name="test_resnet")
    model.images_seen = ImagesSeen(image_size=32, view={"output_size": 32})
    before = peak_mb(resource.RUSAGE_SELF)
    start = time.perf_counter()
    predict_to_file(
        folder / f"{num_rows}.csv",
        model,
        folder / f"{num_rows}.parquet",
        num_samples=5,
        num_workers=num_workers,
        summary=True,
    )
    seconds = time.perf_counter() - start
    after = peak_mb(resource.RUSAGE_SELF), peak_mb(resource.RUSAGE_CHILDREN)
    results.put((before, *after, seconds))


def write_catalogs(folder: Path, sizes: list[int]) -> None:
    rng = np.random.default_rng(0)
    for i in range(100):
        pixels = rng.integers(0, 255, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.jpg")
    for size in sizes:
        ids = np.arange(size)
        table = pd.DataFrame({"id_str": [f"galaxy-{i:09d}" for i in ids]})
        table["file_loc"] = [f"{i % 100}.jpg" for i in ids]
        table.to_csv(folder / f"{size}.csv", index=False)


def main() -> None:
    set_up_process()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--num-workers", type=int, default=2)
    opt = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    print("| galaxies | main process, model loaded, MB | at its peak | a worker | seconds |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        write_catalogs(Path(name), opt.rows)
        for rows in opt.rows:
            results = context.Queue()
            arguments = (Path(name), rows, opt.num_workers, results)
            process = context.Process(target=measure, args=arguments)
            process.start()
            before, after, worker, seconds = results.get()
            process.join()
            print(f"| {rows:,} | {before:.0f} | {after:.0f} | {worker:.0f} | {seconds:.0f} |")


if __name__ == "__main__":
    main()
