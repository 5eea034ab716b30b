"""``FinetuneableZoobotRegressor``: a pretrained encoder under a head that predicts numbers."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from zoobot.data.catalog import check_not_reserved
from zoobot.data.labels import check_numbers, check_varied
from zoobot.metrics import ExampleMeasures
from zoobot.models.arguments import plain
from zoobot.models.finetune_base import FinetuneableZoobotAbstract
from zoobot.models.heads import LinearHead, label_tensor, one_a_galaxy
from zoobot.models.scales import KINDS, LabelScale, check_kind, fit_scale
from zoobot.system.devices import widest_float
from zoobot.system.errors import UserError

SMALLEST, LARGEST = 1e-37, 1e37  # of labels, in float32
FINEST = 1e-5  # spread of labels by their mean, for float32
SQUARED, ABSOLUTE = ("mse", "mean_squared_error"), ("mae", "mean_absolute_error", "l1", "l1_loss")
LOSSES = dict.fromkeys(SQUARED, "mse") | dict.fromkeys(ABSOLUTE, "mae")


def mse_loss(y_pred: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Squared error, not reduced: the shape of ``y_pred``. Labels (B, 1) are taken as (B,)."""
    return F.mse_loss(y_pred, one_a_galaxy(y, y_pred).to(y_pred.dtype), reduction="none")


def l1_loss(y_pred: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Absolute error, not reduced: the shape of ``y_pred``. Labels (B, 1) are taken as (B,)."""
    return F.l1_loss(y_pred, one_a_galaxy(y, y_pred).to(y_pred.dtype), reduction="none")


def _squared_errors(y_pred: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """``mse_loss`` in the device's widest floats: squares of large numbers overflow float32."""
    dtype = widest_float(y_pred.device)
    return mse_loss(y_pred.to(dtype), y.to(dtype))


class FinetuneableZoobotRegressor(FinetuneableZoobotAbstract):
    """Predicts one number of a galaxy, (B,), or several, (B, L), in the labels' own units.

    It learns labels that are standardised by the mean and spread of the training galaxies, or
    their logarithms; ``loss`` is that of standardised labels, ``rmse`` is in the labels' own units.

    Args:
        label_col: its column; several columns in a list.
        loss: ``mse`` or ``mae``, or another name of these in ``LOSSES``.
        unit_interval: labels lie within 0-1, and a sigmoid keeps predictions there. They are
            learned as they are.
        label_scale: ``linear`` standardises labels, ``log`` their logarithms, ``auto`` chooses (see
            ``scales.fit_scale``), None takes them as they are. A dict is a scale that was fitted.
        super_kwargs: of ``FinetuneableZoobotAbstract``.

    Attributes:
        scale: fitted to the training labels, if the loader tells them all.
        positive: column -> whether all labels are, of those that were checked before ``scale`` was
            fitted (of every split); of others no logarithms are learned. Saved with the scale.

    Raises:
        ValueError: for another loss or scale, or no, repeated or reserved columns.
    """

    task = "regression"

    def __init__(
        self,
        label_col: str | Sequence[str] = "label",
        loss: str = "mse",
        unit_interval: bool = False,
        *,
        label_scale: str | dict | None = "auto",
        **super_kwargs,
    ):
        super().__init__(**super_kwargs)
        if loss not in LOSSES:
            raise UserError(f"loss {loss!r} is none of {', '.join(LOSSES)}")
        check_kind(label_scale, unit_interval)
        self._label_cols = [label_col] if isinstance(label_col, str) else list(label_col)
        if not self._label_cols or len({*self._label_cols}) < len(self._label_cols):
            raise UserError(f"label_col={label_col!r}: give one column, or several that differ")
        check_not_reserved(self._label_cols, "label column")
        self.label_col = self._label_cols[0] if len(self._label_cols) == 1 else self._label_cols
        self.loss_name = LOSSES[loss]
        self.unit_interval = unit_interval
        self.loss = {"mse": mse_loss, "mae": l1_loss}[self.loss_name]
        self.label_scale = None if unit_interval else plain(label_scale)
        is_fitted = isinstance(self.label_scale, dict)
        self.scale = LabelScale(**self.label_scale) if is_fitted else LabelScale()
        positive = self.scale.positive if is_fitted else [True] * len(self._label_cols)
        self.positive = dict(zip(self._label_cols, positive, strict=True))
        num_cols = len(self._label_cols)
        activation = torch.sigmoid if unit_interval else None
        self.head = self._seeded(
            lambda: LinearHead(self.encoder_dim, num_cols, self.head_dropout_prob, activation)
        )
        names = ["rmse"] if num_cols == 1 else [f"rmse/{column}" for column in self._label_cols]
        self.measure = ExampleMeasures(*names, measure=_squared_errors)

    def label_columns(self) -> list[str]:
        """The columns of the numbers."""
        return self._label_cols

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W), 0 to 1, to numbers (B,) or (B, L) in the labels' own units."""
        return self.scale.in_own_unit(super().forward(images))

    def batch_to_supervised_tuple(self, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """Images, and the label column (B,), or columns (B, L)."""
        labels = label_tensor(batch, self._label_cols)
        return batch["image"], labels[:, 0] if len(self._label_cols) == 1 else labels

    def losses(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Each galaxy's loss of standardised labels: (B, L)."""
        return super().losses(self.scale.standardised(outputs), self.scale.standardised(labels))

    def learn_from_labels(self, table: pd.DataFrame | None) -> None:
        """Fit the scale to the training labels, unless it is fitted.

        Raises:
            ValueError: if all labels of a column are the same, or differ too little for float32.
        """
        if table is not None:
            for column in self._label_cols:
                check_varied(table, column, "train")
        if self.label_scale in KINDS and table is not None:
            labels = table[self._label_cols].to_numpy(dtype=np.float64)
            scale = fit_scale(labels, self.label_scale, [*self.positive.values()])
            for column, values in zip(self._label_cols, labels.T, strict=True):
                if 0 < values.std() < FINEST * abs(values.mean()):
                    raise UserError(
                        f"label {column!r} has a spread of {values.std():.3g} about "
                        f"{values.mean():.9g}, too fine for float32: subtract a constant from it"
                    )
            self.label_scale, self.scale = scale.to_dict(), scale

    def constants(self, table: pd.DataFrame) -> tuple[torch.Tensor, torch.Tensor]:
        """The best constant number, () or (L,): of the loss, and of the RMSE (the mean)."""
        labels = torch.from_numpy(table[self._label_cols].to_numpy(np.float64, copy=True))
        labels = labels[:, 0] if len(self._label_cols) == 1 else labels
        scaled = self.scale.standardised(labels.to(self.scale.mean)).double()
        best = scaled.mean(0) if self.loss_name == "mse" else scaled.median(0).values
        in_own_unit = self.scale.in_own_unit(best.to(self.scale.mean))
        return in_own_unit.reshape(labels.shape[1:]), labels.mean(0)

    def introduce(self) -> str:
        """What a run says of its model at the start, with the scale of the labels."""
        told = super().introduce()
        for i, column in enumerate(self._label_cols if isinstance(self.label_scale, dict) else []):
            mean, std, log = (self.label_scale[key][i] for key in ("mean", "std", "log"))
            of = "logarithms" if log else "numbers"
            told += f"\nlabel {column!r}: {of} are learned, less {mean:.4g}, divided by {std:.4g}"
            told += "" if self.positive[column] else "; some labels are 0 or less"
        if self.label_scale in KINDS:
            told += (
                "\nwarning: labels are learned as they are, not standardised: those of a loader of "
                "your own are not known before training. Give a CatalogDataModule, or numbers with "
                "mean 0 and spread 1"
            )
        return told

    def prediction_columns(self) -> list[str]:
        """The label columns' names."""
        return self._label_cols

    def arguments(self) -> dict:
        """With the label scale as the numbers that it came to."""
        return super().arguments() | {
            "label_col": self.label_col,
            "loss": self.loss_name,
            "unit_interval": self.unit_interval,
            "label_scale": self.label_scale,
        }

    @classmethod
    def _rebuilt_arguments(cls, arguments: dict) -> dict:
        """Models of earlier versions, and of Zoobot 2.x, predict labels as they are."""
        return {"label_scale": None, **arguments}

    def check_labels(self, table: pd.DataFrame, where: str) -> None:
        """ValueError unless every label is a finite number, within 0-1 if ``unit_interval``.

        And positive, where logarithms are learned.
        """
        for i, column in enumerate(self._label_cols):
            check_numbers(table, column, self.unit_interval, where)
            labels = table[column].to_numpy(dtype=np.float64)
            sizes = np.abs(labels[labels != 0])
            if len(sizes) and not SMALLEST < sizes.min() <= sizes.max() < LARGEST:
                value = sizes.max() if sizes.max() >= LARGEST else sizes.min()
                raise UserError(
                    f"catalog {where}: column {column!r} holds {value:.3g}, beyond the range of "
                    "float32: change its unit, or take logarithms"
                )
            if not len(labels) or labels.min() > 0:
                continue
            is_fitted = isinstance(self.label_scale, dict)
            self.positive[column] &= is_fitted
            if self.label_scale == "log" or is_fitted and self.label_scale["log"][i]:
                row = int(labels.argmin())
                raise UserError(
                    f"catalog {where}: column {column!r} of id_str {table['id_str'].iloc[row]!r} "
                    f"holds {labels[row]:g}, which has no logarithm: use label_scale='linear'"
                )
