"""Models: an encoder under a head."""

from zoobot.models.architectures import get_pytorch_encoder
from zoobot.models.bands import spec_of
from zoobot.models.encoders import load_pretrained_zoobot, save_encoder
from zoobot.models.features import get_encoder_dim
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
    "spec_of",
]
