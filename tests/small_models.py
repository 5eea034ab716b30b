"""Small models of every kind, and a hub that can't be reached but has a cache."""

import shutil

import timm
import torch
from torch import nn

from zoobot.data import minimal_view_config
from zoobot.data.bands.spec import ImageSpec
from zoobot.data.dataset import ImagesSeen
from zoobot.models.finetune import (
    FinetuneableZoobotClassifier,
    FinetuneableZoobotRegressor,
    FinetuneableZoobotTree,
)
from zoobot.models.tree import ZoobotTree
from zoobot.predictions.models import ZoobotEncoder
from zoobot.runs import checkpoint

SIZE_PX = 32
IMAGES = torch.rand(2, 3, SIZE_PX, SIZE_PX, generator=torch.Generator().manual_seed(0))
SCALE = {"mean": [20.0], "std": [2.0], "log": [True], "positive": [True]}
COMMIT = "a" * 40


def resnet(**kwargs):
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=0, **kwargs)


def seen_at(size_px=SIZE_PX) -> ImagesSeen:
    """As a model has seen images that was validated with the minimal view."""
    view = minimal_view_config()
    view.output_size = size_px
    return ImagesSeen("asinh", size_px, view.changes())


def classifier(**options) -> FinetuneableZoobotClassifier:
    options = {"class_names": ["ring", "none"], "encoder": resnet()} | options
    model = FinetuneableZoobotClassifier(2, "is_ring", **options)
    model.images_seen = seen_at()
    return model.eval()


def band_classifier() -> FinetuneableZoobotClassifier:
    spec = ImageSpec(("g", "r"), mean=(0.5, 0.25), std=(2.0, 4.0))
    model = classifier(encoder=resnet(in_chans=2), channels=2)
    model.images_seen = ImagesSeen(None, SIZE_PX, seen_at().view, bands=spec.to_dict())
    return model


def every_model(tree) -> dict[str, torch.nn.Module]:
    models = {
        "classifier": classifier(),
        "regressor": FinetuneableZoobotRegressor("mass", encoder=resnet(), label_scale=SCALE),
        "finetuned-tree": FinetuneableZoobotTree(tree, encoder=resnet()),
        "tree": ZoobotTree(schema=tree, architecture_name="test_resnet"),
        "bands": band_classifier(),
    }
    for model in models.values():
        if model.channels == 3:
            model.images_seen = seen_at()
        model.eval()
    return models


def tiny_encoder(channels=3):
    """Smaller than any of timm's, so that it is exported fast."""
    torch.manual_seed(0)
    layers = nn.Conv2d(channels, 4, 3, 2), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers).eval()


def tiny_classifier():
    return classifier(encoder=tiny_encoder())


def tiny_models(tree) -> dict:
    models = every_model(tree)
    for kind in ("classifier", "regressor", "finetuned-tree", "bands"):
        model = models[kind]
        model.encoder, model.encoder_dim = tiny_encoder(model.channels), 4
        model.head.linear = nn.Linear(4, model.head.linear.out_features)
    models["encoder"] = ZoobotEncoder(tiny_encoder()).eval()
    models["encoder"].images_seen = seen_at()
    return models


def write_run(model, folder):
    """The folder of a run of which ``best.safetensors`` is this model."""
    description = {**model.describe(), **model.images_seen.to_dict()}
    checkpoint.save_weights(folder / "best.safetensors", model.state_dict(), description)
    (folder / "config.json").write_text("{}")
    return folder


def put_on_hub(folder, home, name="someone/galaxies") -> str:
    """Lay a folder out as huggingface_hub's cache below HF_HOME has what it downloaded."""
    place = home / "hub" / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, place / "snapshots" / COMMIT)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMIT)
    return f"hf_hub:{name}"


def go_offline(monkeypatch, home) -> None:
    """HF_HUB_OFFLINE=1 and HF_HOME, in a process that has read them already."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home / "hub"))
