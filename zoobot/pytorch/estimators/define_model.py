"""Documented import path; the code is in zoobot.models and zoobot.losses."""

from zoobot.losses import get_dirichlet_loss_func
from zoobot.models.encoders import get_encoder_dim, get_pytorch_encoder
from zoobot.models.heads import get_pytorch_dirichlet_head
from zoobot.models.tree import ZoobotTree

__all__ = [
    "ZoobotTree",
    "get_dirichlet_loss_func",
    "get_encoder_dim",
    "get_pytorch_dirichlet_head",
    "get_pytorch_encoder",
]
