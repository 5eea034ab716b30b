"""``LabelScale``: numbers to learn at a scale that suits a network, whatever their unit."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from zoobot.system.errors import UserError

KINDS = ("auto", "linear", "log")
RESOLUTION = 1e-7  # of float32
FEW_DECADES = 1.0  # labels within so many decades are learned as they are, not as logarithms


class LabelScale(nn.Module):
    """Between labels in their own unit and standardised ones, with mean 0 and spread 1.

    Of a column with ``log``, the natural logarithm of the labels is standardised: then what is
    predicted is positive.

    Args:
        mean, std, log: of each of L columns. Without them labels are taken as they are.
        positive: whether all labels of a column are, so that they have logarithms; by default that
            of the columns with ``log`` only.
    """

    def __init__(
        self,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        log: Sequence[bool] = (False,),
        positive: Sequence[bool] | None = None,
    ):
        super().__init__()
        # Not in the weights: a checkpoint holds them among the model's arguments.
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32), persistent=False)
        self.register_buffer("log", torch.tensor(log, dtype=torch.bool), persistent=False)
        self.has_log = any(log)
        self.positive = list(log if positive is None else positive)

    def standardised(self, labels: torch.Tensor) -> torch.Tensor:
        """From labels (B,) or (B, L) in their own unit to standardised ones."""
        if self.has_log:
            positive = torch.where(self.log, labels, 1.0)
            labels = torch.where(self.log, positive.log(), labels)
        return (labels - self.mean) / self.std

    def in_own_unit(self, outputs: torch.Tensor) -> torch.Tensor:
        """From standardised outputs (B,) or (B, L) to numbers in the labels' own unit."""
        values = outputs * self.std + self.mean
        if self.has_log:
            exponents = torch.where(self.log, values, 0.0)
            values = torch.where(self.log, exponents.exp(), values)
        return values

    def to_dict(self) -> dict[str, list]:
        """The arguments, as plain types."""
        numbers = {"mean": self.mean, "std": self.std, "log": self.log}
        return {key: value.tolist() for key, value in numbers.items()} | {"positive": self.positive}


def fit_scale(labels: np.ndarray, kind: str, positive: Sequence[bool]) -> LabelScale:
    """The scale of training labels.

    ``auto`` takes logarithms of positive labels that spread over more than a decade (from the 5th
    to the 95th percentile) and are less skewed as logarithms.

    Args:
        labels: (N, L).
        kind: one of ``KINDS``.
        positive: of each column, whether all its labels, in every split, are positive.
    """
    log = [has_logs and (kind == "log" or kind == "auto" and _suits_log(column))
           for column, has_logs in zip(labels.T, positive, strict=True)]  # fmt: skip
    values = labels.astype(np.float64)
    values[:, log] = np.log(values[:, log])
    mean, std = values.mean(axis=0), values.std(axis=0)
    std = np.where(std > RESOLUTION * np.abs(mean), std, 1.0)  # 1: all labels are the same
    return LabelScale(mean.tolist(), std.tolist(), log, list(positive))


def _suits_log(labels: np.ndarray) -> bool:
    low, high = np.log10(np.percentile(labels, [5, 95]))
    is_wide = high - low > FEW_DECADES
    return bool(is_wide and abs(_skewness(np.log(labels))) < abs(_skewness(labels)))


def _skewness(values: np.ndarray) -> float:
    standardised = (values - values.mean()) / (values.std() or 1.0)
    return float((standardised**3).mean())


def check_kind(kind: str | dict | None, unit_interval: bool) -> None:
    """ValueError unless this is a kind of scale, or a scale as a checkpoint holds it."""
    if kind is not None and not isinstance(kind, dict) and kind not in KINDS:
        raise UserError(f"label_scale {kind!r} is none of {', '.join(KINDS)}")
    if unit_interval and kind in ("linear", "log"):
        raise UserError(f"label_scale={kind!r} has no meaning with unit_interval")
