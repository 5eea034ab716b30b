"""Write files so that they are complete or absent, also after a crash or a power cut."""

import errno
import hashlib
import io
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from zoobot.system import windows
from zoobot.system.errors import UserError

LEFTOVER = ".partial"
READ_AT_ONCE = 2**22  # bytes
MANY_BYTES = 2**20  # asked for at once, of which there may be fewer
ZEROS = 2**20  # bytes written at a time where space is reserved by writing zeros
# Flags of ``os.open``, which Windows lacks: a link is refused; a pipe is not waited for, and no
# terminal is taken as this process's own.
NO_LINK = 0 if windows.HERE else os.O_NOFOLLOW
NO_WAIT = 0 if windows.HERE else os.O_NONBLOCK | os.O_NOCTTY


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
        ValueError: the name is that of a link, a folder or a pipe.
        OSError: if it can't be written. Then nothing is added.
    """
    with open_to_append(path) as file:
        end, rest = file.tell(), memoryview(text.encode("utf-8"))
        try:
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise


def open_to_append(path: str | Path) -> BinaryIO:
    """Open a file to add to its end, unbuffered, or make it. What is in it is left.

    Raises:
        ValueError: the name is that of a link, which would lead to another file, or of a pipe.
        OSError: it can't be opened.
    """
    if windows.HERE:
        check_no_link(path)
    try:
        return _ordinary(open(path, "ab", buffering=0, opener=_open_no_link), path)
    except OSError as error:
        if error.errno == errno.ELOOP:
            check_no_link(path)
        if error.errno == errno.ENXIO:  # a pipe that nobody reads
            raise UserError(f"{path} is a device or a pipe, not a file") from error
        raise


def open_to_read(path: str | Path) -> BinaryIO:
    """Open an ordinary file, or what a link leads to.

    What is opened is looked at after it is open, so that nothing can be put in its place between.
    So readers of others' files get this file, and not its name. Where a reader asks for more bytes
    than are left, as a damaged file may have it do, no memory is taken for them.

    Raises:
        ValueError: it is a device or a pipe, which may have no end. It is not waited for.
        OSError: it can't be opened.
    """
    return _ordinary(_Reader(io.FileIO(path, "rb", opener=_open_no_wait)), path)


class _Reader(io.BufferedReader):
    """Reads as any file; Python's own takes memory for all bytes that it is asked for."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > MANY_BYTES:
            size = min(size, max(0, os.fstat(self.fileno()).st_size - self.tell()))
        return super().read(size)


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | NO_LINK | NO_WAIT, 0o666)


def _open_no_wait(path: str, flags: int) -> int:
    return os.open(path, flags | NO_WAIT)


def _ordinary(file: BinaryIO, path: str | Path) -> BinaryIO:
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise UserError(f"{path} is a device or a pipe, not a file")
    return file


def check_no_link(path: str | Path) -> None:
    """ValueError if a name of ours below a folder of ours is a link, which leads elsewhere."""
    if os.path.islink(path):
        raise UserError(
            f"{path} is a link to {os.readlink(path)}, and what is written or deleted there would "
            "be that: delete the link"
        )


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


def is_leftover(name: str) -> bool:
    """Whether a name is that of a temporary file of ``write_whole``."""
    return name.startswith(".") and name.endswith(LEFTOVER)


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files of ``write_whole`` whose process was killed."""
    delete_files([path for path in folder.glob(".*") if is_leftover(path.name)])
