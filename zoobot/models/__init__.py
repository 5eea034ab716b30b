"""Models: an encoder under a head."""

from zoobot.models.encoders import (
    get_encoder_dim,
    get_pytorch_encoder,
    load_pretrained_zoobot,
    save_encoder,
)
from zoobot.models.finetune import (
    FinetuneableZoobotClassifier,
    FinetuneableZoobotRegressor,
    FinetuneableZoobotTree,
)
from zoobot.models.finetune_base import FinetuneableZoobotAbstract
from zoobot.models.heads import DirichletHead, LinearHead, label_tensor
from zoobot.models.tree import ZoobotTree

__all__ = [
    "DirichletHead",
    "FinetuneableZoobotAbstract",
    "FinetuneableZoobotClassifier",
    "FinetuneableZoobotRegressor",
    "FinetuneableZoobotTree",
    "LinearHead",
    "ZoobotTree",
    "get_encoder_dim",
    "get_pytorch_encoder",
    "label_tensor",
    "load_pretrained_zoobot",
    "save_encoder",
]
