"""Documented import path; the code is in zoobot.finetune and zoobot.trainer."""

from zoobot.finetune import (
    FinetuneableZoobotAbstract,
    FinetuneableZoobotClassifier,
    FinetuneableZoobotRegressor,
    FinetuneableZoobotTree,
    LinearHead,
    cross_entropy_loss,
    get_trainer,
    l1_loss,
    load_pretrained_zoobot,
    mse_loss,
)

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
