"""Datasets of Hugging Face's package ``datasets`` as galaxies, read from disk as they are needed.

The package is not imported here: who has a dataset of it has imported it.
"""

import hashlib
import io
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from PIL import Image

from zoobot.data.catalog import ADDRESS, check_ids, check_no_address, require_columns
from zoobot.data.images import ImageError
from zoobot.data.labels import label_array
from zoobot.data.sources import TableGalaxies
from zoobot.data.splits import split_catalog, strata_of, with_val
from zoobot.data.tables import SPLIT_NAMES
from zoobot.system.errors import UserError, one_line

KNOWN_SPLITS = {**SPLIT_NAMES, "predict": "predict"}
IMAGE_COLUMNS = ("image", "file_loc")


class HuggingFaceGalaxies(TableGalaxies):
    """Galaxies of a ``datasets.Dataset``; images stay in its files until they are read.

    Args:
        dataset: with a column ``image`` (images, encoded bytes or paths) or ``file_loc`` (paths).
        table: ``id_str`` and the label columns of its rows.
        label_cols: names of the label columns.

    Raises:
        ValueError: it has no images, a transform of its own, ids that repeat, or labels that are
            no numbers.
    """

    def __init__(self, dataset: Any, table: pd.DataFrame, label_cols: Sequence[str]):
        self._dataset, self._table = dataset, table
        self._images, self._column = raw_images(dataset)
        self._ids = pa.table({"id_str": pa.array(table["id_str"], pa.large_string())}).column(0)
        self.label_cols = list(label_cols)
        self._labels = torch.from_numpy(label_array(table, self.label_cols, "of Hugging Face"))

    def source(self, i: int) -> str | bytes | np.ndarray:
        """The image of galaxy ``i``: a path or encoded bytes."""
        return source_of(self._images[i][self._column], self.id_str(i), fetches=False)

    def fingerprint(self) -> str:
        """A hash of the ids and images. Of images in files, the paths are hashed."""
        digest = hashlib.blake2b(digest_size=16)
        for i in range(len(self)):
            source = self.source(i)
            for value in (self.id_str(i), source):
                digest.update(value.encode() if isinstance(value, str) else value)
                digest.update(b"\0")
        return digest.hexdigest()

    def select(self, rows: Sequence[int]) -> "HuggingFaceGalaxies":
        """The galaxies of some rows, renumbered from 0."""
        table = self._table.iloc[rows].reset_index(drop=True)
        return HuggingFaceGalaxies(self._dataset.select(rows), table, self.label_cols)


def is_one(value: object) -> bool:
    """Whether it is a dataset, a stream, or a dict of them."""
    return is_dataset(value) or is_stream(value) or is_dict(value)


def is_dataset(value: object) -> bool:
    """Whether it is a ``Dataset``, whose rows have numbers."""
    return _is_one_of(value, "Dataset")


def is_stream(value: object) -> bool:
    """Whether it is an ``IterableDataset``, which is read from the first row to the last."""
    return _is_one_of(value, "IterableDataset")


def is_dict(value: object) -> bool:
    """Whether it is a ``DatasetDict`` or ``IterableDatasetDict``, with a dataset a split."""
    return _is_one_of(value, "DatasetDict", "IterableDatasetDict")


def _is_one_of(value: object, *names: str) -> bool:
    package = _package()
    return package is not None and isinstance(value, tuple(vars(package)[n] for n in names))


def _package() -> ModuleType | None:
    """The package ``datasets``, if this process has imported it."""
    return sys.modules.get("datasets")


def galaxies_of(
    dataset: Any, label_cols: Sequence[str] = (), split: str = "galaxy"
) -> HuggingFaceGalaxies:
    """The galaxies of a ``datasets.Dataset``, for a data module or for ``predict``.

    Args:
        dataset: see ``HuggingFaceGalaxies``. Without a column ``id_str``, a galaxy is called after
            its split and its row: ``train-17``.
        label_cols: columns of numbers.
        split: its name.

    Raises:
        ValueError: a label column is missing, or see ``HuggingFaceGalaxies``.
    """
    return HuggingFaceGalaxies(dataset, _table_of(dataset, label_cols, split), label_cols)


def to_predict(catalog: Any) -> Any:
    """A ``Dataset`` as galaxies without labels; what is of another package as it is.

    Raises:
        ValueError: for a dict of datasets, or a stream.
    """
    if is_dict(catalog):
        names = ", ".join(catalog)
        raise UserError(f"a dict of datasets, {names}: choose one, dataset['{[*catalog][0]}']")
    if is_stream(catalog):
        raise UserError(
            "a stream can't be predicted into a file, whose parts are counted beforehand: use "
            "trainer.predict with CatalogDataModule(None, predict_catalog=stream)"
        )
    return galaxies_of(catalog) if is_dataset(catalog) else catalog


def splits_of(
    catalog: Any, label_cols: Sequence[str], fractions: tuple[float, float, float], seed: int
) -> dict[str, Any]:
    """The galaxies of a ``Dataset`` or ``DatasetDict`` by split; those of streams as they are.

    A dict's keys say the split (``validation`` is val, ``predict`` are galaxies to predict). If it
    has train and test but no val, a tenth of the training galaxies are val. A dataset without
    splits, or a dict with ``train`` only, is split as a catalog is: see ``split_catalog``.

    Raises:
        ValueError: for a split of another name, two of one, or a stream without splits.
    """
    named = _by_split(catalog) if is_dict(catalog) else {"train": catalog}
    if any(map(is_stream, named.values())):
        if not is_dict(catalog):
            raise UserError(
                "a stream can't be split: give train_catalog= and val_catalog=, for example "
                "stream.skip(1000) and stream.take(1000)"
            )
        return named
    rest = {name: galaxies_of(named.pop(name), (), name) for name in {"predict"} & {*named}}
    tables = {name: _table_of(named[name], label_cols, name) for name in named}
    if "train" in tables and "val" not in tables:
        whole = tables["train"].assign(row=np.arange(len(tables["train"])))
        if "test" in tables:
            parts = with_val(whole, label_cols, seed, None)
        else:
            strata = strata_of(whole, label_cols)
            parts = split_catalog(whole, fractions, seed, "of Hugging Face", strata)
        train = named["train"]
        named |= {name: train.select(part["row"].to_numpy()) for name, part in parts.items()}
        tables |= {name: part.drop(columns="row") for name, part in parts.items()}
    galaxies = {n: HuggingFaceGalaxies(named[n], tables[n], label_cols) for n in named}
    return galaxies | rest


def _by_split(catalog: Mapping[str, Any]) -> dict[str, Any]:
    named = {}
    for name, dataset in catalog.items():
        split = KNOWN_SPLITS.get(name.lower())
        if split is None or split in named:
            what = "unknown" if split is None else f"one more of {split!r}"
            raise UserError(
                f"the dataset's split {name!r} is {what}: leave it out, or name them train, "
                f"validation, test and predict; it has {', '.join(catalog)}"
            )
        named[split] = dataset
    return named


def number_columns(dataset: Any) -> list[str]:
    """The columns that hold numbers (true and false, and classes, too), ``id_str`` aside."""
    package = _package()
    features = dataset.features
    if features is None:
        raise UserError("the stream does not tell its columns: give label_cols")
    return [
        name
        for name, feature in features.items()
        if name != "id_str"
        and isinstance(feature, package.Value | package.ClassLabel)
        and feature.dtype.startswith(("int", "uint", "float", "bool"))
    ]


def _table_of(dataset: Any, label_cols: Sequence[str], split: str) -> pd.DataFrame:
    """``id_str`` and the label columns of all rows, in memory."""
    names = dataset.column_names
    require_columns(pd.DataFrame(columns=names), label_cols, "of Hugging Face")
    wanted = [name for name in dict.fromkeys(["id_str", *label_cols]) if name in names]
    plain = dataset.with_format(None)
    table = plain.select_columns(wanted).to_pandas() if wanted else pd.DataFrame()
    if "id_str" not in table:
        table.insert(0, "id_str", [f"{split}-{row}" for row in range(len(dataset))])
    check_ids(table, "of Hugging Face")
    return table.assign(id_str=table["id_str"].astype(str))


def raw_images(dataset: Any) -> tuple[Any, str]:
    """A dataset that gives images as they are stored, not decoded; and the name of their column.

    Raises:
        ValueError: there is no such column, or the dataset makes something else of it.
    """
    package, names = _package(), dataset.column_names
    column = next((name for name in IMAGE_COLUMNS if name in (names or IMAGE_COLUMNS)), None)
    if column is None:
        raise UserError(
            f"the dataset has no column 'image'; it has {', '.join(names[:10])}: rename one, "
            "dataset.rename_column(name, 'image')"
        )
    if is_dataset(dataset):
        if dataset.format["type"] == "custom":
            raise UserError(
                "the dataset has a transform of its own (set_transform): give it as "
                "train_transform= and test_transform=, and dataset.with_format(None)"
            )
        dataset = dataset.with_format(None).select_columns([column])
    if dataset.features is not None and isinstance(dataset.features[column], package.Image):
        dataset = dataset.cast_column(column, package.Image(decode=False))
    return dataset, column


def source_of(image: Any, id_str: str, fetches: bool) -> str | bytes | np.ndarray:
    """What ``read_image`` takes, of an image as a dataset has it: a path, bytes or pixels.

    Args:
        fetches: whether an image at an address is fetched. A stream's files are elsewhere; those
            of a dataset are on this machine, and an address in it is a stranger's.

    Raises:
        ValueError: it is none of these, or at an address and not to be fetched.
        ImageError: it is at an address, and can't be fetched.
    """
    if isinstance(image, dict):
        image = image.get("path") if image.get("bytes") is None else image["bytes"]
    if isinstance(image, str) and not fetches:
        check_no_address(image, f"the image of id_str {id_str!r}")
    if isinstance(image, str) and ADDRESS in image:
        try:
            image = _package().Image().decode_example({"path": image, "bytes": None})
        except Exception as error:  # of any of the packages that fetch
            told = f"{image!r:.200} can't be fetched: {type(error).__name__}: {error}"
            raise ImageError(f"id_str {id_str!r}: {one_line(told)}") from error
    if isinstance(image, Image.Image):
        file = io.BytesIO()
        image.save(file, "TIFF")  # not packed, and of any mode
        image = file.getvalue()
    if isinstance(image, str | bytes) or isinstance(image, np.ndarray) and image.dtype == np.uint8:
        return image
    raise UserError(
        f"the image of id_str {id_str!r} is {image!r:.80}: give encoded bytes, a path, a Pillow "
        "image, or pixels (H, W, C) of 8 bits"
    )
