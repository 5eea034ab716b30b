"""Write files so that they are complete or absent, also after a crash or a power cut."""

import hashlib
import os
import secrets
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from zoobot.system import windows

LEFTOVER = ".partial"
READ_AT_ONCE = 2**22  # bytes
ZEROS = 2**20  # bytes written at a time where space is reserved by writing zeros


def write_whole(path: str | Path, write: Callable[[Path], None]) -> None:
    """Write a file completely or not at all.

    ``write`` fills a temporary file in the same folder, which is then renamed to ``path``. Readers
    see the old file or the complete new one, also after a power cut.

    Args:
        write: writes the contents to the path it is given, of an empty file that exists.

    Raises:
        OSError: if the file can't be written. It names ``path``; the old file is unchanged.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # O_EXCL: the file is new, not one that another user has put there. Its permissions are those
    # of any new file.
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}{LEFTOVER}")
    os.close(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        write(aside)
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
        _replace(aside, path)
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = str(path)  # the error of a full disk does not name the file
        raise
    finally:
        # After success it exists only if both names were hard links to one file: then
        # ``os.replace`` does nothing.
        aside.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file completely or not at all: UTF-8, its lines as they are in the text."""
    write_whole(path, lambda aside: aside.write_text(text, encoding="utf-8", newline="\n"))


def append_text(path: str | Path, text: str) -> None:
    """Add text to the end of a file, or make the file.

    A process that is killed meanwhile leaves a part of the text at most.

    Raises:
        OSError: if it can't be written. Then nothing is added.
    """
    with open(path, "ab", buffering=0) as file:
        end, rest = file.tell(), memoryview(text.encode("utf-8"))
        try:
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise


def move_file(path: str | Path, new: str | Path) -> None:
    """Give a finished file another name in the place of what had that name; it stays over a crash.

    Raises:
        OSError: if it can't be moved.
    """
    _replace(path, new)
    sync_folder(Path(new).parent)


def _replace(path: str | Path, new: str | Path) -> None:
    (windows.replace if windows.HERE else os.replace)(path, new)


def duplicate_file(path: str | Path, second: str | Path) -> None:
    """Give a finished file a second name: a hard link, or a copy if the disk has no hard links."""

    def link_or_copy(aside: Path) -> None:
        aside.unlink()
        try:
            os.link(path, aside)
        except OSError:
            shutil.copyfile(path, aside)

    write_whole(second, link_or_copy)


def reserve_space(path: str | Path, start: int, end: int) -> None:
    """Make a file longer, from ``start`` bytes (its present size) to ``end``, filled with zeros.

    The disk space is taken at once, so that later writes into these bytes find space.

    Raises:
        OSError: if the disk is full.
    """
    with open(path, "rb+") as file:
        if sys.platform == "linux":
            os.posix_fallocate(file.fileno(), start, end - start)
        else:  # macOS and Windows have no posix_fallocate
            file.seek(start)
            for place in range(start, end, ZEROS):
                file.write(bytes(min(ZEROS, end - place)))


def hash_file(path: str | Path) -> str:
    """The checksum of a file: 32 hexadecimal digits of BLAKE2b."""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while piece := file.read(READ_AT_ONCE):
            digest.update(piece)
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Make sure that new and renamed files in a folder survive a power cut.

    On Windows programs can't, and the file system sees to it.
    """
    if windows.HERE:
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def delete_files(paths: list[Path]) -> None:
    """Delete the files; those that do not exist are skipped."""
    for path in paths:
        path.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files of ``write_whole`` whose process was killed."""
    delete_files(list(folder.glob(f".*{LEFTOVER}")))
