import copy

import pytest
import timm
import torch

from zoobot.models import FinetuneableZoobotClassifier, ZoobotTree
from zoobot.predictions.models import ZoobotEncoder


def encoder():
    return timm.create_model("test_resnet", num_classes=0)


class Own(FinetuneableZoobotClassifier):
    def __init__(self, power=2, **others):
        super().__init__(num_classes=3, **others)
        self.power = power


def test_a_model_tells_its_arguments_with_their_defaults_and_no_encoder():
    model = Own(power=4, encoder=encoder(), learning_rate=0.5)
    assert model.hparams.power == model.hparams["power"] == 4
    assert model.hparams.learning_rate == 0.5
    assert model.hparams.layer_decay == 0.75
    assert "encoder" not in model.hparams
    assert copy.deepcopy(model).hparams == model.hparams
    with pytest.raises(AttributeError, match="no argument 'n_blocks': "):
        _ = model.hparams.n_blocks


def test_a_model_tells_where_it_is(tree):
    models = [
        Own(encoder=encoder()),
        ZoobotTree(schema=tree, architecture_name="test_resnet"),
        ZoobotEncoder(encoder()),
    ]
    for model in models:
        assert model.device == torch.device("cpu")
        assert model.to("meta").device == torch.device("meta")
