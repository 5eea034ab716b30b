"""AdamW parameter groups with layer decay, and learning rates as pure functions of the step."""

import math

import torch
from timm.models import group_parameters
from torch import nn


def layer_of_parameters(encoder: nn.Module) -> dict[str, int]:
    """Number the encoder's parameters by block: 0 is the stem, the highest is the top block.

    A block is a unit of the architecture as timm groups it coarsely (ConvNeXt: stem + 4 stages,
    ViT: patch embedding + each block). A group that holds nothing but norms and biases, such as a
    final norm, counts with the block below it. An encoder without group information is one block.

    Returns:
        parameter name -> block number.
    """
    names = [name for name, _ in encoder.named_parameters()]
    if not hasattr(encoder, "group_matcher"):
        return dict.fromkeys(names, 0)
    group_of = group_parameters(encoder, encoder.group_matcher(coarse=True), reverse=True)
    weights = dict(encoder.named_parameters())
    matrix_groups = sorted({group_of[name] for name in names if weights[name].ndim > 1})
    if not matrix_groups:
        return dict.fromkeys(names, 0)
    return {
        name: max(sum(group <= group_of[name] for group in matrix_groups) - 1, 0) for name in names
    }


def parameter_groups(
    encoder: nn.Module,
    head: nn.Module,
    learning_rate: float,
    weight_decay: float,
    layer_decay: float = 1.0,
) -> list[dict]:
    """Parameter groups for AdamW.

    The head trains at ``learning_rate``; encoder blocks from the top at ``learning_rate *
    layer_decay**0``, ``**1``, ``**2`` ... With ``layer_decay=0`` only the head and the top block
    train (0**0 = 1); parameters whose rate would be 0 are left out. Weight decay is for the encoder
    only, and never for norms, biases and what timm's ``no_weight_decay`` names.

    Returns:
        One dict a group with ``params``, ``lr``, ``weight_decay``, ``name``.
    """
    layer_of = layer_of_parameters(encoder)
    top = max(layer_of.values(), default=0)
    undecayed = encoder.no_weight_decay() if hasattr(encoder, "no_weight_decay") else set()
    groups = {"head": _group("head", learning_rate, 0.0)}
    groups["head"]["params"] = [p for p in head.parameters() if p.requires_grad]
    for name, parameter in encoder.named_parameters():
        scale = layer_decay ** (top - layer_of[name])
        if not parameter.requires_grad or scale == 0:
            continue
        decayed = parameter.ndim > 1 and name not in undecayed
        block = f"block {layer_of[name]}" if layer_decay != 1 else "encoder"
        key = block if decayed else f"{block}, norms and biases"
        decay = weight_decay if decayed else 0.0
        group = groups.setdefault(key, _group(key, learning_rate * scale, decay))
        group["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]


def _group(name: str, learning_rate: float, weight_decay: float) -> dict:
    return {"name": name, "params": [], "lr": learning_rate, "weight_decay": weight_decay}


def adamw(groups: list[dict], betas: tuple[float, float] = (0.9, 0.999)) -> torch.optim.AdamW:
    """AdamW over these groups, with the fused step. ``initial_lr`` keeps each group's own rate."""
    groups = [{**group, "initial_lr": group["lr"]} for group in groups]
    return torch.optim.AdamW(groups, betas=betas, fused=True)


SCHEDULES = ("cosine", "constant")


def lr_scale(step: int, total_steps: int, warmup_steps: int = 0, schedule: str = "cosine") -> float:
    """The factor on every group's own learning rate at this optimiser step (the first is 0).

    Linear warm-up from 1/warmup_steps to 1, then constant, or half a cosine (Loshchilov & Hutter
    2017, without restarts) that reaches 0 at ``total_steps``.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return 0.5 * (1 + math.cos(math.pi * progress))


def set_lr(optimizer: torch.optim.Optimizer, scale: float) -> None:
    """Set every group's rate to its own initial rate times ``scale``."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * scale
