"""Windows as far as it can be had elsewhere; as a script, it trains and predicts there.

``put_up`` gives the modules of this package, and no others, an ``os``, ``signal`` ... without what
only POSIX has, and ``msvcrt`` and ``ctypes.windll`` instead. For all modules, files in a folder are
as on Windows: none can be replaced or deleted while it is open or mapped, and names are its own.

    python as_on_windows.py FOLDER        # with catalog.csv and tree.json

Spawned workers import this file, and so are there too.
"""

import builtins
import ctypes
import errno
import mmap
import multiprocessing
import os
import re
import signal
import sys
import threading
import types
from pathlib import Path

OURS = ("zoobot", "train", "predict")
ONLY_POSIX = ("fcntl", "resource", "pwd", "grp", "termios", "pty", "posix", "triton")
HIDDEN = {
    "os": """fork forkpty getuid geteuid getgid getegid chown lchown fchown fchmod mkfifo mknod
        pread pwrite posix_fallocate posix_fadvise posix_spawn sched_getaffinity sched_setaffinity
        sysconf statvfs fstatvfs uname nice getloadavg killpg getpgid getsid setsid wait
        memfd_create sendfile register_at_fork O_DIRECTORY O_NOFOLLOW
        O_NONBLOCK O_CLOEXEC O_SYNC""",
    "signal": """SIGUSR1 SIGUSR2 SIGALRM SIGHUP SIGQUIT SIGKILL SIGSTOP SIGCONT SIGCHLD SIGPIPE
        pthread_sigmask pthread_kill sigpending sigwait sigtimedwait alarm setitimer pause
        SIG_BLOCK SIG_SETMASK SIG_UNBLOCK""",
}
NOT_IN_NAMES = re.compile(
    r'[<>:"|?*\\\x00-\x1f]|[ .]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.IGNORECASE
)


class View(types.ModuleType):
    """A module without some of its names, and with others in place of its own."""

    def __init__(self, real, hidden=(), **instead):
        super().__init__(real.__name__)
        vars(self).update(_real=real, _hidden=frozenset(hidden), **instead)

    def __getattr__(self, name):
        if name in self._hidden:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} on Windows")
        return getattr(self._real, name)

    def __setattr__(self, name, value):
        setattr(self._real, name, value)


def put_up(folder: Path) -> None:
    """Make this process as on Windows, with its rules for files in this folder."""
    kernel32 = types.SimpleNamespace(GlobalMemoryStatusEx=_tell_memory)
    windll = types.SimpleNamespace(kernel32=kernel32)
    views = {
        "os": View(os, HIDDEN["os"].split(), open=_open_file),
        "signal": View(signal, HIDDEN["signal"].split()),
        "sys": View(sys, platform="win32"),
        "mmap": View(mmap, mmap=lambda *args, **named: _map(folder, *args, **named)),
        "ctypes": View(ctypes, windll=windll),
        "msvcrt": types.SimpleNamespace(LK_NBLCK=2, locking=_lock),
        "multiprocessing": View(
            multiprocessing, reduction=View(multiprocessing.reduction, ["DupFd"])
        ),
    }
    usual = builtins.__import__

    def import_as_on_windows(name, globals=None, locals=None, fromlist=(), level=0):
        if str((globals or {}).get("__name__")).split(".")[0] in OURS and level == 0:
            if name.split(".")[0] in ONLY_POSIX:
                raise ModuleNotFoundError(f"No module named {name!r} on Windows", name=name)
            if name in views:
                return views[name]
        return usual(name, globals, locals, fromlist, level)

    builtins.__import__ = import_as_on_windows
    sys.addaudithook(_Rules(folder).check)


def _tell_memory(status) -> int:
    status._obj.free_physical, status._obj.free_committed = 3 * 10**9, 2 * 10**9
    return 1


def _lock(descriptor: int, mode: int, num_bytes: int) -> None:
    if ctypes.CDLL(None).flock(descriptor, 2 | 4):  # LOCK_EX | LOCK_NB
        raise PermissionError(errno.EACCES, "Permission denied")


def _open_file(path, flags, *more, **named) -> int:
    if os.path.isdir(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
    return os.open(path, flags, *more, **named)


def _map(folder: Path, descriptor: int, num_bytes: int, tagname: str = "") -> mmap.mmap:
    """Memory that processes share by its name: here a file beside the folder."""
    assert tagname or descriptor != -1
    if not tagname:
        return mmap.mmap(descriptor, num_bytes)
    with open(folder.with_name(tagname), "ab") as file:
        file.truncate(num_bytes)
    with open(folder.with_name(tagname), "rb+") as file:
        return mmap.mmap(file.fileno(), num_bytes)


class _Rules:
    """An audit hook that refuses in a folder what Windows refuses."""

    def __init__(self, folder: Path):
        self._folder = str(folder.resolve())
        self._busy = threading.local()

    def check(self, event: str, arguments: tuple) -> None:
        kind = {"os.rename": 2, "os.remove": 1, "open": 0, "os.mkdir": 0}.get(event)
        if kind is None or vars(self._busy).get("yes"):
            return
        self._busy.yes = True
        try:
            if kind == 0:
                path = self._inside(arguments[0], -1)
                if path and (event == "os.mkdir" or arguments[2] & (os.O_CREAT | os.O_WRONLY)):
                    self._check_name(path)
            else:
                for path, within in zip(arguments[:kind], arguments[kind:], strict=False):
                    if path := self._inside(path, within):
                        self._check_name(path)
                        self._check_closed(path)
        finally:
            self._busy.yes = False

    def _inside(self, path, within: int) -> str:
        """The path in full if it is in the folder, else nothing."""
        if not isinstance(path, str | bytes | os.PathLike):
            return ""
        start = os.readlink(f"/proc/self/fd/{within}") if within != -1 else os.getcwd()
        path = os.path.normpath(os.path.join(start, os.fsdecode(path)))
        return path if path.startswith(self._folder + "/") else ""

    def _check_name(self, path: str) -> None:
        for name in path.removeprefix(self._folder + "/").split("/"):
            if NOT_IN_NAMES.search(name):
                raise OSError(errno.EINVAL, "Invalid argument", name)

    def _check_closed(self, path: str) -> None:
        if not os.path.exists(path):
            return
        wanted = os.stat(path)
        for held in _held_files():
            below = os.path.isdir(path) and held.startswith(path + "/")
            try:
                same = os.path.isfile(held) and os.path.samestat(os.stat(held), wanted)
            except OSError:
                continue
            if below or same:
                raise PermissionError(errno.EACCES, "used by another process", path)


def _held_files() -> set[str]:
    """Files that this process and its children have open, or mapped."""
    held = set()
    for process in (os.getpid(), *(child.pid for child in multiprocessing.active_children())):
        try:
            for descriptor in os.listdir(f"/proc/{process}/fd"):
                held.add(os.readlink(f"/proc/{process}/fd/{descriptor}"))
            with open(f"/proc/{process}/maps", encoding="utf-8") as maps:
                held.update(line.split(maxsplit=5)[-1].strip() for line in maps)
        except OSError:  # it has ended
            continue
    return {path for path in held if path.startswith("/") and not path.startswith("/dev")}


def main(folder: Path) -> None:
    multiprocessing.set_start_method("spawn")
    os.chdir(folder)
    from torch.utils.data._utils import signal_handling

    import predict
    import train
    from zoobot.script import run_script
    from zoobot.system import windows
    from zoobot.system.locks import only_run

    assert windows.HERE
    signal_handling._SIGCHLD_handler_set = True  # so that torch sets none, as on Windows
    words = """--catalog catalog.csv --schema tree.json --encoder test_resnet --image-size 16
        --epochs 2 --batch-size 8 --precision fp32 --device cpu --cache memory --num-workers 1
        --warmup-epochs 0 --save-dir run"""
    run_script(train.main, lambda: train.parse(words.split()))
    words = """--checkpoint run/best.safetensors --catalog catalog.csv --save-loc p.csv --summary
        --num-workers 0 --precision fp32"""
    run_script(predict.main, lambda: predict.parse(words.split()))
    with only_run("run/.lock"), open("run/.lock", "ab") as again:
        try:
            windows.lock(again.fileno())
        except PermissionError:
            print("locked")
    assert not os.path.exists("run/.lock")


if __name__ in ("__main__", "__mp_main__"):
    sys.path.insert(0, str(Path(__file__).parent.parent))
    put_up(Path(sys.argv[1]))
if __name__ == "__main__":
    main(Path(sys.argv[1]))
