import pytest
import timm
import torch

from zoobot.models.finetune import FinetuneableZoobotClassifier, FinetuneableZoobotRegressor
from zoobot.models.loading import device_of
from zoobot.models.tree import ZoobotTree
from zoobot.predictions.models import ZoobotEncoder
from zoobot.runs import checkpoint

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def classifier():
    torch.manual_seed(0)
    encoder = timm.create_model("test_resnet", num_classes=0)
    return FinetuneableZoobotClassifier(num_classes=2, encoder=encoder)


def written(model, folder, drop=(), add=()):
    weights = model.state_dict()
    for name in drop:
        del weights[name]
    weights |= {name: torch.zeros(3) for name in add}
    checkpoint.save_weights(folder / "a.safetensors", weights, model.describe())
    return folder / "a.safetensors"


@pytest.fixture
def models(tree):
    torch.manual_seed(0)
    return [classifier(), ZoobotTree(schema=tree, architecture_name="test_resnet")]


LIGHTNINGS = {"map_location": "cpu", "strict": True, "hparams_file": "hparams.yaml"}


def test_arguments_of_lightnings_scripts_are_taken(models, tmp_path):
    for model in models:
        path = written(model, tmp_path)
        again = type(model).load_from_checkpoint(path, **LIGHTNINGS)
        assert torch.equal(again(IMAGES), model.eval()(IMAGES))
        assert torch.equal(type(model).load_from_checkpoint(path, "cpu")(IMAGES), again(IMAGES))
        features = ZoobotEncoder.load_from_checkpoint(path, **LIGHTNINGS)(IMAGES)
        assert torch.equal(features, model.encoder(IMAGES))


def test_the_model_is_moved_to_the_map_location(models, tmp_path):
    for model in models:
        path = written(model, tmp_path)
        for load in (type(model).load_from_checkpoint, ZoobotEncoder.load_from_checkpoint):
            moved = load(path, map_location=torch.device("meta"))
            assert {p.device.type for p in moved.parameters()} == {"meta"}


@pytest.mark.parametrize(
    "location",
    ["cpu", torch.device("cpu"), {"cuda:0": "cpu"}, lambda storage, location: storage],
)
def test_every_form_of_map_location_names_its_device(location):
    assert device_of(location) == torch.device("cpu")


@pytest.mark.parametrize("location", ["gpu", "cuda:99", {"cuda:0": "cpu", "cuda:1": "meta"}, {}])
def test_a_map_location_that_is_no_device_is_told(location):
    with pytest.raises(ValueError, match="map_location=.* is no device of this machine"):
        device_of(location)


def test_without_strict_the_weights_that_both_have_are_loaded(models, tmp_path):
    for model in models:
        path = written(model, tmp_path, drop=["head.linear.bias"], add=["head.more"])
        with pytest.raises(ValueError, match=r"1 missing .*; 1 left over \(head.more\)"):
            type(model).load_from_checkpoint(path)
        with pytest.warns(UserWarning, match="1 weights are not") as told:
            again = type(model).load_from_checkpoint(path, strict=False)
        assert len(told) == 2
        assert "1 weights are not in it, and stay fresh (head.linear.bias)" in str(told[0].message)
        assert torch.equal(again.head.linear.weight, model.head.linear.weight)
        assert torch.equal(again.encoder.bn1.weight, model.encoder.bn1.weight)


def test_weights_of_another_shape_are_told_without_strict_too(tmp_path):
    path = written(classifier(), tmp_path)
    with pytest.raises(ValueError, match="of another shape .head.linear.weight"):
        FinetuneableZoobotClassifier.load_from_checkpoint(
            path, strict=False, num_classes=3, class_names=None
        )


class Wider(FinetuneableZoobotClassifier):
    """A subclass with an argument of its own."""

    def __init__(self, width=1, **super_kwargs):
        super().__init__(**super_kwargs)


def test_a_misspelt_argument_is_named_with_near_ones(models, tmp_path):
    for model in models:
        path = written(model, tmp_path)
        name = type(model).__name__
        told = f"^{name} has no argument 'learning_rte'; did you mean 'learning_rate'"
        with pytest.raises(ValueError, match=told):
            type(model).load_from_checkpoint(path, learning_rte=1)
    with pytest.raises(ValueError, match="Wider has no argument 'widht'; did you mean 'width'"):
        Wider.load_from_checkpoint("none.ckpt", widht=1)


def test_a_value_that_is_refused_is_the_callers(tmp_path):
    path = written(classifier(), tmp_path)
    with pytest.raises(ValueError, match="can't be built with training_mode as given: .*'ful'"):
        FinetuneableZoobotClassifier.load_from_checkpoint(path, training_mode="ful")


@pytest.mark.parametrize("name", ["name", "zoobot_checkpoint_loc", "timm_kwargs"])
def test_a_source_beside_the_checkpoint_is_refused(name, tmp_path):
    path = written(classifier(), tmp_path)
    with pytest.raises(ValueError, match=f"takes no {name}=: the checkpoint holds the encoder"):
        FinetuneableZoobotRegressor.load_from_checkpoint(path, **{name: {}})
