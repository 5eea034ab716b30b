"""The Dirichlet-Multinomial loss with torch, for all answers of a batch: few, large operations.

It serves float64 and ``torch.compile`` on any device, and float32 on devices without a kernel of
their own (``zoobot.losses_triton``). The formula, with F and G, is in ``zoobot.losses``.

**float32.** log Gamma(600) is 3,235, where neighbouring float32 numbers differ by 2.4e-4:
differences of log Gamma would lose what matters. So no log Gamma is computed. Each is replaced by
Stirling's series about the middle of a step,

    log Gamma(y + 1/2) = y log y - y + log(2 pi) / 2 - T(y)
    digamma(y + 1/2) = log y + D(y)

which is exact enough from y = 3.5 on, after four steps up, Gamma(x) = Gamma(x + 4) / P(x) with
P(x) = x (x+1) (x+2) (x+3). Then large terms that cancel are joined. With y = x + 3.5,
m = n + 3.5 and z = y + n = x + m,

    F = y log(1 + n/y) + n log(1 + x/m) + T(y) - T(z) - log(P(x+n) / P(x)) + C(n)
    C = n log m - n - log n! = T(m) + 3.5 - log(2 pi) / 2 + log((n+1) (n+2) (n+3) / m^3.5)
    G = log(1 + n/y) + D(z) - D(y) + sum over i = 0, 1, 2, 3 of n / ((x+i) (x+i+n))

``log1p`` keeps the digits of log(1 + n/y) if votes are few. The sum is Sum 1/(x+i) - Sum 1/(x+i+n)
without its cancellation; its terms 0 and 3, and 1 and 2, are added with pencil and paper. So G is
exact to some 3e-7, for votes from 1 to millions, whole or not. The large terms of F are at most
about F(x, n) themselves; those of log Gamma(x + n) are much larger. T and D are

    T(y) = T1 y / (y^2 + T2)        D(y) = D1 / (y^2 + D2)

fitted for y >= 4.5, with errors of at most 2e-8 and, relative to 1/y, 8e-8.
"""

import math
from functools import lru_cache

import torch
from torch.nn import functional

T1, T2 = 0.04166622, 0.05744214
D1, D2 = 0.04166487, 0.17141318
C0 = 3.5 - math.log(2 * math.pi) / 2


def evaluate(
    x: torch.Tensor, counts: torch.Tensor, sizes: tuple[int, ...], need_grad: bool
) -> tuple[torch.Tensor, ...]:
    """The loss and, with ``need_grad``, its gradient by the concentrations.

    Args:
        x: (B, A) concentrations, float32 or float64.
        counts: (B, A) votes on the same device.
        sizes: number of answers of each question.

    Returns:
        The loss (B, Q); with ``need_grad`` also the gradient (B, A) and the question of each answer
        (A,).
    """
    places, question_of_answer = question_tensors(sizes, x)
    n, num = counts.to(x.dtype), x.numel()
    x_totals, n_totals = _sum_answers(x, places), _sum_answers(n, places)
    x_all = torch.cat((x.reshape(-1), x_totals.view(-1)))  # (B A + B Q,)
    n_all = torch.cat((n.reshape(-1), n_totals.view(-1)))
    terms = _terms64 if x.dtype == torch.float64 else _terms32
    f, g = terms(x_all, n_all, need_grad)
    loss = f[num:].view(x_totals.shape) - _sum_answers(f[:num].view(x.shape), places)
    if g is None:
        return (loss,)
    totals = g[num:].view(x_totals.shape).index_select(1, question_of_answer)
    return loss, totals - g[:num].view(x.shape), question_of_answer


def question_tensors(
    sizes: tuple[int, ...], like: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which answers are a question's, on the device of ``like``.

    Returns:
        The answers of each question (Q, K) int64, where K is the largest number of answers and A
        stands for "none"; and the question of each answer (A,) int64.
    """
    if type(like) is not torch.Tensor:  # a fake one: tensors made for it are of no use to others
        return _question_tensors.__wrapped__(sizes, like.device)
    return _question_tensors(sizes, like.device)


@lru_cache(maxsize=16)
def _question_tensors(
    sizes: tuple[int, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    owner = [question for question, size in enumerate(sizes) for _ in range(size)]
    places, first = [], 0
    for size in sizes:
        places.append([first + k if k < size else len(owner) for k in range(max(sizes))])
        first += size
    with torch.inference_mode(False):  # the stored tensors must also serve for training
        return torch.tensor(places, device=device), torch.tensor(owner, device=device)


def _sum_answers(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(B, A) summed to (B, Q). A matrix product would be rounded: to TF32, or by autocast."""
    padded = functional.pad(values, (0, 1))
    return padded.index_select(1, places.view(-1)).view(len(values), *places.shape).sum(2)


def _terms64(
    x: torch.Tensor, n: torch.Tensor, need_grad: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """F(x, n) and, with ``need_grad``, G(x, n), float64."""
    f = torch.lgamma(x + n) - torch.lgamma(x) - torch.lgamma(n + 1)
    return f, torch.digamma(x + n) - torch.digamma(x) if need_grad else None


def _terms32(
    x: torch.Tensor, n: torch.Tensor, need_grad: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """F(x, n) and, with ``need_grad``, G(x, n), float32; exactly 0 for n = 0."""
    y, m, t = x + 3.5, n + 3.5, x + n
    z = y + n
    yy, zz, voted = y * y, z * z, n != 0
    log_y = torch.log1p(n / y)
    outer, outer_t = x * (x + 3), t * (t + 3)  # P(x) = x (x+3) (x+1) (x+2)
    inner, inner_t = outer + 2, outer_t + 2
    votes_alone = (n + 1) / m * ((n + 2) / m) * ((n + 3) / m) / m.sqrt()
    f = y * log_y + n * torch.log1p(x / m)
    f = f + torch.log(outer / outer_t * votes_alone) + torch.log(inner / inner_t)
    f = f + (C0 + T1 * (y / (yy + T2) - z / (zz + T2) + m / (m * m + T2)))
    f = torch.where(voted, f, 0)
    if not need_grad:
        return f, None
    middle = (x + 1.5) * (t + 1.5)
    steps = (middle + 2.25) / outer / outer_t + (middle + 0.25) / inner / inner_t
    g = log_y + 2 * n * steps + (D1 / (zz + D2) - D1 / (yy + D2))
    return f, torch.where(voted, g, 0)
