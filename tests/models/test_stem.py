import math

import pytest
import timm
import torch
from torch import nn

from zoobot.models.encoders import save_encoder
from zoobot.models.finetune import FinetuneableZoobotClassifier
from zoobot.models.stem import adapted, fresh_stem, stem_names
from zoobot.predictions.models import ZoobotEncoder
from zoobot.runs import checkpoint

STEMS = {
    "test_resnet": ["conv1.0.weight"],
    "test_convnext": ["stem.0.weight", "stem.0.bias"],
    "test_vit": ["patch_embed.proj.weight", "patch_embed.proj.bias"],
    "test_efficientnet": ["conv_stem.weight"],
}


def encoder(name="test_resnet", channels=3):
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=0, in_chans=channels)


def classifier(**arguments):
    return FinetuneableZoobotClassifier(2, **arguments)


@pytest.fixture
def saved(tmp_path):
    """The checkpoint of a model of 3 channels, and its encoder's weights."""
    model = classifier(encoder=encoder())
    checkpoint.save_weights(tmp_path / "m.safetensors", model.state_dict(), model.describe())
    return str(tmp_path / "m.safetensors"), model.encoder.state_dict()


@pytest.mark.parametrize("name", STEMS)
def test_the_stem_is_the_first_convolution(name):
    assert stem_names(encoder(name)) == STEMS[name]


def test_a_module_that_does_not_tell_has_no_stem():
    assert stem_names(nn.Conv2d(3, 4, 1)) == []


@pytest.mark.parametrize("now", [1, 2, 4, 5, 6])
@pytest.mark.parametrize("before", [1, 3])
def test_an_adapted_stem_gives_grey_images_the_features_that_they_had(before, now):
    first, second = encoder(channels=before).eval(), encoder(channels=now).eval()
    second.load_state_dict(adapted(first.state_dict(), second))
    grey = torch.rand(2, 1, 64, 64)
    expected = first(grey.expand(-1, before, -1, -1))
    divided_evenly = now == 1 or now % before == 0
    found = second(grey.expand(-1, now, -1, -1))
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4) == divided_evenly


@pytest.mark.parametrize("now", [1, 4, 5])
def test_checkpoints_and_folders_are_adapted_alike(saved, tmp_path, now):
    path, weights = saved
    source = encoder()
    source.load_state_dict(weights)
    save_encoder(source, tmp_path / "folder")
    first = classifier(zoobot_checkpoint_loc=path, channels=now)
    second = classifier(name=f"local-dir:{tmp_path / 'folder'}", channels=now)
    pairs = zip(first.encoder.parameters(), second.encoder.parameters(), strict=True)
    assert all(torch.allclose(a, b, rtol=1e-6) for a, b in pairs)
    assert f"its stem adapted from 3 to {now} channels" in first.introduce()
    assert f"its stem adapted from 3 to {now} channels" in second.introduce()


def test_only_a_fresh_stem_is_not_the_checkpoints_and_depends_on_the_seed(saved):
    path, weights = saved
    models = [
        classifier(zoobot_checkpoint_loc=path, fresh_stem=True, seed=seed) for seed in (1, 1, 2)
    ]
    one, again, other = (model.encoder.state_dict() for model in models)
    differ = [name for name in weights if not torch.equal(one[name], weights[name])]
    assert differ == STEMS["test_resnet"]
    assert torch.equal(one[differ[0]], again[differ[0]])
    assert not torch.equal(one[differ[0]], other[differ[0]])
    state = torch.random.get_rng_state()
    fresh_stem(models[0].encoder, models[0].encoder_description, 1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert "its stem fresh" in models[0].introduce()


def test_stems_of_other_numbers_of_channels_are_refused_unless_they_start_afresh(tmp_path):
    five = encoder(channels=5)
    save_encoder(five, tmp_path / "five")
    name = f"local-dir:{tmp_path / 'five'}"
    with pytest.raises(ValueError, match="takes 5 channels, the images have 4: only stems of 1 or"):
        classifier(name=name, channels=4)
    fresh = classifier(name=name, channels=4, fresh_stem=True)
    assert fresh.encoder_description["channels"] == 4
    same = classifier(name=name, channels=5).encoder.state_dict()
    assert all(torch.equal(x, same[key]) for key, x in five.state_dict().items())


def test_a_model_of_five_channels_is_loaded_again(saved, tmp_path):
    model = classifier(zoobot_checkpoint_loc=saved[0], channels=5, stem_learning_rate=1e-3)
    path = tmp_path / "five.safetensors"
    checkpoint.save_weights(path, model.state_dict(), model.describe())
    again = FinetuneableZoobotClassifier.load_from_checkpoint(path)
    assert (again.channels, again.stem_learning_rate) == (5, 1e-3)
    assert again(torch.rand(1, 5, 32, 32)).shape == (1, 2)
    with pytest.raises(ValueError, match="takes 5 channels, the images have 3: give channels="):
        again(torch.rand(1, 3, 32, 32))


def test_a_frozen_adapted_stem_is_warned_of(saved, tmp_path):
    told = "stem was adapted to 5 channels, and is not trained on them"
    with pytest.warns(UserWarning, match=told):
        classifier(zoobot_checkpoint_loc=saved[0], channels=5, training_mode="head_only")
    save_encoder(encoder(), tmp_path / "three")
    with pytest.warns(UserWarning, match=told):
        ZoobotEncoder.load_from_name(f"local-dir:{tmp_path / 'three'}", 5)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"greyscale": True, "channels": 3}, "channels=3: give 1 or more, or greyscale"),
        ({"fresh_stem": True, "training_mode": "head_only"}, "fresh_stem needs training_mode"),
        ({"stem_learning_rate": 1.0, "training_mode": "head_only"}, "stem_learning_rate needs"),
        ({"channels": 0}, "channels=0: give 1 or more"),
    ],
)
def test_options_of_the_stem_that_would_do_harm_are_refused(saved, arguments, told):
    with pytest.raises(ValueError, match=told):
        classifier(zoobot_checkpoint_loc=saved[0], **arguments)


def test_a_module_as_given_has_no_fresh_stem():
    with pytest.raises(ValueError, match="fresh_stem goes with name="):
        classifier(encoder=encoder(), fresh_stem=True)
    with pytest.raises(ValueError, match="does not tell its first layer"):
        fresh_stem(nn.Conv2d(3, 4, 1), {"architecture": "mine"}, 0)


@pytest.mark.parametrize("layer_decay", [0.0, 0.5, 1.0])
def test_the_stem_has_a_learning_rate_of_its_own(layer_decay):
    model = classifier(
        encoder=encoder("test_convnext"),
        layer_decay=layer_decay,
        learning_rate=0.01,
        stem_learning_rate=0.05,
    )
    groups = {group["name"]: group for group in model.configure_optimizers().param_groups}
    assert groups["stem"]["lr"] == pytest.approx(0.05)
    assert groups["stem"]["lr_scale"] == pytest.approx(5)
    assert math.isclose(groups["stem, norms and biases"]["weight_decay"], 0)
    of_stem = {id(p) for name in ("stem", "stem, norms and biases") for p in groups[name]["params"]}
    named = dict(model.encoder.named_parameters())
    assert of_stem == {id(named[name]) for name in STEMS["test_convnext"]}
    every = [id(p) for group in groups.values() for p in group["params"]]
    assert len(every) == len({*every})


def test_without_a_rate_of_its_own_groups_are_as_they_were():
    names = [g["name"] for g in classifier(encoder=encoder()).configure_optimizers().param_groups]
    assert not any("stem" in name for name in names)
