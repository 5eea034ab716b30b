"""Kill commands at random moments, many times, and compare what they leave with a run never killed.

    python tests/faults/long_run.py --seed 0
    python tests/faults/long_run.py --seed 0 --only predict,shards

A trial measures how long its command takes, kills it again and again at moments of that time, lets
the same command run to its end, and compares every file. Exit code 1 if a file differs, a command
that was left alone fails, or a process outlives its command.
"""

import argparse
import dataclasses
import json
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from killing import REPO, Command, contents, differences, torchrun, touched
from torch import nn

sys.path.insert(0, str(REPO / "tests"))
from comparing import have_same_metrics
from conftest import draw_galaxies

from zoobot.models.tree import ZoobotTree
from zoobot.runs import checkpoint
from zoobot.runs.lines import METRICS
from zoobot.schemas import Schema

NUM_GALAXIES = 1500
EPOCHS = 12
MOST_WAIT_S = 10
TREE = Schema(
    {"smooth": ["_yes", "_no"], "bar": ["_strong", "_weak", "_no"], "merging": ["_yes", "_no"]},
    {"smooth": None, "bar": "smooth_no", "merging": None},
)


@dataclasses.dataclass
class Counts:
    """What a trial did.

    Attributes:
        asked, hit: kills, and those that reached a live process.
        restarts: of the command after a kill, with the one that ran to its end.
        compared: files.
        wrong: files that differ, and whatever else should not be.
    """

    asked: int = 0
    hit: int = 0
    restarts: int = 0
    compared: int = 0
    wrong: list[str] = dataclasses.field(default_factory=list)

    def __add__(self, other: "Counts") -> "Counts":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Counts(*(ours + theirs for ours, theirs in pairs))


@dataclasses.dataclass
class Trial:
    """A command that is killed.

    Attributes:
        name: of the trial, and of its folder.
        words: the output folder -> what follows ``python``.
        phase: the output folder -> what the command is doing.
        victims: name -> the command -> ids of the processes to kill.
        event: besides random moments, kill as soon as the phase is this; None: at random moments
            only.
        signal: that is sent.
        differences: two output folders at rest -> names of files that differ.
        is_done: the output folder -> whether hardly anything is left to do: then let it end.
    """

    name: str
    words: Callable[[Path], list]
    phase: Callable[[Path], str]
    victims: dict[str, Callable[[Command], list[int]]]
    event: str | None = None
    signal: int = signal.SIGKILL
    differences: Callable[[Path, Path], list[str]] = differences
    is_done: Callable[[Path], bool] = lambda out: False


def kill_and_compare(trial: Trial, kills: int, rng: np.random.Generator, folder: Path) -> Counts:
    """Run a command once undisturbed, and again and again with kills; compare output folders.

    Of every five kills one comes before the command touches its output folder, two up to half of
    the undisturbed run's time after that, one after so many files, and one at the trial's event.
    When a run ends before it is killed, its output is compared, and the next one begins with
    nothing.
    """
    whole, out = (folder / trial.name / run / "out" for run in ("whole", "killed"))
    whole.mkdir(parents=True)
    out.mkdir(parents=True)
    counts = Counts()

    start = time.monotonic()
    command = Command(trial.words(whole), whole.parent)
    command.wait_for(lambda: bool(touched(whole)))
    starting, most = time.monotonic() - start, 1

    def count_files() -> bool:
        nonlocal most
        most = max(most, len(touched(whole)))
        return False

    command.wait_for(count_files)
    _end(command, trial, counts, killed=False)
    working = time.monotonic() - start - starting
    print(f"  {trial.name}: starts in {starting:.1f} s, works for {working:.1f} s", flush=True)

    for number in range(kills):
        counts.asked += 1
        before = touched(out)
        command = Command(trial.words(out), out.parent)
        if trial.event is None:
            alive = _wait(command, starting + rng.uniform(-starting / 2, min(working, MOST_WAIT_S)))
        elif number % 5 == 0:
            alive = _wait(command, rng.uniform(0, starting))
        elif number % 5 == 4:
            alive = command.wait_for(lambda: trial.phase(out) == trial.event)
        elif number % 5 == 3:
            wanted = len(before) + rng.integers(1, max(2, most // 2))
            alive = command.wait_for(lambda: len(touched(out)) >= wanted)  # noqa: B023
        else:
            command.wait_for(lambda: touched(out) != before)  # noqa: B023
            alive = _wait(command, rng.uniform(0, working / 2))
        victim = str(rng.choice(list(trial.victims)))
        pids = (trial.victims[victim](command) or command.processes()) if alive else []
        reached = command.send(pids, trial.signal)
        code = _end(command, trial, counts, killed=reached > 0)
        had_ended = not reached or (trial.signal == signal.SIGKILL and code == 0)
        counts.hit += not had_ended
        counts.restarts += 1
        told = "it had ended" if had_ended else f"{victim}, {reached} processes, {trial.phase(out)}"
        print(f"  {trial.name}: kill {number + 1}: {told}", flush=True)
        if not had_ended and trial.is_done(out):
            counts.restarts += 1
            _end(Command(trial.words(out), out.parent), trial, counts, killed=False)
            had_ended = True
        if had_ended:
            _compare(whole, out, trial, counts)
            shutil.rmtree(out)
            out.mkdir()

    _end(Command(trial.words(out), out.parent), trial, counts, killed=False)
    _compare(whole, out, trial, counts)
    return counts


def _wait(command: Command, seconds: float) -> bool:
    """Wait so long, or for the command's end; whether it still runs."""
    until = time.monotonic() + seconds
    return command.wait_for(lambda: time.monotonic() > until)


def _compare(whole: Path, out: Path, trial: Trial, counts: Counts) -> None:
    counts.compared += len(contents(whole))
    counts.wrong += [f"{trial.name}: {name} differs" for name in trial.differences(whole, out)]


def _end(command: Command, trial: Trial, counts: Counts, *, killed: bool) -> int:
    """Wait for the end of a command; its exit code, which must be 0 unless it was killed."""
    code, orphans = command.finish()
    if code and not killed:
        told = command.log.read_text(errors="replace")[-1000:]
        counts.wrong.append(f"{trial.name}: exit code {code}: {told}")
    if orphans:
        counts.wrong.append(f"{trial.name}: {orphans} orphans")
    return code


def predict(rng: np.random.Generator, folder: Path, kills: int) -> Counts:
    """Predictions in every format, by one and by two processes: a rank, the main one, or all."""
    catalog = draw_galaxies(folder, TREE, NUM_GALAXIES)
    torch.manual_seed(0)
    model = ZoobotTree(schema=TREE, architecture_name="test_convnext", dropout_rate=0.5)
    nn.init.normal_(model.head.linear.weight, std=0.5)
    seen = {"image_size": 32, "view": {"output_size": 32}}
    weights = folder / "best.safetensors"
    checkpoint.save_weights(weights, model.state_dict(), model.describe() | seen)

    def trial(num_processes: int, suffix: str, *more: str) -> Trial:
        file = f"p{suffix}"

        def words(out: Path) -> list:
            script = [*torchrun(num_processes), REPO / "predict.py", "--checkpoint", weights]
            options = ["--n-samples", 3, "--batch-size", 4, "--precision", "fp32"]
            where = ["--catalog", catalog, "--save-loc", out / file]
            return [*script, *options, *where, *more]

        def phase(out: Path) -> str:
            parts = out / f"{file}.parts"
            if not (parts / "plan.json").exists():
                return "cleaning up" if (out / file).exists() else "starting"
            if [*parts.glob(f".{file}.*"), *parts.glob(".p_summary.*"), *parts.glob("p[._]*")]:
                return "joining"
            return f"{len([*parts.glob('part-*')])} parts"

        victims = {
            "all": lambda command: command.processes(),
            "the main rank": lambda command: _rank(command, 0, num_processes),
        }
        if num_processes > 1:
            victims["a rank"] = lambda command: _rank(command, 1, num_processes)
        return Trial(f"predict-{num_processes}{suffix}", words, phase, victims, "joining")

    trials = [
        trial(1, ".csv", "--num-workers", "1"),
        trial(2, ".parquet", "--summary"),
        trial(1, ".hdf5", "--summary", "--num-workers", "0"),
        trial(2, ".csv"),
    ]
    each = [len(share) for share in np.array_split(np.arange(kills), len(trials))]
    runs = zip(trials, each, strict=True)
    return sum((kill_and_compare(trial, n, rng, folder) for trial, n in runs), Counts())


def _rank(command: Command, rank: int, num_processes: int) -> list[int]:
    """The process of a rank, which is the oldest that is told so; [] before there is one."""
    told = {"RANK": str(rank)} if num_processes > 1 else {}
    return command.processes(**told)[:1]


def shards(rng: np.random.Generator, folder: Path, kills: int) -> Counts:
    """JPEG and raw shards by three writing processes: one of them, the main one, or all."""
    catalog = draw_galaxies(folder, TREE, NUM_GALAXIES, size_px=150)

    def trial(encoding: str) -> Trial:
        def words(out: Path) -> list:
            script = ["-m", "zoobot.create_shards", "--labelled-catalog", catalog]
            labels = ["--label-cols", *TREE.label_cols, "--encoding", encoding]
            sizes = ["--img-size", 100, "--eval-size", 300, "--galaxies-a-shard", 25]
            return [*script, *labels, *sizes, "--num-workers", 3, "--shard-dir", out]

        def phase(out: Path) -> str:
            if (out / "index.json").exists():
                return "finished"
            written = len([*out.glob("*/shard-*")])
            return f"{written} shards" if written else "starting"

        victims = {
            "all": lambda command: command.processes(),
            "the main process": lambda command: command.processes()[:1],
            "a writer": lambda command: command.processes()[-1:],
        }
        return Trial(f"shards-{encoding}", words, phase, victims, "finished")

    first, second = trial("jpeg"), trial("raw")
    return kill_and_compare(first, kills - kills // 2, rng, folder) + kill_and_compare(
        second, kills // 2, rng, folder
    )


def train_trial(folder: Path, name: str, number: int) -> Trial:
    """A run of train.py by two processes; to be killed, it saves several times a second."""
    catalog = draw_galaxies(folder, TREE, 600)
    (folder / "tree.json").write_text(json.dumps(TREE.to_dict()))

    def words(out: Path) -> list:
        data = ["--catalog", catalog, "--schema", folder / "tree.json", "--image-size", 32]
        model = ["--encoder", "test_resnet", "--dropout", 0.5, "--precision", "fp32"]
        every = 0.005 if number == signal.SIGKILL else 0  # minutes; 0: when asked to stop only
        loop = ["--batch-size", 16, "--epochs", EPOCHS, "--num-workers", 1, "--save-every", every]
        script = [*torchrun(2), REPO / "train.py", *data, *model, *loop, "--no-report"]
        return [*script, "--save-dir", "out"]

    def phase(out: Path) -> str:
        """The place of the last state, read as the processes of a run that was killed would."""
        try:
            progress = checkpoint.load_checkpoint(out / "checkpoints" / "last.ckpt")["progress"]
        except ValueError:
            return "no state"
        return f"epoch {progress['epoch'] + 1}, step {progress['epoch_step']}"

    def same_state(first: Path, second: Path) -> bool:
        """Pickles of equal states can differ by which equal strings are one object."""
        if not (first.exists() and second.exists()):
            return False
        states = [checkpoint.load_checkpoint(path) for path in (first, second)]
        return checkpoint.digest(states[0]) == checkpoint.digest(states[1])

    victims = {
        "all": lambda command: command.processes(),
        "the main rank": lambda command: command.processes(RANK="0")[:1],
        "the other rank": lambda command: command.processes(RANK="1")[:1],
        "torchrun": lambda command: command.processes()[:1],
    }
    if number == signal.SIGKILL:
        del victims["torchrun"]  # whose processes would go on

    def different(first: Path, second: Path) -> list[str]:
        """All but files that tell the time, or which state was saved when; states by content."""
        kept = re.compile(r"config.json|metrics.jsonl|best.safetensors|checkpoints/(epoch|last).*")
        names = [name for name in differences(first, second) if kept.fullmatch(name)]
        return [
            name
            for name in names
            if not (name.endswith(".ckpt") and same_state(first / name, second / name))
            and not (name == METRICS and have_same_metrics(first, second))
        ]

    def is_done(out: Path) -> bool:
        return phase(out) == f"epoch {EPOCHS + 1}, step 0"

    return Trial(name, words, phase, victims, None, number, different, is_done)


def train_sigkill(rng: np.random.Generator, folder: Path, kills: int) -> Counts:
    """Training by two processes: a rank or all are killed."""
    return kill_and_compare(train_trial(folder, "train", signal.SIGKILL), kills, rng, folder)


def train_sigterm(rng: np.random.Generator, folder: Path, kills: int) -> Counts:
    """Training by two processes: a rank, torchrun or all, workers too, are asked to stop."""
    return kill_and_compare(train_trial(folder, "train", signal.SIGTERM), kills, rng, folder)


TRIALS = {  # name -> (rng, folder, kills) -> Counts, and how many kills
    "train-sigkill": (train_sigkill, 50),
    "train-sigterm": (train_sigterm, 20),
    "predict": (predict, 20),
    "shards": (shards, 20),
}


def main(argv: list[str] | None = None) -> int:
    """Run the trials; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="of moments and victims")
    parser.add_argument("--only", default=",".join(TRIALS), help="names of trials, with commas")
    parser.add_argument("--kills", type=int, help="of each trial, instead of its own number")
    options = parser.parse_args(argv)
    names = options.only.split(",")
    if unknown := [name for name in names if name not in TRIALS]:
        parser.error(f"no trial {unknown[0]}: {', '.join(TRIALS)}")
    lines, wrong = [], []
    for name in names:
        folder = Path(tempfile.mkdtemp(prefix=f"zoobot-{name}-"))
        start = time.monotonic()
        trial, kills = TRIALS[name]
        counts = trial(np.random.default_rng(options.seed), folder, options.kills or kills)
        seconds = time.monotonic() - start
        if counts.wrong:
            wrong += [*counts.wrong, f"{name}: logs are kept in {folder}"]
        else:
            shutil.rmtree(folder)
        lines.append(
            f"{name}: {counts.asked} kills asked, {counts.hit} hit, {counts.restarts} restarts, "
            f"{counts.compared} files compared, identical: {'no' if counts.wrong else 'yes'}, "
            f"{seconds:.0f} s"
        )
        print(lines[-1], flush=True)
    print("\n".join([*wrong, *lines]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
