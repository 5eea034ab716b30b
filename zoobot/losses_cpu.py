"""The Dirichlet-Multinomial loss on a CPU, computed with NumPy for the answers that have votes.

The formula, with its functions F and G, is in ``zoobot.losses``. Most answers of most galaxies have
no votes, and F(x, 0) = 0, so these are skipped. NumPy works on the memory of the tensors. For
arrays of this size, a call of NumPy costs less than one of torch, and there are no threads that
wait for each other.
"""

from functools import lru_cache

import numpy as np
import torch

MIN_QUESTIONS_OF_UNION = 18  # such trees join several campaigns: most questions were not asked
GALAXIES_AT_A_TIME = 1024  # the arrays then fit in the processor's cache
CELLS_AT_A_TIME = 8192  # the same, for the arrays of ``_terms``


def evaluate(
    concentrations: torch.Tensor, counts: torch.Tensor, sizes: tuple[int, ...], need_grad: bool
) -> list[torch.Tensor]:
    """The loss and, with ``need_grad``, its gradient by the concentrations.

    Args:
        concentrations: (B, A) float32 on the CPU.
        counts: (B, A) votes on the CPU.
        sizes: number of answers of each question.

    Returns:
        The loss (B, Q). With ``need_grad`` also the gradient (B, A) and the question of each answer
        (A,). For trees with many questions instead the gradients (V,) of the answers to questions
        with votes, and the places of these V values in the flattened (B, Q) and in the flattened
        (B, A).
    """
    if counts.dtype == torch.bfloat16:  # which NumPy does not have
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
    """The matrix that sums over answers, and the question of each answer.

    Returns:
        (A, Q) float64, 1 if the answer belongs to the question, else 0; and (A,) int64.
    """
    owner = [question for question, size in enumerate(sizes) for _ in range(size)]
    with torch.inference_mode(False):  # the stored tensors must also serve for training
        question_of_answer = torch.tensor(owner)
        sum_answers = (question_of_answer[:, None] == torch.arange(len(sizes))).double()
        return sum_answers.to(device), question_of_answer.to(device)


def _evaluate_voted(
    x: np.ndarray, counts: np.ndarray, sizes: tuple[int, ...], need_grad: bool
) -> tuple[np.ndarray, ...]:
    """Evaluate only the answers and totals with votes: about half, in the tree of one campaign.

    Returns:
        The loss (B, Q) and, with ``need_grad``, the gradient (B, A); float32.
    """
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


def _evaluate_asked(
    x: np.ndarray, counts: np.ndarray, sizes: tuple[int, ...], need_grad: bool
) -> tuple[np.ndarray, ...]:
    """Evaluate only the questions with votes: 5 to 10%, in the tree of several campaigns.

    A "slot" is a place in the flattened (B, Q) of questions. A "cell" is a place in the flattened
    (B, A) of answers.

    Returns:
        The loss (B, Q) float32. With ``need_grad`` also, for all V answers to the questions with
        votes: the gradient (V,) float32, the slots (V,) and the cells (V,).
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


def _find_votes(counts: np.ndarray, slot_of_cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cells with votes and their slots.

    The search is in blocks of 8 cells, each read as one 64-bit word, because most have no votes.
    """
    voted = np.zeros(-(-counts.size // 8) * 8, bool)
    np.not_equal(counts.ravel(), 0, out=voted[: counts.size])
    words = voted.view(np.uint64)
    blocks = np.flatnonzero(words != 0)
    places = np.flatnonzero(words[blocks].view(bool))
    cells = (blocks[places >> 3] << 3) + (places & 7)
    return cells, slot_of_cell[cells]


# Stirling's series about midpoints (of de Moivre). The coefficients are fitted for y >= 4.5, with
# errors up to 2e-10:
#   log Gamma(y + 1/2) = y (log y - 1 - E1 u - E2 u^2 - E3 u^3) + log(2 pi)/2   with u = 1/y^2
#   digamma(y + 1/2) = log y + D1 u + D2 u^2 + D3 u^3
E1, E2, E3 = 0.04166666, -0.00242943, 0.00072201
D1, D2, D3 = 0.04166659, -0.00728206, 0.00349475


def _terms(x: np.ndarray, n: np.ndarray, need_grad: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """F(x, n) and, with ``need_grad``, G(x, n), for flat arrays.

    This is several times faster than with log Gamma. F is without a term proportional to n, which
    cancels between the answers and their total.
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


def _gamma_ratios(
    x: np.ndarray, n: np.ndarray, f: np.ndarray, g: np.ndarray | None, work: np.ndarray
) -> None:
    """f <- log Gamma(x + n) - log Gamma(x) - f, without a term proportional to n; g <- df/dx.

    Uses Gamma(x) = Gamma(x + 4) / P(x) with P(x) = x (x+1) (x+2) (x+3), and the series for
    Gamma(x + 4). Everything is computed in place, because a new array costs as much time as the
    arithmetic on it.

    Args:
        x, n: (M,) concentrations and votes.
        f: (M,) log n! at first, the result afterwards.
        g: (M,) array for the result; None if it is not needed.
        work: (6, 2, M) array for intermediate results.
    """
    h, v, p, log_y, u, s = work  # each (2, M): for x and for x + n
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


def _cubic(u: np.ndarray, c1: float, c2: float, c3: float, out: np.ndarray) -> None:
    """out <- c1 u + c2 u^2 + c3 u^3."""
    np.multiply(u, c3, out=out)
    out += c2
    out *= u
    out += c1
    out *= u


def _log_factorial(n: np.ndarray) -> np.ndarray:
    """log n!, from a table if all n are at most 4095."""
    try:
        return _log_factorial_table()[n.astype(np.intp)]
    except IndexError:
        return torch.lgamma(torch.from_numpy(n) + 1).numpy()


@lru_cache
def _log_factorial_table() -> np.ndarray:
    """log n! for n from 0 to 4095."""
    return torch.lgamma(torch.arange(1, 4097, dtype=torch.float64)).numpy()


@lru_cache(maxsize=16)
def _union_tables(
    sizes: tuple[int, ...],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Tables for ``_evaluate_asked``, for ``GALAXIES_AT_A_TIME`` galaxies.

    Returns:
        The slot of each cell; the first cell of each slot; the number of answers of each slot; and
        the numbers 0, 1, 2, ..., one for each cell.
    """
    sizes = np.array(sizes)
    galaxy = np.arange(GALAXIES_AT_A_TIME)[:, None]
    slot_of_cell = galaxy * len(sizes) + np.repeat(np.arange(len(sizes)), sizes)
    first_cell = galaxy * sizes.sum() + np.cumsum(sizes) - sizes
    steps = np.arange(slot_of_cell.size)
    return slot_of_cell.ravel(), first_cell.ravel(), np.tile(sizes, GALAXIES_AT_A_TIME), steps
