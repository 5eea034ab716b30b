"""Losses of votes, at the import path of Zoobot 2.x; the code is in ``zoobot.losses``."""

from zoobot.losses import CustomMultiQuestionLoss, get_dirichlet_neg_log_prob

__all__ = ["CustomMultiQuestionLoss", "get_dirichlet_neg_log_prob"]
