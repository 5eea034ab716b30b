"""Finetuning, at the import path of Zoobot 2.x; the code is in ``zoobot.models.finetune``."""

from zoobot.models import finetune
from zoobot.models.encoders import load_pretrained_zoobot
from zoobot.models.finetune import cross_entropy_loss, l1_loss, mse_loss
from zoobot.models.finetune_base import FinetuneableZoobotAbstract
from zoobot.models.heads import LinearHead
from zoobot.models.hub import published_file
from zoobot.pytorch.training.old_arguments import takes_old_arguments
from zoobot.pytorch.training.trainer import get_trainer

__all__ = [
    "FinetuneableZoobotAbstract",
    "FinetuneableZoobotClassifier",
    "FinetuneableZoobotRegressor",
    "FinetuneableZoobotTree",
    "LinearHead",
    "cross_entropy_loss",
    "download_from_name",
    "get_trainer",
    "l1_loss",
    "load_pretrained_zoobot",
    "mse_loss",
]


@takes_old_arguments
class FinetuneableZoobotClassifier(finetune.FinetuneableZoobotClassifier):
    __doc__ = finetune.FinetuneableZoobotClassifier.__doc__


@takes_old_arguments
class FinetuneableZoobotRegressor(finetune.FinetuneableZoobotRegressor):
    __doc__ = finetune.FinetuneableZoobotRegressor.__doc__


@takes_old_arguments
class FinetuneableZoobotTree(finetune.FinetuneableZoobotTree):
    __doc__ = finetune.FinetuneableZoobotTree.__doc__


def download_from_name(class_name: str, hub_name: str) -> str:
    """The path of a finetuned model's file ``{class_name}.ckpt``, from the hub or its cache.

    Args:
        hub_name: ``OWNER/NAME``, or ``hf_hub:OWNER/NAME``.

    Raises:
        ValueError: if it can't be had.
    """
    return str(published_file(hub_name, class_name))
