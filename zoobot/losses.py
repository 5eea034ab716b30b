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
without a host synchronisation. On a CPU ``losses_cpu`` evaluates only the answers with votes.
"""

import torch
from torch import nn

from zoobot import losses_cpu


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
    """The loss (B, Q), and with ``need_grad`` what backward scales: see ``losses_cpu.evaluate``."""
    x = concentrations
    use_numpy = x.is_cpu and x.dtype == torch.float32 and not torch.compiler.is_compiling()
    evaluate = losses_cpu.evaluate if use_numpy else _evaluate_all
    return evaluate(x, counts, sizes, need_grad)


def _evaluate_all(x, counts, sizes, need_grad):
    """Every answer and total, in torch's own special functions: for GPUs, compilers and float64."""
    sum_answers, question_of_answer = losses_cpu.question_tensors(sizes, x.device)
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
