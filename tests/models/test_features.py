import pytest
import timm
import torch
from torch import nn

from zoobot.models.features import get_encoder_dim, pooled
from zoobot.models.finetune import (
    FinetuneableZoobotClassifier,
    FinetuneableZoobotRegressor,
    FinetuneableZoobotTree,
)
from zoobot.models.tree import ZoobotTree
from zoobot.predictions.models import AnyModule, ZoobotEncoder

IMAGES = torch.zeros(2, 3, 32, 32)


class Giving(nn.Module):
    """An encoder of 8 features whose output is what a function makes of them."""

    num_features = 8

    def __init__(self, make):
        super().__init__()
        self.linear = nn.Linear(3, 8)
        self.make = make

    def forward(self, images):
        return self.make(self.linear(images.mean((2, 3))))


OUTPUTS = {
    "a dict": (lambda x: {"features": x}, "gives a dict for a batch of images"),
    "a pair": (lambda x: (x, x), "gives a tuple for a batch of images"),
    "a list": (lambda x: [x], "gives a list for a batch of images"),
    "3 dimensions": (lambda x: x[:, None], r"gives \(2, 1, 8\): it must pool"),
    "4 dimensions": (lambda x: x[..., None, None], r"gives \(2, 8, 1, 1\): it must pool"),
    "1 dimension": (lambda x: x[:, 0], r"gives \(2,\): it must pool"),
    "another width": (lambda x: x[:, :4], "gives 4 features a galaxy, but says that it gives 8"),
}


@pytest.mark.parametrize("output", OUTPUTS)
def test_what_is_not_features_is_told_by_every_model(output, tree):
    make, told = OUTPUTS[output]
    for model in (
        FinetuneableZoobotClassifier(num_classes=2, encoder=Giving(make)),
        FinetuneableZoobotRegressor(encoder=Giving(make)),
        FinetuneableZoobotTree(schema=tree, encoder=Giving(make)),
        ZoobotEncoder(Giving(make)),
    ):
        with pytest.raises(ValueError, match=told):
            model(IMAGES)


def test_an_encoder_of_feature_maps_is_told_at_construction(tree):
    encoder = timm.create_model("test_resnet", features_only=True)
    with pytest.raises(ValueError, match="gives a list for a batch of images"):
        FinetuneableZoobotClassifier(num_classes=2, encoder=encoder)
    with pytest.raises(ValueError, match="gives a list for a batch of images"):
        ZoobotTree(
            schema=tree, architecture_name="test_resnet", timm_kwargs={"features_only": True}
        )


def test_a_module_of_several_outputs_is_told_when_it_predicts():
    with pytest.raises(ValueError, match="Giving gives dict for 2 images"):
        AnyModule(Giving(lambda x: {"a": x}))(IMAGES)
    with pytest.raises(ValueError, match=r"Giving gives \(2, 8, 1\) for 2 images"):
        AnyModule(Giving(lambda x: x[..., None]))(IMAGES)


@pytest.mark.parametrize("name", ["test_vit", "test_coatnet", "test_vit_relpos"])
def test_images_of_a_size_that_an_encoder_was_not_built_for_are_told(name):
    encoder = timm.create_model(name, num_classes=0, img_size=64)
    model = FinetuneableZoobotClassifier(num_classes=2, encoder=encoder).eval()
    model(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"can't take images of shape \(3, 100, 100\)"):
        model(torch.zeros(1, 3, 100, 100))


def test_images_of_other_channels_are_told():
    model = ZoobotEncoder(timm.create_model("test_resnet", num_classes=0))
    with pytest.raises(ValueError, match=r"can't take images of shape \(1, 32, 32\)"):
        model(IMAGES[:, :1])


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("size"), RuntimeError("CUDA error")])
def test_errors_of_the_device_are_left_as_they_are(error):
    def fail(_):
        raise error

    with pytest.raises(type(error)) as raised:
        pooled(Giving(fail), IMAGES)
    assert raised.value is error


def test_the_width_of_an_encoder_that_takes_no_image_of_224_px_needs_its_attribute():
    fixed = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4))
    with pytest.raises(ValueError, match="can't take images .* an attribute num_features, no"):
        get_encoder_dim(fixed)
    fixed.num_features = 4
    assert get_encoder_dim(fixed) == 4


def test_an_encoder_without_parameters_has_a_width():
    assert get_encoder_dim(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())) == 3


def test_a_frozen_encoder_gives_gradients_to_images_that_ask():
    torch.manual_seed(0)
    encoder = timm.create_model("test_resnet", num_classes=0)
    model = FinetuneableZoobotClassifier(num_classes=2, encoder=encoder, training_mode="head_only")
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    model.eval()(images)[:, 0].sum().backward()
    assert images.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.encoder.parameters())
