"""Arguments of models in earlier Zoobots: translated, or refused with what to write instead."""

import functools
import warnings
from collections.abc import Collection

from zoobot.system.errors import UserError

COSINE = "scheduler_kwargs={'sched': 'cosine', 'num_epochs': ..., 'warmup_epochs': ...}"
BLOCKS = "training_mode='head_only' for none, else training_mode='full' with layer_decay="
# Arguments that went, and what to write instead.
REPLACED = {
    "always_train_batchnorm": "nothing: a trained encoder's BatchNorm is trained",
    "cosine_schedule": COSINE,
    "lr_decay": "layer_decay=, by which the rate falls from block to block",
    "max_cosine_epochs": COSINE,
    "max_learning_rate_reduction_factor": f"{COSINE}, with 'min_lr'",
    "n_blocks": BLOCKS,
    "n_layers": BLOCKS,
    "scheduler_params": "scheduler_kwargs={'sched': ..., ...}, of timm's create_scheduler_v2",
    "use_imagenet_weights": "a model to finetune, with name='convnext_nano'",
    "warmup_epochs": COSINE,
}
RENAMED = {"checkpoint_loc": "zoobot_checkpoint_loc", "dropout_prob": "head_dropout_prob"}
NOT_NEEDED = ("pyramid", "question_index_groups")  # what they say is known otherwise
NOT_TO_LOAD = (*NOT_NEEDED, "checkpoint_loc")  # a model's checkpoint has its encoder


def takes_old_arguments(cls: type) -> type:
    """A decorator of a model class: it takes the arguments of earlier Zoobots.

    Raises:
        ValueError: from the class, for an argument that would mean something else now.
    """
    new, init, load = cls.__new__, cls.__init__, cls.load_from_checkpoint.__func__

    def __new__(kind, *args, **kwargs):  # it notes the arguments, for checkpoints
        return new(kind, *args, **translated(kwargs))

    @functools.wraps(init)
    def __init__(self, *args, **kwargs):
        init(self, *args, **translated(kwargs, warn=True))

    @functools.wraps(load)
    def load_from_checkpoint(kind, *args, **kwargs):
        return load(kind, *args, **translated(kwargs, NOT_TO_LOAD, warn=True))

    cls.__new__, cls.__init__ = __new__, __init__
    cls.load_from_checkpoint = classmethod(load_from_checkpoint)
    return cls


def translated(
    arguments: dict, not_needed: Collection[str] = NOT_NEEDED, warn: bool = False
) -> dict:
    """A model's arguments as they are written now.

    Args:
        not_needed: names of those that are left out.
        warn: of these.

    Raises:
        ValueError: for one that must be written otherwise.
    """
    kept = {}
    for name, value in arguments.items():
        if name in not_needed:
            if warn:
                warnings.warn(f"{name}= is not needed, and has no effect", stacklevel=3)
        elif name not in REPLACED:
            kept[RENAMED.get(name, name)] = value
        elif not (value is None or value is False or value == {}):
            raise UserError(f"{name}={value!r:.60} is of an earlier Zoobot: write {REPLACED[name]}")
    return kept | ({"name": hub_name(kept["name"])} if "name" in kept else {})


def hub_name(name: object) -> object:
    """``OWNER/NAME`` as ``hf_hub:OWNER/NAME``, any other name as it is."""
    is_plain = isinstance(name, str) and ":" not in name and name.count("/") == 1
    return f"hf_hub:{name}" if is_plain else name
