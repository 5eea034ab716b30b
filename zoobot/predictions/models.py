"""Load a model from a checkpoint to predict with; name its output columns."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from zoobot.data.dataset import ImagesSeen
from zoobot.data.views import get_galaxy_transform, minimal_view_config
from zoobot.models import encoders
from zoobot.models.features import get_encoder_dim, pooled
from zoobot.models.galaxy_model import GalaxyModel
from zoobot.models.hub import is_model, model_file
from zoobot.models.loading import Location, device_of
from zoobot.models.rebuild import MODELS
from zoobot.models.stem import channels_before, warn_of_frozen_stem
from zoobot.models.wrapped import unwrapped
from zoobot.runs import checkpoint
from zoobot.schemas import Schema
from zoobot.system.errors import UserError


@runtime_checkable
class Predictor(Protocol):
    """What predictions ask of a model, an ``nn.Module`` from images to outputs.

    Attributes:
        encoder, head: what it is made of (submodules, which ``isinstance`` does not look at); a
            head of None has no dropout to sample.
        channels: of the images.
        images_seen: how the images it was validated with were made.
    """

    channels: int
    images_seen: ImagesSeen

    def predictions(self, outputs: torch.Tensor) -> torch.Tensor:
        """From float32 outputs to what is predicted, (B, A) or (B,)."""

    def prediction_columns(self) -> list[str] | None:
        """Names of the A predicted columns; None if they must be given."""

    def describe_predictions(self) -> dict:
        """``task``, ``label_col``, ``class_names`` and ``schema``, as plain types."""


class ZoobotEncoder(GalaxyModel):
    """An encoder, to predict representations: the features ``feat_0``, ``feat_1``, ...

    Args:
        encoder: images (B, C, H, W) to features (B, D).
    """

    head = None

    def __init__(self, encoder: nn.Module, channels: int = 3):
        super().__init__()
        self.encoder = unwrapped(encoder)
        self.channels = channels
        self.images_seen = ImagesSeen()
        self.encoder_dim = get_encoder_dim(self.encoder, channels)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W), 0 to 1, to features (B, D)."""
        return pooled(self.encoder, images, self.encoder_dim)

    def predictions(self, outputs: torch.Tensor) -> torch.Tensor:
        """Features are predicted as they are."""
        return outputs

    def prediction_columns(self) -> list[str]:
        """``feat_0``, ``feat_1``, ..."""
        return [f"feat_{i}" for i in range(self.encoder_dim)]

    def describe_predictions(self) -> dict:
        """They are representations."""
        return dict.fromkeys(("label_col", "class_names", "schema")) | {"task": "representations"}

    @classmethod
    def load_from_name(cls, name: str, channels: int = 3) -> "ZoobotEncoder":
        """A pretrained encoder: ``hf_hub:OWNER/NAME``, ``local-dir:FOLDER`` or a timm name.

        Of a whole model it is the encoder, with the channels that it has.

        Warns if its stem was adapted to several channels that it was not trained on.
        """
        if is_model(name):
            return cls.load_from_checkpoint(name)
        encoder = encoders.load_encoder(name, channels)[0]
        if channels not in (1, channels_before(encoder)):
            warn_of_frozen_stem(channels)
        return cls(encoder, channels).eval()

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: str | Path,
        map_location: Location = None,
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
    ) -> "ZoobotEncoder":
        """The encoder of a checkpoint of ours or of Zoobot 2.x.

        Args:
            checkpoint_path: see ``models.hub.model_file``.
            map_location, hparams_file, strict: see ``FinetuneableZoobotAbstract``'s.
        """
        device = device_of(map_location)
        checkpoint_path = model_file(checkpoint_path)
        encoder, description = encoders.encoder_from_checkpoint(checkpoint_path, strict=strict)
        model = cls(encoder, description["channels"])
        model.images_seen = ImagesSeen.from_dict(checkpoint.load_model(checkpoint_path)[1])
        return model.to(device).eval()


class AnyModule(nn.Module):
    """A module that is no model of this package, to predict with: its columns must be given.

    Args:
        module: images (B, 3, H, W), 0 to 1, to outputs (B, A) or (B,).
    """

    head = None
    channels = 3

    def __init__(self, module: nn.Module):
        super().__init__()
        self.encoder = module
        self.images_seen = ImagesSeen()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """What the module makes of images; ValueError if that is not one tensor (B, A) or (B,)."""
        outputs = self.encoder(images)
        if not torch.is_tensor(outputs) or outputs.ndim not in (1, 2):
            told = tuple(outputs.shape) if torch.is_tensor(outputs) else type(outputs).__name__
            raise UserError(
                f"{type(self.encoder).__name__} gives {told} for {len(images)} images, not one "
                "tensor (galaxies, columns): wrap it in a module that returns one"
            )
        return outputs

    def predictions(self, outputs: torch.Tensor) -> torch.Tensor:
        """Outputs are predicted as they are."""
        return outputs

    def prediction_columns(self) -> None:
        """Not known."""

    def describe_predictions(self) -> dict:
        """Nothing is known of them."""
        return dict.fromkeys(("label_col", "class_names", "schema")) | {"task": "custom"}


def as_predictor(model: nn.Module) -> nn.Module:
    """The model, unwrapped, if it is a ``Predictor``, else in ``AnyModule``."""
    model = unwrapped(model)
    return model if isinstance(model, Predictor) else AnyModule(model)


def name_of(model: nn.Module) -> str:
    """The class of a model, or of the module that is in ``AnyModule``, to tell users of it."""
    return type(model.encoder if isinstance(model, AnyModule) else model).__name__


def load_predictor(path: str | Path, representations: bool = False, channels: int = 3) -> nn.Module:
    """The model of a checkpoint, of whichever class it is.

    Args:
        path: a ``.safetensors`` or ``.ckpt``, Zoobot 2.x's too, or what else
            ``models.hub.model_file`` takes; for ``representations`` also the name of a pretrained
            encoder.
        channels: that an encoder of this name is to take.

    Raises:
        ValueError: for a file that holds none of this package's models.
    """
    if representations:
        return ZoobotEncoder.load_from_name(str(path), channels)
    path = model_file(path)
    _, saved = checkpoint.load_model(path)
    name = saved.get("class") or _class_of_lightning(saved.get("arguments", {}))
    if name not in MODELS:
        raise UserError(
            f"{path} holds a {name or 'model of unknown class'}, not one of {', '.join(MODELS)}: "
            "load it in Python and give it to zoobot.predictions.predict.predict_to_file"
        )
    return MODELS[name].load_from_checkpoint(path)


def _class_of_lightning(arguments: dict) -> str | None:
    """Lightning's checkpoints don't name their class; its arguments tell."""
    if "num_classes" in arguments:
        return "FinetuneableZoobotClassifier"
    if "unit_interval" in arguments:
        return "FinetuneableZoobotRegressor"
    if "question_answer_pairs" in arguments:
        finetuned = "training_mode" in arguments
        return "FinetuneableZoobotTree" if finetuned else "ZoobotTree"
    return None


@torch.inference_mode()
def predict_samples(model: nn.Module, images: torch.Tensor, num_samples: int = 1) -> torch.Tensor:
    """What a model predicts of images (B, C, H, W) in so many forward passes: (B, A, S) float32.

    One pass is made as the model is, without dropout in evaluation; more are made with the head's
    dropout on (Gal & Ghahramani 2016), over features that the encoder makes once.

    Args:
        model: a ``Predictor`` in evaluation mode; for more than one pass it has a head.
    """
    if num_samples == 1:
        outputs = model(images)
    else:
        features = pooled(model.encoder, images)
        with _dropout_on(model.head):
            outputs = model.head(features.repeat(num_samples, 1))
    predicted = model.predictions(outputs.float())
    return predicted.float().reshape(num_samples, len(images), -1).permute(1, 2, 0)


@contextlib.contextmanager
def _dropout_on(head: nn.Module) -> Iterator[None]:
    off = [m for m in head.modules() if isinstance(m, nn.Dropout) and not m.training]
    for module in off:
        module.train()
    try:
        yield
    finally:
        for module in off:
            module.eval()


def view_of(model: nn.Module, image_size: int | None = None) -> Callable:
    """The view with which a model was validated; of one that doesn't tell, the minimal view.

    Raises:
        ValueError: it was validated with a transform that is not ours, and no size is given.
    """
    seen = as_predictor(model).images_seen
    if seen.transform is not None and image_size is None:
        raise UserError(
            f"the model was validated with a transform of its own, {seen.transform:.80}: "
            "give it as inference_transform, or --image-size for the minimal view"
        )
    config = dict(minimal_view_config().changes() if seen.view is None else seen.view)
    if image_size or seen.image_size:
        config["output_size"] = image_size or seen.image_size
    return get_galaxy_transform(config)


def column_names(model: nn.Module, label_cols: Sequence[str] | None) -> list[str]:
    """The predicted columns' names: those given, if they fit, else the model's.

    Raises:
        ValueError: too few or too many, not the tree's own, or names that a file can't have.
    """
    if isinstance(label_cols, str):
        raise UserError(f"label_cols is a list of columns: use [{label_cols!r}]")
    predictor = as_predictor(model)
    own, schema = predictor.prediction_columns(), predictor.describe_predictions()["schema"]
    if schema is not None and label_cols is not None:
        Schema.from_dict(schema).check_label_cols(label_cols)
    if label_cols is None and own is None:
        raise UserError(f"{name_of(model)} does not name its columns: give label_cols")
    if label_cols is not None and own is not None and len(label_cols) != len(own):
        raise UserError(f"{len(label_cols)} label_cols, but the model predicts {len(own)} columns")
    names = list(own if label_cols is None else label_cols)
    bad = [name for name in names if name in ("id_str", "error") or names.count(name) > 1]
    if bad:
        raise UserError(f"a predicted column can't be called {bad[0]!r}: give other label_cols")
    return names


def hash_weights(model: nn.Module) -> str:
    """A hash of all parameters and buffers."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(unwrapped(model).state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
