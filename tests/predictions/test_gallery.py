import types

import pytest
import timm
import torch

from zoobot.models.finetune import FinetuneableZoobotClassifier, FinetuneableZoobotRegressor
from zoobot.models.tree import ZoobotTree
from zoobot.predictions.gallery import COLUMNS, MOST_GALAXIES, SIDE_PX, Gallery, captions_of


def encoder():
    return timm.create_model("test_resnet", num_classes=0)


def test_a_class_is_captioned_with_its_probability_and_label():
    model = FinetuneableZoobotClassifier(2, encoder=encoder(), class_names=["disc", "ring"])
    outputs, labels = torch.tensor([[0.0, 2.0], [1.0, 1.0]]), torch.tensor([1, 1])
    told = captions_of(model, outputs, labels)
    assert told == [["ring 0.88", "is ring"], ["disc 0.50", "is ring"]]


def test_numbers_are_captioned_with_their_labels():
    model = FinetuneableZoobotRegressor("size", encoder=encoder())
    assert captions_of(model, torch.tensor([1.25]), torch.tensor([3.0])) == [["1.25", "is 3"]]


def test_votes_are_captioned_by_the_questions_with_most_of_them(tree):
    model = ZoobotTree(schema=tree, architecture_name="test_resnet")
    votes = torch.tensor([[4, 16, 0, 6, 10, 0, 0]])
    concentrations = torch.tensor([[2.0, 6.0, 1.0, 1.0, 2.0, 5.0, 5.0]])
    assert captions_of(model, concentrations, votes) == [["no 0.75 (16/20)", "no 0.50 (10/16)"]]


@pytest.mark.parametrize("channels", [1, 3])
def test_each_epoch_has_one_picture_of_the_first_galaxies(channels):
    model = FinetuneableZoobotClassifier(
        2, encoder=timm.create_model("test_resnet", num_classes=0, in_chans=channels),
        channels=channels,
    )  # fmt: skip
    pictures = []
    log = types.SimpleNamespace(add_picture=lambda *picture: pictures.append(picture))
    run = types.SimpleNamespace(last_epoch=0, log=log)
    gallery = Gallery(model, run)
    batch = {"image": torch.ones(10, channels, 12, 12), "label": torch.zeros(10)}
    for run.last_epoch in (0, 0, 1):
        gallery(batch, torch.zeros(10, 2))
    assert [(name, epoch) for name, _, epoch in pictures] == [
        ("validation galaxies", 1), ("validation galaxies", 2),
    ]  # fmt: skip
    pixels = pictures[0][1]
    assert pixels.shape[1] == COLUMNS * SIDE_PX
    assert (pixels[:SIDE_PX] == 255).all()  # white images
    assert (pixels < 128).any()  # text
    assert MOST_GALAXIES == 2 * COLUMNS
