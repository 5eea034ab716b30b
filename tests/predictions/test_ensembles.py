import numpy as np
import pandas as pd
import pytest
import torch
from conftest import draw_galaxies
from torch import nn

from zoobot import statistics
from zoobot.data.bands.spec import parse_bands
from zoobot.data.dataset import CatalogDataset, ImagesSeen
from zoobot.models.finetune import FinetuneableZoobotClassifier
from zoobot.models.tree import ZoobotTree
from zoobot.predictions.ensembles import (
    check_files,
    group_models,
    members_of,
    same_images,
    same_view,
)
from zoobot.predictions.files import read_predictions
from zoobot.predictions.models import ZoobotEncoder
from zoobot.predictions.predict import predict_to_file
from zoobot.pytorch.predictions import predict_on_catalog
from zoobot.schemas import Schema

QUICK = {"batch_size": 4, "num_workers": 0, "show_progress": False, "precision": "fp32"}
VIEW = {"output_size": 32, "random_affine": {"degrees": 0}}
NO_WEIGHTS = {"timm_kwargs": {"pretrained": False}}


def seen(**changes):
    return ImagesSeen.from_dict({"image_size": 32, "view": VIEW} | changes)


@pytest.fixture
def models(tree):
    made = []
    for seed in range(2):
        torch.manual_seed(seed)
        model = ZoobotTree(schema=tree, architecture_name="test_convnext", dropout_rate=0.5)
        nn.init.normal_(model.head.linear.weight, std=0.5)
        model.images_seen = seen()
        made.append(model)
    return made


@pytest.fixture
def catalog(tmp_path, tree):
    return draw_galaxies(tmp_path, tree, 10)


@pytest.mark.parametrize("passes", [1, 3])
def test_an_ensemble_is_the_mixture_of_what_its_models_predict_alone(
    models, catalog, tmp_path, passes
):
    options = {"num_samples": passes, "num_views": 2, **QUICK}
    together = tmp_path / "together.parquet"
    predict_to_file(catalog, models, together, summary=True, checkpoint=["a", "b"], **options)
    alone = []
    for i, model in enumerate(models):
        path = predict_to_file(catalog, model, tmp_path / f"{i}.parquet", **options)
        alone.append(read_predictions(path).values)
    made, wanted = read_predictions(together), np.concatenate(alone, axis=2)
    np.testing.assert_allclose(made.values, wanted, rtol=1e-5)
    assert made.metadata["samples"] == {"models": 2, "views": 2, "passes": passes}
    assert made.metadata["checkpoints"] == ["a", "b"]
    summary = pd.read_parquet(tmp_path / "together_summary.parquet")
    disagree = statistics.mutual_information(wanted, models[0].schema)
    assert (disagree > 0.001).all()
    np.testing.assert_allclose(summary["bar_mutual-information"], disagree[:, 1], rtol=1e-3)


def test_classes_of_an_ensemble_are_samples_and_each_image_is_read_once(
    catalog, tmp_path, monkeypatch
):
    models = []
    for seed in range(2):
        model = FinetuneableZoobotClassifier(
            num_classes=3, name="test_convnext", seed=seed, **NO_WEIGHTS
        )
        model.images_seen = seen()
        models.append(model)
    alone = [
        predict_on_catalog.predict(catalog, model, tmp_path / f"{i}.csv", **QUICK).iloc[:, 1:]
        for i, model in enumerate(models)
    ]
    read, decoded = [], CatalogDataset._decoded
    monkeypatch.setattr(
        CatalogDataset, "_decoded", lambda self, i, *more: read.append(i) or decoded(self, i, *more)
    )
    predict_on_catalog.predict(catalog, models, tmp_path / "p.hdf5", n_views=1, **QUICK)
    assert read == [*range(10)]
    values = read_predictions(tmp_path / "p.hdf5").values
    np.testing.assert_allclose(values, np.stack(alone, axis=2), rtol=1e-5)


def test_models_that_predict_something_else_are_refused_in_one_line(models, tree, catalog):
    encoder = {"encoder": models[0].encoder}
    classes, others = (
        FinetuneableZoobotClassifier(num_classes=2, class_names=names, **encoder)
        for names in (["ring", "none"], ["bar", "none"])
    )
    other_tree = ZoobotTree(schema=Schema({"x": ["_a", "_b"]}, {"x": None}), **ENCODER)
    features = ZoobotEncoder(models[0].encoder)
    for pair, what in [
        ((models[0], classes), "the same tasks"),
        ((models[0], other_tree), "the same trees"),
        ((classes, others), "the same classes"),
        ((features, features), "features of several models can't be mixed"),
    ]:
        with pytest.raises(ValueError, match=what):
            check_files(group_models(pair), 1)
    with pytest.raises(ValueError, match="no model is given"):
        members_of([])


ENCODER = {"architecture_name": "test_convnext"}


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"view": VIEW | {"min_side_px": 60}}, "the same view of the images"),
        ({"image_size": 48}, "the same view of the images"),
        ({"fits_scaling": "linear"}, "the same fits_scaling"),
    ],
)
def test_models_that_saw_other_images_are_refused_in_one_line(models, changes, what, tmp_path):
    models[1].images_seen = seen(**changes)
    catalog = pd.DataFrame({"id_str": ["a"], "file_loc": ["none.png"]})
    with pytest.raises(ValueError, match=f"{what}: those of models 1 and 2 differ") as error:
        predict_to_file(catalog, models, tmp_path / "p.csv", **QUICK)
    assert "\n" not in str(error.value)


def test_classes_of_another_label_are_not_mixed_though_they_have_the_same_names(models):
    ring, bar, again = (
        FinetuneableZoobotClassifier(
            num_classes=2, label_col=label, class_names=["no", "yes"], encoder=models[0].encoder
        )
        for label in ("ring", "bar", "ring")
    )
    groups = group_models([ring, bar, again])
    assert [group.numbers for group in groups] == [[0, 2], [1]]
    with pytest.raises(ValueError, match="the same labels: those of models 1 and 2 differ: give"):
        check_files(groups, 1)


def test_another_number_of_files_is_refused_with_the_groups_of_models(models):
    features = ZoobotEncoder(models[0].encoder)
    groups = group_models([models[0], features, models[1], features])
    needed = (
        r"list of files, one for models 1, 3 \(tree\), one for model 2 \(representations\), "
        r"one for model 4 \(representations\)$"
    )
    for num_files in (1, 2, 4):
        with pytest.raises(ValueError, match=needed):
            check_files(groups, num_files)
    check_files(groups, 3)
    with pytest.raises(ValueError, match="2 files are given: .* one for models 1, 3 .tree.$"):
        check_files(groups[:1], 2)


def test_models_of_other_sizes_are_shown_one_that_is_asked_for(models):
    models[1].images_seen = seen(image_size=48, view=VIEW | {"min_side_px": 60})
    told = r"\(output_size 32 and 48, min_side_px 0 and 60\); --image-size SIZE .* gives them one"
    with pytest.raises(ValueError, match=told):
        same_view(models)
    view = same_view(models, 40)
    assert (view.config.output_size, view.min_side_px) == (40, 60)
    models[1].images_seen = seen(view=VIEW | {"flip_prob": 0.5})
    with pytest.raises(ValueError, match=r"\(flip_prob 0.0 and 0.5\); predict with each alone"):
        same_view(models, 40)


def test_what_is_asked_for_is_what_all_models_see(models):
    models[1].images_seen = seen(image_size=48, fits_scaling="linear")
    assert same_view(models, 40).config.output_size == 40
    assert same_images(models, "none", None) == ("none", None)
    for model, mean in zip(models, (0.0, 1.0), strict=True):
        spec = parse_bands(["g", "r", "z"]).with_statistics([mean] * 3, [1.0] * 3)
        model.images_seen = seen(bands=spec.to_dict())
    with pytest.raises(ValueError, match="the same bands"):
        same_images(models, None, None)
