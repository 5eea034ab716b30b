"""Calls that scripts of others make for data, views and trees, on galaxies of our own.

A comment names the repository of each. Names of galaxy-datasets are imported from ``zoobot.data``.
"""

import json

import numpy as np
import pytest
import torch
from hugging_face import datasets, galaxies, picture
from torch import nn

from zoobot.data import (
    CatalogDataModule,
    GalaxyDataModule,
    GalaxyViewTransform,
    HuggingFaceDataModule,
    default_view_config,
    get_galaxy_transform,
    minimal_view_config,
)
from zoobot.pytorch.training import finetune
from zoobot.shared import schemas

SMALL = {"num_workers": 0, "batch_size": 8}


def views(size=32):
    made = []
    for config in (default_view_config(), minimal_view_config()):
        config.output_size = size
        made.append(get_galaxy_transform(config))
    return made


def votes_of(schema, num_galaxies):
    """Columns of votes for a tree."""
    rng = np.random.default_rng(0)
    return {name: rng.integers(0, 9, num_galaxies).tolist() for name in schema.label_cols}


def encoder():
    parts = (nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*parts)


@pytest.mark.filterwarnings("ignore:checkpoints can't tell how to build")
@pytest.mark.parametrize("task", ["classes", "votes"])
def test_a_dict_of_datasets_is_finetuned_on_and_its_splits_predicted(task, tmp_path):
    # mwalmsley/gz-evo: gz_evo/downstream/finetune.py
    schema = schemas.euclid_ortho_schema
    whole = galaxies(range(40), **votes_of(schema, 40)).remove_columns(["smooth_yes", "smooth_no"])
    dataset_dict = datasets.DatasetDict(train=whole.select(range(30)), test=whole.select(range(8)))
    dataset_dict["train"] = dataset_dict["train"].shuffle(seed=42).select(range(20))
    dataset_dict["test"] = whole.select(range(30, 40))
    train_transform, test_transform = views()
    datamodule = HuggingFaceDataModule(
        dataset_dict=dataset_dict,
        train_transform=train_transform,
        test_transform=test_transform,
        target_transform=None,
        prefetch_factor=2,
        **SMALL,
    )
    datamodule.setup()
    arguments = {"encoder": encoder(), "weight_decay": 0.05, "learning_rate": 1e-3}
    if task == "classes":
        model = finetune.FinetuneableZoobotClassifier(num_classes=2, **arguments)
    else:
        model = finetune.FinetuneableZoobotTree(schema=schema, **arguments)
    trainer = finetune.get_trainer(str(tmp_path), max_epochs=1, accelerator="cpu", patience=2)
    trainer.fit(model, datamodule)
    for split in ("train", "test"):
        ids = datamodule.dataset_dict[split].to_pandas()[["id_str"]]
        loader = datamodule.get_predict_dataloader(split=split)
        predictions = torch.concat(trainer.predict(model, dataloaders=loader)).numpy()
        assert len(predictions) == len(ids)


def test_views_of_an_encoder_are_configured_by_attribute():
    # mwalmsley/gz-evo: gz_evo/downstream/transforms.py
    config = default_view_config()
    config.normalize = False
    config.pil_to_tensor = True
    config.erase_iterations = 0
    config.greyscale = True
    config.output_size = 48
    assert get_galaxy_transform(config)(picture(3)).shape == (1, 48, 48)
    config.normalize = {"mean": [0.5] * 3, "std": [0.5] * 3}
    with pytest.raises(ValueError, match=r"normalize=.*compose with torchvision.*T.Normalize"):
        get_galaxy_transform(config)


def test_labels_are_made_of_a_column_of_text_and_scale_is_set_by_key():
    # mwalmsley/gz-evo: gz_evo/core/classification/train.py
    order = {"smooth": 0, "featured": 1}
    whole = galaxies(range(20), summary=["smooth", "featured"] * 10).remove_columns("label")
    dataset_dict = datasets.DatasetDict(train=whole)
    dataset_dict = dataset_dict.filter(lambda summary: summary != "", input_columns="summary")
    dataset_dict["validation"] = galaxies(range(50, 54), summary=["smooth"] * 4).remove_columns(
        "label"
    )
    for split in dataset_dict:
        labels = [order[text] for text in dataset_dict[split]["summary"]]
        dataset_dict[split] = dataset_dict[split].add_column("label", labels)
    config = default_view_config()
    config.random_affine["scale"] = (1.0, 1.4)
    assert config.random_affine.scale == (1.0, 1.4)
    view = get_galaxy_transform(config)
    datamodule = HuggingFaceDataModule(
        dataset_dict=dataset_dict,
        train_transform=view,
        test_transform=view,
        iterable=False,
        seed=42,
        **SMALL,
    )
    datamodule.setup("fit")
    batch = next(iter(datamodule.train_dataloader()))
    assert {"image", "id_str", "label"} <= batch.keys()
    assert len(datamodule.train_dataset) == 20
    assert len(datamodule.val_dataset) == 4


def test_features_are_made_of_one_split():
    # mwalmsley/zoobot-predictions: make_predictions/representations_from_huggingface.py
    dataset_dict = datasets.DatasetDict(train=galaxies(range(12)), test=galaxies(range(20, 30)))
    dataset_dict["predict"] = dataset_dict.pop("train")
    most = min(10, dataset_dict["predict"].num_rows)
    dataset_dict["predict"] = dataset_dict["predict"].select(range(most))
    config = default_view_config()
    config.output_size = 32
    config.erase_iterations = 0
    view = get_galaxy_transform(cfg=config)
    datamodule = HuggingFaceDataModule(
        dataset_dict=dataset_dict, train_transform=view, test_transform=view, **SMALL
    )
    datamodule.setup("predict")
    features = {}
    for batch in datamodule.predict_dataloader():
        for id_str, row in zip(batch["id_str"], encoder()(batch["image"]), strict=True):
            features[id_str] = row
    assert list(features) == [f"g{i}" for i in range(10)]


def test_a_fixed_crop_is_read_from_json():
    # zooniverse/kade: its script that predicts a manifest of subjects
    config = default_view_config()
    config.erase_iterations = 0
    config.fixed_crop = json.loads(
        '{"lower_left_x": 2, "lower_left_y": 2, "upper_right_x": 22, "upper_right_y": 22}'
    )
    transform = GalaxyViewTransform(config)
    assert transform(picture(5)).shape == (3, 224, 224)


def test_a_tree_is_found_by_a_short_name_among_those_there_are():
    # zooniverse/kade: its resolver of schemas
    aliases = {"cosmic_dawn": "cosmic_dawn_ortho_schema", "jwst_cosmos": "gz_jwst_schema"}
    known = [name for name in dir(schemas) if name.endswith("_schema")]
    assert set(aliases.values()) <= set(known)
    for name in known:
        assert isinstance(getattr(schemas, name), schemas.Schema)


def test_the_chance_that_a_question_is_asked_is_that_of_the_answer_before():
    # mwalmsley/zoobot: its functions that choose galaxies for active learning
    schema = schemas.decals_dr5_ortho_schema
    fractions = np.concatenate([np.full((2, n), 1 / n) for n in schema.question_sizes], axis=1)
    for question in schema.questions:
        if len(question.parents) > 1:  # merging, which such a script takes to be asked of all
            continue
        if question.asked_after is None:
            asked = np.ones(2)
        else:
            asked = schema.joint_p(fractions, question.asked_after.text)
        assert np.allclose(asked, schema.proportion_asked(fractions)[:, question.index])


def test_columns_of_a_question_and_what_follows_an_answer():
    # mwalmsley/zoobot: metrics by question, from named_index_groups
    schema = schemas.gz2_ortho_schema
    groups = {q.text: (low, high) for q, (low, high) in schema.named_index_groups.items()}
    assert [*groups.values()] == schema.question_index_groups
    disk = schema.get_question("disk-edge-on-gz2")
    assert groups["disk-edge-on-gz2"] == (disk.start_index, disk.end_index)
    following = schema.get_answer("disk-edge-on-gz2_yes").next_question
    assert following.text == "bulge-shape-gz2"
    assert following.asked_after.text == "disk-edge-on-gz2_yes"
    assert schema.get_answer("bulge-shape-gz2_boxy").next_question is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("resize_after_crop", 224), ("crop_scale_bounds", (0.7, 0.8)), ("greyscale", True)],
)
def test_arguments_of_the_earlier_data_module_say_what_to_write(name, value):
    # mhuertascompany/ceers: finetunes with GalaxyDataModule and its own crops
    with pytest.raises(ValueError, match=f"no {name}: write config = default_view_config"):
        GalaxyDataModule(label_cols=["label"], train_catalog=galaxies(range(4)), **{name: value})


def test_the_earlier_data_module_is_the_one_of_today_in_all_else():
    # mwalmsley/zoobot: finetuning examples of 2.0
    whole = galaxies(range(20))
    datamodule = GalaxyDataModule(label_cols=["label"], catalog=whole, use_memory=False, **SMALL)
    datamodule.setup(stage="fit")
    assert isinstance(datamodule, CatalogDataModule)
    assert next(iter(datamodule.train_dataloader()))["label"].dtype == torch.int64


def test_a_dict_of_streams_trains_by_steps():
    # mwalmsley/gz-evo: iterable=True, with load_dataset(streaming=True)
    parts = {"train": galaxies(range(20)), "validation": galaxies(range(20, 26))}
    streams = {name: part.to_iterable_dataset() for name, part in parts.items()}
    datamodule = HuggingFaceDataModule(
        datasets.IterableDatasetDict(streams), iterable=True, steps_per_epoch=2, **SMALL
    )
    datamodule.setup("fit")
    assert [len(batch["id_str"]) for batch in datamodule.train_dataloader()] == [8, 8]
    assert sum(len(batch["id_str"]) for batch in datamodule.val_dataloader()) == 6


def test_what_the_module_of_datasets_can_not_do_is_told():
    few = galaxies(range(4))
    with pytest.raises(ValueError, match="dataset_dict is a DatasetDict, not a Dataset"):
        HuggingFaceDataModule(few)
    with pytest.raises(ValueError, match="target_transform: change the labels before"):
        HuggingFaceDataModule(datasets.DatasetDict(train=few), target_transform=float)


def test_a_setting_that_is_not_there_is_an_error_by_attribute_too():
    config = default_view_config()
    assert config.random_affine.degrees == config.random_affine["degrees"] == 90
    assert not hasattr(config.random_affine, "scael")
    config.random_affine.scael = (1, 2)
    with pytest.raises(ValueError, match="unknown key 'scael'"):
        get_galaxy_transform(config)
    assert type(minimal_view_config().changes()["random_affine"]) is dict
