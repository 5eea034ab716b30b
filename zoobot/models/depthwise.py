"""Train depthwise convolutions in bfloat16 on a CPU, without those gradients that are slow there.

oneDNN has no fast kernel in bfloat16 for two gradients of a depthwise convolution: of its input if
the stride is more than 1, and of its weights if the kernel is larger than 3 x 3. EfficientNets and
MobileNets consist of such layers, and trained slower in bfloat16 than in float32
(``benchmarks/bench_precision.py``). Here these two are computed in float32, all else in bfloat16.
"""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

SLOW_FROM_STRIDE, SLOW_FROM_KERNEL = 2, 4
Pair = int | tuple[int, ...] | list[int]


class FastDepthwise(TorchFunctionMode):
    """A ``with`` block in which depthwise convolutions of any model compute gradients so.

    For a forward pass under autocast to bfloat16 on a CPU; the backward pass may follow outside.
    Other operations, and convolutions that need no gradient, are as they were.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is torch.conv2d and torch.is_grad_enabled():
            return _conv2d(*args, **kwargs or {})
        return func(*args, **kwargs or {})


def _conv2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Pair = 1,
    padding: str | Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> torch.Tensor:
    """As ``torch.conv2d``, whose names these are."""
    strides, is_depthwise = _pair(stride), groups == len(weight) > 1 == weight.shape[1]
    is_batch = input.ndim == 4
    if not (is_batch and is_depthwise and any(_slow(strides, weight))) or isinstance(padding, str):
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    parts = (None if part is None else part.bfloat16() for part in (input, weight, bias))
    return _Depthwise.apply(*parts, strides, _pair(padding), _pair(dilation))


def _pair(value: Pair) -> list[int]:
    """A value for rows and one for columns."""
    values = [value] if isinstance(value, int) else [*value]
    return values * 2 if len(values) == 1 else values


def _slow(stride: list[int], weight: torch.Tensor) -> tuple[bool, bool]:
    """Whether the gradients of the input and of the weights are slow in bfloat16."""
    return max(stride) >= SLOW_FROM_STRIDE, max(weight.shape[2:]) >= SLOW_FROM_KERNEL


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution of bfloat16, with the slow gradients in float32."""

    @staticmethod
    def forward(ctx, input, weight, bias, stride, padding, dilation):
        ctx.save_for_backward(input, weight)
        ctx.layout = (stride, padding, dilation)
        with torch.autocast("cpu", enabled=False):
            return torch.conv2d(input, weight, bias, stride, padding, dilation, len(weight))

    @staticmethod
    def backward(ctx, gradient):
        input, weight = ctx.saved_tensors
        stride, padding, dilation = ctx.layout
        found = [None] * 3
        for i, is_slow in enumerate(_slow(stride, weight)):
            if ctx.needs_input_grad[i]:
                parts = (gradient, input, weight)
                found[i] = torch.ops.aten.convolution_backward(
                    *(part.float() if is_slow else part for part in parts),
                    *(None, stride, padding, dilation, False, [0, 0], len(weight)),
                    [i == 0, i == 1, False],
                )[i].bfloat16()
        if ctx.needs_input_grad[2]:
            found[2] = gradient.float().sum((0, 2, 3)).bfloat16()
        return *found, None, None, None
