"""Reading an input in a process of its own, whose time, memory and files are watched."""

import contextlib
import dataclasses
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from kinds import KINDS

TIME_LIMIT_S = 10
MEMORY_LIMIT = 2 * 2**30
FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.fork",
    "subprocess.Popen",
    "socket.connect",
    "os.posix_spawn",
)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class OutOfTime(BaseException):
    """An input took too long; not an Exception, so that no reader can turn it into its own."""


@dataclasses.dataclass
class Outcome:
    """What came of an input.

    Attributes:
        result: 'accepted' by one of its readers at least, 'refused' by all, or what went wrong.
        messages: the refusals.
        strays: files found outside the input's folder.
    """

    number: int
    kind: str
    result: str = "accepted"
    reason: str = ""
    traceback: str = ""
    seconds: float = 0.0
    peak_mb: float = 0.0
    strays: list[str] = dataclasses.field(default_factory=list)
    messages: list[str] = dataclasses.field(default_factory=list)

    @property
    def failed(self) -> bool:
        return self.result not in ("accepted", "refused")


class Watch:
    """Notes what Python code opens for writing outside a folder, executes, or fetches."""

    def __init__(self):
        self.folder: Path | None = None
        self.notes: list[str] = []
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple) -> None:
        if self.folder is None:
            return
        if event in FORBIDDEN:
            self.notes.append(f"{event} {arguments!r:.200}")
        elif event == "open":
            path, _, flags = arguments
            inside = not isinstance(path, (str, bytes)) or self._is_inside(os.fsdecode(path))
            if isinstance(flags, int) and flags & WRITING and not inside:
                self.notes.append(f"wrote {path!r:.200}")

    def _is_inside(self, path: str) -> bool:
        path = os.path.realpath(path)
        return path == os.devnull or path.startswith(str(self.folder) + os.sep)


def read_input(kind: str, folder: Path, outcome: Outcome) -> None:
    """Make all that the package does with an input; fills in the outcome."""
    accepted = 0
    for step in KINDS[kind].steps(folder):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                step()
            accepted += 1
        except ValueError as error:
            outcome.messages.append(f"{type(error).__name__}: {error!s:.300}")
            if _lacked_memory(error):
                outcome.result = "memory"
                outcome.traceback = traceback.format_exc(limit=-12)
        except OutOfTime:
            outcome.result, outcome.reason = "time", _where()
            outcome.traceback = traceback.format_exc(limit=-12)
            return
        except BaseException as error:
            outcome.result = "memory" if _lacked_memory(error) else "error"
            outcome.reason = f"{type(error).__name__}: {error!s:.200} {_where()}"
            outcome.traceback = traceback.format_exc(limit=-12)
            return
    if not accepted and outcome.result == "accepted":
        outcome.result, outcome.reason = "refused", outcome.messages[0]


def _where() -> str:
    """The package's innermost line of the current traceback."""
    frames = traceback.extract_tb(sys.exc_info()[2])
    ours = [f for f in frames if f"{os.sep}zoobot{os.sep}" in f.filename] or frames[-1:]
    return f"at {Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""


def _lacked_memory(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, is a lack of memory."""
    while error is not None:
        text = str(error)
        if isinstance(error, MemoryError) or "allocate memory" in text or "bad_alloc" in text:
            return True
        error = error.__cause__ or error.__context__
    return False


def _peak_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


@contextlib.contextmanager
def _limited_memory() -> Iterator[None]:
    """Let the process take ``MEMORY_LIMIT`` with what it has; to make an input may take more."""
    words = Path("/proc/self/statm").read_text().split()[:2]
    reserved, taken = (int(pages) * os.sysconf("SC_PAGESIZE") for pages in words)
    unlimited = resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_AS, (reserved + MEMORY_LIMIT - taken, unlimited))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (unlimited, unlimited))


def _out_of_time(*_):
    raise OutOfTime


def _next_number(pipe, parent: int) -> int | None:
    """The next input's number; None once the fuzzer, the process ``parent``, is gone."""
    while not pipe.poll(TIME_LIMIT_S):
        if os.getppid() != parent:
            return None
    return pipe.recv()


def _serve(pipe, folder: Path, seed: int, make_input: Callable) -> None:
    """The process: for every number that comes, read that input and send its outcome."""
    elsewhere, parent = folder / "elsewhere", os.getppid()
    elsewhere.mkdir(parents=True, exist_ok=True)
    os.chdir(elsewhere)
    os.environ.update(HOME=str(elsewhere), TMPDIR=str(elsewhere))
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1), os.dup2(devnull, 2)
    signal.signal(signal.SIGPROF, _out_of_time)
    watch = Watch()
    while (number := _next_number(pipe, parent)) is not None:
        try:
            kind, files = make_input(seed, number)
        except Exception as error:  # the fuzzer's own fault
            told = f"it can't be made: {type(error).__name__}: {error!s:.200}"
            pipe.send(Outcome(number, "", "error", told, traceback.format_exc(limit=-12)))
            continue
        inside = folder / "input"
        shutil.rmtree(inside, ignore_errors=True)
        for name, content in files.items():
            (inside / name).parent.mkdir(parents=True, exist_ok=True)
            (inside / name).write_bytes(content)
        outcome = Outcome(number, kind)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        watch.folder, watch.notes, start = inside.resolve(), [], time.process_time()
        signal.setitimer(signal.ITIMER_PROF, TIME_LIMIT_S)
        try:
            with _limited_memory():
                read_input(kind, inside, outcome)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            watch.folder = None
        outcome.seconds, outcome.peak_mb = time.process_time() - start, _peak_mb()
        _check_traces(outcome, watch.notes, elsewhere, folder)
        pipe.send(outcome)


def _check_traces(outcome: Outcome, notes: list[str], elsewhere: Path, folder: Path) -> None:
    strays = [str(path) for path in elsewhere.rglob("*")]
    strays += [str(path) for path in folder.iterdir() if path.name not in ("input", "elsewhere")]
    outcome.strays = strays
    if strays or notes:
        outcome.result, outcome.reason = "stray", "; ".join([*notes, *strays])[:500]
    elif outcome.peak_mb > MEMORY_LIMIT / 2**20:
        outcome.result, outcome.reason = "memory", f"{outcome.peak_mb:.0f} MB"
    for path in elsewhere.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


class Worker:
    """A process that reads one input after another; begun anew after a failure."""

    def __init__(self, folder: Path, seed: int, make_input: Callable):
        self._arguments = (folder, seed, make_input)
        self._process = None
        self.pipe = None
        self.number = None

    def start(self, number: int | None) -> bool:
        """Begin with an input; False if there is none left."""
        self.number = number
        if number is None:
            return False
        if self._process is None:
            context = multiprocessing.get_context("fork")
            self.pipe, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs, *self._arguments))
            self._process.start()
            theirs.close()
        self.pipe.send(number)
        self._began = time.monotonic()
        return True

    def seconds_left(self, grace: float) -> float:
        return max(0.0, self._began + TIME_LIMIT_S + grace - time.monotonic())

    def poll(self, grace: float) -> Outcome | None:
        """The outcome, if there is one by now; a process that hangs or died is one too."""
        try:
            if self.pipe.poll():
                outcome = self.pipe.recv()
                if outcome.failed:
                    self.stop()
                return outcome
            if self.seconds_left(grace) > 0:
                return None
            result, reason = "time", f"no answer after {TIME_LIMIT_S + grace:g} s"
        except EOFError:
            self._process.join()
            result, reason = "crash", f"the process ended with {self._process.exitcode}"
        seconds = time.monotonic() - self._began
        self.stop()
        return Outcome(self.number, "", result, reason, seconds=seconds)

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self.pipe.close()
        self._process = None
