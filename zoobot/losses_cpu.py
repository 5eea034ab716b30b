"""The Dirichlet-Multinomial loss on a CPU, computed with NumPy for the answers that have votes.

The formula, with its functions F and G, is in ``zoobot.losses``. Most answers of most galaxies have
no votes, and F(x, 0) = 0, so these are skipped. NumPy works on the memory of the tensors. For
arrays of this size, a call of NumPy costs less than one of torch. There are no threads: most calls
take microseconds, no more than it takes to wake a thread up.

Everything is computed in float64, and only the results are rounded to float32. float32 throughout,
as ``zoobot.losses_torch`` has it, needs twice as many calls and was no faster.
"""

from functools import lru_cache

import numpy as np
import torch

from zoobot.losses_torch import D1, D2, T1, T2, question_tensors

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
    with np.errstate(all="ignore"):  # of concentrations that are not finite: the loss says so
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
        results.append(question_tensors(sizes, concentrations)[1])
    return results


@lru_cache(maxsize=16)
def _sum_answers(sizes: tuple[int, ...]) -> np.ndarray:
    """The matrix (A, Q) that sums over answers: 1 if the answer is the question's, else 0."""
    return np.repeat(np.eye(len(sizes)), sizes, axis=0)


def _evaluate_voted(
    x: np.ndarray, counts: np.ndarray, sizes: tuple[int, ...], need_grad: bool
) -> tuple[np.ndarray, ...]:
    """Evaluate only the answers and totals with votes: about half, in the tree of one campaign.

    Returns:
        The loss (B, Q) and, with ``need_grad``, the gradient (B, A); float32.
    """
    sum_answers = _sum_answers(sizes)
    x_totals, n_totals = x @ sum_answers, counts @ sum_answers  # (B, Q)
    voted, asked = np.flatnonzero(counts.ravel() != 0), np.flatnonzero(n_totals.ravel() != 0)
    f, g = _terms(
        np.concatenate((x.ravel()[voted], x_totals.ravel()[asked])),
        np.concatenate((counts.ravel()[voted], n_totals.ravel()[asked])),
        need_grad,
    )
    answers, totals = np.zeros(x.shape), np.zeros(x_totals.shape)
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
    slots = slot_of_cell[_find_votes(counts)]
    first = np.ones(len(slots), bool)  # is the vote the first of its question?
    np.not_equal(slots[1:], slots[:-1], out=first[1:])
    asked = slots[first]

    sizes_asked = num_answers[asked]
    question = np.repeat(steps[: len(asked)], sizes_asked)  # into ``asked``, of each of its answers
    cells = (first_cell[asked] - (np.cumsum(sizes_asked) - sizes_asked))[question]
    cells += steps[: len(cells)]

    x, n, num = x.ravel()[cells], counts.ravel()[cells], len(cells)
    x_totals = np.bincount(question, x, len(asked))
    n_totals = np.bincount(question, n, len(asked))
    f, g = _terms(np.concatenate((x, x_totals)), np.concatenate((n, n_totals)), need_grad)
    loss = np.zeros((len(counts), len(sizes)), np.float32)
    loss.ravel()[asked] = f[num:] - np.bincount(question, f[:num], len(asked))
    if not need_grad:
        return (loss,)
    gradient = (g[num:][question] - g[:num]).astype(np.float32)
    return loss, gradient, asked[question], cells


def _find_votes(counts: np.ndarray) -> np.ndarray:
    """The cells with votes.

    The search is in blocks of 8 cells, each read as one 64-bit word, because most have no votes.
    """
    voted = np.zeros(-(-counts.size // 8) * 8, bool)
    np.not_equal(counts.ravel(), 0, out=voted[: counts.size])
    words = voted.view(np.uint64)
    blocks = np.flatnonzero(words != 0)
    places = np.flatnonzero(words[blocks].view(bool))
    return (blocks[places >> 3] << 3) + (places & 7)


def _terms(x: np.ndarray, n: np.ndarray, need_grad: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """F(x, n) and, with ``need_grad``, G(x, n), for flat float64 arrays.

    F is without a term proportional to n, which cancels between the answers and their total.
    """
    f = _log_factorial(n)
    g = np.empty_like(f) if need_grad else None
    work = np.empty((5, 2, min(len(x), CELLS_AT_A_TIME)))
    for i in range(0, len(x), CELLS_AT_A_TIME):
        block = slice(i, i + CELLS_AT_A_TIME)
        g_block = g[block] if need_grad else None
        _gamma_ratios(x[block], n[block], f[block], g_block, work[..., : len(x[block])])
    return f, g


def _gamma_ratios(
    x: np.ndarray, n: np.ndarray, f: np.ndarray, g: np.ndarray | None, work: np.ndarray
) -> None:
    """f <- log Gamma(x + n) - log Gamma(x) - f, without a term proportional to n; g <- df/dx.

    It uses the series and the polynomial P of ``zoobot.losses_torch``. Everything is computed in
    place, because a new array costs as much time as the arithmetic on it.

    Args:
        x, n: (M,) concentrations and votes.
        f: (M,) log n! at first, the result afterwards.
        g: (M,) array for the result; None if it is not needed.
        work: (5, 2, M) array for intermediate results.
    """
    y, v, p, s, log_y = work  # each (2, M): for x and for x + n
    np.add(x, 3.5, out=y[0])
    np.add(y[0], n, out=y[1])
    h = np.subtract(y, 2, out=log_y)
    np.multiply(h, h, out=v)
    v -= 1.25
    np.multiply(v, v, out=p)
    p -= 1  # P = v^2 - 1 = (h^2 - 9/4) (h^2 - 1/4)
    f += np.log(np.divide(p[1], p[0], out=s[0]), out=s[0])
    if g is not None:
        v *= h
        v /= p
        v *= 4  # P' / P
    np.log(y, out=log_y)
    np.multiply(y, y, out=s)
    np.divide(T1, np.add(s, T2, out=p), out=p)
    np.subtract(log_y, p, out=p)
    p *= y  # y log y - T(y)
    np.subtract(p[1], f, out=f)
    f -= p[0]
    if g is not None:
        s += D2
        np.divide(D1, s, out=s)
        s += log_y
        s -= v
        np.subtract(s[1], s[0], out=g)


def _log_factorial(n: np.ndarray) -> np.ndarray:
    """log n!, from a table if all n are whole numbers that uint16 can hold."""
    places = n.astype(np.uint16)
    if (places != n).any():
        return torch.lgamma(torch.from_numpy(n) + 1).numpy()
    return _log_factorial_table()[places]


@lru_cache
def _log_factorial_table() -> np.ndarray:
    """log n! for n from 0 to 65535."""
    return torch.lgamma(torch.arange(1, 65537, dtype=torch.float64)).numpy()


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
