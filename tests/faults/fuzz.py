"""Damaged files of every kind: each must be read, or refused with a ValueError.

    python tests/faults/fuzz.py --inputs 10000 --seed 0 --processes 2
    python tests/faults/fuzz.py --replay failures/0-1234-schema.zip

Input number i is a function of the seed and i. It fails if another error than ValueError comes
out, if it takes more than 10 s of a core or 2 GB, if a file is written outside its folder, or if
something is executed or fetched. Failing inputs are saved, to be replayed.
"""

import argparse
import collections
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # others reserve address space
os.environ["HF_HUB_OFFLINE"] = "1"
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

import random  # noqa: E402

from kinds import KINDS  # noqa: E402
from watched import Outcome, Worker  # noqa: E402

GRACE_S = 900  # of waiting beyond the time limit, which is of the processor; many may share it


def kind_of(number: int) -> str:
    """Kinds take turns."""
    return list(KINDS)[number % len(KINDS)]


def make_input(seed: int, number: int) -> tuple[str, dict[str, bytes]]:
    """Kind and files of input ``number``."""
    kind = kind_of(number)
    return kind, KINDS[kind].make(random.Random(f"{seed}/{number}"))


def save_input(path: Path, kind: str, files: dict[str, bytes]) -> None:
    """Write an input as a zip archive that ``--replay`` takes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = kind.encode()
        for name, content in files.items():
            archive.writestr(name, content)


def load_input(path: Path) -> tuple[str, dict[str, bytes]]:
    """Kind and files of a saved input."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
        return archive.comment.decode(), files


def run_all(numbers: range, seed: int, num_processes: int, work: Path):
    """Outcomes of inputs, in the order in which they end."""
    import multiprocessing.connection as connection

    waiting = iter(numbers)
    workers = [Worker(work / f"process-{i}", seed, make_input) for i in range(num_processes)]
    busy = [worker for worker in workers if worker.start(next(waiting, None))]
    try:
        while busy:
            connection.wait([w.pipe for w in busy], min(w.seconds_left(GRACE_S) for w in busy))
            for worker in list(busy):
                outcome = worker.poll(GRACE_S)
                if outcome is None:
                    continue
                yield outcome
                if not worker.start(next(waiting, None)):
                    busy.remove(worker)
    finally:
        for worker in workers:
            worker.stop()


def report(outcomes: list[Outcome], seed: int) -> str:
    """The counts of each kind, and the extremes."""
    lines = [f"seed {seed}, {len(outcomes)} inputs"]
    lines.append(f"{'kind':<12}{'inputs':>8}{'accepted':>10}{'refused':>9}{'failures':>10}")
    for kind in KINDS:
        counts = collections.Counter(o.result for o in outcomes if o.kind == kind)
        accepted, refused = counts.pop("accepted", 0), counts.pop("refused", 0)
        failed = counts.total()
        total = accepted + refused + failed
        lines.append(f"{kind:<12}{total:>8}{accepted:>10}{refused:>9}{failed:>10}")
    slowest = max(outcomes, key=lambda o: o.seconds)
    largest = max(outcomes, key=lambda o: o.peak_mb)
    strays = sum(len(o.strays) for o in outcomes)
    lines.append(f"slowest {slowest.seconds:.2f} s (input {slowest.number}, {slowest.kind})")
    lines.append(f"largest {largest.peak_mb:.0f} MB (input {largest.number}, {largest.kind})")
    lines.append(f"files found outside the folder: {strays}")
    return "\n".join(lines)


def fuzz(options: argparse.Namespace, work: Path) -> int:
    """Run inputs, print as failures come, and save them; the number of failures."""
    outcomes, failures = [], 0
    numbers = range(options.first, options.first + options.inputs)
    if options.kind:
        first = options.first - options.first % len(KINDS) + list(KINDS).index(options.kind)
        numbers = range(first, first + options.inputs * len(KINDS), len(KINDS))
    for outcome in run_all(numbers, options.seed, options.processes, work):
        outcome.kind = kind_of(outcome.number)
        outcomes.append(outcome)
        if outcome.failed:
            failures += 1
            path = Path(options.failures) / f"{options.seed}-{outcome.number}-{outcome.kind}.zip"
            save_input(path, *make_input(options.seed, outcome.number))
            print(f"{path}: {outcome.result}: {outcome.reason}", flush=True)
        if len(outcomes) % 1000 == 0:
            print(f"{len(outcomes)} inputs, {failures} failures", file=sys.stderr, flush=True)
    print(report(outcomes, options.seed))
    return failures


def replay(path: Path, work: Path) -> int:
    """Run one saved input and print what comes of it; 1 if it fails."""
    worker = Worker(work / "replay", 0, lambda seed, number: load_input(path))
    worker.start(0)
    while (outcome := worker.poll(GRACE_S)) is None:
        worker.pipe.poll(worker.seconds_left(GRACE_S))
    worker.stop()
    print(f"{outcome.result} after {outcome.seconds:.2f} s, {outcome.peak_mb:.0f} MB")
    print(outcome.traceback or outcome.reason)
    return int(outcome.failed)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=600, help="how many")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=list(KINDS), help="of this kind only")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--failures", default="failures", help="folder of failing inputs")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one saved input")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    if options.replay:
        options.replay = options.replay.absolute()
    work = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        if options.replay:
            return replay(options.replay, work)
        return min(1, fuzz(options, work))
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
