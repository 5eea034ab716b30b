"""The Dirichlet-Multinomial negative log likelihood of votes, for all questions at once.

A model predicts a Dirichlet concentration ``a`` for every answer, and the answer has ``n`` votes.
``A`` and ``N`` are their sums over the answers of a question. The likelihood of the question's
votes is

    N! / prod(n!)  *  Gamma(A) / Gamma(A + N)  *  prod(Gamma(a + n) / Gamma(a))

With ``F(x, k) = log Gamma(x + k) - log Gamma(x) - log k!`` and its derivative ``G = dF/dx``, which
is a difference of two digamma functions,

    loss = F(A, N) - sum F(a, n)        d loss / d a = G(A, N) - G(a, n)

So the same elementwise functions, of the answers and of the questions' totals, give both the loss
and its gradient. Sources: T. Minka (2000), "Estimating a Dirichlet distribution"; M. Walmsley et
al. (2022), "Galaxy Zoo DECaLS", MNRAS 509, 3966.

Who computes F and G, and how large the errors of a loss are. (Those of gradients are relative to
the largest G. A gradient is a difference of two G, and may be much smaller than both.)

- float32 on a CPU: ``zoobot.losses_cpu``, for the answers with votes only, in float64 with float32
  results: loss and gradient to their last digit, 6e-8 of themselves and of the largest G.
- float32 on a CUDA GPU: ``zoobot.losses_triton``, one kernel for all answers, in float32, because
  many cards compute float64 at 1/64 of the speed: the loss to some 2e-7 of F(A, N), which is 7e-5
  for fewer than 20 votes an answer and 4e-4 for fewer than 1,000; the gradient to 3e-7. The host
  does not wait for the GPU.
- float64, ``torch.compile`` and other devices: ``zoobot.losses_torch``. float64 is computed in
  float64; float32 as on a GPU, and never in float64, which Apple's GPUs do not have.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from zoobot import losses_cpu, losses_torch


def dirichlet_multinomial_nll(
    concentrations: torch.Tensor, counts: torch.Tensor, question_sizes: Sequence[int]
) -> torch.Tensor:
    """Negative log likelihood of the votes on every question.

    It includes the multinomial coefficient. For a question without votes, the loss and its gradient
    are exactly 0. A concentration that is not finite makes only losses of its own galaxy not
    finite.

    Args:
        concentrations: (B, A) floating point, above 0. bfloat16 and float16 are converted to
            float32, also under autocast.
        counts: (B, A) numbers of votes: whole numbers >= 0 of any dtype, 0 if not asked.
        question_sizes: number of answers of each question, in the order of the columns
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


def _check(concentrations: torch.Tensor, counts: torch.Tensor, sizes: tuple[int, ...]) -> None:
    """ValueError if the shapes or types do not fit together."""
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
    """Computes the gradient together with the loss, so that ``backward`` only scales it."""

    @staticmethod
    def forward(
        ctx: Any, concentrations: torch.Tensor, counts: torch.Tensor, sizes: tuple[int, ...]
    ) -> torch.Tensor:
        loss, *saved = _evaluate(concentrations.detach(), counts, sizes, need_grad=True)
        ctx.save_for_backward(*saved)
        ctx.shape = concentrations.shape
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_loss: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        gradient, slots, *cells = ctx.saved_tensors
        if not cells:
            return grad_loss.index_select(1, slots).mul_(gradient), None, None
        scaled = grad_loss.reshape(-1).index_select(0, slots).mul_(gradient)
        grad = gradient.new_zeros(ctx.shape)
        grad.view(-1).scatter_(0, cells[0], scaled)
        return grad, None, None


def _evaluate(
    concentrations: torch.Tensor, counts: torch.Tensor, sizes: tuple[int, ...], need_grad: bool
) -> Sequence[torch.Tensor]:
    """The loss (B, Q); with ``need_grad`` also what ``losses_cpu.evaluate`` returns with it."""
    x = concentrations
    if x.dtype == torch.float64 or torch.compiler.is_compiling():
        evaluate = losses_torch.evaluate
    elif x.is_cpu:
        evaluate = losses_cpu.evaluate
    else:
        evaluate = _evaluate_on_gpu() if x.is_cuda else losses_torch.evaluate
    return evaluate(x, counts, sizes, need_grad)


@lru_cache
def _evaluate_on_gpu() -> Callable[..., Sequence[torch.Tensor]]:
    """The function for CUDA tensors: that of the kernel, if Triton is installed."""
    try:
        from zoobot import losses_triton
    except ImportError:
        return losses_torch.evaluate
    return losses_triton.evaluate


def get_dirichlet_neg_log_prob(
    concentrations_for_q: torch.Tensor, labels_for_q: torch.Tensor
) -> torch.Tensor:
    """Negative log likelihood (B,) of one question's votes; both arguments are (B, answers)."""
    sizes = (concentrations_for_q.shape[-1],)
    return dirichlet_multinomial_nll(concentrations_for_q, labels_for_q, sizes)[:, 0]


class CustomMultiQuestionLoss(nn.Module):
    """The loss of every question, from labels in one tensor or in a dict of columns.

    Args:
        question_answer_pairs: question -> endings of its answers. The label column of an answer is
            question + ending.
        question_functional_loss: ``f(concentrations, votes) -> (B,)`` for one question, where both
            arguments are (B, answers). It is called once for each question, but
            ``get_dirichlet_neg_log_prob`` is computed for all questions at once.
        careful: raise ValueError if a loss is not finite. The host then waits for the GPU.
        sum_over_questions: return the sum (B,) instead of the losses (B, Q).
    """

    def __init__(
        self,
        question_answer_pairs: Mapping[str, Sequence[str]],
        question_functional_loss: Callable[
            [torch.Tensor, torch.Tensor], torch.Tensor
        ] = get_dirichlet_neg_log_prob,
        careful: bool = False,
        sum_over_questions: bool = False,
    ):
        super().__init__()
        self.label_cols = [q + a for q, answers in question_answer_pairs.items() for a in answers]
        self.question_sizes = tuple(len(answers) for answers in question_answer_pairs.values())
        self.question_functional_loss = question_functional_loss
        self.careful = careful
        self.sum_over_questions = sum_over_questions

    def forward(
        self, inputs: torch.Tensor, targets: torch.Tensor | Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """The loss (B, Q), or (B,) if summed over questions.

        Args:
            inputs: (B, A) concentrations.
            targets: votes: a tensor (B, A), or label column -> votes (B,).

        Raises:
            ValueError: if a label column is missing, or shapes do not fit together.
        """
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

    def _stack(self, targets: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The label columns as one tensor (B, A)."""
        missing = [column for column in self.label_cols if column not in targets]
        if missing:
            raise ValueError(
                f"labels lack {len(missing)} of the tree's columns: {missing[:5]}; "
                "pass every label column of the schema"
            )
        return torch.stack([torch.as_tensor(targets[column]) for column in self.label_cols], 1)


def get_dirichlet_loss_func(
    question_answer_pairs: Mapping[str, Sequence[str]],
) -> CustomMultiQuestionLoss:
    """A function ``(concentrations, votes) -> (B, Q)``; see ``CustomMultiQuestionLoss``."""
    return CustomMultiQuestionLoss(question_answer_pairs)
