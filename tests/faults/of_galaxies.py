"""Damaged catalogs, images, shards and archives, and all that the package does with them."""

import csv
import dataclasses
import gzip
import io
import json
import random
from functools import partial
from itertools import zip_longest
from pathlib import Path

import mutations
import pyarrow as pa
import pyarrow.parquet as pq
import sound
from mutations import Files, Steps, as_text

from zoobot.data import catalog, classes, images, labels
from zoobot.data.bands.image import read_band_image
from zoobot.data.bands.read import read_bands
from zoobot.data.bands.spec import parse_bands
from zoobot.data.listing import open_listing, write_listing
from zoobot.data.shards.reader import (
    DESCRIBED,
    ENCODINGS,
    file_name,
    open_shards,
    open_splits,
    schema_hash,
    verify,
)
from zoobot.data.shards.webdataset import webdataset_catalog
from zoobot.data.shards.writer import write_shards
from zoobot.data.sources import TableGalaxies, image_frame, label_frame
from zoobot.data.splits import load_splits, split_catalog, strata_of
from zoobot.options import BAND_SCALINGS
from zoobot.predictions.files import read_predictions

MOST_IMAGES = 3

# Catalogs


def make_catalog(rng: random.Random) -> Files:
    name = rng.choice(["table", "table", *sound.catalogs(), *sound.predictions()])
    if name != "table":
        content = (sound.catalogs() | sound.predictions())[name]
        damage = mutations.damaged_fits if name.endswith("fits") else mutations.damaged_bytes
        return {name: damage(rng, content)}
    table = sound.catalog(embedded=rng.random() < 0.3)
    cells = mutations.damaged_value(rng, table.to_dict("list") | {"image": None}, rng.randrange(6))
    columns = cells if isinstance(cells, dict) else {}
    columns = {name: values for name, values in columns.items() if isinstance(values, list)}
    if rng.random() < 0.6:
        return {"table.csv": _as_csv(rng, columns)}
    return {"table.parquet": _as_parquet(rng, columns)}


def _as_csv(rng: random.Random, columns: dict[str, list]) -> bytes:
    file = io.StringIO()
    writer = csv.writer(file, delimiter=rng.choice(",,,,,,;\t"), lineterminator="\n")
    writer.writerow(map(as_text, columns))
    writer.writerows(zip_longest(*(map(as_text, values) for values in columns.values())))
    text = file.getvalue()
    if rng.random() < 0.2:
        text = text.replace("\n", rng.choice(("\r", "\r\n", "\n\n", ",x\n", '"\n', "\0\n")))
    return text.encode(rng.choice(("utf-8", "utf-8", "utf-8", "utf-16", "utf-8-sig")), "replace")


def _as_parquet(rng: random.Random, columns: dict[str, list]) -> bytes:
    rows = max(map(len, columns.values()), default=0)
    arrays, names = [], []
    for name, values in columns.items():
        values = [*values, *[None] * (rows - len(values))]
        try:
            array = pa.array(values)
        except (pa.ArrowException, OverflowError, UnicodeError, TypeError):
            array = pa.array([as_text(v).encode(errors="replace") for v in values])
        try:
            names.append(name.encode(errors="replace").decode())
        except AttributeError:
            names.append(str(name)[:100])
        arrays.append(array)
        if rng.random() < 0.05:
            arrays, names = [*arrays, array], [*names, names[-1]]
    pandas_metadata = {"index_columns": ["id_str"], "columns": [], "column_indexes": []}
    metadata = {"pandas": mutations.damaged_json(rng, pandas_metadata)}
    table = pa.Table.from_arrays(arrays, names)
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata if rng.random() < 0.2 else {}), buffer)
    content = buffer.getvalue()
    return mutations.damaged_bytes(rng, content) if rng.random() < 0.2 else content


def catalog_steps(folder: Path) -> Steps:
    for name, content in sound.images().items():
        if name in ("rgb.png", "rgb.jpg", "grey.jpg"):
            (folder / name).write_bytes(content)
    path = next(
        p for p in folder.iterdir() if p.name.startswith(("table", "plain", "emb", "str", "pr"))
    )
    if path.name.startswith("predictions"):
        yield partial(read_predictions, path)
        return
    yield partial(_train_on, path)
    yield partial(_finetune_on, path)
    yield partial(_list, path, folder / "listing.arrow")
    yield partial(_write_shards_of, path, folder / "shards")


def _train_on(path: Path) -> None:
    splits = load_splits(path, None, None, sound.LABEL_COLS, seed=1)
    for table in splits.values():
        labels.votes(table, sound.LABEL_COLS, str(path))
        _read_images(TableGalaxies(table, sound.LABEL_COLS))


def _finetune_on(path: Path) -> None:
    table = catalog.read_catalog(path, ["kind", "size"])
    strata = strata_of(table, ["kind"])
    splits = split_catalog(table, where=str(path), strata=strata)
    for column in ("kind", "id_str"):
        names = classes.number_classes(splits, column, str(path))
        classes.check_classes(splits["train"], column, len(names), str(path))
    labels.check_numbers(table, "size", unit_interval=True, where=str(path))


def _list(path: Path, listing: Path) -> None:
    write_listing(path, listing)
    _read_images(TableGalaxies(open_listing(listing)))


def _read_images(galaxies) -> None:
    for i in range(min(MOST_IMAGES, len(galaxies))):
        galaxies.id_str(i)
        images.read_pixels(galaxies.source(i))


def _write_shards_of(path: Path, folder: Path) -> None:
    table = webdataset_catalog(path) if path.suffix == ".tar" else catalog.read_catalog(path)
    write_shards(table, sound.LABEL_COLS, folder, img_size=16, num_workers=0, show_progress=False)
    verify(folder)


# Images


def make_image(rng: random.Random) -> Files:
    name = rng.choice(list(sound.images()))
    content = sound.images()[name]
    damage = mutations.damaged_bytes
    if name.endswith(".png") and rng.random() < 0.7:
        damage = mutations.damaged_png
    elif name.endswith(".fits"):
        damage = mutations.damaged_fits
    elif name.endswith(".gz") and rng.random() < 0.5:
        damage = _damaged_within_gzip
    content = damage(rng, content)
    if rng.random() < 0.2:
        name = rng.choice(("a.png", "a.JPG", "a.fits", "a.fit.gz", "a.tif", "a.webp"))
    return {name: content}


def _damaged_within_gzip(rng: random.Random, content: bytes) -> bytes:
    return gzip.compress(mutations.damaged_fits(rng, gzip.decompress(content)), mtime=0)


def image_steps(folder: Path) -> Steps:
    path = next(folder.iterdir())
    yield partial(images.check_image, path)
    yield partial(images.read_image, path)
    yield partial(images.read_image, path.read_bytes(), 1, "linear", min_side_px=8)
    yield partial(images.read_pixels, str(path), 3, "none")
    yield partial(images.read_pixels, {"bytes": path.read_bytes(), "path": None}, 1)


# Images of bands


def make_bands(rng: random.Random) -> Files:
    name = rng.choice(list(sound.band_files()))
    damage = {
        ".fits": mutations.damaged_fits,
        ".npy": mutations.damaged_npy,
        ".npz": mutations.damaged_npz,
    }.get(Path(name).suffix, mutations.damaged_bytes)
    content = damage(rng, sound.band_files()[name])
    return {name: mutations.damaged_bytes(rng, content, 1) if rng.random() < 0.2 else content}


def bands_steps(folder: Path) -> Steps:
    path = next(folder.iterdir())
    places = ("g r z", "g=0 r=1 z=2", "g=images[0]", "g=SCI[2]", "g=1", "G Z", "g")
    row = f"{path}#1" if path.suffix != ".fits" else path
    for words in places:
        yield partial(read_bands, path, parse_bands(words.split()))
    yield partial(read_bands, row, parse_bands(["g", "r", "z"]))
    yield partial(read_bands, path.read_bytes(), parse_bands(["z"]))
    for scaling in BAND_SCALINGS:
        spec = dataclasses.replace(parse_bands(["g", "r", "z"]), scaling=scaling)
        yield partial(read_band_image, path, spec)
    yield partial(images.read_image, path)


# Shards, and the archives that are converted to them


def make_shards(rng: random.Random) -> Files:
    if rng.random() < 0.2:
        return {"galaxies.tar": mutations.damaged_tar(rng, sound.webdataset())}
    files = dict(sound.shards(rng.choice(ENCODINGS)))
    index = json.loads(files["index.json"])
    way = rng.randrange(4)
    if way == 0:
        files["index.json"] = mutations.damaged_json(rng, index)
        return files
    if way == 1:
        index = mutations.damaged_value(rng, index, 1)
        if isinstance(index, dict) and isinstance(index.get("label_cols"), list):
            index["schema_hash"] = schema_hash(index["label_cols"])
    split = rng.choice(("train", "val", "test"))
    file = file_name(split, 0)
    files[file] = mutations.damaged_safetensors(rng, files[file])
    try:  # else most are refused for their size alone
        index["splits"][split]["shards"][0]["bytes"] = len(files[file])
        if way == 1:
            files = {k: _described_by(index, v) if k.endswith("s") else v for k, v in files.items()}
    except (KeyError, TypeError, ValueError, IndexError, RecursionError):
        pass
    return files | {"index.json": json.dumps(index).encode()}


def _described_by(index: dict, shard: bytes) -> bytes:
    """A shard whose header agrees with the index, however wrong that is."""
    length = int.from_bytes(shard[:8], "little")
    header = json.loads(shard[8 : 8 + length])
    described = {key: index[key] for key in DESCRIBED}
    header["__metadata__"] = {"zoobot": json.dumps(described)}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + shard[8 + length :]


def shard_steps(folder: Path) -> Steps:
    tar = folder / "galaxies.tar"
    if tar.exists():
        yield partial(_write_shards_of, tar, folder / "shards")
        return
    for split in catalog.SPLITS:
        yield partial(_read_shards, folder, split)
    yield partial(open_splits, folder, sound.LABEL_COLS)
    yield partial(verify, folder)
    yield partial(_go_on_writing, folder)


def _read_shards(folder: Path, split: str) -> None:
    galaxies = open_shards(folder, split)
    label_frame(galaxies), galaxies.fingerprint()
    table = image_frame(galaxies, range(min(MOST_IMAGES, len(galaxies))))
    labels.votes(table, galaxies.label_cols, str(folder))
    for source in table["image"]:
        images.read_pixels(source, galaxies.channels)


def _go_on_writing(folder: Path) -> None:
    table = sound.catalog(embedded=True)
    options = {"img_size": 16, "num_workers": 0, "show_progress": False}
    write_shards(table, sound.LABEL_COLS, folder, encoding="jpeg", **options)
