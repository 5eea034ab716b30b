"""The Dirichlet-Multinomial loss and its gradient on a GPU, in one kernel written in Triton.

A thread works on one question of one galaxy: it adds up concentrations, votes and F over the
answers, evaluates the total, and then goes over the answers again for their gradients. The
arithmetic is that of ``zoobot.losses_torch`` in float32, which takes some seventy kernels. An
answer for which no thread of a program (32 questions) has votes costs no arithmetic.

The kernel is tried once on each GPU, against ``zoobot.losses_torch``. If it cannot be compiled
there (no C compiler, a card that Triton does not know) or is not right, that module is used
instead, and a warning says so.
"""

import warnings
from functools import lru_cache

import torch
import triton
import triton.language as tl

from zoobot import losses_torch

QUESTIONS_AT_A_TIME = 32  # of a program: as many as a warp has threads
T1, T2 = tl.constexpr(losses_torch.T1), tl.constexpr(losses_torch.T2)
D1, D2 = tl.constexpr(losses_torch.D1), tl.constexpr(losses_torch.D2)
C0 = tl.constexpr(losses_torch.C0)


def evaluate(
    x: torch.Tensor, counts: torch.Tensor, sizes: tuple[int, ...], need_grad: bool
) -> tuple[torch.Tensor, ...]:
    """As ``losses_torch.evaluate``, for float32 concentrations on a GPU."""
    loss, gradient = evaluate_op(x, counts, list(sizes), need_grad)
    if not need_grad:
        return (loss,)
    return loss, gradient, losses_torch.question_tensors(sizes, x)[1]


@torch.library.custom_op("zoobot::dirichlet_multinomial", mutates_args=())
def evaluate_op(
    x: torch.Tensor, counts: torch.Tensor, sizes: list[int], need_grad: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss (B, Q) and its gradient (B, A), which is empty if not needed.

    An operation of torch, so that it can be traced without a GPU.
    """
    sizes = tuple(sizes)
    if _is_right(x.device):
        return launch(x, counts, sizes, need_grad)
    loss, *gradient = losses_torch.evaluate(x, counts, sizes, need_grad)
    return loss, gradient[0] if need_grad else x.new_empty(0)


@evaluate_op.register_fake
def _(
    x: torch.Tensor, counts: torch.Tensor, sizes: list[int], need_grad: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    return x.new_empty(len(x), len(sizes)), x.new_empty(x.shape if need_grad else 0)


@lru_cache
def _is_right(device: torch.device) -> bool:
    """Try the kernel on the device; warn if it fails or is wrong."""
    sizes = (3, 2, 5)
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(False), torch.no_grad():
        x = (1 + 100 * torch.rand(8, 10, generator=generator)).to(device)
        counts = torch.randint(0, 20, (8, 10), generator=generator).to(device)
        wanted = losses_torch.evaluate(x, counts, sizes, True)[:2]
        try:
            found = launch(x, counts, sizes, True)
        except Exception as error:  # of Triton, its compilers or the driver: whatever it is
            reason = str(error).strip().split("\n")[0] or type(error).__name__
        else:
            pairs = list(zip(found, wanted, strict=True))
            if all(torch.allclose(a, b, rtol=1e-5, atol=1e-4) for a, b in pairs):
                return True
            reason = f"it is off by up to {max((a - b).abs().max().item() for a, b in pairs):.2g}"
    warnings.warn(
        f"the kernel of the vote loss does not work on {device} ({reason}): slower operations of "
        "torch are used instead, with the same results",
        stacklevel=2,
    )
    return False


def launch(
    x: torch.Tensor, counts: torch.Tensor, sizes: tuple[int, ...], need_grad: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The kernel, once: the loss (B, Q) and its gradient (B, A), which is empty if not needed."""
    loss = x.new_empty(len(x), len(sizes))
    gradient = x.new_empty(x.shape if need_grad else 0)
    if loss.numel():
        _kernel[(triton.cdiv(loss.numel(), QUESTIONS_AT_A_TIME),)](
            x.contiguous(),
            counts.contiguous(),
            losses_torch.question_tensors(sizes, x)[0],
            loss,
            gradient,
            *(loss.numel(), x.shape[1], len(sizes), max(sizes)),
            *(QUESTIONS_AT_A_TIME, need_grad),
            num_warps=1,
        )
    return loss, gradient


@triton.jit
def _kernel(
    x_start,
    counts_start,
    places_start,
    loss_start,
    gradient_start,
    num_slots,
    num_answers,
    num_questions,
    largest_question: tl.constexpr,
    block_size: tl.constexpr,
    need_grad: tl.constexpr,
):
    slot = tl.program_id(0).to(tl.int64) * block_size + tl.arange(0, block_size)
    inside = slot < num_slots
    galaxy, question = slot // num_questions, slot % num_questions
    place = places_start + question * largest_question
    x_total = tl.zeros((block_size,), tl.float32)
    n_total = tl.zeros((block_size,), tl.float32)
    f_answers = tl.zeros((block_size,), tl.float32)
    for k in range(largest_question):
        answer = tl.load(place + k, mask=inside, other=num_answers)
        there = answer < num_answers
        cell = galaxy * num_answers + answer
        x = tl.load(x_start + cell, mask=there, other=0.0)
        n = tl.load(counts_start + cell, mask=there, other=0).to(tl.float32)
        x_total += x
        n_total += n
        if tl.max((n != 0).to(tl.int32), 0) > 0:
            f_answers += _f(x, n)
    tl.store(loss_start + slot, _f(x_total, n_total) - f_answers, mask=inside)
    if need_grad:
        g_total = _g(x_total, n_total)
        for k in range(largest_question):
            answer = tl.load(place + k, mask=inside, other=num_answers)
            there = answer < num_answers
            cell = galaxy * num_answers + answer
            g = g_total
            n = tl.load(counts_start + cell, mask=there, other=0).to(tl.float32)
            if tl.max((n != 0).to(tl.int32), 0) > 0:
                g -= _g(tl.load(x_start + cell, mask=there, other=0.0), n)
            tl.store(gradient_start + cell, g, mask=there)


@triton.jit
def _f(x, n):
    """F(x, n) as ``losses_torch._terms32``; exactly 0 for n = 0."""
    y, m, t = x + 3.5, n + 3.5, x + n
    z = y + n
    outer, outer_t = x * (x + 3), t * (t + 3)
    votes_alone = (n + 1) * (n + 2) * (n + 3) / (m * m * m * tl.sqrt(m))
    f = y * _log1p(n / y) + n * _log1p(x / m)
    f += tl.log(outer / outer_t * votes_alone) + tl.log((outer + 2) / (outer_t + 2))
    f += C0 + T1 * (y / (y * y + T2) - z / (z * z + T2) + m / (m * m + T2))
    return tl.where(n != 0, f, 0.0)


@triton.jit
def _g(x, n):
    """G(x, n) as ``losses_torch._terms32``; exactly 0 for n = 0."""
    y, t = x + 3.5, x + n
    z = y + n
    outer, outer_t = x * (x + 3), t * (t + 3)
    middle = (x + 1.5) * (t + 1.5)
    steps = (middle + 2.25) / (outer * outer_t) + (middle + 0.25) / ((outer + 2) * (outer_t + 2))
    g = _log1p(n / y) + 2 * n * steps + (D1 / (z * z + D2) - D1 / (y * y + D2))
    return tl.where(n != 0, g, 0.0)


@triton.jit
def _log1p(r):
    """log(1 + r) for r >= 0. Dividing by u - 1, what was in fact added, keeps the digits of r."""
    u = 1 + r
    return tl.where(u == 1, r, tl.log(u) * (r / (u - 1)))
