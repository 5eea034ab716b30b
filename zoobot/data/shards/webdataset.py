"""Read galaxies from tar files in the webdataset format, as galaxy-datasets writes them."""

import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pandas as pd

from zoobot.data.catalog import check_ids
from zoobot.data.images import MAX_FILE_BYTES
from zoobot.data.tables import parquet_files
from zoobot.limits.text import is_utf8, parse_json
from zoobot.system.errors import UserError
from zoobot.system.files import open_to_read

IMAGE_NAME = re.compile(r"(.+?)(?:\.image)?\.(?:jpe?g|png)", re.IGNORECASE | re.DOTALL)
LABELS_NAME = re.compile(r"(.+?)(?<!\.metadata)(?:\.labels)?\.json", re.IGNORECASE | re.DOTALL)
LARGEST_BYTES = {"image": MAX_FILE_BYTES, "labels": 2**20}  # of a file in a tar


class _Member(tarfile.TarInfo):
    """A member of a tar. A negative size is an error; with Python's class it can loop for ever."""

    def _block(self, count: int) -> int:
        if count < 0:
            raise tarfile.ReadError("a member of negative size")
        return super()._block(count)


def is_webdataset(path: str | Path) -> bool:
    """Whether a path is a ``.tar`` or a folder, but for a folder of Parquet files."""
    path = Path(path)
    return path.name.lower().endswith(".tar") or (path.is_dir() and not parquet_files(path))


def read_webdataset(path: str | Path) -> Iterator[dict]:
    """Read the galaxies of a tar, or of all tars in a folder, in order. No file is written.

    A galaxy is two files, one after the other: KEY.image.jpg (or KEY.jpg, .jpeg, .png) and
    KEY.labels.json (or KEY.json). Files with other names are ignored. So are links, devices, hidden
    files, absolute names and names with '..'.

    Yields:
        A dict per galaxy: ``id_str`` (from the labels, otherwise KEY), ``image`` (encoded bytes)
        and ``labels`` (name -> value).

    Raises:
        ValueError: there are no tars; a tar is missing, damaged or compressed; labels are not a
            JSON object; a file is too large; or a galaxy has no image, no labels or two of them.
    """
    path = Path(path)
    tars = sorted(path.glob("*.tar")) if path.is_dir() else [path]
    if not tars:
        raise UserError(f"no .tar files in {path}")
    for tar in tars:
        try:
            yield from _read_tar(tar)
        except FileNotFoundError:
            raise UserError(f"no archive {tar}") from None
        except (tarfile.TarError, EOFError, OverflowError, OSError) as error:
            raise UserError(f"{tar} is no readable, uncompressed tar: {error}") from error


def webdataset_catalog(path: str | Path) -> pd.DataFrame:
    """Read all galaxies as a catalog: ``id_str``, ``image`` and the label columns.

    Raises:
        ValueError: as ``read_webdataset``; there are no galaxies; or an id is repeated.
    """
    rows = [
        {**galaxy["labels"], "id_str": galaxy["id_str"], "image": galaxy["image"]}
        for galaxy in read_webdataset(path)
    ]
    if not rows:
        raise UserError(f"{path} has no galaxies: need KEY.image.jpg and KEY.labels.json in a tar")
    # A label named file_loc would make later code open files of this computer.
    catalog = pd.DataFrame(rows).drop(columns="file_loc", errors="ignore")
    check_ids(catalog, str(path))
    return catalog


def _read_tar(path: Path) -> Iterator[dict]:
    """The galaxies of one tar."""
    key, parts, size = None, {}, path.stat().st_size
    with (
        open_to_read(path) as file,
        tarfile.open(fileobj=file, mode="r:", tarinfo=_Member) as tar,
    ):
        for member in tar:
            kind, found = _kind(member)
            if kind is None:
                continue
            if found != key:
                if parts:
                    yield _galaxy(path, key, parts)
                key, parts = found, {}
            if kind in parts:
                raise UserError(f"{path}: {key!r} has more than one file of {kind}")
            if member.offset_data + member.size > size:
                raise tarfile.ReadError(f"{member.name!r:.100} is cut short")
            if member.size > LARGEST_BYTES[kind]:
                raise UserError(f"{path}: the {kind} of {key!r} have {member.size:,} bytes")
            parts[kind] = tar.extractfile(member).read()
            tar.members.clear()  # otherwise the headers of all members stay in memory
    if parts:
        yield _galaxy(path, key, parts)


def _kind(member: tarfile.TarInfo) -> tuple[str | None, str]:
    """What a member is, 'image' or 'labels', and its KEY; (None, '') if it is to be ignored."""
    name = PurePosixPath(member.name)
    is_plain = member.isreg() and not member.issparse()
    if not is_plain or name.is_absolute() or ".." in name.parts or name.name.startswith("."):
        return None, ""
    for kind, pattern in (("image", IMAGE_NAME), ("labels", LABELS_NAME)):
        if match := pattern.fullmatch(str(name)):
            return kind, match[1]
    return None, ""


def _galaxy(path: Path, key: str, parts: dict[str, bytes]) -> dict:
    """A galaxy from its two files; see ``read_webdataset``."""
    for kind in ("image", "labels"):
        if kind not in parts:
            raise UserError(f"{path}: {key!r} has no {kind} beside its other file")
    try:
        labels = parse_json(parts["labels"])
    except ValueError as error:
        raise UserError(f"{path}: the labels of {key!r} are no JSON: {error}") from error
    if not isinstance(labels, dict):
        raise UserError(f"{path}: the labels of {key!r} are no JSON object")
    id_str = str(labels.pop("id_str", key))
    if not is_utf8(id_str + json.dumps(labels, ensure_ascii=False)):
        raise UserError(f"{path}: the name or the labels of {key!r} are no UTF-8 text: rename it")
    return {"id_str": id_str, "image": parts["image"], "labels": labels}
