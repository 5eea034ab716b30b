"""What predicts: the models of checkpoints, encoders, and what their predictions are called."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from zoobot.data.views.cpu import get_galaxy_transform, minimal_view_config
from zoobot.models import encoders
from zoobot.models.finetune import (
    FinetuneableZoobotClassifier,
    FinetuneableZoobotRegressor,
    FinetuneableZoobotTree,
)
from zoobot.models.tree import ZoobotTree
from zoobot.runs import checkpoint
from zoobot.system.errors import UserError

MODELS = {
    model.__name__: model
    for model in (
        ZoobotTree,
        FinetuneableZoobotClassifier,
        FinetuneableZoobotRegressor,
        FinetuneableZoobotTree,
    )
}


class ZoobotEncoder(nn.Module):
    """An encoder, to predict representations: the features ``feat_0``, ``feat_1``, ...

    Args:
        encoder: images (B, C, H, W) to features (B, D).
    """

    task = "representations"

    def __init__(self, encoder: nn.Module, channels: int = 3):
        super().__init__()
        self.encoder = encoder
        self.channels = channels
        self.encoder_dim = encoders.get_encoder_dim(encoder, channels)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W), 0 to 1, to features (B, D)."""
        return self.encoder(images)

    @classmethod
    def load_from_name(cls, name: str, channels: int = 3) -> "ZoobotEncoder":
        """A pretrained encoder: ``hf_hub:OWNER/NAME``, ``local-dir:FOLDER`` or a timm name."""
        return cls(encoders.load_encoder(name, channels)[0], channels).eval()

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path) -> "ZoobotEncoder":
        """The encoder of a checkpoint of ours or of Zoobot 2.x."""
        encoder, description = encoders.encoder_from_checkpoint(checkpoint_path)
        model = cls(encoder, description["channels"])
        model.images_seen = checkpoint.images_seen(checkpoint.load_model(checkpoint_path)[1])
        return model.eval()


def load_predictor(path: str, representations: bool = False) -> nn.Module:
    """The model of a checkpoint, of whichever class it is.

    Args:
        path: a ``.safetensors`` or ``.ckpt``, Zoobot 2.x's too; for ``representations`` also the
            name of a pretrained encoder.

    Raises:
        ValueError: for a file that holds none of this package's models.
    """
    if representations:
        if encoders.is_file(path):
            return ZoobotEncoder.load_from_checkpoint(path)
        return ZoobotEncoder.load_from_name(path)
    _, saved = checkpoint.load_model(path)
    name = saved.get("class") or _class_of_lightning(saved.get("arguments", {}))
    if name not in MODELS:
        raise UserError(
            f"{path} holds a {name or 'model of unknown class'}, not one of {', '.join(MODELS)}: "
            "load it in Python and give it to zoobot.predictions.predict"
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


def view_of(model: nn.Module, image_size: int | None = None):
    """The view with which a model was validated; of one that doesn't tell, the minimal view.

    Raises:
        ValueError: it was validated with a transform that is not ours, and no size is given.
    """
    seen = getattr(model, "images_seen", {})
    if "transform" in seen and image_size is None:
        raise UserError(
            f"the model was validated with a transform of its own, {seen['transform']:.80}: "
            "give it as inference_transform, or --image-size for the minimal view"
        )
    config = dict(seen.get("view", minimal_view_config().changes()))
    if image_size or "image_size" in seen:
        config["output_size"] = image_size or seen["image_size"]
    return get_galaxy_transform(config)


def column_names(model: nn.Module, label_cols: Sequence[str] | None) -> list[str]:
    """The predicted columns' names: those given, if they fit, else the model's.

    Raises:
        ValueError: too few or too many, not the tree's own, or names that a file can't have.
    """
    if isinstance(label_cols, str):
        raise UserError(f"label_cols is a list of columns: use [{label_cols!r}]")
    own = None
    if hasattr(model, "schema"):
        own = model.schema.label_cols
        if label_cols is not None:
            model.schema.check_label_cols(label_cols)
    elif getattr(model, "task", None) == "classification":
        names = model.class_names
        numbered = names == [str(i) for i in range(model.num_classes)]
        own = [f"{model.label_col}_{name}" for name in names] if numbered else list(names)
    elif getattr(model, "task", None) == "regression":
        own = [model.label_col]
    elif getattr(model, "task", None) == ZoobotEncoder.task:
        own = [f"feat_{i}" for i in range(model.encoder_dim)]
    if label_cols is None and own is None:
        raise UserError(f"{type(model).__name__} does not name its columns: give label_cols")
    if label_cols is not None and own is not None and len(label_cols) != len(own):
        raise UserError(f"{len(label_cols)} label_cols, but the model predicts {len(own)} columns")
    names = list(label_cols) if label_cols is not None else own
    bad = [name for name in names if name in ("id_str", "error") or names.count(name) > 1]
    if bad:
        raise UserError(f"a predicted column can't be called {bad[0]!r}: give other label_cols")
    return names


def describe_predictions(model: nn.Module) -> dict:
    """What an evaluation must know of the predictions besides their columns, as plain types."""
    task = "tree" if hasattr(model, "schema") else getattr(model, "task", "custom")
    return {
        "task": task,
        "label_col": getattr(model, "label_col", None),
        "class_names": getattr(model, "class_names", None),
        "schema": model.schema.to_dict() if task == "tree" else None,
    }


def hash_weights(model: nn.Module) -> str:
    """A hash of all parameters and buffers."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
