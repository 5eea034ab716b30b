"""Models to finetune: a pretrained encoder under a new head, for classes, numbers or vote counts.

::

    model = FinetuneableZoobotClassifier(
        name="hf_hub:mwalmsley/zoobot-encoder-convnext_nano", num_classes=2, label_col="ring"
    )
    trainer = get_trainer("runs/rings")
    trainer.fit(model, datamodule)
"""

import importlib.util
from collections.abc import Sequence
from numbers import Integral

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from zoobot import losses
from zoobot.data.catalog import check_not_reserved
from zoobot.data.classes import check_class_names, check_classes
from zoobot.data.labels import check_some_votes, check_varied, votes
from zoobot.limits.models import LARGEST_SETTING
from zoobot.metrics import ExampleMeasures, VoteMeasures, vote_constants
from zoobot.models.arguments import plain
from zoobot.models.finetune_base import FinetuneableZoobotAbstract
from zoobot.models.heads import DirichletHead, LinearHead, label_tensor, one_a_galaxy
from zoobot.models.regressor import FinetuneableZoobotRegressor, l1_loss, mse_loss
from zoobot.models.tree import schema_of
from zoobot.schemas import Schema
from zoobot.system.errors import UserError

__all__ = [
    "FinetuneableZoobotClassifier",
    "FinetuneableZoobotRegressor",
    "FinetuneableZoobotTree",
    "cross_entropy_loss",
    "l1_loss",
    "mse_loss",
]
MOST_TOLD = 20  # classes
MOST_CLASSES = LARGEST_SETTING  # as many as a checkpoint may tell


def cross_entropy_loss(
    y_pred: torch.Tensor,
    y: torch.Tensor,
    label_smoothing: float = 0.0,
    weight: torch.Tensor | Sequence[float] | None = None,
) -> torch.Tensor:
    """Cross-entropy of logits (B, C) and class numbers (B,), not reduced: (B,) float32.

    Args:
        weight: of each class, (C,): a galaxy's loss is multiplied by that of its class. With
            ``torch.nn.functional.cross_entropy`` it would also multiply what smoothing gives to the
            other classes, so that rare ones would be overestimated.
    """
    y_pred, y = y_pred.float(), one_a_galaxy(y, y_pred[:, 0]).long()
    loss = F.cross_entropy(y_pred, y, label_smoothing=label_smoothing, reduction="none")
    if weight is None:
        return loss
    return loss * torch.as_tensor(weight, dtype=torch.float32, device=y_pred.device)[y]


def _class_weights(weights, num_classes: int) -> torch.Tensor:
    numbers = isinstance(weights, list) and all(isinstance(w, int | float) for w in weights)
    if not numbers or not all(0 <= w < float("inf") for w in weights):
        raise UserError(f"class_weights {weights!r}: use 'balanced', or numbers >= 0 in a list")
    if len(weights) != num_classes:
        raise UserError(f"{len(weights)} class_weights for num_classes={num_classes}")
    return torch.tensor(weights, dtype=torch.float32)


def _is_right(y_pred: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return y_pred.argmax(1) == one_a_galaxy(y, y_pred[:, 0])


class FinetuneableZoobotClassifier(FinetuneableZoobotAbstract):
    """Predicts the class of a galaxy, softmax probabilities (B, num_classes).

    Args:
        num_classes: labels are 0 to ``num_classes - 1``; at most 100,000.
        label_col: their column.
        label_smoothing: of the cross-entropy (Szegedy et al. 2016).
        class_weights: of ``cross_entropy_loss``; ``balanced`` weighs classes by the inverse of
            their number in the training data, so that galaxies weigh 1 on average.
        class_names: of the classes, in the order of their numbers; by default the numbers.
        run_linear_sanity_check: before training, fit a logistic regression to the encoder's
            features as they are and print its accuracy: what finetuning should beat.
        super_kwargs: of ``FinetuneableZoobotAbstract``.

    Attributes:
        class_weights: (num_classes,), or None; ``balanced`` ones are there from ``fit`` on.

    Raises:
        ValueError: for fewer than 2 classes or more than 100,000, weights or names of another
            number, a label column or class with a reserved name (``catalog.RESERVED``), or a
            sanity check without scikit-learn.
    """

    task = "classification"

    def __init__(
        self,
        num_classes: int,
        label_col: str = "label",
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | str | None = None,
        run_linear_sanity_check: bool = False,
        *,
        class_names: Sequence[str] | None = None,
        **super_kwargs,
    ):
        if not isinstance(num_classes, Integral) or not 2 <= num_classes <= MOST_CLASSES:
            raise UserError(f"num_classes is {num_classes!r}: a classifier has 2 to {MOST_CLASSES}")
        class_names = list(class_names or map(str, range(num_classes)))
        if len(class_names) != num_classes:
            raise UserError(f"{len(class_names)} class_names for num_classes={num_classes}")
        check_class_names(class_names)
        if not isinstance(label_col, str):
            raise UserError(f"label_col={label_col!r}: give one column, of class numbers")
        check_not_reserved([label_col], "label column")
        super().__init__(**super_kwargs)
        self.num_classes = int(num_classes)
        self.label_col = label_col
        self.label_smoothing = label_smoothing
        self.class_names = class_names
        self._weighting = plain(class_weights)
        self.register_buffer("class_weights", None, persistent=False)
        if self._weighting not in (None, "balanced"):
            self.class_weights = _class_weights(self._weighting, num_classes)
        if run_linear_sanity_check and importlib.util.find_spec("sklearn") is None:
            raise UserError("run_linear_sanity_check needs: pip install scikit-learn")
        self.run_linear_sanity_check = run_linear_sanity_check
        self.head = self._seeded(
            lambda: LinearHead(self.encoder_dim, num_classes, self.head_dropout_prob)
        )
        self.measure = ExampleMeasures("acc", measure=_is_right)

    def loss(self, y_pred: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Cross-entropy (B,), smoothed and weighted."""
        return cross_entropy_loss(y_pred, y, self.label_smoothing, self.class_weights)

    def predictions(self, outputs: torch.Tensor) -> torch.Tensor:
        """Softmax probabilities."""
        return outputs.softmax(1)

    def check_labels(self, table: pd.DataFrame, where: str) -> None:
        """ValueError unless every label is a class number."""
        check_classes(table, self.label_col, self.num_classes, where)

    def learn_from_labels(self, table: pd.DataFrame | None) -> None:
        """Set ``balanced`` class weights from the training labels.

        Raises:
            ValueError: if all of these are of one class, or one class has none and weights are
                ``balanced``.
        """
        if table is not None:
            check_varied(table, self.label_col, "train")
        if self._weighting == "balanced":
            if table is None:
                raise UserError(
                    "class_weights='balanced' needs all labels before training, as "
                    "zoobot.data.CatalogDataModule has them of a catalog, and not of a stream: "
                    "give a list with the weight of each class"
                )
            counts = np.bincount(table[self.label_col].astype(int), minlength=self.num_classes)
            if counts.min() == 0:
                absent = self.class_names[int(counts.argmin())]
                raise UserError(f"balanced class weights: class {absent!r} has no galaxy")
            weights = len(table) / (self.num_classes * counts)
            self.class_weights = torch.tensor(weights, dtype=torch.float32)

    def introduce(self) -> str:
        """What a run says of its model at the start, with the names of the classes."""
        more = ", ..." if self.num_classes > MOST_TOLD else ""
        return f"{super().introduce()}\nclasses: {', '.join(self.class_names[:MOST_TOLD])}{more}"

    def constants(self, table: pd.DataFrame) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (C,): of the best constant probabilities, and of the classes' shares."""
        counts = np.bincount(table[self.label_col].astype(int), minlength=self.num_classes)
        shares = torch.from_numpy(np.maximum(counts, 0.5) / len(table))  # absent: not impossible
        weights = self.class_weights
        weighted = shares if weights is None else shares * weights.double().cpu()
        weighted = weighted / weighted.sum()
        smoothed = (1 - self.label_smoothing) * weighted + self.label_smoothing / self.num_classes
        return smoothed.clamp(min=1e-9).log(), shares.log()

    def prediction_columns(self) -> list[str]:
        """The classes' names; numbered classes follow the label column's name."""
        if self.class_names == [str(i) for i in range(self.num_classes)]:
            return [f"{self.label_col}_{name}" for name in self.class_names]
        return list(self.class_names)

    def describe_predictions(self) -> dict:
        return super().describe_predictions() | {"class_names": self.class_names}

    def arguments(self) -> dict:
        """With ``balanced`` class weights as the numbers that they came to."""
        weights = self._weighting if self.class_weights is None else self.class_weights.tolist()
        return super().arguments() | {
            "num_classes": self.num_classes,
            "label_col": self.label_col,
            "label_smoothing": self.label_smoothing,
            "class_weights": weights,
            "run_linear_sanity_check": self.run_linear_sanity_check,
            "class_names": self.class_names,
        }

    def linear_sanity_check(self, features: dict[str, tuple]) -> dict[str, float]:
        """Accuracy of scikit-learn's logistic regression on features of the encoder as it is.

        Args:
            features: split -> (features (N, D), class numbers (N,)); fitted to ``train``.
        """
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        fitted.fit(*features["train"])
        return {split: float(fitted.score(*pair)) for split, pair in features.items()}


class FinetuneableZoobotTree(FinetuneableZoobotAbstract):
    """Predicts Dirichlet concentrations (B, A) for the answers of a decision tree.

    The loss is the Dirichlet-Multinomial of the vote counts, summed over questions.

    Args:
        schema: the tree.
        head_activation: ``sigmoid`` or ``softplus``, see ``DirichletHead``.
        super_kwargs: of ``FinetuneableZoobotAbstract``.
    """

    task = "tree"

    def __init__(self, schema: Schema, head_activation: str = "sigmoid", **super_kwargs):
        super().__init__(**super_kwargs)
        self.schema = schema
        self.output_dim = len(schema.answers)
        sizes, dropout = (self.encoder_dim, self.output_dim), self.head_dropout_prob
        self.head = self._seeded(lambda: DirichletHead(*sizes, dropout, activation=head_activation))
        self.measure = VoteMeasures(schema)

    def label_columns(self) -> list[str]:
        """The columns of votes."""
        return self.schema.label_cols

    def batch_to_supervised_tuple(self, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """Images, and the votes (B, A)."""
        return batch["image"], label_tensor(batch, self.schema.label_cols)

    def loss(self, y_pred: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Loss of every question: (B, Q). A galaxy's loss is their sum."""
        return losses.dirichlet_multinomial_nll(y_pred, y, self.schema.question_sizes)

    def check_labels(self, table: pd.DataFrame, where: str) -> None:
        """ValueError unless every vote count is a whole number of 0 or more."""
        votes(table, self.schema.label_cols, where)

    def learn_from_labels(self, table: pd.DataFrame | None) -> None:
        """ValueError if no galaxy to train on has a vote."""
        if table is not None:
            check_some_votes(table, self.schema.label_cols, "train")

    def constants(self, table: pd.DataFrame) -> tuple[torch.Tensor, torch.Tensor]:
        """The best constant concentrations; see ``metrics.vote_constants``."""
        counts = votes(table, self.schema.label_cols, "train")
        return vote_constants(torch.from_numpy(counts), self.schema, self.head.bounds)

    def prediction_columns(self) -> list[str]:
        """Names of the predicted columns: those of the votes."""
        return self.schema.label_cols

    def describe_predictions(self) -> dict:
        told = {"label_col": None, "schema": self.schema.to_dict()}
        return super().describe_predictions() | told

    def arguments(self) -> dict:
        own = {"schema": self.schema.to_dict(), "head_activation": self.head.activation}
        return super().arguments() | own

    @classmethod
    def _known_arguments(cls, of_lightning: dict) -> dict:
        schema = schema_of(of_lightning)
        known = super()._known_arguments(of_lightning)
        return known | ({"schema": schema.to_dict()} if schema else {})

    @classmethod
    def _rebuilt_arguments(cls, arguments: dict) -> dict:
        schema = schema_of(arguments)
        return arguments | ({"schema": schema} if schema else {})
