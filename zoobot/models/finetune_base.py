"""FinetuneableZoobotAbstract: a pretrained encoder under a head, whatever the task."""

import copy
import functools
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from zoobot import optim
from zoobot.data.dataset import ImagesSeen
from zoobot.metrics import ExampleMeasures
from zoobot.models.arguments import OF_SOURCE, check_overrides, kept, known_to, unkept
from zoobot.models.descriptions import build_encoder, describe_encoder
from zoobot.models.encoders import from_one_source
from zoobot.models.features import check_channels, get_encoder_dim, pooled
from zoobot.models.galaxy_model import GalaxyModel
from zoobot.models.heads import label_tensor
from zoobot.models.hub import published_file
from zoobot.models.loading import Location, load_built
from zoobot.models.sharing import Shareable
from zoobot.models.stem import channels_of, check_stem_options, rates_of_stem, warn_of_frozen_stem
from zoobot.system.errors import UserError, did_you_mean

TRAINING_MODES = ("full", "head_only")


class FinetuneableZoobotAbstract(Shareable, GalaxyModel):
    """A pretrained encoder, to be finetuned under a head. Subclass it for another task.

    A subclass sets ``head``, ``loss`` (not reduced) and ``label_col``, and may set ``measure``; see
    ``FinetuneableZoobotRegressor``. The loss is given float32 outputs under any autocast. Arguments
    of its own are saved with the model if they are plain (numbers, texts, lists, dicts).

    Args:
        name: a timm encoder, ``hf_hub:OWNER/NAME`` or ``local-dir:FOLDER``, pretrained.
        encoder: or a module, images (B, C, H, W) to features (B, D), as it is; parameters that are
            frozen stay so. One from ``torch.compile`` is compiled in place.
        zoobot_checkpoint_loc: or a checkpoint of this package or of Zoobot 2.x.
        training_mode: ``full``, or ``head_only``: the encoder is frozen, its BatchNorm statistics
            and stochastic depth too.
        layer_decay: the head's learning rate is ``learning_rate``, that of encoder blocks from the
            top ``learning_rate * layer_decay**0``, ``**1``, ...; 0 to 1; with 0 the blocks below
            the top are frozen.
        layer_groups: what a block is, ``blocks`` or ``fine``: see ``optim.layer_of_parameters``.
        weight_decay: of the encoder's matrices.
        head_dropout_prob: of the head.
        scheduler_kwargs: of ``timm.scheduler.create_scheduler_v2``; None: a constant rate.
        timm_kwargs: further arguments of ``timm.create_model``, with ``name``.
        greyscale: the encoder takes 1 channel; so must the view give (``greyscale``).
        channels: number of bands; by default 3, or 1 if ``greyscale``. Pretrained weights of 3 or 1
            channels are spread over them, see ``zoobot.models.stem``.
        fresh_stem: the first convolution starts with fresh weights, drawn from the seed.
        stem_learning_rate: of the first convolution; None: that of the encoder's lowest block.
        prog_bar, visualize_images: accepted for Zoobot 2.x's scripts, without effect.
        seed: of the head's initial weights (and a fresh stem's), and of dropout.

    Attributes:
        encoder_bands: the bands on which the encoder was trained, as plain types, if it knows them.
        images_seen: how the images it was validated with were made, once it was.

    Raises:
        ValueError: unless exactly one of the three sources is given; for an unknown training mode,
            or an encoder that can't be loaded.
    """

    task = "custom"
    label_col = "label"

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
        channels: int | None = None,
        fresh_stem: bool = False,
        stem_learning_rate: float | None = None,
        layer_groups: str = "blocks",
    ):
        super().__init__()
        if training_mode not in TRAINING_MODES:
            near = did_you_mean(training_mode, TRAINING_MODES)
            raise UserError(f"training_mode {training_mode!r} is not 'full' or 'head_only'{near}")
        optim.check_layer_decay(layer_decay)
        self.training_mode = training_mode
        self.layer_decay = layer_decay
        self.layer_groups = layer_groups
        self.weight_decay = weight_decay
        self.learning_rate = learning_rate
        self.head_dropout_prob = head_dropout_prob
        optim.check_schedule(scheduler_kwargs)
        self.scheduler_kwargs = None if scheduler_kwargs is None else dict(scheduler_kwargs)
        self.greyscale = greyscale
        self.channels = channels_of(channels, greyscale)
        self.seed = seed
        self.stem_learning_rate = stem_learning_rate
        sources = {"name": name, "encoder": encoder, "zoobot_checkpoint_loc": zoobot_checkpoint_loc}
        check_stem_options(sources, training_mode, fresh_stem, stem_learning_rate)
        of_stem = seed if fresh_stem else None
        source = from_one_source(sources, self.channels, dict(timm_kwargs or {}), of_stem)
        self.encoder, self.encoder_source = source.encoder, source.told
        self.encoder_bands = source.bands
        if source.description is not None:
            self.encoder_description = source.description
        if source.is_adapted and self.channels > 1 and training_mode == "head_only":
            warn_of_frozen_stem(self.channels)
        self.images_seen = ImagesSeen()
        self.measure = ExampleMeasures()
        self.encoder_dim = get_encoder_dim(self.encoder, self.channels)
        parameters = self.encoder.named_parameters()
        self._frozen_as_given = {name for name, p in parameters if not p.requires_grad}
        self.freeze_encoder(training_mode == "head_only")

    def label_columns(self) -> list[str]:
        """The label columns that it learns."""
        return [self.label_col]

    @functools.cached_property
    def encoder_description(self) -> dict | None:
        """How to build the encoder again; None if it is not timm's, or not as timm made it."""
        return describe_encoder(self.encoder, self.images_seen.image_size)

    def _seeded(self, make_head: Callable[[], nn.Module]) -> nn.Module:
        """Make a head with weights drawn from ``seed``, leaving torch's generator as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return make_head()

    def freeze_encoder(self, frozen: bool) -> None:
        """Freeze the encoder, or unfreeze it (with ``layer_decay=0`` its top block only).

        In ``head_only`` mode it stays frozen.
        """
        layer_of = optim.layer_of_parameters(self.encoder, self.layer_groups)
        top = max(layer_of.values(), default=0)
        frozen = frozen or self.training_mode == "head_only"
        stem = rates_of_stem(self.encoder, self.stem_learning_rate)
        for name, parameter in self.encoder.named_parameters():
            trains = self.layer_decay > 0 or layer_of[name] == top or name in stem
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
        """Images (B, C, H, W), 0 to 1, to the head's float32 output.

        Nothing is kept for gradients of a frozen encoder, unless the images ask for theirs.
        """
        check_channels(images, self.channels)
        needed = any(x.requires_grad for x in (images, *self.encoder.parameters()))
        with torch.set_grad_enabled(torch.is_grad_enabled() and needed):
            features = pooled(self.encoder, images, self.encoder_dim)
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
        decays["stem"] = rates_of_stem(self.encoder, self.stem_learning_rate)
        decays["layer_groups"] = self.layer_groups
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
        return dict(task=self.task, label_col=self.label_col, class_names=None, schema=None)

    def arguments(self) -> dict:
        """The arguments with which this model can be made again, as plain types; no encoder.

        A subclass's own arguments are those that it was given. One that changes them overrides
        this.
        """
        return kept(self._given) | {
            "training_mode": self.training_mode,
            "layer_decay": self.layer_decay,
            "layer_groups": self.layer_groups,
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
        if lost := unkept(self._given, self.arguments()):
            warnings.warn(
                f"checkpoints can't keep {', '.join(lost)}, which are no plain types: give them "
                f"to {type(self).__name__}.load_from_checkpoint",
                stacklevel=2,
            )
        return {
            "class": type(self).__name__,
            "task": self.task,
            "encoder": self.encoder_description,
            "arguments": self.arguments(),
        }

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: str | Path,
        map_location: Location = None,
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
        *,
        encoder: nn.Module | None = None,
        **overrides,
    ) -> "FinetuneableZoobotAbstract":
        """A finetuned model from a checkpoint of ours or of Zoobot 2.x. Nothing is downloaded.

        Args:
            map_location: the device to move the model to, by default the CPU.
            hparams_file: of Lightning's scripts, without effect: checkpoints have the arguments.
            strict: False leaves weights alone that only the file or only the model has, and warns.
            encoder: to load the weights into, where the file doesn't tell how to build it.
            overrides: arguments of the class, over those of the checkpoint.

        Raises:
            ValueError: for a checkpoint of another class, weights that don't fit, or an argument
                or a device that there is not.
        """
        check_overrides(cls, overrides, OF_SOURCE)
        build = functools.partial(cls._built, encoder=encoder)
        return load_built(checkpoint_path, cls.__name__, build, overrides, map_location, strict)

    @classmethod
    def _built(
        cls, described: dict, encoder: nn.Module | None = None, **overrides
    ) -> "FinetuneableZoobotAbstract":
        """The model that ``describe`` described, with fresh weights."""
        arguments = described.get("arguments") or {}
        arguments = arguments if described.get("class") else cls._known_arguments(arguments)
        if encoder is None:
            if described.get("encoder") is None:
                raise UserError("it does not tell how to build its encoder: give encoder=")
            encoder = build_encoder(described["encoder"])
        model = cls(encoder=encoder, **(cls._rebuilt_arguments(arguments) | overrides))
        if described.get("encoder"):
            model.encoder_description = described["encoder"]
        return model

    def build_again(self, described: dict) -> "FinetuneableZoobotAbstract":
        """Another model as this one's ``describe`` described it, with fresh weights."""
        lost = unkept(self._given, self.arguments())
        return type(self)._built(described, **copy.deepcopy(lost))

    @classmethod
    def _known_arguments(cls, of_lightning: dict) -> dict:
        """Those of a Zoobot 2.x checkpoint's arguments that this class and its bases take."""
        return known_to(cls, of_lightning)

    @classmethod
    def _rebuilt_arguments(cls, arguments: dict) -> dict:
        """Saved arguments as the class takes them; override where a plain type stands for one."""
        return arguments

    @classmethod
    def load_from_name(cls, name: str, **overrides) -> "FinetuneableZoobotAbstract":
        """A finetuned model from the hub: ``OWNER/NAME`` holds ``{ClassName}.ckpt``, or a model.

        Raises:
            ValueError: if the file can't be had; huggingface_hub's cache and offline mode serve.
        """
        return cls.load_from_checkpoint(published_file(name, cls.__name__), **overrides)
