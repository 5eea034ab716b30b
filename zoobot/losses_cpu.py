"""The Dirichlet-Multinomial loss on a CPU: by NumPy, and only where there are votes.

See ``zoobot.losses`` for the formula. Most answers of most galaxies have no votes, and F(x, 0) = 0,
so only the others are evaluated. NumPy works on the tensors' own memory: its calls cost less than
torch's on arrays this small, and no thread waits for another one.
"""

from functools import lru_cache

import numpy as np
import torch

MIN_QUESTIONS_OF_UNION = 18  # trees of several campaigns; most of their questions were not asked
GALAXIES_AT_A_TIME = 1024  # so that the arrays stay in the cache
CELLS_AT_A_TIME = 8192


def evaluate(
    concentrations: torch.Tensor, counts: torch.Tensor, sizes: tuple[int, ...], need_grad: bool
) -> list[torch.Tensor]:
    """The loss (B, Q), then, with ``need_grad``, what backward scales.

    Args:
        concentrations: (B, A) float32 on the CPU.
        counts: (B, A) on the CPU.
        sizes: number of answers of each question.

    Returns:
        Loss; gradient (B, A) and question of each answer (A,). Or, for trees of many questions,
        only where there are votes: loss; gradients (V,), and where they stand in the flat (B, Q)
        and in the flat (B, A).
    """
    if counts.dtype == torch.bfloat16:  # unknown to NumPy
        counts = counts.float()
    union = len(sizes) >= MIN_QUESTIONS_OF_UNION
    evaluate_some = _evaluate_asked if union else _evaluate_voted
    x, n = concentrations.contiguous().numpy(), counts.contiguous().numpy()
    starts = range(0, max(len(x), 1), GALAXIES_AT_A_TIME)
    blocks = [slice(i, i + GALAXIES_AT_A_TIME) for i in starts]
    parts = [evaluate_some(x[block], n[block], sizes, need_grad) for block in blocks]
    if len(parts) == 1:
        results = parts[0]
    else:
        if union and need_grad:
            for i, (_, _, slots, cells) in zip(starts, parts, strict=True):
                slots += i * len(sizes)
                cells += i * x.shape[1]
        results = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    results = [torch.from_numpy(array) for array in results]
    if need_grad and not union:
        results.append(question_tensors(sizes, concentrations.device)[1])
    return results


@lru_cache(maxsize=16)
def question_tensors(
    sizes: tuple[int, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """(A, Q) float64 matrix that sums the answers of a question; the question of each answer."""
    owner = [question for question, size in enumerate(sizes) for _ in range(size)]
    with torch.inference_mode(False):  # asked for by an evaluation, they serve training too
        question_of_answer = torch.tensor(owner)
        sum_answers = (question_of_answer[:, None] == torch.arange(len(sizes))).double()
        return sum_answers.to(device), question_of_answer.to(device)


def _evaluate_voted(x, counts, sizes, need_grad):
    """Only answers and totals with votes: in the tree of one campaign, about half of all."""
    sum_answers = question_tensors(sizes, torch.device("cpu"))[0].numpy()
    a, k = x.astype(np.float64), counts.astype(np.float64)
    a_totals, k_totals = a @ sum_answers, k @ sum_answers  # (B, Q)
    voted, asked = np.flatnonzero(k.ravel() != 0), np.flatnonzero(k_totals.ravel() != 0)
    f, g = _terms(
        np.concatenate((a.ravel()[voted], a_totals.ravel()[asked])),
        np.concatenate((k.ravel()[voted], k_totals.ravel()[asked])),
        need_grad,
    )
    answers, totals = np.zeros_like(a), np.zeros_like(a_totals)
    answers.ravel()[voted], totals.ravel()[asked] = f[: len(voted)], f[len(voted) :]
    loss = (totals - answers @ sum_answers).astype(np.float32)
    if not need_grad:
        return (loss,)
    answers.ravel()[voted], totals.ravel()[asked] = g[: len(voted)], g[len(voted) :]
    return loss, (totals @ sum_answers.T - answers).astype(np.float32)


def _evaluate_asked(x, counts, sizes, need_grad):
    """Only the questions with votes: 5 to 10% of the tree of several campaigns.

    A "slot" is a place in the flat (B, Q) of questions, a "cell" one in the flat (B, A) of answers.
    """
    slot_of_cell, first_cell, num_answers, steps = _union_tables(sizes)
    voted, slots = _find_votes(counts, slot_of_cell)
    starts = np.flatnonzero(np.diff(slots, prepend=-1))  # the first vote of each question asked
    asked = slots[starts]
    num_votes = np.diff(starts, append=len(slots))
    question_of_vote = np.repeat(steps[: len(asked)], num_votes)  # into ``asked``

    sizes_asked = num_answers[asked]
    question = np.repeat(steps[: len(asked)], sizes_asked)  # of each answer to a question asked
    offset = first_cell[asked] - (np.cumsum(sizes_asked) - sizes_asked)
    cells = offset[question]
    cells += steps[: len(cells)]

    x, num, votes = x.ravel(), len(asked), counts.ravel()[voted]
    f, g = _terms(
        np.concatenate((x[voted], np.bincount(question, x[cells], num))),
        np.concatenate((votes, np.bincount(question_of_vote, votes, num))),
        need_grad,
    )
    f_votes, f_totals = np.split(f, [len(voted)])
    loss = np.zeros((len(counts), len(sizes)), np.float32)
    loss.ravel()[asked] = f_totals - np.bincount(question_of_vote, f_votes, num)
    if not need_grad:
        return (loss,)
    g_votes, g_totals = np.split(g, [len(voted)])
    g_answers = np.zeros(len(cells))
    g_answers[voted - offset[question_of_vote]] = g_votes
    return loss, (g_totals[question] - g_answers).astype(np.float32), asked[question], cells


def _find_votes(counts, slot_of_cell):
    """Cells with votes and their slots, looked for in blocks of 8 cells: most are empty."""
    voted = np.zeros(-(-counts.size // 8) * 8, bool)
    np.not_equal(counts.ravel(), 0, out=voted[: counts.size])
    words = voted.view(np.uint64)
    blocks = np.flatnonzero(words != 0)
    places = np.flatnonzero(words[blocks].view(bool))
    cells = (blocks[places >> 3] << 3) + (places & 7)
    return cells, slot_of_cell[cells]


# Stirling's series about midpoints (de Moivre's), with coefficients fitted for y >= 4.5 to 2e-10:
#   log Gamma(y + 1/2) = y (log y - 1 - E1 u - E2 u^2 - E3 u^3) + log(2 pi)/2   with u = 1/y^2
#   digamma(y + 1/2) = log y + D1 u + D2 u^2 + D3 u^3
E1, E2, E3 = 0.04166666, -0.00242943, 0.00072201
D1, D2, D3 = 0.04166659, -0.00728206, 0.00349475


def _terms(x, n, need_grad):
    """F(x, n) and G(x, n) of the module's formula, several times faster than by log Gamma.

    F up to a multiple of n: that cancels between the answers and their total. ``x`` and ``n`` flat.
    """
    f = _log_factorial(n)
    g = np.empty_like(f) if need_grad else None
    work = np.empty((6, 2, min(len(x), CELLS_AT_A_TIME)))
    with np.errstate(all="ignore"):
        for i in range(0, len(x), CELLS_AT_A_TIME):
            block = slice(i, i + CELLS_AT_A_TIME)
            g_block = g[block] if need_grad else None
            _gamma_ratios(x[block], n[block], f[block], g_block, work[..., : len(x[block])])
    return f, g


def _gamma_ratios(x, n, f, g, work) -> None:
    """f <- log Gamma(x + n) - log Gamma(x) - f, up to a multiple of n; g <- its derivative by x.

    Gamma(x) = Gamma(x + 4) / P(x) with P(x) = x (x+1) (x+2) (x+3), and the series for Gamma(x + 4).
    Written in place, as a fresh array costs as much as the arithmetic on it.
    """
    h, v, p, log_y, u, s = work  # each (2, cells): at x and at x + n
    np.add(x, 1.5, out=h[0])
    np.add(h[0], n, out=h[1])
    np.multiply(h, h, out=v)
    v -= 1.25
    np.multiply(v, v, out=p)
    p -= 1  # P = v^2 - 1 = (h^2 - 9/4) (h^2 - 1/4)
    f += np.log(np.divide(p[1], p[0], out=s[0]), out=s[0])
    if g is not None:
        v *= h
        v /= p
        v *= 4  # P' / P
    y = np.add(h, 2, out=h)
    np.log(y, out=log_y)
    np.multiply(y, y, out=u)
    np.divide(1, u, out=u)
    _cubic(u, -E1, -E2, -E3, out=s)
    s += log_y
    s *= y
    np.subtract(s[1], f, out=f)
    f -= s[0]
    if g is not None:
        _cubic(u, D1, D2, D3, out=s)
        s += log_y
        s -= v
        np.subtract(s[1], s[0], out=g)


def _cubic(u, c1, c2, c3, out) -> None:
    """out <- c1 u + c2 u^2 + c3 u^3."""
    np.multiply(u, c3, out=out)
    out += c2
    out *= u
    out += c1
    out *= u


def _log_factorial(n):
    """log n!, from a table for the votes of a usual galaxy."""
    try:
        return _log_factorial_table()[n.astype(np.intp)]
    except IndexError:
        return torch.lgamma(torch.from_numpy(n) + 1).numpy()


@lru_cache
def _log_factorial_table():
    return torch.lgamma(torch.arange(1, 4097, dtype=torch.float64)).numpy()


@lru_cache(maxsize=16)
def _union_tables(sizes):
    """For GALAXIES_AT_A_TIME: slot of each cell; first cell and size of each slot; 0, 1, 2 ..."""
    sizes = np.array(sizes)
    galaxy = np.arange(GALAXIES_AT_A_TIME)[:, None]
    slot_of_cell = galaxy * len(sizes) + np.repeat(np.arange(len(sizes)), sizes)
    first_cell = galaxy * sizes.sum() + np.cumsum(sizes) - sizes
    steps = np.arange(slot_of_cell.size)
    return slot_of_cell.ravel(), first_cell.ravel(), np.tile(sizes, GALAXIES_AT_A_TIME), steps
