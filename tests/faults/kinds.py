"""The six kinds of files from outside: how one is damaged, and all that the package does with it.

A kind has ``make(rng)``, which gives the files of an input (name -> bytes), and ``steps(folder)``,
which gives the calls that read them: each must return, or raise a ValueError.
"""

import csv
import dataclasses
import io
import json
import pickle
import random
from collections.abc import Callable, Iterator
from functools import partial
from itertools import zip_longest
from pathlib import Path

import mutations
import numpy as np
import sound
import torch
import yaml

import finetune
import predict
import train
from zoobot import checkpoint, create_shards, encoders, predictors, schemas
from zoobot.data import catalog, images, shards
from zoobot.data.foreign_archives import webdataset_catalog
from zoobot.data.galaxies import TableGalaxies, image_frame, label_frame
from zoobot.data.listing import open_listing, write_listing
from zoobot.data.shard_writer import write_shards
from zoobot.options import make_data
from zoobot.prediction_files import read_predictions

Files = dict[str, bytes]
Steps = Iterator[Callable[[], object]]
MOST_IMAGES = 3


@dataclasses.dataclass
class Kind:
    """One kind of input."""

    make: Callable[[random.Random], Files]
    steps: Callable[[Path], Steps]


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
    writer.writerow(map(_text, columns))
    writer.writerows(zip_longest(*(map(_text, values) for values in columns.values())))
    text = file.getvalue()
    if rng.random() < 0.2:
        text = text.replace("\n", rng.choice(("\r", "\r\n", "\n\n", ",x\n", '"\n', "\0\n")))
    return text.encode(rng.choice(("utf-8", "utf-8", "utf-8", "utf-16", "utf-8-sig")), "replace")


def _text(value) -> str:
    return value if isinstance(value, str) else repr(value)


def _as_parquet(rng: random.Random, columns: dict[str, list]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = max(map(len, columns.values()), default=0)
    arrays, names = [], []
    for name, values in columns.items():
        values = [*values, *[None] * (rows - len(values))]
        try:
            array = pa.array(values)
        except (pa.ArrowException, OverflowError, UnicodeError, TypeError):
            array = pa.array([_text(v).encode(errors="replace") for v in values])
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
    splits = catalog.load_splits(path, None, None, sound.LABEL_COLS, seed=1)
    for table in splits.values():
        catalog.votes(table, sound.LABEL_COLS, str(path))
        _read_images(TableGalaxies(table, sound.LABEL_COLS))


def _finetune_on(path: Path) -> None:
    table = catalog.read_catalog(path, ["kind", "size"])
    splits = catalog.split_catalog(table, where=str(path))
    for column in ("kind", "id_str"):
        names = catalog.number_classes(splits, column, str(path))
        catalog.check_classes(splits["train"], column, len(names), str(path))
    catalog.check_numbers(table, "size", unit_interval=True, where=str(path))


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
    shards.verify(folder)


# Decision trees


def make_schema(rng: random.Random) -> Files:
    if rng.random() < 0.3:
        return {"tree.json": mutations.damaged_bytes(rng, json.dumps(sound.TREE).encode())}
    if rng.random() < 0.1:
        return {"tree.json": json.dumps(_long_tree(rng)).encode()}
    return {"tree.json": mutations.damaged_json(rng, sound.TREE)}


def _long_tree(rng: random.Random) -> dict:
    """A chain of questions, or many questions, or one with many answers."""
    length = rng.choice((900, 1_100, 4_900, 20_000))
    way = rng.choice(("chain", "many", "answers", "parents"))
    answers = [f"_{i}" for i in range(length)] if way in ("answers", "parents") else ["_a", "_b"]
    tree = {"q0": {"answers": answers, "asked_after": None}}
    for i in range(1, length if way in ("chain", "many") else 2):
        parent = f"q{i - 1}_a" if way == "chain" else None
        parents = [f"q0{answer}" for answer in answers] if way == "parents" else parent
        tree[f"q{i}"] = {"answers": ["_a", "_b"], "asked_after": parents}
    return tree


def schema_steps(folder: Path) -> Steps:
    yield partial(_use_tree, folder / "tree.json")


def _use_tree(path: Path) -> None:
    tree = schemas.get_schema(path)
    str(tree), tree.campaigns
    tree.joint_probabilities(np.full((2, len(tree.answers)), 0.5, np.float32))
    if schemas.Schema.from_dict(tree.to_dict()) != tree:
        raise AssertionError("a tree does not survive being written and read")


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
    import gzip

    return gzip.compress(mutations.damaged_fits(rng, gzip.decompress(content)), mtime=0)


def image_steps(folder: Path) -> Steps:
    path = next(folder.iterdir())
    yield partial(images.read_image, path)
    yield partial(images.read_image, path.read_bytes(), 1, "linear", min_side_px=8)
    yield partial(images.read_pixels, str(path), 3, "none")
    yield partial(images.read_pixels, {"bytes": path.read_bytes(), "path": None}, 1)


# Shards, and the archives that are converted to them


def make_shards(rng: random.Random) -> Files:
    if rng.random() < 0.2:
        return {"galaxies.tar": mutations.damaged_tar(rng, sound.webdataset())}
    files = dict(sound.shards(rng.choice(shards.ENCODINGS)))
    index = json.loads(files["index.json"])
    way = rng.randrange(4)
    if way == 0:
        files["index.json"] = mutations.damaged_json(rng, index)
        return files
    if way == 1:
        index = mutations.damaged_value(rng, index, 1)
        if isinstance(index, dict) and isinstance(index.get("label_cols"), list):
            index["schema_hash"] = shards.schema_hash(index["label_cols"])
    split = rng.choice(("train", "val", "test"))
    file = shards.file_name(split, 0)
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
    described = {key: index[key] for key in shards.DESCRIBED}
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
    yield partial(shards.open_splits, folder, sound.LABEL_COLS)
    yield partial(shards.verify, folder)
    yield partial(_go_on_writing, folder)


def _read_shards(folder: Path, split: str) -> None:
    galaxies = shards.open_shards(folder, split)
    label_frame(galaxies), galaxies.fingerprint()
    table = image_frame(galaxies, range(min(MOST_IMAGES, len(galaxies))))
    catalog.votes(table, galaxies.label_cols, str(folder))
    for source in table["image"]:
        images.read_pixels(source, galaxies.channels)


def _go_on_writing(folder: Path) -> None:
    table = sound.catalog(embedded=True)
    options = {"img_size": 16, "num_workers": 0, "show_progress": False}
    write_shards(table, sound.LABEL_COLS, folder, encoding="jpeg", **options)


# Configs


TAGS = (
    "!!python/object/apply:os.system ['touch executed']",
    "!!python/name:os.system",
    "!!binary /w==",
    "!!timestamp 2001-99-99",
    "!!int 0x",
    "!!float x",
    "!!set {a, b}",
    "0o9",
    "190:20:30",
    "2001-13-45",
)
BILLION = "x"
for _i in range(12):
    BILLION = f"[&a{_i} [{BILLION}], {', '.join([f'*a{_i}'] * 8)}]"


def make_config(rng: random.Random) -> Files:
    way = rng.randrange(8)
    settings = dict(rng.sample(sorted(sound.CONFIG.items()), rng.randrange(1, 8)))
    words: list[str] = []
    if way == 0:
        text = mutations.damaged_bytes(rng, yaml.safe_dump(settings).encode())
    elif way == 1:
        text = f"{rng.choice(list(settings))}: {rng.choice(TAGS)}\n".encode()
    elif way == 2:
        name = rng.choice(["a", *settings])
        text = rng.choice((f"{name}: {BILLION}", f"{name}: &a [*a]", "&a [*a]", "[" * 3000))
        text = text.encode()
    else:
        settings = mutations.damaged_value(rng, settings)
        text = json.dumps(settings).encode(errors="replace")
        if rng.random() < 0.5:
            text = yaml.safe_dump(settings).encode(errors="replace")
    if rng.random() < 0.4:
        for name, value in rng.sample(sorted(sound.CONFIG.items()), 2):
            value = mutations.damaged_value(rng, value)
            words += ["--" + name.replace("_", "-"), _text(value)[:5000]]
    return {"run.yaml": text, "words.json": json.dumps(words).encode()}


def config_steps(folder: Path) -> Steps:
    words = json.loads((folder / "words.json").read_bytes())
    config = ["--config", str(folder / "run.yaml")]
    for parse in (train.parse, finetune.parse, predict.parse, create_shards.parse):
        yield partial(parse, [*config, *words])
    yield partial(_make_run, [*config, *words])
    yield partial(_make_run, words)


def _make_run(words: list[str]) -> None:
    options = train.parse(words)
    schemas.get_schema(options.schema)
    galaxies = sound.catalog(embedded=True)
    splits = catalog.split_catalog(galaxies, seed=options.seed)
    catalog.hash_ids(galaxies["id_str"], options.seed)
    make_data(options, splits, sound.LABEL_COLS)
    torch.manual_seed(options.seed)


# Checkpoints


class _Harmful:
    """Unpickling it runs a command."""

    def __reduce__(self):
        return eval, ("open('executed', 'w').close()",)


def make_checkpoint(rng: random.Random) -> Files:
    name = rng.choice(list(sound.models()))
    weights, description = sound.models()[name]
    way = rng.randrange(7)
    if way == 0:
        return {"a.safetensors": mutations.damaged_safetensors(rng, sound.weights_file(name))}
    if way == 1:
        files = dict(sound.encoder_folder())
        damaged = rng.choice(list(files))
        if damaged == "config.json":
            files[damaged] = mutations.damaged_json(rng, json.loads(files[damaged]))
        else:
            files[damaged] = mutations.damaged_safetensors(rng, files[damaged])
        return files
    if way == 2:
        return {"a.ckpt": _harmful(rng)}
    if way in (3, 4):
        description = mutations.damaged_value(rng, description)
    state = {"format_version": 1, "model": weights, "description": description, "epoch": 3}
    if rng.random() < 0.4:
        described = description if isinstance(description, dict) else {"schema": description}
        arguments = described.get("arguments", {})
        if not isinstance(arguments, dict) or name == "ZoobotTree":
            arguments = _lightning_tree(described.get("schema"))
        state = sound.lightning(weights, arguments)
    if way == 5:
        plain = {key: value for key, value in state.items() if not _holds_tensors(value)}
        plain = mutations.damaged_value(rng, plain)
        state = plain if not isinstance(plain, dict) else {**state, **plain}
        key = rng.choice(list(weights))
        state = _with_weight(rng, state, key)
    content = sound.saved_state(state, _use_new_zipfile_serialization=rng.random() < 0.8)
    if way == 6:
        is_zip = content.startswith(b"PK")
        content = (mutations.damaged_zip if is_zip else mutations.damaged_bytes)(rng, content)
    return {"a.ckpt": content}


def _lightning_tree(schema) -> dict:
    try:
        tree = schemas.Schema.from_dict(schema)
        pairs, dependencies = tree.question_answer_pairs, tree.dependencies
    except (ValueError, TypeError, AttributeError):
        pairs, dependencies = schema, schema
    return {"question_answer_pairs": pairs, "dependencies": dependencies}


def _holds_tensors(value) -> bool:
    return isinstance(value, dict) and any(map(torch.is_tensor, value.values()))


def _with_weight(rng: random.Random, state, key: str):
    """A state one of whose weights is of another shape, dtype, layout or device, or none at all."""
    values = state.values() if isinstance(state, dict) else []
    place = next((v for v in values if _holds_tensors(v)), None)
    if place is not None:
        name = next((k for k in place if k == key), next(iter(place)))
        other = rng.choice(
            (
                torch.zeros(3),
                torch.zeros(1).expand(10**9),
                torch.zeros(2, 2).to_sparse(),
                torch.zeros(2, dtype=torch.complex64),
                torch.empty(2, 2, device="meta"),
                torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8),
                place[name].to(torch.int8),
                torch.full_like(place[name], float("nan")),
                "text",
                None,
            )
        )
        changed = {**place, name: other}
        return {k: changed if v is place else v for k, v in state.items()}
    return state


def _harmful(rng: random.Random) -> bytes:
    state = {"format_version": 1, "model": {}, "description": _Harmful()}
    way = rng.randrange(4)
    if way == 0:
        return pickle.dumps(state)
    if way == 1:
        return sound.saved_state(state, _use_new_zipfile_serialization=False)
    if way == 2:
        return mutations.damaged_bytes(rng, pickle.dumps(state, protocol=rng.randrange(6)))
    return sound.saved_state({"state_dict": {}, "hyper_parameters": _Harmful()})


def checkpoint_steps(folder: Path) -> Steps:
    if (folder / "config.json").exists() or (folder / "model.safetensors").exists():
        yield partial(predictors.load_predictor, f"local-dir:{folder}", representations=True)
        yield partial(encoders.image_size_kwargs, f"local-dir:{folder}", 64)
        return
    path = str(next(folder.glob("a.*")))
    yield partial(checkpoint.load_checkpoint, path)
    yield partial(_predict_with, path)
    yield partial(predictors.load_predictor, path, representations=True)


def _predict_with(path: str) -> None:
    model = predictors.load_predictor(path)
    predictors.column_names(model, None), predictors.describe_predictions(model)
    predictors.view_of(model)


KINDS = {
    "catalog": Kind(make_catalog, catalog_steps),
    "schema": Kind(make_schema, schema_steps),
    "image": Kind(make_image, image_steps),
    "shards": Kind(make_shards, shard_steps),
    "config": Kind(make_config, config_steps),
    "checkpoint": Kind(make_checkpoint, checkpoint_steps),
}
