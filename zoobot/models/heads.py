"""Heads, from an encoder's features to outputs in float32; and the labels they learn from."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from zoobot.baselines import HEAD_BOUNDS, NO_BOUNDS
from zoobot.system.errors import UserError

HEAD_ACTIVATIONS = {  # name -> what a Dirichlet head makes of numbers, and its bounds
    "sigmoid": (lambda x: 1 + 100 * torch.sigmoid(x), HEAD_BOUNDS),
    "softplus": (lambda x: 0.01 + 10 * nn.functional.softplus(x), (0.01, NO_BOUNDS[1])),
}


class DirichletHead(nn.Module):
    """Dropout, linear, activation: features (B, D) to concentrations (B, A).

    They start near 9, at a volunteer's worth or two an answer. The head computes in float32 under
    any autocast.

    Args:
        dropout_always: keep dropout on in evaluation.
        activation: ``sigmoid``: ``1 + 100 * sigmoid(x)``, in (1, 101): one peak, and no answer is
            ruled out (Walmsley et al. 2022). A fraction is then at least 1 / A, for a sum A of the
            question's concentrations. ``softplus``: ``0.01 + 10 * softplus(x)``, not bounded
            above: fractions may be near 0, and the distribution as narrow as votes ask for.

    Attributes:
        bounds: lowest and highest concentration.

    Raises:
        ValueError: for another activation.
    """

    # Of ``linear``, for concentrations near 9.
    INITIAL_BIAS = {"sigmoid": -2.5, "softplus": 0.375}

    def __init__(
        self,
        encoder_dim: int,
        output_dim: int,
        dropout_rate: float = 0.2,
        dropout_always: bool = False,
        activation: str = "sigmoid",
    ):
        super().__init__()
        if activation not in HEAD_ACTIVATIONS:
            known = ", ".join(HEAD_ACTIVATIONS)
            raise UserError(f"head_activation={activation!r}: use one of {known}")
        self.activation = activation
        self.bounds = HEAD_ACTIVATIONS[activation][1]
        self.dropout = nn.Dropout(dropout_rate)
        self.dropout_always = dropout_always
        self.linear = nn.Linear(encoder_dim, output_dim)
        nn.init.constant_(self.linear.bias, self.INITIAL_BIAS[activation])

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        with torch.autocast(features.device.type, enabled=False):
            x = self.dropout(features.to(self.linear.weight.dtype))
            return HEAD_ACTIVATIONS[self.activation][0](self.linear(x))

    def train(self, mode: bool = True) -> "DirichletHead":
        super().train(mode)
        self.dropout.train(mode or self.dropout_always)
        return self


class LinearHead(nn.Module):
    """Dropout, linear, activation: features (B, D) to (B, output_dim), or (B,) if that is 1.

    It computes in float32 under any autocast.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        head_dropout_prob: float = 0.5,
        activation: Callable | None = None,
    ):
        super().__init__()
        self.input_dim, self.output_dim = input_dim, output_dim
        self.dropout = nn.Dropout(head_dropout_prob)
        self.linear = nn.Linear(input_dim, output_dim)
        self.activation = activation

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        with torch.autocast(features.device.type, enabled=False):
            x = self.linear(self.dropout(features.to(self.linear.weight.dtype)))
        x = x if self.activation is None else self.activation(x)
        return x.squeeze(1) if self.output_dim == 1 else x


def get_pytorch_dirichlet_head(
    encoder_dim: int, output_dim: int, test_time_dropout: bool, dropout_rate: float
) -> DirichletHead:
    """The Dirichlet head, with dropout on in evaluation too if ``test_time_dropout``."""
    return DirichletHead(encoder_dim, output_dim, dropout_rate, dropout_always=test_time_dropout)


def label_tensor(batch: dict, columns: Sequence[str]) -> torch.Tensor:
    """The labels (B, L) of a batch in these columns' order, from either form of batch.

    One form has the tensor ``labels`` (B, L), or (B,) for one column, with the columns' names in
    ``label_cols``, which are taken to be these if it is left out. The other has an entry a column,
    (B,) or (B, 1).

    Raises:
        ValueError: if the batch lacks a column, or has labels of another shape.
    """
    columns = list(columns)
    labels = batch.get("labels")
    if labels is not None and labels.ndim == 1 and not {*columns} <= batch.keys():
        labels = labels[:, None]
    is_one_tensor = labels is not None and labels.ndim == 2  # else a column of this name
    names = batch.get("label_cols", columns) if is_one_tensor else [*batch]
    for column in columns:
        if column not in names:
            others = ("image", "id_str", "step_galaxies", "ends_step")
            found = [name for name in names if name not in others]
            raise UserError(f"batches have no label column {column!r}; they have {found[:10]}")
    if not is_one_tensor:
        return _single(torch.stack([_one_column(batch, column) for column in columns], dim=1))
    if labels.shape[1] != len(names):
        raise UserError(
            f"batches have labels of shape {tuple(labels.shape)} for {len(names)} label columns: "
            f"{', '.join(names[:10])}"
        )
    if names == columns:
        return _single(labels)
    of_columns = [labels[:, names.index(column)] for column in columns]
    return _single(torch.stack(of_columns, dim=1))  # an index list would make a GPU wait


def _one_column(batch: dict, column: str) -> torch.Tensor:
    """A label column's entry, (B,)."""
    labels = batch[column]
    if labels.shape[1:] not in ((), (1,)):
        raise UserError(
            f"batches have labels {column!r} of shape {tuple(labels.shape)}: give one number a "
            "galaxy, or several columns"
        )
    return labels.reshape(-1)


def _single(labels: torch.Tensor) -> torch.Tensor:
    """float64 labels, as other data modules give them, in float32."""
    return labels.float() if labels.dtype == torch.float64 else labels


def one_a_galaxy(y: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """Labels in the shape of the outputs: (B, 1) as (B,). Else they would be spread over (B, B)."""
    if y.shape == outputs.shape:
        return y
    if y.shape != (*outputs.shape, 1):
        raise UserError(
            f"labels have shape {tuple(y.shape)}, but the model predicts {tuple(outputs.shape)}: "
            "give one label a galaxy"
        )
    return y.squeeze(-1)
