"""Write a catalog as shards, with several processes. A killed run can be continued."""

import json
import math
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from zoobot.data.bands.spec import ImageSpec
from zoobot.data.catalog import (
    SPLITS,
    check_ids,
    check_image_files,
    check_not_reserved,
    require_columns,
    require_images,
)
from zoobot.data.image_check import LIST_NAME, name_bad, write_list
from zoobot.data.images import FITS_SCALINGS, MODES
from zoobot.data.labels import label_array
from zoobot.data.shards.file import write_shard
from zoobot.data.shards.images import describe_bands
from zoobot.data.shards.reader import (
    DESCRIBED,
    ENCODINGS,
    FORMAT_VERSION,
    file_name,
    hash_all,
    open_shards,
    read_index,
    schema_hash,
)
from zoobot.data.sources import galaxy_table
from zoobot.data.splits import hash_ids, split_catalog
from zoobot.limits.text import read_json
from zoobot.system import locks
from zoobot.system.errors import UserError
from zoobot.system.files import check_no_link, delete_files, remove_leftovers, write_text
from zoobot.system.progress import open_bar

LARGEST_EXACT_FLOAT = 2**24  # float32 holds every whole number up to here


def write_shards(
    catalog: pd.DataFrame,
    label_cols: Sequence[str],
    folder: str | Path,
    *,
    encoding: str = "jpeg",
    img_size: int = 300,
    channels: int = 3,
    fits_scaling: str = "asinh",
    spec: ImageSpec | None = None,
    galaxies_a_shard: int = 4096,
    num_workers: int = 2,
    eval_size: int = 0,
    seed: int = 42,
    quality: int = 95,
    keep_metadata: bool = False,
    show_progress: bool = True,
) -> dict:
    """Write a catalog as shards.

    If the folder was begun by a killed run, its complete shards are kept and the others are
    written. A finished folder is not changed. The files depend on the galaxies and the options, but
    not on the order of the catalog's rows or on ``num_workers``.

    Args:
        catalog: with ``id_str``, ``file_loc`` or ``image``, the label columns, and, if wanted,
            ``split``.
        label_cols: columns of numbers; stored as int32 if all are whole numbers, otherwise as
            float32.
        folder: where the shards go.
        encoding: 'jpeg' copies the pixels of a JPEG if its shorter side is at most ``img_size``.
            Other images are encoded as JPEG; if their shorter side is larger, it is shrunk to
            ``img_size``. 'raw' stores pixels: the centred square, resized to ``img_size``.
        img_size: pixels.
        spec: of images of bands, which are scaled and stored as float16 with 'raw'; as uint8 if the
            first galaxy's are of 8 bits and not scaled. None for 8-bit images.
        channels, fits_scaling: how images are read that are not copied; see ``read_image``.
        galaxies_a_shard: the most galaxies in a shard. The shards of a split differ by at most one.
        num_workers: number of processes that write; 0 writes in this process.
        eval_size: number of galaxies in split 'test', if there is no column ``split``; the others
            are 'train'. The choice depends on the ids and the seed.
        seed: of that choice, and of the order of the galaxies.
        quality: of JPEG, 1 to 100.
        keep_metadata: copy small JPEGs whole: with EXIF (places, times), profiles and comments.
        show_progress: show a progress bar and messages.

    Returns:
        The contents of ``index.json``.

    Raises:
        ValueError: a fault of the catalog or of an option; images can't be read; the folder was
            begun with other galaxies or options; or another run is writing to it.
        OSError: the folder can't be written to, or its disk is full.
    """
    folder, label_cols = Path(folder), list(label_cols)
    if spec is not None:
        channels, fits_scaling = 3, "asinh"  # of 8-bit images only
    _check_options(encoding, img_size, channels, fits_scaling, galaxies_a_shard, quality)
    if spec is not None and encoding != "raw":
        raise UserError(
            f"encoding={encoding!r} is for 8-bit images of 1 or 3 channels, and bands are "
            f"{' '.join(spec.bands)}: use encoding raw"
        )
    order = _deal(catalog, eval_size, seed)
    labels = _labels(catalog, label_cols)
    check_not_reserved(label_cols, "label column")
    settings = (FORMAT_VERSION, encoding, img_size, channels, fits_scaling, label_cols)
    description = dict(zip(DESCRIBED, (*settings, str(labels.dtype)), strict=True))
    galaxies = galaxy_table(catalog)
    if spec is not None:
        first = galaxies.column(1)[int(next(iter(order.values()))[0])].as_py()
        description |= describe_bands(spec, first)
    plan = description | {"quality": quality, "seed": seed, "eval_size": eval_size}
    plan |= {"keep_metadata": keep_metadata, "galaxies_a_shard": galaxies_a_shard}
    plan |= _fingerprints(galaxies, labels, order)
    lock = folder / ".lock"
    if _is_finished(folder, plan):
        delete_files([lock])  # a run that was killed after its last file leaves it
        if show_progress:
            tqdm.write(f"{folder} is finished already and left as it is")
        return read_index(folder)
    check_image_files(catalog, "in memory")
    for split in order:
        check_no_link(folder / split)
    parts = {
        file_name(split, i): rows
        for split in order
        for i, rows in enumerate(_divide(order[split], galaxies_a_shard))
    }
    plan_text = json.dumps(plan, indent=1) + "\n"
    tasks = (
        (file, folder, galaxies.take(rows).to_pydict(), labels[rows], description, plan_text)
        for file, rows in parts.items()
    )
    with locks.only_run(lock):
        _is_finished(
            folder, plan
        )  # check the plan again: another run may have begun before the lock
        write_text(folder / "plan.json", plan_text)
        entries = _write_all(tasks, parts, num_workers, show_progress, folder / LIST_NAME)
        splits = {
            split: {
                "num_galaxies": len(rows),
                "shards": [{"file": f, **entries[f]} for f in parts if f.startswith(split + "/")],
            }
            for split, rows in order.items()
        }
        for place in (folder, *(folder / split for split in order)):
            remove_leftovers(place)
        index = description | {"schema_hash": schema_hash(label_cols), "splits": splits}
        write_text(folder / "index.json", json.dumps(index, indent=1) + "\n")
    return index


def _check_options(
    encoding: str,
    img_size: int,
    channels: int,
    fits_scaling: str,
    galaxies_a_shard: int,
    quality: int,
) -> None:
    """Raise ValueError if an option of ``write_shards`` has a value that is not allowed."""
    for name, value, allowed in (
        ("encoding", encoding, ENCODINGS),
        ("channels", channels, tuple(MODES)),
        ("fits_scaling", fits_scaling, FITS_SCALINGS),
    ):
        if value not in allowed:
            raise UserError(f"{name}={value!r}: use one of {', '.join(map(str, allowed))}")
    for name, value, largest in (
        ("img_size", img_size, 10_000),
        ("galaxies_a_shard", galaxies_a_shard, 2**24),
        ("quality", quality, 100),
    ):
        if not 1 <= value <= largest:
            raise UserError(f"{name}={value}: use 1 to {largest}")


def _deal(catalog: pd.DataFrame, eval_size: int, seed: int) -> dict[str, np.ndarray]:
    """Row numbers of each split, in a random order that depends only on the ids and the seed."""
    require_columns(catalog, ["id_str"], "in memory")
    check_ids(catalog, "in memory")
    require_images(catalog, "in memory")
    shuffled = np.argsort(hash_ids(catalog["id_str"].astype(str), seed), kind="stable")
    if "split" not in catalog:
        if not 0 <= eval_size < max(1, len(catalog)):
            raise UserError(
                f"eval_size={eval_size}: use less than the {len(catalog)} galaxies there are, "
                "so that some are left to train on"
            )
        order = {"train": shuffled[eval_size:], "test": shuffled[:eval_size]}
    else:
        if eval_size:
            raise UserError(
                f"eval_size={eval_size}, but the catalog has a column 'split': "
                "leave one of them out"
            )
        split_catalog(catalog[["id_str", "split"]], where="in memory")
        splits = catalog["split"].to_numpy()[shuffled]
        order = {split: shuffled[splits == split] for split in SPLITS}
    order = {split: rows for split, rows in order.items() if len(rows)}
    if not order:
        raise UserError("the catalog has no galaxies")
    return order


def _labels(catalog: pd.DataFrame, label_cols: list[str]) -> np.ndarray:
    """Labels (N, L): int32 if all are whole numbers, otherwise float32."""
    labels = label_array(catalog, label_cols, "in memory")
    if labels.dtype == np.float32 and label_cols:
        # A larger float32 is always whole, also if the number in the catalog was not.
        if ((np.abs(labels) < LARGEST_EXACT_FLOAT) & (labels == np.floor(labels))).all():
            return labels.astype(np.int32)
    return labels


def _divide(rows: np.ndarray, most: int) -> list[np.ndarray]:
    """Divide rows into parts of nearly equal size, each of at most ``most`` rows."""
    return np.array_split(rows, math.ceil(len(rows) / most))


def _fingerprints(galaxies: pa.Table, labels: np.ndarray, order: dict) -> dict[str, str]:
    """Hashes of what the shards will hold, in the order of the shards."""
    rows = np.concatenate(list(order.values()))
    sizes = json.dumps({split: len(order[split]) for split in order}).encode()

    def column(number: int) -> Iterator[bytes]:
        values = galaxies.column(number)
        for row in rows.tolist():
            value = values[row].as_py()
            yield value.encode() if isinstance(value, str) else value or b""

    return {
        "ids and splits": hash_all([sizes, *column(0)]),
        "images": hash_all(column(1)),
        "label values": hash_all([labels[rows].tobytes()]),
    }


def _is_finished(folder: Path, plan: dict) -> bool:
    """Whether all shards are written; raise ValueError if the folder was begun with another plan.

    A folder without ``plan.json`` is not finished.
    """
    try:
        found = read_json(folder / "plan.json")
    except FileNotFoundError:
        if (folder / "index.json").exists():
            raise UserError(f"{folder} has an index.json but no plan.json: delete it") from None
        return False
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{folder}/plan.json is damaged: delete the folder")
    found = {"keep_metadata": plan["keep_metadata"]} | found  # older folders don't tell
    differing = [name for name in plan if found.get(name) != plan[name]]
    if differing:
        what = [
            name if len(str(plan[name])) > 30 else f"{name} ({found.get(name)}, now {plan[name]})"
            for name in differing
        ]
        raise UserError(
            f"{folder} was begun with other {', '.join(what)}: delete the folder, or give another"
        )
    try:
        for split in read_index(folder)["splits"]:
            open_shards(folder, split)
    except ValueError:
        return False
    return True


def _write_all(
    tasks: Iterable[tuple],
    parts: dict[str, np.ndarray],
    num_workers: int,
    show_progress: bool,
    list_path: Path,
) -> dict[str, dict]:
    """Write all shards, and return the index entry of each file.

    Raises:
        ValueError: images can't be read. The other shards are written all the same, and all such
            images are listed in ``list_path``.
    """
    num_galaxies = sum(map(len, parts.values()))
    entries, unreadable = {}, []
    with open_bar("writing", num_galaxies, "galaxy", shown=show_progress, leave=True) as bar:
        for file, (entry, errors) in zip(parts, _run(tasks, num_workers), strict=True):
            entries[file] = entry
            unreadable += errors
            bar.update(len(parts[file]))
    if unreadable:
        listed = pd.DataFrame(unreadable, columns=["id_str", "image", "reason"], dtype=object)
        write_list(listed, list_path)
        raise UserError(
            f"{len(unreadable)} of {num_galaxies} images can't be read: {name_bad(listed)}; all "
            f"are listed in {list_path}: replace them and rerun, or leave their galaxies out, in "
            "another folder (--check-images all --on-bad-image drop)"
        )
    return entries


def _run(tasks: Iterable[tuple], num_workers: int) -> Iterator[tuple[dict, list[tuple]]]:
    """Results of ``write_shard`` in order. Few tasks wait at once, because they may hold images."""
    if num_workers == 0:
        for task in tasks:
            yield write_shard(*task)
        return
    try:
        with ProcessPoolExecutor(num_workers, initializer=_end_with_parent) as pool:
            waiting = deque()
            for task in tasks:
                if len(waiting) == 2 * num_workers:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(write_shard, *task))
            while waiting:
                yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            "a writing process was killed, perhaps for lack of memory: rerun with fewer workers "
            "or galaxies a shard"
        ) from error


def _end_with_parent() -> None:
    """Start a thread that ends this process when its parent ends; it would wait for ever."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
