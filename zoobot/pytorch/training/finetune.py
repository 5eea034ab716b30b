"""Finetuning, at the import path of Zoobot 2.x; the code is in ``zoobot.models.finetune``."""

from zoobot.models.encoders import load_pretrained_zoobot
from zoobot.models.finetune import (
    FinetuneableZoobotClassifier,
    FinetuneableZoobotRegressor,
    FinetuneableZoobotTree,
    cross_entropy_loss,
    l1_loss,
    mse_loss,
)
from zoobot.models.finetune_base import FinetuneableZoobotAbstract
from zoobot.models.heads import LinearHead
from zoobot.pytorch.training.trainer import get_trainer

__all__ = [
    "FinetuneableZoobotAbstract",
    "FinetuneableZoobotClassifier",
    "FinetuneableZoobotRegressor",
    "FinetuneableZoobotTree",
    "LinearHead",
    "cross_entropy_loss",
    "get_trainer",
    "l1_loss",
    "load_pretrained_zoobot",
    "mse_loss",
]
