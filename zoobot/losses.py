"""The Dirichlet-Multinomial negative log likelihood of volunteers' votes, all questions at once.

A model predicts a Dirichlet concentration ``a`` for every answer. The ``n`` votes that a galaxy got
on a question then have the likelihood (``A`` and ``N``: the sums over the question's answers)

    N! / prod(n!)  *  Gamma(A) / Gamma(A + N)  *  prod(Gamma(a + n) / Gamma(a))

With ``F(x, k) = log Gamma(x + k) - log Gamma(x) - log k!`` and ``G = dF/dx``, a digamma difference,

    loss = F(A, N) - sum F(a, n)        d loss / d a = G(A, N) - G(a, n)

so one elementwise function, of answers and of question totals alike, gives loss and gradient.
Sources: T. Minka (2000), "Estimating a Dirichlet distribution"; M. Walmsley et al. (2022),
"Galaxy Zoo DECaLS", MNRAS 509, 3966.

Everything is computed in float64 (float32 log Gamma is too coarse: near log Gamma(600) its spacing
is 2.4e-4). On a GPU and under ``torch.compile`` all answers are evaluated, in few kernels and
without a host synchronisation. On a CPU only answers with votes are, by NumPy on the tensors'
memory: its calls cost less than torch's on arrays this small, and no thread waits for another one.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import nn

MIN_QUESTIONS_OF_UNION = 18  # trees of several campaigns; most of their questions were not asked
GALAXIES_AT_A_TIME = 1024  # on a CPU, to stay in the cache
CELLS_AT_A_TIME = 8192


def dirichlet_multinomial_nll(concentrations, counts, question_sizes) -> torch.Tensor:
    """Negative log likelihood of the votes on every question, multinomial coefficient included.

    A question without votes has exactly 0 loss and gradient. A non-finite concentration makes
    losses of its own galaxy non-finite, no other's.

    Args:
        concentrations: (B, A) floating, above 0. bfloat16 and float16 are computed as float32,
            under autocast too.
        counts: (B, A) whole numbers >= 0, of any dtype, 0 where not asked.
        question_sizes: the number of answers of each question, in the order of the columns
            (``schema.question_sizes``).

    Returns:
        (B, Q) float32, or float64 for float64 concentrations.

    Raises:
        ValueError: if the shapes or types do not fit together.
    """
    sizes = tuple(question_sizes)
    _check(concentrations, counts, sizes)
    if concentrations.dtype not in (torch.float32, torch.float64):
        concentrations = concentrations.float()
    counts = counts.detach().to(concentrations.device)
    if torch.is_grad_enabled() and concentrations.requires_grad:
        return _DirichletMultinomialNLL.apply(concentrations, counts, sizes)
    return _evaluate(concentrations.detach(), counts, sizes, need_grad=False)[0]


def _check(concentrations, counts, sizes) -> None:
    if concentrations.ndim != 2 or concentrations.shape != counts.shape:
        raise ValueError(
            f"concentrations {tuple(concentrations.shape)} and counts {tuple(counts.shape)} "
            "must have the same shape (galaxies, answers)"
        )
    if sum(sizes) != concentrations.shape[1] or min(sizes, default=0) < 1:
        raise ValueError(
            f"question sizes {sizes} add up to {sum(sizes)}, but there are "
            f"{concentrations.shape[1]} answers: pass the question_sizes of the model's own tree"
        )
    if not concentrations.is_floating_point():
        raise ValueError(f"concentrations are {concentrations.dtype}: pass a floating tensor")


class _DirichletMultinomialNLL(torch.autograd.Function):
    """Computes the gradient together with the loss; backward only scales it."""

    @staticmethod
    def forward(ctx, concentrations, counts, sizes):
        loss, *saved = _evaluate(concentrations.detach(), counts, sizes, need_grad=True)
        ctx.save_for_backward(*saved)
        ctx.shape = concentrations.shape
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_loss):
        gradient, slots, *cells = ctx.saved_tensors
        if not cells:
            return grad_loss.index_select(1, slots).mul_(gradient), None, None
        scaled = grad_loss.reshape(-1).index_select(0, slots).mul_(gradient)
        grad = gradient.new_zeros(ctx.shape)
        grad.view(-1).scatter_(0, cells[0], scaled)
        return grad, None, None


def _evaluate(concentrations, counts, sizes, need_grad):
    """The loss (B, Q), then, with ``need_grad``, what backward scales.

    All of it: gradient (B, A), question of each answer (A,). Or only where there are votes: the
    gradients, and where they stand in the flat (B, Q) and in the flat (B, A).
    """
    on_cpu = concentrations.device.type == "cpu"
    if not on_cpu or torch.compiler.is_compiling() or concentrations.dtype == torch.float64:
        return _evaluate_all(concentrations, counts, sizes, need_grad)
    if counts.dtype == torch.bfloat16:  # unknown to NumPy
        counts = counts.float()
    union = len(sizes) >= MIN_QUESTIONS_OF_UNION
    evaluate = _evaluate_asked if union else _evaluate_voted
    x, n = concentrations.contiguous().numpy(), counts.contiguous().numpy()
    starts = range(0, max(len(x), 1), GALAXIES_AT_A_TIME)
    parts = [
        evaluate(x[i : i + GALAXIES_AT_A_TIME], n[i : i + GALAXIES_AT_A_TIME], sizes, need_grad)
        for i in starts
    ]
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
        results.append(_tree_tensors(sizes, concentrations.device)[1])
    return results


def _evaluate_all(x, counts, sizes, need_grad):
    """Every answer and total, in torch's own special functions: for GPUs, compilers and float64."""
    sum_answers, question_of_answer = _tree_tensors(sizes, x.device)
    num, shape = x.numel(), (x.shape[0], len(sizes))
    a, k = x.double(), counts.double()
    a = torch.cat((a.reshape(-1), (a @ sum_answers).view(-1)))  # (B A + B Q,)
    k = torch.cat((k.reshape(-1), (k @ sum_answers).view(-1)))
    ak = a + k
    f = torch.lgamma(ak) - torch.lgamma(a) - torch.lgamma(k + 1)
    loss = (f[num:].view(shape) - f[:num].view(x.shape) @ sum_answers).to(x.dtype)
    if not need_grad:
        return (loss,)
    g = torch.digamma(ak) - torch.digamma(a)
    gradient = g[num:].view(shape).index_select(1, question_of_answer) - g[:num].view(x.shape)
    return loss, gradient.to(x.dtype), question_of_answer


def _evaluate_voted(x, counts, sizes, need_grad):
    """Only answers and totals with votes: in the tree of one campaign, about half of all."""
    sum_answers = _tree_tensors(sizes, torch.device("cpu"))[0].numpy()
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
def _tree_tensors(sizes, device):
    """(A, Q) float64 matrix that sums the answers of a question; the question of each answer."""
    owner = [question for question, size in enumerate(sizes) for _ in range(size)]
    with torch.inference_mode(False):  # asked for by an evaluation, they serve training too
        question_of_answer = torch.tensor(owner)
        sum_answers = (question_of_answer[:, None] == torch.arange(len(sizes))).double()
        return sum_answers.to(device), question_of_answer.to(device)


@lru_cache(maxsize=16)
def _union_tables(sizes):
    """For GALAXIES_AT_A_TIME: slot of each cell; first cell and size of each slot; 0, 1, 2 ..."""
    sizes = np.array(sizes)
    galaxy = np.arange(GALAXIES_AT_A_TIME)[:, None]
    slot_of_cell = galaxy * len(sizes) + np.repeat(np.arange(len(sizes)), sizes)
    first_cell = galaxy * sizes.sum() + np.cumsum(sizes) - sizes
    steps = np.arange(slot_of_cell.size)
    return slot_of_cell.ravel(), first_cell.ravel(), np.tile(sizes, GALAXIES_AT_A_TIME), steps


def get_dirichlet_neg_log_prob(concentrations_for_q, labels_for_q) -> torch.Tensor:
    """Negative log likelihood (B,) of one question: concentrations and votes, both (B, answers)."""
    sizes = (concentrations_for_q.shape[-1],)
    return dirichlet_multinomial_nll(concentrations_for_q, labels_for_q, sizes)[:, 0]


class CustomMultiQuestionLoss(nn.Module):
    """Loss of every question, from labels as a dict of columns or as one tensor.

    Args:
        question_answer_pairs: question -> endings of its answers (label column: question + ending).
        question_functional_loss: ``f(concentrations, votes) -> (B,)``, both (B, answers) of one
            question. ``get_dirichlet_neg_log_prob`` is evaluated for all questions at once.
        careful: raise ValueError if a loss is not finite (waits for the GPU).
        sum_over_questions: return (B,) instead of (B, Q).
    """

    def __init__(
        self,
        question_answer_pairs: dict,
        question_functional_loss=get_dirichlet_neg_log_prob,
        careful=False,
        sum_over_questions=False,
    ):
        super().__init__()
        self.label_cols = [q + a for q, answers in question_answer_pairs.items() for a in answers]
        self.question_sizes = tuple(len(answers) for answers in question_answer_pairs.values())
        self.question_functional_loss = question_functional_loss
        self.careful = careful
        self.sum_over_questions = sum_over_questions

    def forward(self, inputs: torch.Tensor, targets) -> torch.Tensor:
        """Loss (B, Q) of concentrations (B, A), votes a dict of (B,) columns or a (B, A) tensor."""
        counts = targets if isinstance(targets, torch.Tensor) else self._stack(targets)
        if self.question_functional_loss is get_dirichlet_neg_log_prob:
            loss = dirichlet_multinomial_nll(inputs, counts, self.question_sizes)
        else:
            questions = zip(
                inputs.split(self.question_sizes, 1),
                counts.to(inputs.device).split(self.question_sizes, 1),
                strict=True,
            )
            loss = torch.stack([self.question_functional_loss(a, n) for a, n in questions], 1)
        if self.careful and not loss.isfinite().all():
            bad = (~loss.isfinite()).any(1).nonzero().view(-1).tolist()
            raise ValueError(
                f"loss is not finite for galaxies {bad[:5]} of the batch: check inputs"
            )
        return loss.sum(1) if self.sum_over_questions else loss

    def _stack(self, targets):
        missing = [column for column in self.label_cols if column not in targets]
        if missing:
            raise ValueError(
                f"labels lack {len(missing)} of the tree's columns: {missing[:5]}; "
                "pass every label column of the schema"
            )
        return torch.stack([torch.as_tensor(targets[column]) for column in self.label_cols], 1)


def get_dirichlet_loss_func(question_answer_pairs: dict):
    """A function ``(concentrations, labels) -> (B, Q)``: see ``CustomMultiQuestionLoss``."""
    return CustomMultiQuestionLoss(question_answer_pairs)
