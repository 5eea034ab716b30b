import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from zoobot import metrics
from zoobot.losses import dirichlet_multinomial_nll
from zoobot.schemas import Schema, get_schema


def random_batch(schema, num_galaxies, seed=0, share_asked=0.6):
    generator = torch.Generator().manual_seed(seed)
    num_answers = len(schema.answers)
    votes = torch.randint(0, 9, (num_galaxies, num_answers), generator=generator)
    asked = torch.rand(num_galaxies, len(schema.questions), generator=generator) < share_asked
    votes = votes * asked[:, schema.question_of_answer]
    return 1 + 100 * torch.rand(num_galaxies, num_answers, generator=generator), votes


@given(st.lists(st.integers(0, 7), min_size=1, max_size=6), st.integers(0, 100))
def test_means_are_over_examples_however_they_are_batched(sizes, seed):
    rng = np.random.default_rng(seed)
    total = sum(sizes)
    values = torch.from_numpy(rng.normal(size=(total, 2)).astype(np.float32))
    weights = torch.from_numpy(rng.integers(0, 2, size=(total, 2)).astype(np.float32))
    means = metrics.Means(["a", "b"], torch.device("cpu"))
    for value, weight in zip(values.split(sizes), weights.split(sizes), strict=True):
        means.update(value, weight)
    result = means.result()
    for i, name in enumerate("ab"):
        chosen = values[weights[:, i] > 0, i].double()
        assert (name in result) == (len(chosen) > 0)
        if len(chosen):
            assert result[name] == pytest.approx(chosen.mean().item(), abs=1e-9)


def test_a_value_without_weight_may_be_nan_and_one_with_weight_is_not_hidden():
    means = metrics.Means(["a", "b"], torch.device("cpu"))
    means.update(torch.tensor([[np.nan, np.nan], [2.0, 1.0]]), torch.tensor([[0, 1], [1, 1]]))
    result = means.result()
    assert result["a"] == 2.0
    assert np.isnan(result["b"])


def test_question_and_campaign_losses_are_means_over_galaxies_with_votes():
    schema = get_schema("decals_all_campaigns_ortho_schema")
    concentrations, votes = random_batch(schema, 50, share_asked=0.1)
    losses = dirichlet_multinomial_nll(concentrations, votes, schema.question_sizes)
    measure = metrics.VoteMeasures(schema)
    means = metrics.Means(measure.names, torch.device("cpu"))
    means.update(*measure(losses, concentrations, votes))
    result = means.result()
    assert result["supervised_loss"] == pytest.approx(losses.sum(1).mean().item(), rel=1e-5)
    for question in schema.questions:
        asked = votes[:, question.start_index : question.end_index + 1].any(1)
        expected = losses[asked, question.index].mean().item()
        assert result[f"question_loss/{question.text}"] == pytest.approx(expected, rel=1e-5)
    for campaign, indices in schema.campaigns.items():
        columns = np.isin(schema.question_of_answer.numpy(), indices)
        asked = votes[:, columns].any(1)
        expected = losses[asked][:, indices].sum(1).mean().item()
        assert result[f"campaign_loss/{campaign}"] == pytest.approx(expected, rel=1e-5)


def test_accuracy_counts_the_leading_answer_where_there_is_one():
    schema = Schema({"a": ["_x", "_y", "_z"], "b": ["_x", "_y"]}, {"a": None, "b": None})
    votes = torch.tensor([[5, 1, 0, 0, 0], [0, 3, 3, 1, 0], [0, 0, 0, 0, 2], [9, 0, 1, 0, 4]])
    predicted = torch.tensor([[9.0, 2, 3, 1, 5], [1, 2, 5, 2, 1], [4, 1, 1, 1, 9], [1, 2, 9, 7, 6]])
    measure = metrics.VoteMeasures(schema)
    means = metrics.Means(measure.names, torch.device("cpu"))
    losses = dirichlet_multinomial_nll(predicted, votes, schema.question_sizes)
    means.update(*measure(losses, predicted, votes))
    assert means.result()["question_accuracy/a"] == pytest.approx(1 / 2)
    assert means.result()["question_accuracy/b"] == pytest.approx(2 / 3)


def test_marks_are_the_losses_of_the_best_constant_and_of_the_truth_with_and_without_bounds(tree):
    rng = np.random.default_rng(0)
    p = rng.beta(0.3, 0.3, 400)  # more extreme than concentrations between 1 and 101 can be
    votes = np.zeros((400, 7), dtype=np.int64)
    votes[:, 0] = rng.binomial(30, p)
    votes[:, 1] = 30 - votes[:, 0]
    truth = np.full((400, 7), 1 / 3)
    truth[:, :2] = np.stack([p, 1 - p], axis=1)
    marks = metrics.vote_marks(*map(torch.from_numpy, (votes, votes, truth)), tree)
    k = votes[:, 0]
    assert marks["truth"] == pytest.approx(-stats.binom.logpmf(k, 30, p).mean(), abs=1e-3)
    top = truth[:, :2].max(1)
    a, b = (np.maximum(101 * x / top, 1) for x in (p, 1 - p))
    assert marks["truth (head)"] == pytest.approx(-stats.betabinom.logpmf(k, 30, a, b).mean())
    assert marks["constant"] == pytest.approx(-stats.betabinom.logpmf(k, 30, 1, 1).mean())
    free = -stats.betabinom.logpmf(k, 30, 0.3, 0.3).mean()
    assert free - 0.05 < marks["constant (any)"] <= free
    assert marks["truth"] < marks["truth (head)"] < marks["constant (any)"] < marks["constant"]


def test_the_table_lists_every_question(tree):
    concentrations, votes = random_batch(tree, 20)
    votes[:, 5:] = 0
    measure = metrics.VoteMeasures(tree)
    means = metrics.Means(measure.names, torch.device("cpu"))
    losses = dirichlet_multinomial_nll(concentrations, votes, tree.question_sizes)
    means.update(*measure(losses, concentrations, votes))
    lines = metrics.question_table(means.result(), votes, tree).splitlines()
    assert [line.split()[0] for line in lines] == ["question", "smooth", "bar", "merging", "all,"]
    assert lines[3].split()[1:] == ["0", "-", "-", "-"]
    beside = metrics.question_table(means.result(), votes, tree, means.result()).splitlines()
    assert beside[1].split()[2] == beside[1].split()[3]
