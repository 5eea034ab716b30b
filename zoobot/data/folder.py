"""Find the images in a folder and below it, give them ids, and say what is passed over."""

import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from zoobot.data.file_kinds import HEAD_BYTES, image_stem, is_image_content, is_image_name
from zoobot.limits.text import is_utf8
from zoobot.system.errors import UserError
from zoobot.system.files import open_to_read

ID_FROM = ("path", "stem")
NAMED = 5  # files that a message names
PARTS = ".parts"  # the folder of a prediction that is not finished
SKIPPED_FOLDERS = ("__MACOSX", "lost+found")


class ImageFolder:
    """The images in a folder and in all folders below it.

    Links are followed; each folder is listed once, under its own path if it has one below the
    folder. Hidden files and folders, whose names begin with a dot, are passed over. A file is an
    image if its name has the suffix of one. If it has none, its content decides.

    Args:
        arrays: whether .npy, .npz and HDF5 files are images; they are to models of bands.

    Attributes:
        files: paths below the folder, sorted.
        passed_over: (path below the folder, why) of other files.

    Raises:
        ValueError: an image's name is no UTF-8.
    """

    def __init__(self, folder: Path, arrays: bool = False):
        self.folder = folder.resolve()
        self.arrays = arrays
        self.files: list[str] = []
        self.passed_over: list[tuple[str, str]] = []
        for parent, names in self._folders():
            for name in names:
                path = os.path.join(parent, name)
                why = _why_passed_over(name, path, arrays)
                if why:
                    self._pass_over(path, why)
                else:
                    self.files.append(self._below(path))
        self.files.sort(key=lambda below: below.split(os.sep))
        if odd := [below for below in self.files if not is_utf8(below)]:
            parent, name = os.path.split(os.path.join(folder, odd[0]))
            more = f", and {len(odd) - 1} more" if len(odd) > 1 else ""
            raise UserError(
                f"image {name!r} in {parent!r}{more}: its name is not UTF-8, rename it, for "
                "example with convmv"
            )

    def ids(self, id_from: str = "path") -> list[str]:
        """An id for each file.

        Args:
            id_from: 'path': the path below the folder without the suffix; files that differ in the
                suffix only keep it. 'stem': the name without folder and suffix.

        Raises:
            ValueError: two files have one stem.
        """
        if id_from not in ID_FROM:
            raise UserError(f"id_from={id_from!r}: use one of {', '.join(ID_FROM)}")
        by_id = defaultdict(list)
        for below in self.files:
            path = below if id_from == "path" else os.path.basename(below)
            by_id[image_stem(path, self.arrays)].append(below)
        repeated = {id_str: paths for id_str, paths in by_id.items() if len(paths) > 1}
        if repeated and id_from == "stem":
            id_str, paths = next(iter(repeated.items()))
            raise UserError(
                f"{self.folder}: {len(repeated)} names are those of several images, such as "
                f"{paths[0]!r} and {paths[1]!r}: rename them, or use --id-from path"
            )
        stems = [(image_stem(below, self.arrays), below) for below in self.files]
        if id_from == "stem":
            return [os.path.basename(stem) for stem, _ in stems]
        return [below if stem in repeated else stem for stem, below in stems]

    def note(self) -> str:
        """How many files are passed over, and the first five of them; '' if there are none."""
        if not self.passed_over:
            return ""
        named = [f"{name!a} ({why})" for name, why in self.passed_over[:NAMED]]
        more = ", ..." if len(self.passed_over) > NAMED else ""
        return (
            f"{self.folder}: {len(self.files)} images; passed over "
            f"{len(self.passed_over)} others: {', '.join(named)}{more}"
        )

    def _folders(self) -> Iterator[tuple[str, list[str]]]:
        """Each folder once, with the names of its files: first real folders, then linked ones."""
        seen, waiting = set(), [str(self.folder)]
        while waiting:
            linked = []
            for start in sorted(waiting):
                for parent, folders, names in os.walk(start, onerror=self._cannot_list):
                    found = os.stat(parent)
                    if (found.st_dev, found.st_ino) in seen:
                        self._pass_over(parent, "a link to a folder that is listed already")
                        folders.clear()
                        continue
                    seen.add((found.st_dev, found.st_ino))
                    links = self._sort_out(parent, folders)
                    linked += links
                    yield parent, sorted(names)
            waiting = linked

    def _sort_out(self, parent: str, folders: list[str]) -> list[str]:
        """Leave in ``folders`` those to walk now, sorted; return linked ones, for later."""
        linked, own = [], []
        for name in sorted(folders):
            path = os.path.join(parent, name)
            if name.endswith(PARTS):
                continue
            if name.startswith(".") or name in SKIPPED_FOLDERS:
                self._pass_over(path, "a hidden folder" if name[0] == "." else "a system's folder")
            elif os.path.islink(path):
                linked.append(path)
            else:
                own.append(name)
        folders[:] = own
        return linked

    def _cannot_list(self, error: OSError) -> None:
        self._pass_over(error.filename, f"a folder that can't be read: {error.strerror}")

    def _pass_over(self, path: str, why: str) -> None:
        self.passed_over.append((self._below(path), why))

    def _below(self, path: str) -> str:
        """A path relative to the folder."""
        return path[len(os.path.join(self.folder, "")) :]


def _why_passed_over(name: str, path: str, arrays: bool) -> str | None:
    """Why a file is no image to list; None for an image."""
    if name.startswith("."):
        return "hidden"
    if is_image_name(name, arrays):
        return None
    if re.search(r"\.\D*[A-Za-z]", os.path.splitext(name)[1]):
        return "no suffix of an image"
    try:
        if stat.S_ISREG(os.stat(path).st_mode):
            with open_to_read(path) as file:
                if is_image_content(file.read(HEAD_BYTES)):
                    return None
    except OSError as error:
        return f"can't be read: {error.strerror}"
    except UserError:  # a pipe by now
        pass
    return "no suffix, and no image's content"
