"""Documented import path; the code is in zoobot.models and zoobot.losses."""

from zoobot.losses import get_dirichlet_loss_func
from zoobot.models import (
    ZoobotTree,
    get_encoder_dim,
    get_pytorch_dirichlet_head,
    get_pytorch_encoder,
)

__all__ = [
    "ZoobotTree",
    "get_dirichlet_loss_func",
    "get_encoder_dim",
    "get_pytorch_dirichlet_head",
    "get_pytorch_encoder",
]
