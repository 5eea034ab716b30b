"""Models to finetune: a pretrained encoder under a new head, for classes, numbers or vote counts.

model = FinetuneableZoobotClassifier(name="hf_hub:mwalmsley/zoobot-encoder-convnext_nano",
                                     num_classes=2, label_col="ring")
trainer = get_trainer("runs/rings")
trainer.fit(model, datamodule)
"""

import importlib.util
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from zoobot import checkpoint, encoders, losses, optim
from zoobot.data.catalog import check_classes, check_numbers, votes
from zoobot.encoders import load_pretrained_zoobot as load_pretrained_zoobot
from zoobot.metrics import ExampleMeasures, VoteMeasures
from zoobot.models import DirichletHead, label_tensor
from zoobot.schemas import Schema, did_you_mean
from zoobot.trainer import get_trainer as get_trainer

TRAINING_MODES = ("full", "head_only")
LOSSES = {"mse": "mse", "mean_squared_error": "mse", "mae": "mae", "mean_absolute_error": "mae"}


def cross_entropy_loss(
    y_pred: torch.Tensor,
    y: torch.Tensor,
    label_smoothing: float = 0.0,
    weight: torch.Tensor | Sequence[float] | None = None,
) -> torch.Tensor:
    """Cross-entropy of logits (B, C) and class numbers (B,), not reduced: (B,) float32.

    Args:
        weight: of each class, (C,); without smoothing a galaxy's loss is multiplied by that of its
            class, with smoothing see ``torch.nn.functional.cross_entropy``.
    """
    if weight is not None:
        weight = torch.as_tensor(weight, dtype=torch.float32, device=y_pred.device)
    y_pred, y = y_pred.float(), y.long()
    return F.cross_entropy(y_pred, y, weight, label_smoothing=label_smoothing, reduction="none")


def mse_loss(y_pred: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Squared error, not reduced: the shape of ``y_pred``."""
    return F.mse_loss(y_pred, y.to(y_pred.dtype), reduction="none")


def l1_loss(y_pred: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Absolute error, not reduced: the shape of ``y_pred``."""
    return F.l1_loss(y_pred, y.to(y_pred.dtype), reduction="none")


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
        self.output_dim = output_dim
        self.dropout = nn.Dropout(head_dropout_prob)
        self.linear = nn.Linear(input_dim, output_dim)
        self.activation = activation

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        with torch.autocast(features.device.type, enabled=False):
            x = self.linear(self.dropout(features.to(self.linear.weight.dtype)))
        x = x if self.activation is None else self.activation(x)
        return x.squeeze(1) if self.output_dim == 1 else x


class FinetuneableZoobotAbstract(nn.Module):
    """A pretrained encoder, to be finetuned under a head. Subclass it for another task.

    A subclass sets ``head``, ``loss`` (not reduced) and ``label_col``, and may set ``measure``; see
    ``FinetuneableZoobotRegressor``.

    Args:
        name: a timm encoder, ``hf_hub:OWNER/NAME`` or ``local-dir:FOLDER``, pretrained.
        encoder: or a module, images (B, C, H, W) to features (B, D), as it is; parameters that are
            frozen stay so.
        zoobot_checkpoint_loc: or a checkpoint of this package or of Zoobot 2.x.
        training_mode: ``full``, or ``head_only``: the encoder is frozen, its BatchNorm statistics
            and stochastic depth too.
        layer_decay: the head's learning rate is ``learning_rate``, that of encoder blocks from the
            top ``learning_rate * layer_decay**0``, ``**1``, ...; with 0 the blocks below the top
            are frozen.
        weight_decay: of the encoder's matrices.
        head_dropout_prob: of the head.
        scheduler_kwargs: of ``timm.scheduler.create_scheduler_v2``; None: a constant rate.
        timm_kwargs: further arguments of ``timm.create_model``, with ``name``.
        greyscale: the encoder takes 1 channel; so must the view give (``greyscale``).
        prog_bar, visualize_images: accepted for Zoobot 2.x's scripts, without effect.
        seed: of the head's initial weights, and of dropout.

    Raises:
        ValueError: unless exactly one of the three sources is given; for an unknown training mode,
            or an encoder that can't be loaded.
    """

    task = "custom"
    label_col = "label"
    run_linear_sanity_check = False

    def __init__(
        self,
        name: str | None = None,
        encoder: nn.Module | None = None,
        zoobot_checkpoint_loc: str | Path | None = None,
        training_mode: str = "full",
        layer_decay: float = 0.75,
        weight_decay: float = 0.05,
        learning_rate: float = 1e-4,
        head_dropout_prob: float = 0.5,
        scheduler_kwargs: dict | None = None,
        timm_kwargs: dict | None = None,
        greyscale: bool = False,
        prog_bar: bool = True,
        visualize_images: bool = False,
        seed: int = 42,
    ):
        super().__init__()
        if training_mode not in TRAINING_MODES:
            near = did_you_mean(str(training_mode), TRAINING_MODES)
            raise ValueError(
                f"training_mode {training_mode!r} is neither 'full' nor 'head_only'{near}"
            )
        self.training_mode = training_mode
        self.layer_decay = layer_decay
        self.weight_decay = weight_decay
        self.learning_rate = learning_rate
        self.head_dropout_prob = head_dropout_prob
        if not isinstance(scheduler_kwargs, dict | None):
            raise ValueError(f"scheduler_kwargs must be a dict, not {scheduler_kwargs!r}")
        self.scheduler_kwargs = None if scheduler_kwargs is None else dict(scheduler_kwargs)
        optim.check_schedule(self.scheduler_kwargs)
        self.greyscale = greyscale
        self.seed = seed
        sources = {"name": name, "encoder": encoder, "zoobot_checkpoint_loc": zoobot_checkpoint_loc}
        self._choose_encoder(sources, 1 if greyscale else 3, dict(timm_kwargs or {}))
        self.measure = ExampleMeasures()
        self.encoder_dim = encoders.get_encoder_dim(self.encoder, 1 if greyscale else 3)
        self._frozen_as_given = {
            name for name, p in self.encoder.named_parameters() if not p.requires_grad
        }
        self.freeze_encoder(training_mode == "head_only")

    def _choose_encoder(self, sources: dict, channels: int, timm_kwargs: dict) -> None:
        given = [key for key, value in sources.items() if value is not None]
        if len(given) != 1:
            told = " and ".join(given) if given else "none"
            raise ValueError(
                f"give exactly one of name, encoder, zoobot_checkpoint_loc, not {told}"
            )
        name, encoder, path = sources.values()
        if encoder is not None:
            self.encoder, self.encoder_description = encoder, encoders.describe_encoder(encoder)
            if getattr(encoder, "num_classes", 0):
                raise ValueError(
                    f"the encoder still has a classifier of {encoder.num_classes} classes: make it "
                    "with timm.create_model(..., num_classes=0)"
                )
            self.encoder_source = "as given"
        elif path is not None:
            self.encoder, self.encoder_description = encoders.encoder_from_checkpoint(path)
            self.encoder_source = f"loaded from {path}"
        else:
            self.encoder, self.encoder_description = encoders.load_encoder(
                name, channels, **timm_kwargs
            )
            fresh = timm_kwargs.get("pretrained", True) is False
            self.encoder_source = "fresh" if fresh else f"loaded from {name}"
        expected = (self.encoder_description or {}).get("channels", channels)
        if expected != channels:
            raise ValueError(
                f"the encoder takes {expected} channels, but greyscale={channels == 1} asks for "
                f"{channels}"
            )

    def _seeded(self, make_head: Callable[[], nn.Module]) -> nn.Module:
        """Make a head with weights drawn from ``seed``, leaving torch's generator as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return make_head()

    def freeze_encoder(self, frozen: bool) -> None:
        """Freeze the encoder, or unfreeze it (with ``layer_decay=0`` its top block only)."""
        layer_of = optim.layer_of_parameters(self.encoder)
        top = max(layer_of.values(), default=0)
        frozen = frozen or self.training_mode == "head_only"
        for name, parameter in self.encoder.named_parameters():
            trains = self.layer_decay > 0 or layer_of[name] == top
            parameter.requires_grad_(trains and not frozen and name not in self._frozen_as_given)
        self.train(self.training)

    def train(self, mode: bool = True):
        """Training mode; modules whose parameters are all frozen stay in evaluation mode.

        So a frozen encoder's BatchNorm statistics and stochastic depth are off.
        """
        super().train(mode)
        for module in self.encoder.modules():
            parameters = list(module.parameters())
            if parameters and not any(p.requires_grad for p in parameters):
                module.eval()
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W), 0 to 1, to the head's float32 output."""
        if self.greyscale and images.shape[1] != 1:
            raise ValueError(
                f"the encoder takes 1 channel, the images have {images.shape[1]}: set greyscale "
                "in the view's config, or channels=1 in the data module"
            )
        frozen = not any(p.requires_grad for p in self.encoder.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            features = self.encoder(images)
        if features.ndim != 2:
            raise ValueError(
                f"the encoder gives {tuple(features.shape)}: it must pool to (galaxies, features)"
            )
        return self.head(features)

    def batch_to_supervised_tuple(self, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """Images, and the label column (B,)."""
        return batch["image"], label_tensor(batch, [self.label_col])[:, 0]

    def losses(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Each galaxy's loss: (B, K), of which the sum over K counts.

        Raises:
            ValueError: if ``loss`` gave one number for the batch.
        """
        values = self.loss(outputs, labels)
        if values.shape[:1] != labels.shape[:1]:
            raise ValueError(
                f"the loss has shape {tuple(values.shape)} for {len(labels)} galaxies: it must "
                "not be reduced (reduction='none')"
            )
        return values.float().reshape(len(labels), -1)

    def predict_step(self, batch: dict | torch.Tensor, batch_idx: int = 0) -> torch.Tensor:
        """Predictions for a batch (dict with ``image``) or for images (B, C, H, W)."""
        return self.predictions(self(batch["image"] if isinstance(batch, dict) else batch))

    def predictions(self, outputs: torch.Tensor) -> torch.Tensor:
        """From ``forward``'s output to what is predicted: the same, unless a subclass says."""
        return outputs

    def configure_optimizers(self) -> torch.optim.AdamW:
        """AdamW with layer-decayed groups; see ``optim.parameter_groups``."""
        decays = {"weight_decay": self.weight_decay, "layer_decay": self.layer_decay}
        others = nn.ModuleList(m for name, m in self.named_children() if name != "encoder")
        groups = optim.parameter_groups(self.encoder, others, self.learning_rate, **decays)
        return optim.adamw(groups)

    @staticmethod
    def metric_key(split: str, name: str) -> str:
        """How a metric is called in the logs: ``finetuning/val_loss``."""
        name = {"supervised_loss": "loss"}.get(name, name)
        return f"finetuning/{'val' if split == 'validation' else split}_{name}"

    def check_labels(self, table: pd.DataFrame, where: str) -> None:
        """ValueError if labels (a table with ``id_str``) can't be learned; override for a task."""

    def learn_from_labels(self, table: pd.DataFrame) -> None:
        """Told the training labels before training; override where they are of use."""

    def arguments(self) -> dict:
        """The arguments with which this model was made, those of plain types; no encoder."""
        names = self._argument_names() - {"encoder"}
        values = {
            name: _plain(getattr(self, name)) for name in sorted(names) if hasattr(self, name)
        }
        return {name: value for name, value in values.items() if _is_plain(value)}

    def describe(self) -> dict:
        """What ``load_from_checkpoint`` needs besides the weights, as plain types."""
        return {
            "class": type(self).__name__,
            "task": self.task,
            "encoder": self.encoder_description,
            "arguments": self.arguments(),
        }

    @classmethod
    def _argument_names(cls) -> set[str]:
        """Names of the arguments of the class and its bases, but for what only ``name`` needs."""
        names = set()
        for base in cls.__mro__[: cls.__mro__.index(nn.Module)]:
            names |= set(inspect.signature(base.__init__).parameters)
        return names - {"self", "super_kwargs", "name", "zoobot_checkpoint_loc", "timm_kwargs"}

    @classmethod
    def load_from_checkpoint(
        cls, checkpoint_path: str | Path, encoder: nn.Module | None = None, **overrides
    ):
        """A finetuned model from a checkpoint of ours or of Zoobot 2.x. Nothing is downloaded.

        Args:
            encoder: to load the weights into, where the file doesn't tell how to build it.
            overrides: arguments of the class, over those of the checkpoint.

        Raises:
            ValueError: for a checkpoint of another class, or weights that don't fit exactly.
        """
        weights, saved = checkpoint.load_model(checkpoint_path)
        if saved.get("class") not in (None, cls.__name__):
            raise ValueError(
                f"{checkpoint_path} holds a {saved['class']}, not a {cls.__name__}"
                + (
                    "; finetune from its encoder with zoobot_checkpoint_loc="
                    if saved["class"] == "ZoobotTree"
                    else f": use {saved['class']}.load_from_checkpoint"
                )
            )
        if encoder is None:
            if saved.get("encoder") is None:
                raise ValueError(
                    f"{checkpoint_path} does not tell how to build its encoder: give encoder="
                )
            encoder = encoders.build_encoder(saved["encoder"])
        arguments = cls._arguments_of(saved["arguments"]) | overrides
        model = cls(encoder=encoder, **arguments)
        if saved.get("encoder"):
            model.encoder_description = saved["encoder"]
        if saved.get("class") is None:  # Zoobot 2.x also saved its metrics
            weights = {k: v for k, v in weights.items() if k.startswith(("encoder.", "head."))}
        encoders.load_exactly(model, weights, f"{checkpoint_path}, a {cls.__name__}")
        return model.eval()

    @classmethod
    def _arguments_of(cls, saved: dict) -> dict:
        """The saved arguments that this class takes, without the encoder's."""
        accepted = cls._argument_names() - {"encoder"}
        return {key: value for key, value in saved.items() if key in accepted}

    @classmethod
    def load_from_name(cls, name: str, **overrides):
        """A finetuned model from the hub: ``OWNER/NAME`` holds ``{ClassName}.ckpt``.

        Raises:
            ValueError: if the file can't be had; huggingface_hub's cache and offline mode serve.
        """
        from huggingface_hub import hf_hub_download

        repository = name.partition(":")[2] or name
        try:
            path = hf_hub_download(repository, f"{cls.__name__}.ckpt")
        except Exception as error:  # huggingface_hub raises many kinds
            raise encoders.unreachable(f"hf_hub:{repository}", error) from error
        return cls.load_from_checkpoint(path, **overrides)


def _class_weights(weights, num_classes: int) -> torch.Tensor:
    numbers = isinstance(weights, list) and all(isinstance(w, int | float) for w in weights)
    if not numbers or not all(0 <= w < float("inf") for w in weights):
        raise ValueError(f"class_weights {weights!r}: use 'balanced', or numbers >= 0 in a list")
    if len(weights) != num_classes:
        raise ValueError(f"{len(weights)} class_weights for num_classes={num_classes}")
    return torch.tensor(weights, dtype=torch.float32)


def _is_right(y_pred: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return y_pred.argmax(1) == y


def _plain(value):
    """Arrays and tensors as lists, NumPy's numbers as Python's, a tree as a dict."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return value.tolist()
    return value.to_dict() if isinstance(value, Schema) else value


def _is_plain(value) -> bool:
    if isinstance(value, list | dict):
        return all(map(_is_plain, value.values() if isinstance(value, dict) else value))
    return isinstance(value, str | int | float | bool | None)


class FinetuneableZoobotClassifier(FinetuneableZoobotAbstract):
    """Predicts the class of a galaxy, softmax probabilities (B, num_classes).

    Args:
        num_classes: labels are 0 to ``num_classes - 1``.
        label_col: their column.
        label_smoothing: of the cross-entropy (Szegedy et al. 2016).
        class_weights: of ``cross_entropy_loss``; ``balanced`` weighs classes by the inverse of
            their number in the training data, so that galaxies weigh 1 on average.
        run_linear_sanity_check: before training, fit a logistic regression to the encoder's
            features as they are and print its accuracy: what finetuning should beat.
        super_kwargs: of ``FinetuneableZoobotAbstract``.

    Raises:
        ValueError: for fewer than 2 classes, weights of another number, or a sanity check without
            scikit-learn.
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
        super().__init__(**super_kwargs)
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}: a classifier has 2 or more")
        self.num_classes = int(num_classes)
        self.label_col = label_col
        self.label_smoothing = label_smoothing
        self.class_names = list(class_names or map(str, range(num_classes)))
        self.class_weights = _plain(class_weights)
        self.register_buffer("_weights", None, persistent=False)
        if self.class_weights not in (None, "balanced"):
            self._weights = _class_weights(self.class_weights, num_classes)
        if run_linear_sanity_check and importlib.util.find_spec("sklearn") is None:
            raise ValueError("run_linear_sanity_check needs: pip install scikit-learn")
        self.run_linear_sanity_check = run_linear_sanity_check
        self.head = self._seeded(
            lambda: LinearHead(self.encoder_dim, num_classes, self.head_dropout_prob)
        )
        self.measure = ExampleMeasures("acc", _is_right)

    def loss(self, y_pred: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Cross-entropy (B,), smoothed and weighted."""
        return cross_entropy_loss(y_pred, y, self.label_smoothing, self._weights)

    def predictions(self, outputs: torch.Tensor) -> torch.Tensor:
        """Softmax probabilities."""
        return outputs.softmax(1)

    def check_labels(self, table: pd.DataFrame, where: str) -> None:
        """ValueError unless every label is a class number."""
        check_classes(table, self.label_col, self.num_classes, where)

    def learn_from_labels(self, table: pd.DataFrame) -> None:
        """Set ``balanced`` class weights from the training labels."""
        if self.class_weights == "balanced":
            counts = np.bincount(table[self.label_col].astype(int), minlength=self.num_classes)
            if counts.min() == 0:
                absent = self.class_names[int(counts.argmin())]
                raise ValueError(f"balanced class weights: class {absent!r} has no galaxy")
            weights = len(table) / (self.num_classes * counts)
            self._weights = torch.tensor(weights, dtype=torch.float32)

    def arguments(self) -> dict:
        """With ``balanced`` class weights as the numbers that they came to."""
        weights = self.class_weights if self._weights is None else self._weights.tolist()
        return super().arguments() | {"class_weights": weights}

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


class FinetuneableZoobotRegressor(FinetuneableZoobotAbstract):
    """Predicts one number of a galaxy, (B,).

    Args:
        label_col: its column.
        loss: ``mse`` (or ``mean_squared_error``) or ``mae`` (or ``mean_absolute_error``).
        unit_interval: labels lie within 0-1, and a sigmoid keeps predictions there.
        super_kwargs: of ``FinetuneableZoobotAbstract``.

    Raises:
        ValueError: for another loss.
    """

    task = "regression"

    def __init__(
        self,
        label_col: str = "label",
        loss: str = "mse",
        unit_interval: bool = False,
        **super_kwargs,
    ):
        super().__init__(**super_kwargs)
        if loss not in LOSSES:
            raise ValueError(f"loss {loss!r} is none of {', '.join(LOSSES)}")
        self.label_col = label_col
        self.loss_name = LOSSES[loss]
        self.unit_interval = unit_interval
        self.loss = {"mse": mse_loss, "mae": l1_loss}[self.loss_name]
        activation = torch.sigmoid if unit_interval else None
        self.head = self._seeded(
            lambda: LinearHead(self.encoder_dim, 1, self.head_dropout_prob, activation)
        )
        self.measure = ExampleMeasures("rmse", mse_loss)

    def arguments(self) -> dict:
        return super().arguments() | {"loss": self.loss_name}

    def check_labels(self, table: pd.DataFrame, where: str) -> None:
        """ValueError unless every label is a finite number, within 0-1 if ``unit_interval``."""
        check_numbers(table, self.label_col, self.unit_interval, where)


class FinetuneableZoobotTree(FinetuneableZoobotAbstract):
    """Predicts Dirichlet concentrations (B, A) for the answers of a decision tree.

    The loss is the Dirichlet-Multinomial of the vote counts, summed over questions.

    Args:
        schema: the tree.
        super_kwargs: of ``FinetuneableZoobotAbstract``.
    """

    task = "tree"

    def __init__(self, schema: Schema, **super_kwargs):
        super().__init__(**super_kwargs)
        self.schema = schema
        dropout = self.head_dropout_prob
        self.head = self._seeded(
            lambda: DirichletHead(self.encoder_dim, len(schema.answers), dropout)
        )
        self.measure = VoteMeasures(schema)

    def batch_to_supervised_tuple(self, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """Images, and the votes (B, A)."""
        return batch["image"], label_tensor(batch, self.schema.label_cols)

    def losses(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Loss of every question: (B, Q). A galaxy's loss is their sum."""
        return losses.dirichlet_multinomial_nll(outputs, labels, self.schema.question_sizes)

    def check_labels(self, table: pd.DataFrame, where: str) -> None:
        """ValueError unless every vote count is a whole number of 0 or more."""
        votes(table, self.schema.label_cols, where)

    @classmethod
    def _arguments_of(cls, saved: dict) -> dict:
        arguments = super()._arguments_of(saved)
        if isinstance(arguments.get("schema"), dict):
            arguments["schema"] = Schema.from_dict(arguments["schema"])
        elif "question_answer_pairs" in saved:
            pairs, dependencies = saved["question_answer_pairs"], saved["dependencies"]
            arguments["schema"] = Schema(pairs, dependencies)
        return arguments
