import dataclasses

import numpy as np
import pandas as pd
import pytest
import timm
import torch

from zoobot.data import CatalogDataModule, get_galaxy_transform, minimal_view_config
from zoobot.data.bands.spec import ImageSpec, Place, parse_bands
from zoobot.data.dataset import ImagesSeen
from zoobot.models.bands import spec_of, spec_to_predict, with_places
from zoobot.models.finetune import FinetuneableZoobotClassifier
from zoobot.predictions.models import ZoobotEncoder
from zoobot.pytorch.training.finetune import get_trainer

SPEC = ImageSpec(("g", "z"), mean=(0.1, 0.2), std=(1.0, 2.0), scaling="linear", noise=(1.0, 1.0))
OF_8_BIT = ImagesSeen(fits_scaling="asinh", image_size=32)


def classifier(channels=2, seen=None):
    torch.manual_seed(0)
    encoder = timm.create_model("test_resnet", num_classes=0, in_chans=channels)
    model = FinetuneableZoobotClassifier(2, encoder=encoder, channels=channels)
    model.images_seen = seen or ImagesSeen()
    return model


def seen(spec):
    return ImagesSeen(bands=spec.to_dict(), image_size=32)


def test_the_spec_is_that_of_the_images_seen():
    assert spec_of(classifier(seen=seen(SPEC))) == SPEC
    assert spec_of(classifier(3, OF_8_BIT)) is None


def test_places_and_noise_may_differ_and_scaling_and_statistics_are_the_models():
    model = classifier(seen=seen(SPEC))
    assert spec_to_predict(model, None) == SPEC
    places = {"g": Place(1)}
    asked = ImageSpec(("g", "z"), places, noise=(2.0, 3.0), mean=(7.0, 7.0), std=(7.0, 7.0))
    expected = dataclasses.replace(SPEC, places=places, noise=(2.0, 3.0))
    assert spec_to_predict(model, asked) == expected
    assert with_places(model, parse_bands(["g=1", "z"])) == dataclasses.replace(SPEC, places=places)


def test_a_model_that_does_not_tell_is_given_what_there_is():
    asked = parse_bands(["g", "z"])
    with pytest.warns(UserWarning, match="does not tell the mean and spread"):
        assert spec_to_predict(classifier(), asked) is asked
    encoder = ZoobotEncoder(classifier(3).encoder)
    with pytest.raises(ValueError, match="2 bands, g z, are asked for, but the model takes 3"):
        spec_to_predict(encoder, SPEC)
    three = ImageSpec(("g", "r", "z"), mean=(0, 0, 0), std=(1, 1, 1))
    assert spec_to_predict(encoder, three) is three


@pytest.mark.parametrize("images_seen", [ImagesSeen(), OF_8_BIT], ids=["2.x", "ours"])
def test_a_model_of_8_bit_images_refuses_bands(images_seen):
    with pytest.raises(ValueError, match="bands are g r z, but .* trained on 8-bit images"):
        spec_to_predict(classifier(3, images_seen), parse_bands(["g", "r", "z"]))


@pytest.fixture
def frame(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(12):
        np.save(tmp_path / f"{i}.npy", rng.normal(i % 2, 1, (2, 16, 16)))
    locs = [str(tmp_path / f"{i}.npy") for i in range(12)]
    return pd.DataFrame({"id_str": map(str, range(12)), "file_loc": locs, "label": [0, 1] * 6})


def data_module(frame, spec, **catalogs):
    view = minimal_view_config()
    view.output_size = 32
    view = get_galaxy_transform(view)
    if not catalogs:
        parts = zip(("train", "val", "test"), (frame[:6], frame[6:9], frame[9:]), strict=True)
        catalogs = {f"{split}_catalog": part for split, part in parts}
    return CatalogDataModule(
        ["label"], view, view, batch_size=4, num_workers=0, spec=spec, **catalogs
    )


def trainer(folder):
    return get_trainer(folder, max_epochs=1, precision="fp32")


def test_a_trainer_shows_a_model_its_own_bands_only(frame, tmp_path):
    model, data = classifier(), data_module(frame, parse_bands(["g", "z"]))
    run = trainer(tmp_path / "run")
    run.fit(model, data)
    spec = spec_of(model)
    assert data.spec == spec
    np.testing.assert_allclose(spec.mean, data.datasets["val"].spec.mean)
    run.test(model, data, verbose=False)
    to_predict = data_module(frame, spec, predict_catalog=frame)
    assert len(torch.cat(run.predict(model, to_predict))) == 12
    with pytest.raises(ValueError, match="bands are z g, but the model was trained on g z"):
        run.test(model, data_module(frame, ImageSpec(("z", "g"), mean=(0, 0), std=(1, 1))))
    with pytest.raises(ValueError, match="bands have std .* give the model's own, zoobot.models.s"):
        run.validate(model, data_module(frame, dataclasses.replace(spec, std=(1.0, 1.0))))
    with pytest.raises(ValueError, match="bands are z g, but .* first layer afresh: --fresh-stem"):
        run.fit(model, data_module(frame, parse_bands(["z", "g"])))


def test_without_training_galaxies_bands_are_not_measured(frame):
    data = data_module(frame, parse_bands(["g", "z"]), predict_catalog=frame)
    with pytest.raises(
        ValueError, match="no training galaxies to measure them on .*: give the spec"
    ):
        data.setup("predict")


def test_a_trained_model_goes_on_with_the_same_bands_after_its_checkpoint(frame, tmp_path):
    model, data = classifier(), data_module(frame, parse_bands(["g", "z"]))
    run = trainer(tmp_path / "run")
    run.fit(model, data)
    arguments = {"zoobot_checkpoint_loc": run.best_model_path, "channels": 2}
    again = FinetuneableZoobotClassifier(2, **arguments)
    trainer(tmp_path / "again").fit(again, data_module(frame, parse_bands(["g", "z"])))
    again = FinetuneableZoobotClassifier(2, **arguments)
    with pytest.raises(ValueError, match="bands are g i, but the model was trained on g z"):
        trainer(tmp_path / "other").fit(again, data_module(frame, parse_bands(["g", "i"])))
    again = FinetuneableZoobotClassifier(2, **arguments, fresh_stem=True)
    trainer(tmp_path / "other").fit(again, data_module(frame, parse_bands(["g", "i"])))
    assert spec_of(again).bands == ("g", "i")
    again = FinetuneableZoobotClassifier(2, **arguments)
    linear = data_module(frame, ImageSpec(("g", "z"), scaling="linear"))
    with pytest.warns(UserWarning, match="scaled by linear, but the model .* scaled by asinh"):
        trainer(tmp_path / "linear").fit(again, linear)
