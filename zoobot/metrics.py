"""Measure losses and accuracies as exact means over galaxies, over all batches and ranks."""

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from zoobot import baselines
from zoobot.losses import dirichlet_multinomial_nll
from zoobot.schemas import Schema
from zoobot.system import distributed
from zoobot.system.devices import widest_float


class Means:
    """Weighted means of K quantities, over all batches and ranks.

    Sums and weights stay on the device. Only ``result`` adds those of all ranks, and only there the
    host waits for the GPU. So a mean does not depend on how galaxies are divided into batches. A
    device without float64 sums a batch in float32, and the CPU adds up the batches.

    Attributes:
        num_galaxies: of all ranks, those with a weight for the first quantity, at the last result.
    """

    def __init__(self, names: Sequence[str], device: torch.device):
        self.names = list(names)
        self._dtype = widest_float(device)
        place = device if self._dtype == torch.float64 else "cpu"
        self.num_galaxies = 0
        self.totals = torch.zeros(2, len(self.names), dtype=torch.float64, device=place)

    def update(
        self, values: torch.Tensor, weights: torch.Tensor, kept: torch.Tensor | None = None
    ) -> None:
        """Add a batch.

        Args:
            values, weights: (B, K). A value with weight 0 is left out.
            kept: (B,) bool: galaxies that count; None: all.
        """
        weights = weights.to(self._dtype)
        if kept is not None:
            weights = weights * kept[:, None]
        sums = torch.where(weights > 0, values.to(self._dtype) * weights, 0.0).sum(0)
        self.totals += torch.stack([sums, weights.sum(0)]).to(self.totals.device)

    def reset(self) -> None:
        """Set all sums and weights to 0."""
        self.totals.zero_()

    def result(self) -> dict[str, float]:
        """The mean of each quantity over the galaxies of all ranks.

        Every process must call it. Quantities whose weights are all 0 are left out. For ``rmse``
        and ``rmse/COLUMN`` the values are squared errors, and the result is the root of their mean.
        """
        sums, counts = distributed.all_reduce_sum(self.totals.cpu().clone()).tolist()
        self.num_galaxies = int(counts[0])
        means = {n: s / c for n, s, c in zip(self.names, sums, counts, strict=True) if c > 0}
        return {n: math.sqrt(m) if n.split("/")[0] == "rmse" else m for n, m in means.items()}


class Measure(Protocol):
    """Measures K quantities of each galaxy in a batch, for ``Means``. The first is the loss.

    Attributes:
        names: names of the K quantities.
    """

    names: list[str]

    def __call__(
        self, losses: torch.Tensor, outputs: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Values (B, K) and weights (B, K) from the losses, outputs and labels of a batch."""


class ExampleMeasures:
    """Measures the loss and other quantities, for galaxies with one label each, or a few.

    Args:
        names: of the other quantities, K.
        measure: ``measure(outputs, labels)`` gives their values, (B, K), or (B,) for one.
    """

    def __init__(
        self,
        *names: str,
        measure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    ):
        self.names = ["loss", *names]
        self._measure = measure

    def __call__(
        self, losses: torch.Tensor, outputs: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Values and weights, (B, 1 + K) floats, from losses (B, L); all weights are 1."""
        dtype = widest_float(losses.device)
        values = losses.sum(1, keepdim=True).to(dtype)
        if self._measure is not None:
            others = self._measure(outputs, labels).to(dtype)
            values = torch.cat([values, others.reshape(len(values), -1)], dim=1)
        return values, torch.ones_like(values)


class VoteMeasures:
    """Measures the losses and accuracies of vote counts.

    The quantities, for each question Q and each campaign C:

    - ``supervised_loss``: the sum over questions, for all galaxies.
    - ``question_loss/Q``: the loss of the question, for galaxies with a vote on it.
    - ``campaign_loss/C``: the sum over the campaign's questions, for galaxies with a vote on one.
    - ``question_accuracy/Q``: 1 if the answer with the highest predicted fraction is the one with
      most votes, else 0, for galaxies with a vote on the question. Galaxies of which several
      answers have most votes do not count.
    """

    def __init__(self, schema: Schema):
        questions = [question.text for question in schema.questions]
        self.names = (
            ["supervised_loss"]
            + [f"question_loss/{q}" for q in questions]
            + [f"campaign_loss/{campaign}" for campaign in schema.campaigns]
            + [f"question_accuracy/{q}" for q in questions]
        )
        self._sizes = schema.question_sizes
        self._campaigns = torch.zeros(len(questions), len(schema.campaigns))
        for column, indices in enumerate(schema.campaigns.values()):
            self._campaigns[indices, column] = 1
        longest = max(self._sizes)
        starts = torch.tensor([group[0] for group in schema.question_index_groups])
        place = torch.arange(longest)
        self._exists = place < torch.tensor(self._sizes)[:, None]  # (Q, longest)
        self._padded = (starts[:, None] + place).clamp_(max=sum(self._sizes) - 1)

    def __call__(
        self, losses: torch.Tensor, concentrations: torch.Tensor, votes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Values and weights (B, K), from losses (B, Q), concentrations and votes (B, A)."""
        self._to(losses.device)
        votes_by_question = torch.where(self._exists, votes[:, self._padded].float(), -1.0)
        predicted = torch.where(self._exists, concentrations[:, self._padded].float(), -1.0)
        most_votes = votes_by_question.amax(-1, keepdim=True)
        asked = (most_votes[..., 0] > 0).float()
        is_clear = ((votes_by_question == most_votes).sum(-1) == 1).float()
        chosen = predicted.argmax(-1, keepdim=True)
        right = (votes_by_question.gather(-1, chosen) == most_votes).squeeze(-1).float()
        total = losses.sum(1, keepdim=True)
        values = torch.cat([total, losses, losses @ self._campaigns, right], dim=1)
        in_campaign = ((asked @ self._campaigns) > 0).float()
        weights = torch.cat([torch.ones_like(total), asked, in_campaign, asked * is_clear], dim=1)
        return values, weights

    def _to(self, device: torch.device) -> None:
        """Move the index tensors to the device."""
        if self._padded.device != device:
            self._padded = self._padded.to(device)
            self._exists = self._exists.to(device)
            self._campaigns = self._campaigns.to(device)


def vote_constants(
    votes: torch.Tensor, schema: Schema, bounds: tuple[float, float] = baselines.HEAD_BOUNDS
) -> tuple[torch.Tensor, torch.Tensor]:
    """Concentrations (A,) for all galaxies alike: those with the lowest loss, and a guess.

    The guess has the most frequent leading answer of each question, so its accuracy is the highest.

    Args:
        votes: (N, A) of the training galaxies.
        bounds: of a head's concentrations.
    """
    guess = torch.ones(votes.shape[1])
    for question in schema.questions:
        counts = votes[:, question.start_index : question.end_index + 1]
        most = counts.amax(1, keepdim=True)
        leading = (counts == most) & (most > 0)
        leads = (leading & (leading.sum(1, keepdim=True) == 1)).sum(0)
        guess[question.start_index + int(leads.argmax())] = 2.0
    return _constant(votes, schema, bounds), guess


def vote_loss(concentrations: torch.Tensor, votes: torch.Tensor, schema: Schema) -> torch.Tensor:
    """The loss summed over questions and averaged over galaxies: a scalar tensor."""
    losses = dirichlet_multinomial_nll(concentrations, votes, schema.question_sizes)
    return losses.sum(1).mean()


def vote_marks(
    train_votes: torch.Tensor, votes: torch.Tensor, truth: torch.Tensor, schema: Schema
) -> dict[str, float]:
    """Mean losses of ``votes`` (N, A) to compare a model with.

    Args:
        train_votes: the votes to which the best constant prediction is fitted.
        truth: (N, A) the true answer probabilities.

    Returns:
        ``constant``: the loss of the best constant prediction, which a model should be below.
        ``truth``: the loss of the true probabilities, the lowest that a model can expect. Votes
        then follow a multinomial distribution, the limit of large concentrations: 1e6 is used.
        ``constant (any)`` is that of any model, ``constant`` that of a model whose concentrations
        are within ``baselines.HEAD_BOUNDS``; ``truth (head)`` is of the true probabilities within
        those bounds: the largest concentration of each question is the highest that is allowed.
    """
    lowest, highest = baselines.HEAD_BOUNDS
    truth = truth.double().clamp(min=1e-9)
    largest = [p.amax(1, keepdim=True).expand_as(p) for p in truth.split(schema.question_sizes, 1)]
    predictions = {
        "constant": _constant(train_votes, schema, baselines.HEAD_BOUNDS),
        "constant (any)": _constant(train_votes, schema, baselines.NO_BOUNDS),
        "truth": 1e6 * truth,
        "truth (head)": (highest * truth / torch.cat(largest, 1)).clamp(min=lowest),
    }
    return {
        name: vote_loss(a.expand(len(votes), -1), votes, schema).item()
        for name, a in predictions.items()
    }


def _constant(votes: torch.Tensor, schema: Schema, bounds: tuple[float, float]) -> torch.Tensor:
    """The best constant concentrations (A,) as a tensor."""
    found = baselines.constant_concentrations(votes.cpu().numpy(), schema.question_sizes, bounds)
    return torch.from_numpy(found)


def question_table(
    metrics: dict[str, float],
    votes: torch.Tensor,
    schema: Schema,
    constants: dict[str, float] | None = None,
) -> str:
    """A table (as text) of each question: galaxies with a vote, loss, accuracy; and a constant's.

    Args:
        metrics: the means of ``VoteMeasures``.
        votes: (N, A).
        constants: those of the best constant prediction, and of the most frequent answer.
    """
    constants = constants or {}
    width = max(len(question.text) for question in schema.questions)
    lines = [
        f"{'question':{width}}  galaxies    loss  constant  leading answer right  most frequent"
    ]
    for question in schema.questions:
        if f"question_loss/{question.text}" not in metrics:
            lines.append(f"{question.text:{width}}  {0:8d}       -         -  -")
            continue
        asked = int(votes[:, question.start_index : question.end_index + 1].any(1).sum())
        loss, accuracy = f"question_loss/{question.text}", f"question_accuracy/{question.text}"
        lines.append(
            f"{question.text:{width}}  {asked:8d}  {metrics[loss]:6.3f}  "
            f"{_or_dash(constants.get(loss)):>8}  {metrics[accuracy]:<20.3f}  "
            f"{_or_dash(constants.get(accuracy))}"
        )
    total, constant = metrics["supervised_loss"], _or_dash(constants.get("supervised_loss"))
    lines.append(f"{'all, summed':{width}}  {len(votes):8d}  {total:6.3f}  {constant:>8}")
    return "\n".join(lines)


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
