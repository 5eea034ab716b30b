"""Encoders, heads and ``ZoobotTree``, at the import path of Zoobot 2.x; see ``zoobot.models``."""

from zoobot.losses import get_dirichlet_loss_func
from zoobot.models import tree
from zoobot.models.architectures import get_pytorch_encoder
from zoobot.models.features import get_encoder_dim
from zoobot.models.heads import get_pytorch_dirichlet_head
from zoobot.pytorch.training.old_arguments import takes_old_arguments

__all__ = [
    "ZoobotTree",
    "get_dirichlet_loss_func",
    "get_encoder_dim",
    "get_pytorch_dirichlet_head",
    "get_pytorch_encoder",
]


@takes_old_arguments
class ZoobotTree(tree.ZoobotTree):
    __doc__ = tree.ZoobotTree.__doc__
