"""``ZoobotTree``: a timm encoder under a Dirichlet head, trained from scratch on vote counts."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from zoobot import losses, optim
from zoobot.data.dataset import ImagesSeen
from zoobot.data.labels import check_some_votes, votes
from zoobot.metrics import VoteMeasures, vote_constants
from zoobot.models.architectures import check_set_elsewhere, get_pytorch_encoder
from zoobot.models.arguments import check_overrides
from zoobot.models.descriptions import describe, layout
from zoobot.models.features import get_encoder_dim, pooled
from zoobot.models.galaxy_model import GalaxyModel
from zoobot.models.heads import DirichletHead, label_tensor
from zoobot.models.loading import Location, load_built
from zoobot.models.sharing import Shareable
from zoobot.schemas import Schema
from zoobot.system import caches
from zoobot.system.errors import UserError


class ZoobotTree(Shareable, GalaxyModel):
    """An encoder and a Dirichlet head that predict the volunteers' votes down a decision tree.

    Args:
        output_dim: number of answers A; must agree with the tree. May be left out.
        question_answer_pairs, dependencies: the tree, as ``Schema`` takes it; or give ``schema``.
        architecture_name, channels: the timm encoder.
        timm_kwargs: further arguments of ``timm.create_model``, as plain types.
        test_time_dropout: keep the head's dropout on in evaluation.
        compile_encoder: run the encoder through ``torch.compile``.
        dropout_rate: of the head.
        head_activation: ``sigmoid`` or ``softplus``, see ``DirichletHead``.
        learning_rate, betas, weight_decay: for ``configure_optimizers``.
        scheduler_kwargs: of ``timm.scheduler.create_scheduler_v2``; None: a constant rate.
        seed: of dropout.

    Attributes:
        images_seen: how the images it was validated with were made, once it was.

    Raises:
        ValueError: without a tree, if ``output_dim`` is not its number of answers, or for an
            encoder that timm does not have, or that does not pool.
    """

    task = "tree"

    def __init__(
        self,
        output_dim: int | None = None,
        question_answer_pairs: dict | None = None,
        dependencies: dict | None = None,
        architecture_name: str = "convnext_nano",
        channels: int = 3,
        test_time_dropout: bool = False,
        compile_encoder: bool = False,
        timm_kwargs: dict | None = None,
        dropout_rate: float = 0.2,
        learning_rate: float = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        weight_decay: float = 0.01,
        *,
        schema: Schema | None = None,
        scheduler_kwargs: dict | None = None,
        seed: int = 42,
        head_activation: str = "sigmoid",
    ):
        super().__init__()
        if schema is None:
            if question_answer_pairs is None or dependencies is None:
                raise UserError("give schema=, or question_answer_pairs= and dependencies=")
            schema = Schema(question_answer_pairs, dependencies)
        if output_dim not in (None, len(schema.answers)):
            raise UserError(
                f"output_dim is {output_dim}, but the tree has {len(schema.answers)} answers"
            )
        self.schema = schema
        self.output_dim = len(schema.answers)
        self.architecture_name = architecture_name
        self.channels = channels
        self.timm_kwargs = dict(timm_kwargs or {})
        self.optimizer_kwargs = {"learning_rate": learning_rate, "weight_decay": weight_decay}
        self.betas = tuple(betas)
        self.scheduler_kwargs = scheduler_kwargs
        optim.check_schedule(scheduler_kwargs)
        self.seed = seed
        self.images_seen = ImagesSeen()
        self.encoder_description = describe(architecture_name, channels, self.timm_kwargs)
        check_set_elsewhere(self.timm_kwargs, {"num_classes": 0})
        self.encoder = get_pytorch_encoder(architecture_name, channels, **self.timm_kwargs)
        self.encoder_dim = get_encoder_dim(self.encoder, channels)
        self.head = DirichletHead(
            self.encoder_dim,
            self.output_dim,
            dropout_rate,
            dropout_always=test_time_dropout,
            activation=head_activation,
        )
        self.measure = VoteMeasures(schema)
        if compile_encoder:
            caches.keep_compiled_privately()
            self.encoder.compile(dynamic=False)

    def label_columns(self) -> list[str]:
        """The columns of votes."""
        return self.schema.label_cols

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W), 0 to 1, to float32 concentrations (B, A)."""
        return self.head(pooled(self.encoder, images, self.encoder_dim))

    def batch_to_supervised_tuple(self, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and votes (B, A): from one ``labels`` tensor, or one entry a label column."""
        return batch["image"], label_tensor(batch, self.schema.label_cols)

    def losses(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Dirichlet-Multinomial loss of every question: (B, Q). A galaxy's loss is their sum."""
        return losses.dirichlet_multinomial_nll(outputs, labels, self.schema.question_sizes)

    @staticmethod
    def metric_key(split: str, name: str) -> str:
        """How a metric is called in the logs: ``validation/question_loss/bar``."""
        return f"{split}/{name}"

    def configure_optimizers(self) -> torch.optim.AdamW:
        """AdamW over all parameters; weight decay on the encoder's matrices only."""
        groups = optim.parameter_groups(self.encoder, self.head, **self.optimizer_kwargs)
        return optim.adamw(groups, self.betas)

    def freeze_encoder(self, frozen: bool) -> None:
        """Not for this model: its encoder has fresh weights, which a frozen one would keep.

        Raises:
            ValueError: if ``frozen``.
        """
        if frozen:
            raise UserError(
                "a ZoobotTree is trained from scratch, so its encoder can't be frozen: use "
                "FinetuneableZoobotTree, or leave unfreeze_after out"
            )

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

    def introduce(self) -> str:
        """What a run says of its model at the start."""
        return f"{self.schema!r}; {self.architecture_name}, fresh weights"

    @staticmethod
    def predictions(outputs: torch.Tensor) -> torch.Tensor:
        """Concentrations are predicted as they are."""
        return outputs

    def prediction_columns(self) -> list[str]:
        """Names of the predicted columns: those of the votes."""
        return self.schema.label_cols

    def describe_predictions(self) -> dict:
        """What an evaluation must know of the predictions besides their columns."""
        schema = self.schema.to_dict()
        return {"task": self.task, "label_col": None, "class_names": None, "schema": schema}

    def describe(self) -> dict:
        """What is needed to build this model again, as plain types."""
        return {
            "class": "ZoobotTree",
            "task": self.task,
            "encoder": self.encoder_description,
            "dropout_rate": self.head.dropout.p,
            "head_activation": self.head.activation,
            "schema": self.schema.to_dict(),
        }

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: str | Path,
        map_location: Location = None,
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
        **overrides,
    ) -> "ZoobotTree":
        """The model of a checkpoint of ours or of Zoobot 2.x. Nothing is downloaded.

        Args:
            map_location: the device to move the model to, by default the CPU.
            hparams_file: of Lightning's scripts, without effect: checkpoints have the arguments.
            strict: False leaves weights alone that only the file or only the model has, and warns.
            overrides: arguments of the class, over those of the checkpoint.

        Raises:
            ValueError: for a checkpoint of another class, weights that don't fit, an argument that
                the class does not have, or a device that is not there.
        """
        check_overrides(cls, overrides)
        return load_built(
            checkpoint_path, "ZoobotTree", cls._built, overrides, map_location, strict
        )

    @classmethod
    def _built(cls, described: dict, **overrides) -> "ZoobotTree":
        """The model that ``describe`` described, with fresh weights."""
        encoder, told = described.get("encoder"), described.get("arguments") or described
        if encoder is None:
            raise UserError("it does not tell how to build its encoder")
        arguments = {
            "schema": schema_of(told),
            "architecture_name": encoder["architecture"],
            "channels": encoder["channels"],
            "timm_kwargs": layout(encoder["timm_kwargs"]),
            "dropout_rate": told.get("dropout_rate", 0.2),
            "head_activation": told.get("head_activation", "sigmoid"),
        }
        return cls(**(arguments | overrides))

    def build_again(self, described: dict) -> "ZoobotTree":
        """Another model as this one's ``describe`` described it, with fresh weights."""
        return type(self)._built(described)


def schema_of(arguments: dict) -> Schema | None:
    """The decision tree among a model's saved arguments, in our form or Zoobot 2.x's."""
    if isinstance(arguments.get("schema"), dict):
        return Schema.from_dict(arguments["schema"])
    if "question_answer_pairs" in arguments:
        return Schema(arguments["question_answer_pairs"], arguments["dependencies"])
    return None
