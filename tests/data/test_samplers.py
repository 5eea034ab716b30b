import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoobot.data.samplers import SHARDS_MIXED, EvalSampler, TrainSampler


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


@given(
    num_galaxies=st.integers(1, 200),
    batch_size=st.integers(1, 64),
    accumulation=st.integers(1, 4),
    world_size=st.sampled_from([1, 2, 3, 4]),
)
def test_every_galaxy_is_trained_on_once_an_epoch(
    num_galaxies, batch_size, accumulation, world_size
):
    with pytest.MonkeyPatch.context() as patch:
        per_rank = []
        for rank in range(world_size):
            as_rank(patch, rank, world_size)
            if num_galaxies < world_size:
                with pytest.raises(ValueError, match="too few"):
                    TrainSampler(num_galaxies, batch_size, accumulation)
                return
            sampler = TrainSampler(num_galaxies, batch_size, accumulation)
            per_rank.append(list(sampler))
            assert len(sampler) == len(per_rank[-1])
    assert len({len(batches) for batches in per_rank}) == 1
    if num_galaxies // sampler.num_steps >= world_size:
        assert all(len(batch) > 0 for batches in per_rank for _, batch in batches)
    indices = [index for batches in per_rank for _, batch in batches for index in batch]
    assert sorted(indices) == list(range(num_galaxies))


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
