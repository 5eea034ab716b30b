"""AdamW with parameter groups and layer decay, and timm's learning rate schedules for it."""

import inspect
from collections.abc import Mapping
from numbers import Real
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from zoobot.system.errors import UserError, did_you_mean


class Scheduler(Protocol):
    """What the loop asks of a learning rate schedule. timm's schedules have it."""

    def step_update(self, num_updates: int) -> None:
        """Set the rates of this step."""

    def step(self, epoch: int, metric: float | None = None) -> None:
        """Set the rates after so many epochs, the last of which had this validation loss."""


CAN_FUSE = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
TOLD_HOW = ("foreach", "capturable", "differentiable", "dampening")  # fused steps can't have these


@runtime_checkable
class HasGroups(Protocol):
    """An encoder that groups its parameters by layer. timm's encoders do."""

    def group_matcher(self, coarse: bool = False) -> dict:
        """The groups, as ``timm.models.group_parameters`` takes them."""


@runtime_checkable
class HasUndecayed(Protocol):
    """An encoder that names parameters without weight decay. Many of timm's encoders do."""

    def no_weight_decay(self) -> set[str]:
        """The names of these parameters."""


LAYER_GROUPS = ("blocks", "fine")


def layer_of_parameters(encoder: nn.Module, layer_groups: str = "blocks") -> dict[str, int]:
    """Number the blocks of the encoder: 0 is the stem, the highest number is the top block.

    Blocks are timm's coarse groups of layers (ConvNeXt: stem + 4 stages; ViT: patch embedding +
    each block), or its fine ones where it has no coarse ones. A group with only norms and biases,
    such as a final norm, belongs to the block below it. An encoder that does not group its
    parameters is one block.

    With ``layer_groups="fine"`` they are timm's fine groups as they are (ConvNeXt: the stem, each
    block, the final norm), those of ``timm.optim.param_groups_layer_decay``.

    Returns:
        Parameter name -> number of its block.

    Raises:
        ValueError: for other ``layer_groups``.
    """
    if layer_groups not in LAYER_GROUPS:
        raise UserError(f"layer_groups={layer_groups!r}: use one of {', '.join(LAYER_GROUPS)}")
    from timm.models import group_parameters  # here: it takes two seconds

    names = [name for name, _ in encoder.named_parameters()]
    if not isinstance(encoder, HasGroups):
        return dict.fromkeys(names, 0)
    if layer_groups == "fine":
        return group_parameters(encoder, encoder.group_matcher(coarse=False), reverse=True)
    try:
        groups = encoder.group_matcher(coarse=True)
    except (AssertionError, NotImplementedError):  # RDNet has fine groups only
        groups = encoder.group_matcher(coarse=False)
    group_of = group_parameters(encoder, groups, reverse=True)
    weights = dict(encoder.named_parameters())
    matrix_groups = sorted({group_of[name] for name in names if weights[name].ndim > 1})
    if not matrix_groups:
        return dict.fromkeys(names, 0)
    return {
        name: max(sum(group <= group_of[name] for group in matrix_groups) - 1, 0) for name in names
    }


def check_layer_decay(layer_decay: float) -> None:
    """ValueError unless it is a number from 0 to 1."""
    if not isinstance(layer_decay, Real) or not 0 <= layer_decay <= 1:
        raise UserError(
            f"layer_decay is {layer_decay!r}: give 0 (only head and top block train) to 1 (all "
            "blocks train at the same rate)"
        )


def parameter_groups(
    encoder: nn.Module,
    head: nn.Module,
    learning_rate: float,
    weight_decay: float,
    layer_decay: float = 1.0,
    stem: Mapping[str, float] | None = None,
    layer_groups: str = "blocks",
) -> list[dict]:
    """Make the parameter groups of AdamW.

    The learning rate of the head is ``learning_rate``. That of the encoder's blocks, from the top,
    is ``learning_rate`` times ``layer_decay**0``, ``layer_decay**1``, ``layer_decay**2`` and so on.
    Parameters whose rate would be 0 are left out: with ``layer_decay=0``, only the head and the top
    block train (0**0 = 1).

    Weight decay is for the encoder only, but not for its norms, biases and the parameters that
    timm's ``no_weight_decay`` names.

    Args:
        stem: learning rates of parameters of the encoder's first layer, by name, which have groups
            of their own; by default it is in the encoder's lowest block.
        layer_groups: see ``layer_of_parameters``.

    Returns:
        A dict for each group, the head first, then the encoder from the top. Each has ``params``,
        ``name``, ``lr`` and ``weight_decay``. For timm's schedules it also has ``initial_lr``, the
        rate of the head, and ``lr_scale``, the group's rate divided by that of the head.

    Raises:
        ValueError: for a ``layer_decay`` that is not from 0 to 1, or a rate of the stem where the
            head's is 0.
    """
    check_layer_decay(layer_decay)
    stem = stem or {}
    if stem and learning_rate == 0:
        raise UserError("a learning rate of the stem needs a learning rate above 0 of the head")
    layer_of = layer_of_parameters(encoder, layer_groups)
    top = max(layer_of.values(), default=0)
    undecayed = encoder.no_weight_decay() if isinstance(encoder, HasUndecayed) else set()
    groups = {"head": _group("head", learning_rate, 1.0, 0.0)}
    groups["head"]["params"] = [p for p in head.parameters() if p.requires_grad]
    for name, parameter in reversed(list(encoder.named_parameters())):
        is_stem = name in stem
        scale = layer_decay ** (top - layer_of[name])
        scale = stem[name] / learning_rate if is_stem else scale
        if not parameter.requires_grad or scale == 0:
            continue
        decayed = parameter.ndim > 1 and name not in undecayed
        block = f"block {layer_of[name]}" if layer_decay != 1 else "encoder"
        block = "stem" if is_stem else block
        key = block if decayed else f"{block}, norms and biases"
        decay = weight_decay if decayed else 0.0
        group = groups.setdefault(key, _group(key, learning_rate, scale, decay))
        group["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]


def _group(name: str, learning_rate: float, scale: float, weight_decay: float) -> dict:
    """A parameter group without parameters."""
    return {
        "name": name,
        "params": [],
        "lr": learning_rate * scale,
        "initial_lr": learning_rate,
        "lr_scale": scale,
        "weight_decay": weight_decay,
    }


def group_table(groups: list[dict]) -> str:
    """A table (as text) of the groups: name, number of parameters, learning rate, weight decay."""
    width = max(len(group["name"]) for group in groups)
    lines = [f"{'group':{width}}  parameters  learning rate  weight decay"]
    for group in groups:
        number = sum(parameter.numel() for parameter in group["params"])
        lines.append(
            f"{group['name']:{width}}  {number:10,d}  {group['lr']:13.3g}"
            f"  {group['weight_decay']:12.3g}"
        )
    return "\n".join(lines)


def adamw(groups: list[dict], betas: tuple[float, float] = (0.9, 0.999)) -> torch.optim.AdamW:
    """AdamW for these groups, with torch's fused step, which can be called off on the device.

    On ``mps`` it can't (torch's kernel has no ``found_inf``): there the step is not fused.
    """
    fused = all(p.device.type != "mps" for group in groups for p in group["params"])
    try:
        return torch.optim.AdamW(groups, betas=betas, fused=fused)
    except ValueError as error:
        raise UserError(f"AdamW: {error}") from error


def fuse(optimizer: torch.optim.Optimizer) -> None:
    """Have an optimiser take fused steps, which decide on the device whether they are taken.

    Torch's SGD, Adam and AdamW can, before their first step. Others are left as they are, and so is
    one that was told how to step (``foreach`` and the like).
    """
    if type(optimizer) not in CAN_FUSE or optimizer.state or is_fused(optimizer):
        return
    if any(group.get(key) for group in optimizer.param_groups for key in TOLD_HOW):
        return
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        group["fused"] = True
    optimizer.load_state_dict(state)
    for group in optimizer.param_groups:
        if group.get("momentum"):  # else a first step that is not taken leaves it unset
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    optimizer._step_supports_amp_scaling = True  # so GradScaler knows that it need not wait


def is_fused(optimizer: torch.optim.Optimizer) -> bool:
    """Whether every group of parameters takes fused steps."""
    return all(group.get("fused") for group in optimizer.param_groups)


def load_state(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Load the moments and learning rates of a saved optimiser. Other settings stay as they are.

    Raises:
        ValueError: if the saved optimiser had other parameter groups.
    """
    now = optimizer.state_dict()["param_groups"]
    if [group["params"] for group in now] != [group["params"] for group in state["param_groups"]]:
        raise UserError("the saved state's optimizer has other parameter groups")
    groups = [{**new, "lr": old["lr"]} for new, old in zip(now, state["param_groups"], strict=True)]
    optimizer.load_state_dict({**state, "param_groups": groups})


CONSTANT = {"sched": "step", "decay_rate": 1.0}
SCHEDULES = ("cosine", "constant")


def warm_then(schedule: str, epochs: int, warmup_epochs: float, learning_rate: float) -> dict:
    """timm's settings for a linear warm-up, followed by a constant rate or half a cosine to 0.

    The cosine is that of Loshchilov & Hutter (2017), without restarts.

    Args:
        schedule: one of ``SCHEDULES``.
        epochs: of the whole training, including the warm-up.
    """
    warmup_epochs = min(warmup_epochs, epochs)
    warmup = {"warmup_epochs": warmup_epochs, "warmup_prefix": True}
    if warmup_epochs:
        warmup["warmup_lr"] = 0.01 * learning_rate
    if schedule == "constant":
        return {**CONSTANT, **warmup}
    return {"sched": "cosine", "num_epochs": max(epochs - warmup_epochs, 1e-9), **warmup}


def check_schedule(
    kwargs: dict | None, epochs: int | None = None, steps_per_epoch: int = 100
) -> None:
    """ValueError if timm refuses these settings, or can't compute the rate of one of the epochs."""
    if not isinstance(kwargs, dict | None):
        raise UserError(f"scheduler_kwargs must be a dict, not {kwargs!r}")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = make_scheduler(optimizer, kwargs, epochs or 100, steps_per_epoch)
    try:
        for epoch in range(epochs or 0):
            scheduler.step_update(epoch * steps_per_epoch)
            scheduler.step(epoch + 1, 1.0)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise UserError(f"scheduler_kwargs {kwargs}: no rate in epoch {epoch}: {error}") from error


def make_scheduler(
    optimizer: torch.optim.Optimizer, kwargs: dict | None, epochs: int, steps_per_epoch: int
) -> Scheduler:
    """Make timm's learning rate schedule.

    The rate changes at every step unless the settings say otherwise. The schedule ``plateau``
    changes it by the validation loss, once per epoch. The rate of each group is that of the
    schedule times the group's ``lr_scale``.

    Args:
        kwargs: arguments of ``timm.scheduler.create_scheduler_v2``: ``sched``, ``warmup_epochs``
            and so on. ``num_epochs`` is ``epochs`` if it is left out. None: a constant rate.

    Raises:
        ValueError: if timm does not know a setting, or refuses it.
    """
    from timm.scheduler import create_scheduler_v2  # here: it takes two seconds

    kwargs = dict(kwargs or CONSTANT)
    known = list(inspect.signature(create_scheduler_v2).parameters)[1:]
    for key in kwargs:
        if key not in known:
            raise UserError(f"scheduler_kwargs: unknown setting {key!r}{did_you_mean(key, known)}")
    kwargs.setdefault("num_epochs", epochs)
    kwargs.setdefault("updates_per_epoch", steps_per_epoch)
    if kwargs.get("sched") == "plateau":
        kwargs = {"plateau_mode": "min", **kwargs}
    else:
        kwargs.setdefault("step_on_epochs", False)
    try:
        scheduler, _ = create_scheduler_v2(optimizer, **kwargs)
    except (AssertionError, TypeError, ValueError) as error:
        raise UserError(f"scheduler_kwargs {kwargs}: {error}") from error
    if scheduler is None:
        raise UserError(f"scheduler_kwargs: timm has no schedule {kwargs['sched']!r}")
    return scheduler
