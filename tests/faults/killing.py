"""Commands in sessions of their own, killed at a moment, and what they leave behind."""

import atexit
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

REPO = Path(__file__).parent.parent.parent
MARK = "ZOOBOT_FAULTS_MARK"
POLL_S = 0.005
LONGEST_S = 300  # of a command that is left alone
LONGEST_END_S = 60  # until the processes that were not killed notice


class Command:
    """A running command; all of its processes, at any depth, carry its mark in the environment.

    Args:
        words: what follows ``python``.
        folder: to run in.
    """

    def __init__(self, words: list, folder: Path):
        self._mark = uuid.uuid4().hex
        env = {**os.environ, MARK: self._mark, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
        self.log = folder / f"log-{self._mark}.txt"
        with open(self.log, "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *map(str, words)],
                cwd=folder,
                env=env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        atexit.register(lambda: self.send(self.processes()))

    def is_running(self) -> bool:
        """Whether the first process has not ended."""
        return self._process.poll() is None

    def processes(self, **environment: str) -> list[int]:
        """Ids of its live processes, oldest first; those with these variables if any are given."""
        wanted = {f"{name}={value}".encode() for name, value in environment.items()}
        wanted.add(f"{MARK}={self._mark}".encode())
        found = []
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            try:
                variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
            except OSError:  # ended meanwhile, or another user's
                continue
            if wanted <= set(variables):
                found.append((started, pid))
        return [pid for _, pid in sorted(found)]

    def wait_for(self, ready: Callable[[], bool]) -> bool:
        """Wait until ``ready`` or the end, whichever is first; whether it still runs."""
        while self.is_running() and not ready():
            time.sleep(POLL_S)
        return self.is_running()

    def send(self, pids: list[int], number: int = signal.SIGKILL) -> int:
        """Send a signal to some of its processes; to how many that were alive."""
        reached = 0
        for pid in pids:
            try:
                os.kill(pid, number)
                reached += 1
            except ProcessLookupError:
                pass
        return reached

    def finish(self) -> tuple[int, int]:
        """Wait for the end of all: exit code of the first, how many orphans had to be killed."""
        try:
            code = self._process.wait(LONGEST_S)
            deadline = time.monotonic() + LONGEST_END_S
            while self.processes() and time.monotonic() < deadline:
                time.sleep(0.05)
        finally:
            orphans = self.send(self.processes())
        return code, orphans


def torchrun(num_processes: int) -> list[str]:
    """The words before a script that run it in so many processes."""
    if num_processes == 1:
        return []
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    return [*words, str(num_processes)]


def contents(folder: Path) -> dict[str, bytes]:
    """Path below the folder -> bytes, of every file, hidden ones too; of a folder at rest."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def differences(first: Path, second: Path) -> list[str]:
    """Files that are in one folder only, or differ by a byte."""
    one, two = contents(first), contents(second)
    return [name for name in sorted(one | two) if one.get(name) != two.get(name)]


def touched(folder: Path) -> set:
    """Path, size and time of change of every file, also while they come and go."""
    found = set()
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in names):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            found.add((path, stat.st_size, stat.st_mtime_ns))
    return found
