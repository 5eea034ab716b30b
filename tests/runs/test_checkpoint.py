import pickle

import pytest
import safetensors.torch
import torch

from zoobot.runs import checkpoint
from zoobot.system.files import duplicate_file, write_text, write_whole


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def half_way(aside):
        aside.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, half_way)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_files_have_ordinary_permissions(tmp_path):
    write_text(tmp_path / "a.txt", "x")
    (tmp_path / "b.txt").write_text("x")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "b.txt").stat().st_mode


def test_a_state_survives_saving(tmp_path):
    state = {"model": {"w": torch.arange(3)}, "progress": {"epoch": 2, "kept": [[0.5, 1]]}}
    checkpoint.save_checkpoint(tmp_path / "a.ckpt", state)
    loaded = checkpoint.load_checkpoint(tmp_path / "a.ckpt")
    assert torch.equal(loaded["model"]["w"], state["model"]["w"])
    assert loaded["progress"] == state["progress"]


def test_a_second_name_survives_the_replacement_of_the_first(tmp_path):
    first, second = tmp_path / "epoch=1.ckpt", tmp_path / "last.ckpt"
    checkpoint.save_checkpoint(first, {"epoch": 1})
    duplicate_file(first, second)
    checkpoint.save_checkpoint(second, {"epoch": 2})
    assert checkpoint.load_checkpoint(first)["epoch"] == 1
    assert checkpoint.load_checkpoint(second)["epoch"] == 2


def test_weights_carry_their_description(tmp_path):
    path = tmp_path / "best.safetensors"
    weights = {"w": torch.rand(2, 3).to(memory_format=torch.contiguous_format).T}
    checkpoint.save_weights(path, weights, {"encoder": "resnet18", "schema": {"a": [1]}})
    loaded, description = checkpoint.load_weights(path)
    assert torch.equal(loaded["w"], weights["w"])
    assert description["schema"] == {"a": [1]}


@pytest.mark.parametrize("load", [checkpoint.load_checkpoint, checkpoint.load_weights])
def test_files_that_are_none_of_ours_are_named(tmp_path, load):
    for name, content in (("empty", b""), ("text", b"hello"), ("torn", b"PK\x03\x04" + b"\0" * 40)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            load(tmp_path / name)
    with pytest.raises(ValueError, match="no .*absent"):
        load(tmp_path / "absent")
    torch.save({"w": torch.zeros(1)}, tmp_path / "foreign")
    with pytest.raises(ValueError, match="foreign"):
        load(tmp_path / "foreign")


class _Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_is_never_executed(tmp_path):
    target = tmp_path / "written"
    torch.save({"format_version": 1, "x": _Bomb(target)}, tmp_path / "bomb.ckpt")
    (tmp_path / "bomb.pkl").write_bytes(pickle.dumps(_Bomb(target)))
    for name in ("bomb.ckpt", "bomb.pkl"):
        with pytest.raises(ValueError, match=name):
            checkpoint.load_checkpoint(tmp_path / name)
    assert not target.exists()


def nested(value, depth):
    for _ in range(depth):
        value = {"a": value}
    return value


ENCODER = {"architecture": "resnet18", "channels": 3, "timm_kwargs": {}}


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (["a"], "no weights with a description"),
        ({"class": 3}, "its class by 3"),
        ({"arguments": [1]}, r"its arguments by \[1\]"),
        ({"image_size": "x"}, "its image_size by 'x'"),
        ({"transform": 3}, "its transform by 3"),
        ({"encoder": "resnet18"}, "its encoder by 'resnet18'"),
        ({"encoder": {"architecture": "resnet18", "channels": 3}}, "it must hold"),
        ({"encoder": ENCODER | {"architecture": ["resnet18"]}}, "it must hold"),
        ({"encoder": ENCODER | {"channels": 0}}, "it must hold"),
        ({"encoder": ENCODER | {"channels": 10**12}}, "it must hold"),
        ({"encoder": ENCODER | {"timm_kwargs": [1]}}, "it must hold"),
        ({"encoder": ENCODER | {"timm_kwargs": {"depths": [3, 10**9]}}}, "moderate numbers"),
        ({"encoder": ENCODER | {"timm_kwargs": {"depth": float("nan")}}}, "moderate numbers"),
        ({"encoder": nested(ENCODER, 90)}, "it must hold"),
        ({"encoder": ENCODER | {"timm_kwargs": {"a": nested([], 90)}}}, "moderate numbers"),
        ({"arguments": {"num_classes": 10**12}}, "a model of 1000000000000 cl"),
        ({"encoder": ENCODER | {"timm_kwargs": {3: 4}}}, "it must hold"),
    ],
)
def test_a_description_of_other_types_is_told(tmp_path, description, message):
    state = {"model": {}, "description": description}
    checkpoint.save_checkpoint(tmp_path / "a.ckpt", state)
    with pytest.raises(ValueError, match=f"a.ckpt .*{message}"):
        checkpoint.load_model(tmp_path / "a.ckpt")


@pytest.mark.parametrize("weights", [None, [1], {"w": "text"}, {"w": None}, {3: torch.zeros(1)}])
def test_weights_that_are_no_tensors_by_name_are_told(tmp_path, weights):
    checkpoint.save_checkpoint(tmp_path / "a.ckpt", {"model": weights, "description": {}})
    with pytest.raises(ValueError, match="a.ckpt holds no weights"):
        checkpoint.load_model(tmp_path / "a.ckpt")


@pytest.mark.parametrize("arguments", [3, {"name": 3}, {"timm_kwargs": 3}])
def test_arguments_of_a_lightning_file_that_are_none_are_told(tmp_path, arguments):
    torch.save({"state_dict": {}, "hyper_parameters": arguments}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="a.ckpt has arguments that are no model's"):
        checkpoint.load_model(tmp_path / "a.ckpt")


@pytest.mark.parametrize("metadata", [{"zoobot": "[" * 100_000}, {"zoobot": "9" * 5000}, {}])
def test_a_damaged_description_of_weights_is_told(tmp_path, metadata):
    safetensors.torch.save_file({}, tmp_path / "a.safetensors", metadata)
    with pytest.raises(ValueError, match=r"a.safetensors is not a weights file"):
        checkpoint.load_weights(tmp_path / "a.safetensors")


@pytest.mark.parametrize("depth", [100, 500, 900, 1000, 5000])
def test_a_description_of_any_depth_is_refused(tmp_path, depth):
    metadata = {"zoobot": '{"class": ' + "[" * depth + "]" * depth + "}"}
    safetensors.torch.save_file({}, tmp_path / "a.safetensors", metadata)
    with pytest.raises(ValueError, match="a.safetensors"):
        checkpoint.load_model(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("bands", "told"),
    [
        (3, "describes its bands by 3, not by a dict"),
        ({}, "describes its bands: bands is None"),
        ({"bands": [["g"]]}, "describes its bands: .'g'. is no name of a band"),
        ({"bands": ["g"] * 3}, "give 1 to 100, each once"),
        ({"bands": ["g", "r"], "mean": ["x", 0]}, "give 2 numbers"),
        ({"bands": ["g", "r"], "scaling": [1]}, "scaling .1.: use one of"),
        ({"bands": ["g", "r"], "places": {"g": "[x]"}}, "is no place of a band"),
        ({"bands": ["g", "r"], "more": 1}, "unknown entry 'more'"),
        ({"bands": ["g", "r"]}, "describes 2 bands for an encoder of 3 channels"),
    ],
)
def test_bands_that_are_none_are_told(tmp_path, bands, told):
    encoder = {"architecture": "resnet18", "channels": 3, "timm_kwargs": {}}
    description = {"class": "ZoobotTree", "encoder": encoder, "bands": bands}
    path = tmp_path / "a.safetensors"
    checkpoint.save_weights(path, {"w": torch.zeros(1)}, description)
    with pytest.raises(ValueError, match=f"{path} .*{told}"):
        checkpoint.load_model(path)
