"""FinetuneableZoobotAbstract: a pretrained encoder under a head, whatever the task."""

import functools
import inspect
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from zoobot import optim
from zoobot.data.dataset import ImagesSeen
from zoobot.limits.models import building
from zoobot.metrics import ExampleMeasures
from zoobot.models import encoders
from zoobot.models.arguments import by_name, is_plain, plain
from zoobot.models.heads import label_tensor
from zoobot.runs import checkpoint
from zoobot.runs.checkpoint import load_exactly
from zoobot.system.errors import UserError, did_you_mean

TRAINING_MODES = ("full", "head_only")
# Arguments that say where the encoder comes from, or have no effect: no checkpoint needs them.
OF_SOURCE = ("name", "encoder", "zoobot_checkpoint_loc", "timm_kwargs")
NOT_KEPT = (*OF_SOURCE, "prog_bar", "visualize_images")


class FinetuneableZoobotAbstract(nn.Module):
    """A pretrained encoder, to be finetuned under a head. Subclass it for another task.

    A subclass sets ``head``, ``loss`` (not reduced) and ``label_col``, and may set ``measure``; see
    ``FinetuneableZoobotRegressor``. The loss is given float32 outputs under any autocast. Arguments
    of its own are saved with the model if they are plain (numbers, texts, lists, dicts).

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

    Attributes:
        images_seen: how the images it was validated with were made, once it was.

    Raises:
        ValueError: unless exactly one of the three sources is given; for an unknown training mode,
            or an encoder that can't be loaded.
    """

    task = "custom"
    label_col = "label"

    def __new__(cls, *args, **kwargs):
        """Note the arguments: a checkpoint keeps those that a subclass has of its own."""
        model = super().__new__(cls)
        model.__dict__["_given"] = by_name(cls, args, kwargs)
        return model

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
            raise UserError(
                f"training_mode {training_mode!r} is neither 'full' nor 'head_only'{near}"
            )
        self.training_mode = training_mode
        self.layer_decay = layer_decay
        self.weight_decay = weight_decay
        self.learning_rate = learning_rate
        self.head_dropout_prob = head_dropout_prob
        if not isinstance(scheduler_kwargs, dict | None):
            raise UserError(f"scheduler_kwargs must be a dict, not {scheduler_kwargs!r}")
        self.scheduler_kwargs = None if scheduler_kwargs is None else dict(scheduler_kwargs)
        optim.check_schedule(self.scheduler_kwargs)
        self.greyscale = greyscale
        self.seed = seed
        sources = {"name": name, "encoder": encoder, "zoobot_checkpoint_loc": zoobot_checkpoint_loc}
        self.encoder, description, self.encoder_source = encoders.from_one_source(
            sources, self.channels, dict(timm_kwargs or {})
        )
        if description is not None:
            self.encoder_description = description
        self.images_seen = ImagesSeen()
        self.measure = ExampleMeasures()
        self.encoder_dim = encoders.get_encoder_dim(self.encoder, self.channels)
        self._frozen_as_given = {
            name for name, p in self.encoder.named_parameters() if not p.requires_grad
        }
        self.freeze_encoder(training_mode == "head_only")

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return 1 if self.greyscale else 3

    def label_columns(self) -> list[str]:
        """The label columns that it learns."""
        return [self.label_col]

    @functools.cached_property
    def encoder_description(self) -> dict | None:
        """How to build the encoder again; None if it is not timm's."""
        return encoders.describe_encoder(self.encoder)

    def _seeded(self, make_head: Callable[[], nn.Module]) -> nn.Module:
        """Make a head with weights drawn from ``seed``, leaving torch's generator as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return make_head()

    def freeze_encoder(self, frozen: bool) -> None:
        """Freeze the encoder, or unfreeze it (with ``layer_decay=0`` its top block only).

        In ``head_only`` mode it stays frozen.
        """
        layer_of = optim.layer_of_parameters(self.encoder)
        top = max(layer_of.values(), default=0)
        frozen = frozen or self.training_mode == "head_only"
        for name, parameter in self.encoder.named_parameters():
            trains = self.layer_decay > 0 or layer_of[name] == top
            parameter.requires_grad_(trains and not frozen and name not in self._frozen_as_given)
        self.train(self.training)

    def train(self, mode: bool = True) -> "FinetuneableZoobotAbstract":
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
            raise UserError(
                f"the encoder takes 1 channel, the images have {images.shape[1]}: set greyscale "
                "in the view's config, or channels=1 in the data module"
            )
        frozen = not any(p.requires_grad for p in self.encoder.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            features = self.encoder(images)
        if features.ndim != 2:
            raise UserError(
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
            raise UserError(
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

    def learn_from_labels(self, table: pd.DataFrame | None) -> None:
        """Called with the training labels before training; override where they are of use.

        Args:
            table: ``id_str`` and the label columns; None if the loader does not give them.
        """

    def introduce(self) -> str:
        """What a run says of its model at the start: what of it is pretrained, and what is new."""
        known = self.encoder_description or {}
        name = known.get("architecture", type(self.encoder).__name__)
        frozen = ", frozen" if self.training_mode == "head_only" else ""
        new = [key for key in self.state_dict() if not key.startswith("encoder.")]
        tensors = f"{len(self.encoder.state_dict())} tensors {self.encoder_source}"
        return f"encoder {name}: {tensors}{frozen}; new: {', '.join(new)}"

    def prediction_columns(self) -> list[str] | None:
        """Names of the predicted columns; None if they must be given."""
        return None

    def describe_predictions(self) -> dict:
        """What an evaluation must know of the predictions besides their columns."""
        names = {"label_col": self.label_col, "class_names": None}
        return {"task": self.task, **names, "schema": None}

    def arguments(self) -> dict:
        """The arguments with which this model can be made again, as plain types; no encoder.

        A subclass's own arguments are those that it was given. One that changes them overrides
        this.
        """
        own = {k: plain(v) for k, v in self._given.items() if k not in NOT_KEPT}
        return {k: v for k, v in own.items() if is_plain(v)} | {
            "training_mode": self.training_mode,
            "layer_decay": self.layer_decay,
            "weight_decay": self.weight_decay,
            "learning_rate": self.learning_rate,
            "head_dropout_prob": self.head_dropout_prob,
            "scheduler_kwargs": self.scheduler_kwargs,
            "greyscale": self.greyscale,
            "seed": self.seed,
        }

    def describe(self) -> dict:
        """What ``load_from_checkpoint`` needs besides the weights, as plain types.

        Warns of arguments that a checkpoint can't keep.
        """
        kept = self.arguments()
        lost = [name for name in self._given if name not in NOT_KEPT and name not in kept]
        if lost:
            warnings.warn(
                f"checkpoints can't keep {', '.join(lost)}, which are no plain types: give them to "
                f"{type(self).__name__}.load_from_checkpoint",
                stacklevel=2,
            )
        return {
            "class": type(self).__name__,
            "task": self.task,
            "encoder": self.encoder_description,
            "arguments": kept,
        }

    @classmethod
    def load_from_checkpoint(
        cls, checkpoint_path: str | Path, encoder: nn.Module | None = None, **overrides
    ) -> "FinetuneableZoobotAbstract":
        """A finetuned model from a checkpoint of ours or of Zoobot 2.x. Nothing is downloaded.

        Args:
            encoder: to load the weights into, where the file doesn't tell how to build it.
            overrides: arguments of the class, over those of the checkpoint.

        Raises:
            ValueError: for a checkpoint of another class, or weights that don't fit exactly.
        """
        weights, saved = checkpoint.load_model(checkpoint_path)
        if saved.get("class") not in (None, cls.__name__):
            raise UserError(
                f"{checkpoint_path} holds a {saved['class']}, not a {cls.__name__}"
                + (
                    "; finetune from its encoder with zoobot_checkpoint_loc="
                    if saved["class"] == "ZoobotTree"
                    else f": use {saved['class']}.load_from_checkpoint"
                )
            )
        if encoder is None:
            if saved.get("encoder") is None:
                raise UserError(
                    f"{checkpoint_path} does not tell how to build its encoder: give encoder="
                )
            with building(checkpoint_path):
                encoder = encoders.build_encoder(saved["encoder"])
        with building(checkpoint_path):
            arguments = saved.get("arguments") or {}
            if saved.get("class") is None:
                arguments = cls._known_arguments(arguments)
            model = cls(encoder=encoder, **(cls._rebuilt_arguments(arguments) | overrides))
        if saved.get("encoder"):
            model.encoder_description = saved["encoder"]
        load_exactly(model, weights, f"{checkpoint_path}, a {cls.__name__}")
        model.images_seen = ImagesSeen.from_dict(saved)
        return model.eval()

    @classmethod
    def _known_arguments(cls, of_lightning: dict) -> dict:
        """Those of a Zoobot 2.x checkpoint's arguments that this class and its bases take."""
        bases = cls.__mro__[: cls.__mro__.index(nn.Module)]
        known = {name for base in bases for name in inspect.signature(base.__init__).parameters}
        return {k: v for k, v in of_lightning.items() if k in known and k not in NOT_KEPT}

    @classmethod
    def _rebuilt_arguments(cls, arguments: dict) -> dict:
        """Saved arguments as the class takes them; override where a plain type stands for one."""
        return arguments

    @classmethod
    def load_from_name(cls, name: str, **overrides) -> "FinetuneableZoobotAbstract":
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
