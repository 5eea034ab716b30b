"""Look at a run's images once, before training: which can't be read, and which show nothing."""

import functools
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from zoobot.data.bands.image import read_band_image
from zoobot.data.bands.read import check_bands
from zoobot.data.bands.spec import ImageSpec
from zoobot.data.blank_images import (
    blank_kind,
    blank_warning,
    constant_warning,
    first_of,
    no_data_notes,
)
from zoobot.data.catalog import find_missing_files
from zoobot.data.huggingface import HuggingFaceGalaxies
from zoobot.data.images import ImageError, ImageSource, check_image, read_image
from zoobot.data.sources import Galaxies, image_sources, label_frame
from zoobot.system import distributed
from zoobot.system.errors import UserError
from zoobot.system.files import delete_files, write_whole
from zoobot.system.progress import open_bar
from zoobot.system.spreadsheets import mark

CHECKS = ("headers", "all", "none")
ON_BAD_IMAGE = ("error", "drop")
MOST_HEADERS = 200_000  # beyond, a sample is looked at
SAMPLED_HEADERS = 20_000
SAMPLED_PIXELS = 1_000
THREADS = 8  # in each process; they wait for the disk most of the time
AT_ONCE = 32  # images that a thread takes
GONE = "no such file"
LIST_NAME = "bad_images.csv"


class Look(NamedTuple):
    """What was seen of an image.

    Attributes:
        fault: why it can't be read; None if it can.
        blank: 'black', 'white' or 'of one grey or colour' if all its pixels are the same; of bands
            the names of those of which they are.
        no_data: values that were taken for no data.
    """

    fault: str | None = None
    blank: str | None = None
    no_data: Sequence[float] = ()


def check_images(
    splits: dict[str, pd.DataFrame | Galaxies],
    how: str,
    on_bad_image: str,
    save_dir: str | Path,
    *,
    channels: int = 3,
    fits_scaling: str = "asinh",
    spec: ImageSpec | None = None,
    seed: int = 42,
) -> dict[str, pd.DataFrame | Galaxies]:
    """Look at the images of a run, and list those that can't be read in ``bad_images.csv``.

    Every process must call it. Each looks at its share, and all get the same answer.

    Args:
        splits: tables with ``id_str`` and ``file_loc`` or ``image``, or datasets of Hugging Face.
            Galaxies of other sources, such as shards, are not looked at.
        how: 'headers': the headers and ends of all images up to 200,000, of a seeded sample of
            20,000 beyond (and whether all files are there), and the pixels of a seeded sample of
            1,000. 'all': the pixels of all. 'none': nothing.
        on_bad_image: 'error' or 'drop'.
        save_dir: the folder for ``bad_images.csv``.
        channels, fits_scaling: how images are read, see ``read_image``.
        spec: of images of bands; None for 8-bit images.
        seed: of the samples.

    Returns:
        The splits; with 'drop' without the galaxies of the images that can't be read.

    Raises:
        ValueError: images can't be read and ``on_bad_image`` is 'error', or a split would lose all
            its galaxies.
    """
    check_options(how, on_bad_image)
    looked_at = pd.DataFrame | HuggingFaceGalaxies
    tables = {name: table for name, table in splits.items() if isinstance(table, looked_at)}
    if how == "none" or not any(map(len, tables.values())):
        if how != "none":
            where = "shards" if all(isinstance(x, Galaxies) for x in splits.values()) else "streams"
            _say(f"images in {where} are not looked at before training")
        return splits
    whole = pd.concat(
        [_images_of(name, table) for name, table in tables.items() if len(table)],
        ignore_index=True,
    )
    rows, with_pixels = _choose(len(whole), how, seed)

    def look(*image) -> Look:
        if spec is not None:
            return look_at_bands(*image, spec)
        return look_at(*image, channels, fits_scaling)

    looks = _look_at_all(whole, rows, with_pixels, look)
    missing = find_missing_files(whole["image"]) if len(rows) < len(whole) else []
    bad = dict.fromkeys(missing, GONE)
    bad |= {row: look.fault for row, look in looks.items() if look.fault}
    _tell(whole, looks, len(rows), int(with_pixels.sum()), spec)
    path = Path(save_dir) / LIST_NAME
    if not bad:
        if distributed.is_main():
            delete_files([path])
        return splits
    listed = whole.loc[sorted(bad)].assign(reason=[bad[row] for row in sorted(bad)])
    if distributed.is_main():
        write_list(listed, path)
    distributed.barrier()  # before an error ends this process, and with it the main one
    if on_bad_image == "error":
        raise UserError(_message(listed, len(whole), path))
    return _without(splits, listed, len(whole), path)


def check_options(how: str, on_bad_image: str) -> None:
    """ValueError for values of ``check_images`` and ``on_bad_image`` that there are not."""
    if how not in CHECKS or on_bad_image not in ON_BAD_IMAGE:
        raise UserError(
            f"check_images={how!r}, on_bad_image={on_bad_image!r}: use one of "
            f"{', '.join(CHECKS)}, and one of {', '.join(ON_BAD_IMAGE)}"
        )
    if how == "none" and on_bad_image == "drop":
        raise UserError("--on-bad-image drop needs --check-images headers or all, to find them")


def look_at(
    source: ImageSource,
    name: str | None,
    with_pixels: bool,
    channels: int = 3,
    fits_scaling: str = "asinh",
) -> Look:
    """Look at an image: its header and end, or all its pixels."""
    try:
        if not with_pixels:
            check_image(source, name)
            return Look()
        image = read_image(source, channels, fits_scaling, name=name)
    except ImageError as error:
        return Look(fault=str(error).removeprefix(f"{name or source}: "))
    pixels = np.asarray(image).reshape(-1, channels)
    blank = blank_kind(pixels.min(axis=0).tolist(), pixels.max(axis=0).tolist())
    return Look(None, blank, image.info.get("no_data", ()))


def look_at_bands(
    source: ImageSource, name: str | None, with_pixels: bool, spec: ImageSpec
) -> Look:
    """Look at an image of bands: whether all are there, or all their pixels."""
    try:
        if not with_pixels:
            check_bands(source, spec, name)
            return Look()
        image = read_band_image(source, spec, name)
    except ImageError as error:
        return Look(fault=str(error).removeprefix(f"{name or source}: "))
    named = zip(spec.bands, image.bands, strict=True)
    constant = [band for band, pixels in named if pixels.min() == pixels.max()]
    return Look(None, " ".join(constant) or None, image.no_data)


def _images_of(split: str, galaxies: pd.DataFrame | HuggingFaceGalaxies) -> pd.DataFrame:
    """Split, id and image of each galaxy; in place of an image, a function that reads it."""
    if isinstance(galaxies, HuggingFaceGalaxies):
        numbers = range(len(galaxies))
        sources = [functools.partial(galaxies.source, i) for i in numbers]
        ids = [galaxies.id_str(i) for i in numbers]
    else:
        _, sources = image_sources(galaxies)
        ids = galaxies["id_str"].to_numpy()
    return pd.DataFrame({"split": split, "id_str": ids, "image": sources}, dtype=object)


def _choose(num_images: int, how: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to look at, and (N,) of all rows, whether their pixels are looked at.

    They are the same in all processes.
    """
    rng = np.random.default_rng(seed)
    rows = np.arange(num_images)
    if how == "all":
        return rows, np.ones(num_images, dtype=bool)
    if num_images > MOST_HEADERS:
        rows = np.sort(rng.choice(rows, SAMPLED_HEADERS, replace=False))
    sample = rng.choice(rows, min(SAMPLED_PIXELS, len(rows)), replace=False)
    with_pixels = np.zeros(num_images, dtype=bool)
    with_pixels[sample] = True
    return rows, with_pixels


def _look_at_all(
    whole: pd.DataFrame,
    rows: np.ndarray,
    with_pixels: np.ndarray,
    look: Callable[[ImageSource, str | None, bool], Look],
) -> dict[int, Look]:
    """Row -> what was seen, where it is worth telling; each process looks at its share."""
    mine = rows[distributed.rank() :: distributed.world_size()].tolist()
    images, ids = whole["image"].to_numpy(), whole["id_str"].to_numpy()

    def look_at_some(some: list[int]) -> list[tuple[int, Look]]:
        looks = []
        for row in some:
            image = images[row]() if callable(images[row]) else images[row]
            name = None if isinstance(image, str) else f"id_str {ids[row]!r}"
            looks.append((row, look(image, name, bool(with_pixels[row]))))
        return looks

    seen = {}
    threads = ThreadPoolExecutor(THREADS)
    try:
        with open_bar("looking at images", len(mine), "image", shown=distributed.is_main()) as bar:
            for looks in threads.map(look_at_some, _pieces(mine)):
                seen |= {row: look for row, look in looks if look != Look()}
                bar.update(len(looks))
    finally:
        threads.shutdown(cancel_futures=True)  # when interrupted, don't look at the others first
    shares = distributed.gather([[row, *look] for row, look in seen.items()])
    return {row: Look(*look) for share in shares for row, *look in share}


def _pieces(rows: list[int]) -> Iterator[list[int]]:
    return (rows[i : i + AT_ONCE] for i in range(0, len(rows), AT_ONCE))


def _tell(
    whole: pd.DataFrame,
    looks: dict[int, Look],
    num_rows: int,
    num_pixels: int,
    spec: ImageSpec | None,
) -> None:
    """Say what was looked at, and warn of images that are read but show nothing."""
    headers = f"headers of {num_rows:,} and " if num_pixels < num_rows else ""
    there = ", and whether all files are there" if num_rows < len(whole) else ""
    _say(f"{len(whole):,} images: looked at {headers}pixels of {num_pixels:,}{there}")
    blank = {row: look.blank for row, look in looks.items() if look.blank}
    if blank:
        ids = [str(whole["id_str"][row]) for row in sorted(blank)]
        warning = blank_warning if spec is None else constant_warning
        _say(warning(Counter(blank.values()), ids, num_pixels), file=sys.stderr)
    values = Counter(itertools.chain.from_iterable(look.no_data for look in looks.values()))
    for note in no_data_notes(values, num_pixels):
        _say(note)


def _say(text: str, **options: Any) -> None:
    if distributed.is_main():
        print(text, **options)


def write_list(listed: pd.DataFrame, path: Path) -> None:
    """Write images that can't be read, with ``id_str``, ``image`` and ``reason``, to a CSV file.

    Of images that are not in files ``image`` is empty. Texts that a spreadsheet would take for a
    formula are marked.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    is_path = listed["image"].map(lambda image: isinstance(image, str))
    table = listed.assign(image=listed["image"].where(is_path, ""))
    table = table.apply(lambda column: column.astype(str).map(mark))
    write_whole(path, lambda aside: table.to_csv(aside, index=False, errors="backslashreplace"))


def _message(listed: pd.DataFrame, num_images: int, path: Path) -> str:
    """One line about the images that can't be read, and what to do."""
    gone = (listed["reason"] == GONE).all()
    what = "image files are missing" if gone else "images can't be read"
    return (
        f"{len(listed)} of {num_images} {what}: {name_bad(listed, with_reasons=not gone)}; all are "
        f"listed in {path}: mend them, or leave these galaxies out (--on-bad-image drop)"
    )


def name_bad(listed: pd.DataFrame, with_reasons: bool = True) -> str:
    """The first images that can't be read, in words: by path, or by ``id_str`` without one."""
    names = [
        (image if isinstance(image, str) else f"id_str {id_str!r}")
        + (f" ({reason})" if with_reasons else "")
        for id_str, image, reason in zip(
            listed["id_str"], listed["image"], listed["reason"], strict=True
        )
    ]
    return first_of(names)


def _without(
    splits: dict[str, pd.DataFrame | Galaxies], listed: pd.DataFrame, num_images: int, path: Path
) -> dict[str, pd.DataFrame | Galaxies]:
    """The splits without the galaxies that are listed."""
    kept, dropped = dict(splits), []
    for name, bad in listed.groupby("split", sort=False):
        galaxies = splits[name]
        is_kept = ~label_frame(galaxies)["id_str"].isin(bad["id_str"]).to_numpy(bool)
        if isinstance(galaxies, HuggingFaceGalaxies):
            kept[name] = galaxies.select(np.flatnonzero(is_kept))
        else:
            kept[name] = galaxies[is_kept].reset_index(drop=True)
        dropped.append(f"{len(bad)} of {len(galaxies)} {name}")
        if len(kept[name]) == 0:
            raise UserError(f"none of the {len(galaxies)} {name} images can be read; see {path}")
    _say(
        f"warning: {len(listed)} of {num_images} galaxies are left out, as their images can't be "
        f"read: {', '.join(dropped)}; they are listed in {path}",
        file=sys.stderr,
    )
    return kept
