"""Documented import path; the code is in zoobot.losses."""

from zoobot.losses import CustomMultiQuestionLoss, get_dirichlet_neg_log_prob

__all__ = ["CustomMultiQuestionLoss", "get_dirichlet_neg_log_prob"]
