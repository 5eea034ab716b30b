"""Folders for what can be made again: in the user's home, where no other user can write."""

import atexit
import os
import shutil
import stat
import tempfile
from pathlib import Path

from zoobot.system import windows

COMPILED = "TORCHINDUCTOR_CACHE_DIR"  # an environment variable, which torch reads as it compiles
TORCHS_OWN = "torchinductor_"  # how its own choice begins, a folder of the system's for all users


def cache_dir() -> Path:
    """Where caches are: $XDG_CACHE_HOME/zoobot, or ~/.cache/zoobot."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zoobot"


def keep_compiled_privately() -> None:
    """Have torch keep what it compiles in a folder that only this user can read and write.

    It holds pickles and programs, which torch runs when it compiles the same again; torch's own
    choice is in /tmp. A folder that the user has set is left. If the one in the home can't be had,
    or is another user's, a new one serves until the process ends.
    """
    chosen = os.environ.get(COMPILED)
    shared = Path(tempfile.gettempdir())
    if chosen and not (Path(chosen).parent == shared and Path(chosen).name.startswith(TORCHS_OWN)):
        return
    folder = _private_folder()
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="zoobot-compiled-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ[COMPILED] = str(folder)


def _private_folder() -> Path | None:
    """A folder in the user's home, for nobody else; None if there is none that can be trusted."""
    try:
        folder = cache_dir() / "compiled"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not stat.S_ISDIR(folder.lstat().st_mode):
            return None  # a link, which leads elsewhere
        if not windows.HERE and not _is_closed(folder):  # on Windows homes are their users'
            return None
        folder.chmod(0o700)
        return folder if os.access(folder, os.W_OK | os.X_OK) else None
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return None


def _is_closed(folder: Path) -> bool:
    """Whether a folder and the one it is in are the user's, and none above is open to everybody.

    Who may write to one above could put another folder in its place; not in one like /tmp, where
    everybody's files are their own (the sticky bit).
    """
    above = [parent.stat() for parent in folder.resolve().parents]
    if any(place.st_uid != os.getuid() for place in (folder.lstat(), above[0])):
        return False
    return not any(
        place.st_mode & stat.S_IWOTH and not place.st_mode & stat.S_ISVTX for place in above
    )
