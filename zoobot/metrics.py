"""Exact means over galaxies: sums and counts stay on the device and meet once an epoch."""

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from zoobot.losses import dirichlet_multinomial_nll
from zoobot.schemas import Schema
from zoobot.system import distributed


class Means:
    """Accumulates weighted sums and weights of K named quantities; no host synchronisation.

    ``result`` is the only place where ranks and host meet: sums and weights of all ranks are added
    in one all-reduce, so that a mean is over examples however they were dealt into batches.
    """

    def __init__(self, names: Sequence[str], device: torch.device):
        self.names = list(names)
        self.totals = torch.zeros(2, len(self.names), dtype=torch.float64, device=device)

    def update(
        self, values: torch.Tensor, weights: torch.Tensor, kept: torch.Tensor | None = None
    ) -> None:
        """Add a batch: values and weights of shape (B, K). A weight of 0 leaves the value out.

        Args:
            kept: (B,) bool; the others are left out.
        """
        weights = weights.double()
        if kept is not None:
            weights = weights * kept[:, None]
        self.totals[0] += torch.where(weights > 0, values.double() * weights, 0.0).sum(0)
        self.totals[1] += weights.sum(0)

    def reset(self) -> None:
        """Begin anew."""
        self.totals.zero_()

    def result(self) -> dict[str, float]:
        """Mean of each quantity over all examples of all ranks; left out where nothing counted.

        What is called ``rmse`` was given as squared errors, and is the root of their mean.
        """
        sums, counts = distributed.all_reduce_sum(self.totals.clone()).tolist()
        means = {n: s / c for n, s, c in zip(self.names, sums, counts, strict=True) if c > 0}
        return {n: math.sqrt(m) if n == "rmse" else m for n, m in means.items()}


class Measure(Protocol):
    """What is measured of a batch, for ``Means``; the first is the loss.

    Attributes:
        names: of the K quantities.
    """

    names: list[str]

    def __call__(
        self, losses: torch.Tensor, outputs: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Values and weights (B, K), from each galaxy's losses, outputs and labels."""


class ExampleMeasures:
    """What is measured where an example has one label: the loss, and one thing more.

    Args:
        name, measure: ``measure(outputs, labels)`` gives values (B,), their mean is ``name``.
    """

    def __init__(self, name: str | None = None, measure: Callable | None = None):
        self.names = ["loss", name] if name else ["loss"]
        self._measure = measure

    def __call__(
        self, losses: torch.Tensor, outputs: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Values and weights (B, 1 or 2) for ``Means`` from losses (B, K)."""
        values = [losses.sum(1)]
        if self._measure is not None:
            values.append(self._measure(outputs, labels).to(values[0].dtype))
        stacked = torch.stack(values, dim=1)
        return stacked, torch.ones_like(stacked)


class VoteMeasures:
    """What is measured when learning vote counts: losses and accuracies by question.

    Names: ``supervised_loss`` (summed over questions, mean over galaxies), ``question_loss/Q``
    (mean over galaxies with a vote on Q), ``campaign_loss/C`` (summed over the campaign's
    questions, mean over galaxies with a vote in it) and ``question_accuracy/Q``: how often the
    answer with the highest predicted fraction is the one with most votes, among galaxies with a
    vote on Q. Where volunteers are tied, each of the tied answers counts as right.
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
        """Values and weights (B, K) for ``Means`` from losses (B, Q) and answers (B, A)."""
        self._to(losses.device)
        votes_by_question = torch.where(self._exists, votes[:, self._padded].float(), -1.0)
        predicted = torch.where(self._exists, concentrations[:, self._padded].float(), -1.0)
        most_votes = votes_by_question.amax(-1)
        asked = (most_votes > 0).float()
        chosen = predicted.argmax(-1, keepdim=True)
        right = (votes_by_question.gather(-1, chosen).squeeze(-1) == most_votes).float()
        total = losses.sum(1, keepdim=True)
        values = torch.cat([total, losses, losses @ self._campaigns, right], dim=1)
        in_campaign = ((asked @ self._campaigns) > 0).float()
        weights = torch.cat([torch.ones_like(total), asked, in_campaign, asked], dim=1)
        return values, weights

    def _to(self, device: torch.device) -> None:
        if self._padded.device != device:
            self._padded = self._padded.to(device)
            self._exists = self._exists.to(device)
            self._campaigns = self._campaigns.to(device)


def best_constant(votes: torch.Tensor, schema: Schema, num_steps: int = 300) -> torch.Tensor:
    """The one set of concentrations (A,), within (1, 101), that fits all galaxies' votes best.

    Found by Adam on the mean loss of votes (N, A), from concentrations of 6. It is the best that a
    model can do which never looks at the image.
    """
    logits = torch.full((votes.shape[1],), -3.0, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(num_steps):
        optimizer.zero_grad()
        concentrations = (1 + 100 * torch.sigmoid(logits)).expand(len(votes), -1)
        vote_loss(concentrations, votes, schema).backward()
        optimizer.step()
    return (1 + 100 * torch.sigmoid(logits)).detach()


def vote_loss(concentrations: torch.Tensor, votes: torch.Tensor, schema: Schema) -> torch.Tensor:
    """Mean over galaxies of the loss summed over questions: a scalar."""
    losses = dirichlet_multinomial_nll(concentrations, votes, schema.question_sizes)
    return losses.sum(1).mean()


def vote_marks(
    train_votes: torch.Tensor, votes: torch.Tensor, truth: torch.Tensor, schema: Schema
) -> dict[str, float]:
    """The two marks between which a model stands, as mean losses of ``votes``.

    ``constant``: the best constant prediction, fitted to ``train_votes``. ``truth``: the true
    answer probabilities (N, A), whose multinomial is the Dirichlet-Multinomial of concentrations
    without bound; 1e6 stands in for that.
    """
    constant = best_constant(train_votes, schema).expand(len(votes), -1)
    return {
        "constant": vote_loss(constant, votes, schema).item(),
        "truth": vote_loss(1e6 * truth.double().clamp(min=1e-9), votes, schema).item(),
    }


def question_table(metrics: dict[str, float], votes: torch.Tensor, schema: Schema) -> str:
    """A text table: for each question the galaxies with a vote, the loss, and the accuracy."""
    width = max(len(question.text) for question in schema.questions)
    lines = [f"{'question':{width}}  galaxies    loss  leading answer right"]
    for question in schema.questions:
        if f"question_loss/{question.text}" not in metrics:
            lines.append(f"{question.text:{width}}  {0:8d}       -  -")
            continue
        asked = votes[:, question.start_index : question.end_index + 1].any(1).sum()
        loss = metrics[f"question_loss/{question.text}"]
        accuracy = metrics[f"question_accuracy/{question.text}"]
        lines.append(f"{question.text:{width}}  {asked:8d}  {loss:6.3f}  {accuracy:.3f}")
    total = metrics["supervised_loss"]
    lines.append(f"{'all, summed':{width}}  {len(votes):8d}  {total:6.3f}")
    return "\n".join(lines)
