import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoobot.data.samplers import SHARDS_MIXED, EvalSampler, Step, TrainSampler, in_steps
from zoobot.system.errors import UserError


def as_rank(monkeypatch, rank, world_size):
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(world_size))


@pytest.mark.parametrize("world_size", [1, 2, 4])
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=40), epoch=st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_ranks_share_the_galaxies_of_shards_without_overlap_or_loss(world_size, sizes, epoch):
    dealt = []
    for rank in range(min(world_size, sum(sizes))):
        with pytest.MonkeyPatch.context() as patched:
            as_rank(patched, rank, min(world_size, sum(sizes)))
            sampler = TrainSampler(sum(sizes), 8, 1, seed=3, shard_sizes=sizes)
            sampler.set_epoch(epoch)
            dealt += [index for _, batch in sampler for index in batch]
    assert sorted(dealt) == list(range(sum(sizes)))


def test_few_shards_are_in_use_at_a_time_and_epochs_differ():
    sizes = [50] * 64
    sampler = TrainSampler(3200, 100, 1, seed=3, shard_sizes=sizes)
    order = sampler._order()
    for quarter in np.split(order // 50, 4):
        assert len(set(quarter)) == SHARDS_MIXED
    sampler.set_epoch(1)
    assert not np.array_equal(order, sampler._order())


def dealt(num_galaxies, batch_size, accumulation, num_ranks):
    """The samplers of all ranks, and the micro-batches of each rank."""
    samplers, batches = [], []
    for rank in range(num_ranks):
        with pytest.MonkeyPatch.context() as patch:
            as_rank(patch, rank, num_ranks)
            samplers.append(TrainSampler(num_galaxies, batch_size, accumulation))
            batches.append([batch for _, batch in samplers[-1]])
    return samplers, batches


def assert_dealt_well(num_galaxies, batch_size, accumulation, num_ranks):
    """Every galaxy once; as many micro-batches on every rank, none empty, none lone if it can."""
    if num_galaxies < num_ranks:
        with pytest.raises(UserError, match="too few"):
            dealt(num_galaxies, batch_size, accumulation, num_ranks)
        return
    samplers, batches = dealt(num_galaxies, batch_size, accumulation, num_ranks)
    assert sorted(i for own in batches for batch in own for i in batch) == [*range(num_galaxies)]
    assert len({(s.num_steps, s.accumulation) for s in samplers}) == 1
    assert {len(own) for own in batches} == {len(samplers[0])}
    assert 1 <= samplers[0].accumulation <= accumulation
    smallest = 2 if num_galaxies >= 2 * num_ranks else 1
    assert min(len(batch) for own in batches for batch in own) >= smallest
    k = samplers[0].accumulation
    steps = [
        sum(len(batch) for own in batches for batch in own[i : i + k])
        for i in range(0, len(batches[0]), k)
    ]
    assert samplers[0].steps() == [(size, k) for size in steps]
    assert max(steps) - min(steps) <= 1
    assert bool(samplers[0].note) == (max(steps) > batch_size)
    assert max(steps) < max(batch_size + 1, 2 * smallest * num_ranks)


def test_every_galaxy_is_dealt_once_and_no_process_is_left_without_or_with_one():
    for case in itertools.product(range(1, 10), range(1, 6), range(1, 4), range(1, 5)):
        assert_dealt_well(*case)


@given(st.integers(1, 200), st.integers(1, 64), st.integers(1, 4), st.integers(1, 9))
def test_more_galaxies_are_dealt_as_well(num_galaxies, batch_size, accumulation, num_ranks):
    assert_dealt_well(num_galaxies, batch_size, accumulation, num_ranks)


def test_a_step_holds_the_same_galaxies_for_any_number_of_ranks(monkeypatch):
    def steps(world_size, accumulation):
        shares = []
        for rank in range(world_size):
            as_rank(monkeypatch, rank, world_size)
            sampler = TrainSampler(103, 16, accumulation, seed=5)
            sampler.set_epoch(2)
            batches = list(sampler)
            k = sampler.accumulation
            indices = [batch for _, batch in batches]
            shares.append([sum(indices[i : i + k], []) for i in range(0, len(batches), k)])
        return [sorted(sum(parts, [])) for parts in zip(*shares, strict=True)]

    assert steps(1, 1) == steps(2, 1) == steps(4, 2) == steps(3, 3)
    assert max(map(len, steps(1, 1))) <= 16


def test_a_sampler_that_starts_later_tells_of_the_steps_that_are_left():
    sampler = TrainSampler(11, 3)
    sampler.set_epoch(1, first_step=2)
    assert [len(batch) for _, batch in sampler] == [size for size, _ in sampler.steps()] == [3, 2]


def test_batches_that_do_not_make_the_steps_are_an_error():
    batches = [{"image": i} for i in range(3)]
    assert [batch["ends_step"] for batch in in_steps(batches, [Step(5, 2), Step(4, 1)])] == [
        False, True, True,
    ]  # fmt: skip
    for steps in ([Step(5, 2)], [Step(5, 2), Step(4, 2)]):
        with pytest.raises(ValueError, match="zip"):
            list(in_steps(batches, steps))


def test_evaluation_neither_pads_nor_drops(monkeypatch):
    for world_size in (1, 2, 3, 7):
        indices = []
        for rank in range(world_size):
            as_rank(monkeypatch, rank, world_size)
            sampler = EvalSampler(20, 3)
            batches = list(sampler)
            assert len(batches) == len(sampler)
            indices += [index for _, batch in batches for index in batch]
        assert sorted(indices) == list(range(20))


def test_orders_differ_between_epochs_and_seeds():
    orders = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        sampler = TrainSampler(50, 50, seed=seed)
        sampler.set_epoch(epoch)
        orders.append(tuple(next(iter(sampler))[1]))
    assert len(set(orders)) == 3
