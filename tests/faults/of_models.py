"""Damaged trees, configs and checkpoints, and all that the package does with them."""

import _codecs
import collections
import json
import pickle
import random
from functools import partial
from pathlib import Path

import mutations
import numpy as np
import sound
import torch
import yaml
from mutations import Files, Steps, as_text

import finetune
import predict
import train
from zoobot import create_shards, from_options, schemas
from zoobot.data.splits import hash_ids, split_catalog
from zoobot.predictions.models import (
    column_names,
    load_predictor,
    view_of,
)
from zoobot.runs import checkpoint

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
            words += ["--" + name.replace("_", "-"), as_text(value)[:5000]]
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
    splits = split_catalog(galaxies, seed=options.seed)
    hash_ids(galaxies["id_str"], options.seed)
    from_options.make_data(options, splits, sound.LABEL_COLS)
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


class _Called:
    """Pickled, it is a call of what torch allows in files of weights."""

    def __init__(self, *called):
        self.called = called

    def __reduce__(self):
        return self.called[0], self.called[1:]


def _allowed(rng: random.Random) -> bytes:
    """A pickle that names only what torch allows."""
    size = rng.choice((1, 10**5, 10**10))
    shared = list(range(1000))
    call = rng.choice(
        (
            (bytearray, size),
            (torch.FloatTensor, size),
            (torch.UntypedStorage, size),
            (torch.Size, (size, size)),
            (set, shared),
            (_codecs.encode, "x" * 1000, rng.choice(("latin1", "hex", "idna", "punycode"))),
            (torch.device, rng.choice(("cpu", "cuda:99", "x" * 10**5))),
            (collections.OrderedDict, [(i, i) for i in shared]),
            (collections.Counter, shared),
        )
    )
    return sound.saved_state({"format_version": 1, "model": [_Called(*call) for _ in range(99)]})


def _harmful(rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return _allowed(rng)
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
        yield partial(load_predictor, f"local-dir:{folder}", representations=True)
        yield partial(from_options.image_size_kwargs, f"local-dir:{folder}", 64)
        return
    path = str(next(folder.glob("a.*")))
    yield partial(checkpoint.load_checkpoint, path)
    yield partial(_predict_with, path)
    yield partial(load_predictor, path, representations=True)


def _predict_with(path: str) -> None:
    model = load_predictor(path)
    column_names(model, None), model.describe_predictions()
    view_of(model)
