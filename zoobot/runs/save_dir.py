"""A run's folder: held by one run at a time, and refused in words if nothing can be kept in it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from zoobot.system import distributed, locks
from zoobot.system.errors import UserError


@contextlib.contextmanager
def only_run_in(save_dir: str | Path) -> Iterator[None]:
    """Hold a run's folder alone, on the main process; ``Run`` does so itself.

    Raises:
        ValueError: if another process or thread holds it, or it can't be written to.
    """
    with contextlib.ExitStack() as resources:
        if distributed.is_main():
            with refused_in_words(save_dir):
                resources.enter_context(locks.only_run(Path(save_dir) / ".lock"))
        yield


@contextlib.contextmanager
def refused_in_words(save_dir: str | Path) -> Iterator[None]:
    """Raise what the system refuses in a run's folder as a ValueError, with the cure."""
    try:
        yield
    except OSError as error:
        place = Path(error.filename or save_dir)
        if place.name.startswith("."):  # the lock, or a file that is being written
            place = place.parent
        reason = f"{error.strerror or error} ({place})"
        if isinstance(error, FileExistsError | NotADirectoryError):
            found = next(path for path in (place, *place.parents) if path.exists())
            reason = f"{found} is no folder"
        raise UserError(
            f"no run can be kept in {save_dir}: {reason}: choose another folder (--save-dir; of a "
            "trainer save_dir), or see to its permissions and room"
        ) from error
