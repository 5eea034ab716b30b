import json
import os
import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import load_file
from small_models import go_offline

from zoobot import from_options
from zoobot.models import architectures, encoders
from zoobot.models.architectures import get_pytorch_encoder
from zoobot.models.encoders import save_encoder
from zoobot.models.hub import is_model
from zoobot.models.tree import ZoobotTree
from zoobot.runs import checkpoint
from zoobot.system.errors import UserError

TINY = ["test_convnext", "test_vit", "test_resnet", "test_efficientnet", "mobilenetv3_small_050"]


def same_weights(first, second):
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", TINY)
def test_the_pooled_width_is_that_of_the_features(name):
    encoder = get_pytorch_encoder(name).eval()
    size_px = encoder.pretrained_cfg["input_size"][-1]
    with torch.no_grad():
        features = encoder(torch.zeros(1, 3, size_px, size_px))
    assert encoders.get_encoder_dim(encoder) == features.shape[-1]


def test_the_width_of_a_foreign_encoder_is_probed_without_touching_it():
    encoder = torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 3), torch.nn.BatchNorm2d(6), torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
    )  # fmt: skip
    before = encoder[1].running_mean.clone()
    assert encoders.get_encoder_dim(encoder, channels=1) == 6
    assert torch.equal(encoder[1].running_mean, before)
    assert encoder.training


def test_encoders_of_fixed_size_get_the_image_size():
    assert from_options.image_size_kwargs("vit_tiny_patch16_224", 96) == {"img_size": 96}
    assert from_options.image_size_kwargs("convnext_nano", 96) == {}
    assert from_options.image_size_kwargs("runs/a/best.safetensors", 96) == {}


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("test_resnet", {}),
        ("test_resnet", {"in_chans": 1}),
        ("test_convnext", {}),
        ("test_vit", {"img_size": 96}),
        ("test_efficientnet", {"drop_path_rate": 0.1}),
    ],
)
def test_an_encoder_is_described_well_enough_to_build_it_again(name, kwargs):
    encoder = timm.create_model(name, num_classes=0, **kwargs)
    description = json.loads(json.dumps(encoders.describe_encoder(encoder)))
    again = encoders.build_encoder(description)
    again.load_state_dict(encoder.state_dict())
    size_px = kwargs.get("img_size", 160)
    images = torch.rand(2, description["channels"], size_px, size_px)
    assert torch.equal(again.eval()(images), encoder.eval()(images))


def test_an_encoder_that_timm_could_not_build_is_not_described():
    encoder = timm.create_model("test_resnet", num_classes=0)
    encoder.extra = torch.nn.Linear(2, 2)
    assert encoders.describe_encoder(encoder) is None
    assert encoders.describe_encoder(torch.nn.Linear(2, 2)) is None
    with pytest.raises(ValueError, match="only an encoder that timm can build"):
        save_encoder(encoder, "nowhere")


def test_an_encoder_of_the_same_weights_but_other_features_is_not_described():
    encoder = timm.create_model("test_resnet", num_classes=0)
    encoder.reset_classifier(0, global_pool="max")
    assert encoders.describe_encoder(encoder) is None


@pytest.mark.parametrize("kwargs", [{}, {"in_chans": 1}])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_timm_loads_the_folder_that_is_written(tmp_path, name, kwargs):
    encoder = timm.create_model(name, num_classes=0, **kwargs)
    save_encoder(encoder, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    source = f"local-dir:{tmp_path}"
    assert same_weights(timm.create_model(source, pretrained=True, num_classes=0), encoder)
    ours, description = encoders.load_encoder(source, **{"channels": kwargs.get("in_chans", 3)})
    assert same_weights(ours, encoder)
    assert description["architecture"] == name


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "{}"),
        ("config.json", '{"architecture": "resnet18", "global_pool": "avg"}'),
        ("config.json", "[]"),
        ("model.safetensors", "x"),
        ("best.safetensors", "x"),
    ],
)
def test_a_folder_of_others_is_not_written_over(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match="is there, and of no|is the folder of a run"):
        save_encoder(timm.create_model("test_resnet", num_classes=0), tmp_path)
    assert (tmp_path / name).read_text() == content
    assert len([*tmp_path.iterdir()]) == 1


def test_an_encoder_is_replaced_and_what_links_lead_to_is_left(tmp_path):
    (tmp_path / "other").write_text("kept")
    folder, encoder = tmp_path / "encoder", timm.create_model("test_resnet", num_classes=0)
    folder.mkdir()
    (folder / "note.txt").write_text("kept")
    save_encoder(encoder, folder)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(tmp_path / "other")
    save_encoder(encoder, folder)
    assert (tmp_path / "other").read_text() == (folder / "note.txt").read_text() == "kept"
    assert not (folder / "model.safetensors").is_symlink()


def test_a_folder_without_a_config_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"config.json can't be read .* must be a timm folder"):
        encoders.load_encoder(f"local-dir:{tmp_path}")


def test_an_unknown_name_is_told_with_near_ones():
    with pytest.raises(ValueError, match="no encoder 'convnext_nan'; did you mean"):
        encoders.load_encoder("convnext_nan")


def test_weights_that_cannot_be_reached_are_told_with_how_to_work_offline(tmp_path):
    names = ["hf_hub:nobody/zoobot-encoder-none", "resnet18"]
    code = f"""
from zoobot.models import encoders
for name in {names}:
    try:
        encoders.load_encoder(name)
    except ValueError as error:
        print(error)
"""
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "TORCH_HOME": str(tmp_path)}
    command = [sys.executable, "-c", code]
    environment = {**os.environ, **offline, "HTTPS_PROXY": "http://127.0.0.1:9"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    for name, told in zip(names, done.stdout.splitlines(), strict=True):
        assert told.startswith(f"the pretrained weights of {name!r} can't be had: ")
        assert "to work offline" in told
        assert "local-dir:FOLDER" in told


@pytest.fixture
def tree_model(tree):
    return ZoobotTree(schema=tree, architecture_name="test_resnet")


def test_the_encoder_of_our_own_files_is_loaded(tmp_path, tree_model):
    state = {"model": tree_model.state_dict(), "description": tree_model.describe()}
    checkpoint.save_checkpoint(tmp_path / "epoch=1.ckpt", state)
    checkpoint.save_weights(tmp_path / "best.safetensors", state["model"], state["description"])
    for name in ("epoch=1.ckpt", "best.safetensors"):
        assert same_weights(encoders.load_pretrained_zoobot(tmp_path / name), tree_model.encoder)


def lightning_file(path, model, head, **hyper_parameters):
    """A file of Zoobot 2.x's layout; ``head`` names the linear layer as that version does."""
    weights = {
        key.replace("head.linear.", head): value for key, value in model.state_dict().items()
    }
    torch.save(
        {
            "epoch": 3,
            "global_step": 40,
            "pytorch-lightning_version": "2.5.0",
            "state_dict": weights,
            "optimizer_states": [],
            "hyper_parameters": hyper_parameters,
        },
        path,
    )
    return path


@pytest.mark.parametrize(
    "told",
    [
        {"architecture_name": "test_resnet", "channels": 3, "timm_kwargs": {}},
        {"name": "hf_hub:someone/zoobot-encoder-test_resnet", "timm_kwargs": {}},
    ],
)
def test_the_encoder_of_a_lightning_file_is_loaded(tmp_path, tree_model, told):
    path = lightning_file(tmp_path / "a.ckpt", tree_model, "head.1.0.", **told)
    assert same_weights(encoders.load_pretrained_zoobot(path), tree_model.encoder)


def test_the_prefix_of_a_compiled_encoder_is_dropped(tmp_path, tree_model):
    path = lightning_file(tmp_path / "a.ckpt", tree_model, "head.1.0.", name="test_resnet")
    state = torch.load(path, weights_only=True)
    weights = state["state_dict"].items()
    state["state_dict"] = {k.replace("encoder.", "encoder._orig_mod."): v for k, v in weights}
    torch.save(state, path)
    assert same_weights(encoders.load_pretrained_zoobot(path), tree_model.encoder)


def test_a_lightning_file_that_names_no_encoder_needs_the_architecture(tmp_path, tree_model):
    path = lightning_file(tmp_path / "a.ckpt", tree_model, "head.linear.", name=None)
    with pytest.raises(ValueError, match="does not tell which encoder it holds"):
        encoders.load_pretrained_zoobot(path)
    encoder = encoders.load_pretrained_zoobot(path, architecture="test_resnet")
    assert same_weights(encoder, tree_model.encoder)


def test_weights_that_do_not_fit_exactly_are_named(tmp_path, tree_model):
    weights = tree_model.state_dict()
    weights["encoder.bn9.weight"] = weights.pop("encoder.bn1.weight")
    weights["encoder.bn1.bias"] = torch.zeros(1)
    checkpoint.save_weights(tmp_path / "a.safetensors", weights, tree_model.describe())
    expected = (
        r"1 missing \(bn1.weight\); 1 left over \(bn9.weight\); 1 of another shape \(bn1.bias"
    )
    with pytest.raises(ValueError, match=expected):
        encoders.load_pretrained_zoobot(tmp_path / "a.safetensors")


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_lightning_file_is_executed(tmp_path):
    harmful = {"state_dict": {}, "hyper_parameters": {"schema": Malicious(tmp_path / "harm")}}
    torch.save(harmful, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        encoders.load_pretrained_zoobot(tmp_path / "a.ckpt")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architecture": ["resnet18"]}, "timm has no encoder"),
        ({"architecture": "hf-hub:a/b"}, "timm has no encoder 'hf-hub:a/b'"),
        ({"architecture": "resnet18", "model_args": [1]}, "'model_args' can't be"),
        ({"architecture": "resnet18", "model_args": {"checkpoint_path": "x.pth"}}, "can't be"),
        ({"architecture": "test_vit", "model_args": {"depth": 10**9}}, "can't be"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_folder_with_a_hostile_config_is_told(tmp_path, config, message):
    text = config if isinstance(config, str) else json.dumps(config)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=f"config.json can't be read .*{message}"):
        encoders.load_encoder(f"local-dir:{tmp_path}")


def test_a_folder_whose_model_is_larger_than_its_weights_is_given_up(tmp_path):
    encoders.save_encoder(timm.create_model("test_vit", num_classes=0), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for model_args in ({"depth": 10_000}, {"embed_dim": 100_000}, {"img_size": 100_000}):
        (tmp_path / "config.json").write_text(json.dumps(config | {"model_args": model_args}))
        with pytest.raises(ValueError, match="local-dir:.* (larger than its weights|can't be)"):
            encoders.load_encoder(f"local-dir:{tmp_path}")


def test_the_encoder_that_comes_along_has_its_weights_and_needs_no_network(tmp_path, monkeypatch):
    go_offline(monkeypatch, tmp_path)
    encoder, description = encoders.load_encoder("simulated")
    assert description["architecture"] == "tf_efficientnet_lite0"
    written = load_file(architectures.SIMULATED_FOLDER / "model.safetensors")
    loaded = encoder.state_dict()
    assert {*written} == {*loaded}
    assert all(torch.equal(loaded[name].float(), written[name].float()) for name in written)
    assert {weight.dtype for weight in loaded.values() if weight.ndim} == {torch.float32}
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    assert encoder.eval()(images).isfinite().all()
    assert (architectures.SIMULATED_FOLDER / "model.safetensors").stat().st_size < 8_000_000


def test_the_encoder_that_comes_along_is_meant_also_where_there_is_such_a_folder(
    tmp_path, monkeypatch
):
    (tmp_path / "simulated").mkdir()
    monkeypatch.chdir(tmp_path)
    assert not is_model("simulated")
    assert encoders.load_encoder("simulated")[1]["architecture"] == "tf_efficientnet_lite0"
