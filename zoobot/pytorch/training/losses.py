"""Losses of votes, at the import path of Zoobot 2.x; the code is in ``zoobot.losses``."""

from collections.abc import Sequence

import torch

from zoobot.losses import (
    CustomMultiQuestionLoss,
    dirichlet_multinomial_nll,
    get_dirichlet_neg_log_prob,
)
from zoobot.system.errors import UserError

__all__ = ["CustomMultiQuestionLoss", "calculate_multiquestion_loss", "get_dirichlet_neg_log_prob"]


def calculate_multiquestion_loss(
    labels: torch.Tensor,
    predictions: torch.Tensor,
    question_index_groups: Sequence[tuple[int, int]],
    careful: bool = False,
) -> torch.Tensor:
    """The loss of every question, (B, Q).

    Args:
        labels: (B, A) votes.
        predictions: (B, A) concentrations.
        question_index_groups: of each question the first and the last column, in their order.
        careful: raise ValueError if a loss is not finite.

    Raises:
        ValueError: for groups that don't follow each other.
    """
    starts = [0, *(last + 1 for _, last in question_index_groups)]
    if [first for first, _ in question_index_groups] != starts[:-1]:
        raise UserError(
            f"question_index_groups {question_index_groups!r:.80} don't follow each other: give "
            "schema.question_index_groups"
        )
    sizes = [last - first + 1 for first, last in question_index_groups]
    loss = dirichlet_multinomial_nll(predictions, labels, sizes)
    if careful and not loss.isfinite().all():
        raise UserError("a loss is not finite: look at the predictions")
    return loss
