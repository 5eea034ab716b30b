"""Files that appear whole or not at all, also after a crash or a power cut."""

import os
import secrets
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

LEFTOVER = ".partial"
ZEROS = 2**20  # bytes that are written at a time


def write_whole(path: str | Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then move it into place.

    Readers see the old file or the new one, never a part, also after a power cut.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Made here and by no one else, with the permissions of any new file.
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}{LEFTOVER}")
    os.close(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        write(aside)
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = str(path)  # a full disk does not say for which file
        raise
    finally:
        aside.unlink(missing_ok=True)  # also there if both were names of one file already
    sync_folder(path.parent)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write_whole(path, lambda aside: aside.write_text(text))


def duplicate_file(path: str | Path, second: str | Path) -> None:
    """Give a finished file a second name: a hard link, or a copy where there are no links."""

    def link_or_copy(aside: Path) -> None:
        aside.unlink()
        try:
            os.link(path, aside)
        except OSError:
            shutil.copyfile(path, aside)

    write_whole(second, link_or_copy)


def reserve_space(path: str | Path, start: int, end: int) -> None:
    """Extend a file with zeros from byte ``start``, its present end, to ``end``, on the disk itself.

    Raises:
        OSError: if the disk is full.
    """
    with open(path, "rb+") as file:
        if sys.platform != "darwin":
            os.posix_fallocate(file.fileno(), start, end - start)
        else:  # macOS has no such call
            file.seek(start)
            for place in range(start, end, ZEROS):
                file.write(bytes(min(ZEROS, end - place)))


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def delete_files(paths: list[Path]) -> None:
    """Delete files, those that exist."""
    for path in paths:
        path.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Delete what ``write_whole`` left in a folder when its process was killed."""
    delete_files(list(folder.glob(f".*{LEFTOVER}")))
