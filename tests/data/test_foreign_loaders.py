import signal

import numpy as np
import pandas as pd
import pytest
import torch
from ranks import as_ranks
from torch.utils.data import BatchSampler, DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from zoobot.data.foreign_loaders import ForeignLoader
from zoobot.system import distributed
from zoobot.system.errors import OneProcessError, UserError


def batches_of(sizes):
    """Batches of so many galaxies; a galaxy's pixels and label are its number."""
    numbers = torch.arange(sum(sizes)).split(list(sizes))
    return [
        {
            "image": x.float().reshape(-1, 1, 1, 1),
            "id_str": [str(i) for i in x.tolist()],
            "label": x,
        }
        for x in numbers
    ]


def given(num_ranks, loader, split="train", **arguments):
    """The batches of each rank; ``loader`` may be a function, called on each rank."""

    def work():
        own = loader() if callable(loader) else loader
        return list(ForeignLoader(own, split, **arguments))

    return as_ranks(num_ranks, work)


def ids(batches):
    return [name for batch in batches for name in batch["id_str"]]


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("num_galaxies", [8, 9, 11, 15, 16, 17, 23])
def test_processes_share_every_batch_and_none_is_left_without_or_with_one(num_galaxies, num_ranks):
    sizes = [len(part) for part in torch.arange(num_galaxies).split(8)]
    per_rank = given(num_ranks, batches_of(sizes))
    assert sorted(sum(map(ids, per_rank), [])) == sorted(map(str, range(num_galaxies)))
    assert len({len(own) for own in per_rank}) == 1
    assert min(len(batch["image"]) for own in per_rank for batch in own) >= 2
    for own in per_rank:
        for batch in own:
            assert batch["image"].flatten().tolist() == [int(i) for i in batch["id_str"]]


def test_a_last_batch_of_one_joins_the_one_before_in_one_process_too():
    (batches,) = given(1, batches_of([4, 4, 1]))
    assert [len(batch["image"]) for batch in batches] == [4, 5]


@pytest.mark.parametrize("sizes", [[2] * 50, [4, 2, 4, 4], [3], [4, 3, 4, 4]])
def test_batches_smaller_than_the_number_of_processes_are_refused(sizes):
    with pytest.raises(UserError, match="for 4 processes, which share every batch: choose a lar"):
        given(4, batches_of(sizes))


def test_many_batches_of_fewer_than_two_galaxies_a_process_are_taken_as_they_are():
    per_rank = given(2, batches_of([3] * 2000))
    assert [len(own) for own in per_rank] == [1999, 1999]  # the last joins the one before


def own_share():
    whole = batches_of([4] * 8)
    return whole[distributed.rank() :: distributed.world_size()]


def test_loaders_with_galaxies_of_their_own_are_refused_until_declared():
    with pytest.raises(
        UserError, match="process 1 has got other galaxies than process 0 by batch 1"
    ):
        given(2, own_share)
    per_rank = given(2, own_share, own_share=True)
    assert sorted(sum(map(ids, per_rank), [])) == sorted(map(str, range(32)))


def test_without_ids_other_galaxies_are_known_by_their_labels():
    def without_ids():
        return [{k: v for k, v in batch.items() if k != "id_str"} for batch in own_share()]

    with pytest.raises(UserError, match="process 1 has got other galaxies"):
        given(2, without_ids)


@pytest.mark.parametrize(("place", "noticed"), [(3, 4), (4, 8)])
def test_an_order_that_differs_later_is_noticed_by_the_end(place, noticed):
    def swapped():
        whole = batches_of([4] * 8)
        if distributed.rank() == 1:
            whole[place : place + 2] = whole[place : place + 2][::-1]
        return whole

    with pytest.raises(UserError, match=f"by batch {noticed} of the train loader"):
        given(2, swapped)


def test_shares_that_are_all_the_same_galaxies_are_refused():
    with pytest.raises(UserError, match="all processes got the same galaxies"):
        given(2, batches_of([4, 4]), own_share=True)


@pytest.mark.parametrize("in_batch_sampler", [False, True])
def test_torchs_distributed_sampler_is_known(in_batch_sampler):
    data = [{"image": torch.zeros(1, 1, 1), "id_str": str(i)} for i in range(16)]

    def loader():
        sampler = DistributedSampler(data, distributed.world_size(), distributed.rank())
        if in_batch_sampler:
            return DataLoader(data, batch_sampler=BatchSampler(sampler, 4, drop_last=False))
        return DataLoader(data, batch_size=4, sampler=sampler)

    per_rank = given(2, loader)
    assert sorted(sum(map(ids, per_rank), [])) == sorted(map(str, range(16)))


def test_processes_with_another_number_of_batches_are_refused_unless_they_evaluate_shares():
    def uneven():
        return batches_of([4] * 5)[distributed.rank() :: distributed.world_size()]

    for arguments in ({"split": "train", "own_share": True}, {"split": "val"}):
        with pytest.raises(UserError, match="have 3, 2 batches: give every process as many"):
            given(2, uneven, **arguments)
    assert [len(own) for own in given(2, uneven, split="val", own_share=True)] == [3, 2]


class Drawn:
    """Batches of one random number a galaxy, as augmentations are drawn."""

    def __len__(self):
        return 3

    def __iter__(self):
        for number in range(3):
            at = number + (3 * distributed.rank() if self.is_share else 0)
            yield {"image": torch.rand(4, 1, 1, 1), "id_str": [f"{at}-{i}" for i in range(4)]}

    def __init__(self, is_share):
        self.is_share = is_share


@pytest.mark.parametrize("is_share", [False, True])
def test_views_are_drawn_alike_for_shared_batches_and_differently_for_shares(is_share, monkeypatch):
    drawn = []
    for rank in (0, 1):  # one after the other: threads would draw from one generator
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(distributed, "world_size", lambda: 2)
        monkeypatch.setattr(distributed, "gather", lambda value: [value, value])
        loader = ForeignLoader(Drawn(is_share), "train", own_share=is_share)
        drawn.append(torch.cat([b["image"] for b in loader._seeded()]))
        again = torch.cat([b["image"] for b in loader._seeded()])
        assert torch.equal(drawn[-1], again)
        loader.set_epoch(1)
        assert not torch.equal(again, torch.cat([b["image"] for b in loader._seeded()]))
    assert torch.equal(*drawn) != is_share


def one_batch(batch, **arguments):
    (found,) = ForeignLoader([batch], "train", **arguments)
    return found


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
@pytest.mark.parametrize("kind", ["pair", "list", "dict", "labels", "numpy"])
def test_labels_come_as_pairs_in_dicts_and_with_one_column(kind, shape):
    images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 1, 0]).reshape(shape)
    if kind == "labels":
        labels = labels.reshape(4, 1)
    batch = {
        "pair": (images, labels),
        "list": [images, labels],
        "dict": {"image": images, "ring": labels},
        "labels": {"image": images, "labels": labels},
        "numpy": {"image": images.numpy(), "ring": labels.numpy()},
    }[kind]
    checked = []
    found = one_batch(batch, label_cols=["ring"], check=lambda table, split: checked.append(table))
    assert torch.equal(found["ring"], labels.reshape(4))
    assert torch.equal(found["image"], images)
    assert checked[0]["ring"].tolist() == [0, 1, 1, 0]


def test_pairs_of_several_label_columns_are_taken_apart():
    votes = torch.arange(12).reshape(4, 3)
    found = one_batch((torch.rand(4, 3, 8, 8), votes), label_cols=["a", "b", "c"])
    assert torch.equal(torch.stack([found[c] for c in "abc"], 1), votes)


def test_what_is_not_of_galaxies_is_left_whole():
    batch = {**batches_of([4])[0], "epoch": torch.tensor(3), "survey": "DESI", "scale": (1, 2, 3)}
    first, second = given(2, [batch])
    assert (first[0]["survey"], first[0]["scale"]) == ("DESI", (1, 2, 3))
    assert second[0]["id_str"] == ["1", "3"]


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        (torch.zeros(4, 3, 8, 8), "pair of images and labels, not a Tensor of shape"),
        ({"images": torch.zeros(4, 3, 8, 8)}, r"not a dict with \['images'\]"),
        ((torch.zeros(4, 3, 8, 8),) * 3, "not a tuple"),
        ({"image": torch.zeros(3, 8, 8), "ring": torch.zeros(3)}, r"must be \(B, C, H, W\), not"),
        ((torch.zeros(4, 3, 8, 8), torch.zeros(4, 2)), r"shape \(4, 2\); the model learns 1 col"),
        ((torch.zeros(4, 3, 8, 8), ["yes", "no"] * 2), "'labels' holds 'yes', which is no number"),
        ({"image": torch.zeros(4, 3, 8, 8), "ring": np.array(["a"] * 4)}, "'ring' holds 'a', whi"),
        ({"image": torch.zeros(4, 3, 8, 8), "ring": [0, 1, 1]}, r"shape \(3,\) for 4 images"),
        ({"image": torch.zeros(4, 3, 8, 8), "ring": torch.zeros(4, 2)}, r"shape \(4, 2\) for 4"),
        ((torch.zeros(0, 3, 8, 8), torch.zeros(0)), r"must be \(B, C, H, W\), not a Tensor of sh"),
        ((torch.zeros(4, 64, 64, 3), torch.zeros(4)), "put channels first"),
        ((torch.zeros(4, 3, 8, 8, dtype=torch.int16), torch.zeros(4)), "'image' is torch.int16"),
        (([torch.zeros(3, 8, 8), torch.zeros(3, 9, 9)], [0, 1]), r"\(B, C, H, W\), not a list"),
    ],
)
def test_another_kind_of_batch_is_named(batch, told):
    with pytest.raises(UserError, match=told):
        one_batch(batch, label_cols=["ring"])


@pytest.mark.parametrize(
    "labels",
    [[0, 1, 1, 0], np.array([0, 1, 1, 0], dtype=object), pd.Series([0, 1, 1, 0], [7, 8, 9, 3]),
     np.array([[0], [1], [1], [0]]), torch.tensor([False, True, True, False])],
)  # fmt: skip
def test_labels_and_images_come_in_any_kind_of_list(labels):
    images = [np.full((3, 8, 8), i / 4) for i in range(4)]  # float64
    for batch in ({"image": images, "ring": labels}, (np.stack(images), labels)):
        found = one_batch(batch, label_cols=["ring"])
        assert found["ring"].tolist() == [0, 1, 1, 0]
        assert found["image"].dtype == torch.float32
        assert found["image"][:, 0, 0, 0].tolist() == [0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize("kind", [list, np.array, pd.Series, torch.tensor])
def test_ids_of_any_kind_are_texts_and_are_shared_and_joined_with_their_galaxies(kind):
    def batches():
        numbers = torch.arange(10).split(4)
        return [
            {"image": x.reshape(-1, 1, 1, 1) / 10, "id_str": kind(x.tolist()), "label": x}
            for x in numbers
        ]

    for own in given(2, batches, label_cols=["label"]):
        for batch in own:
            assert batch["id_str"] == [str(i) for i in batch["label"].tolist()]


def test_floats_outside_0_1_are_warned_of():
    with pytest.warns(UserWarning, match="images hold values from 0 to 255"):
        one_batch((torch.rand(4, 3, 8, 8).round() * 255.0, torch.zeros(4)))


def test_a_model_with_columns_of_its_own_may_leave_the_usual_one_out():
    batch = {"image": torch.zeros(4, 3, 8, 8), "length": torch.ones(4)}
    assert "label" not in one_batch(batch, label_cols=["label"])


class Miscounting(list):
    """Batches that are not as many as their length says."""

    def __init__(self, batches, said):
        super().__init__(batches)
        self.said = said

    def __len__(self):
        return self.said


@pytest.mark.parametrize(("said", "given_"), [(3, "more"), (10, "only 5"), (5, None)])
def test_another_number_of_batches_than_the_loader_said_is_an_error(said, given_):
    loader = ForeignLoader(Miscounting(batches_of([4] * 5), said), "train")
    if given_ is None:
        assert len(list(loader)) == 5
        return
    with pytest.raises(OneProcessError, match=f"has {said} batches, and gave {given_}: mend"):
        list(loader)


def test_a_lone_last_galaxy_of_own_shares_joins_the_batch_before_on_all_processes():
    def shares():
        sizes = [4, 4, 1] if distributed.rank() == 0 else [4, 4, 2]
        first = 100 * distributed.rank()
        return [{**b, "id_str": [f"{first}-{i}" for i in b["id_str"]]} for b in batches_of(sizes)]

    sizes = [[len(b["image"]) for b in own] for own in given(2, shares, own_share=True)]
    assert sizes == [[4, 5], [4, 6]]


def test_workers_of_a_foreign_loader_do_not_hear_what_asks_a_run_to_stop():
    class Deafness(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
            heard = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1} - blocked
            return {"image": torch.zeros(1, 4, 4), "heard": len(heard)}

    before = signal.getsignal(signal.SIGCHLD)
    (batch,) = ForeignLoader(DataLoader(Deafness(), batch_size=4, num_workers=1), "train")
    assert batch["heard"].tolist() == [0] * 4
    assert signal.getsignal(signal.SIGCHLD) is before


def test_a_wrong_label_in_one_processs_share_is_its_own_to_tell():
    def check(table, split):
        if (table["label"] == 5).any():
            raise UserError("5 is no label")

    def shares():
        return batches_of([4] * 2)[distributed.rank() :: 2]

    with pytest.raises(OneProcessError, match="5 is no label"):
        given(2, shares, own_share=True, check=check)


def test_a_tensor_dataset_gives_pairs():
    data = TensorDataset(torch.rand(9, 3, 8, 8), torch.arange(9))
    batches = list(ForeignLoader(DataLoader(data, batch_size=4), "train", label_cols=["n"]))
    assert [batch["n"].tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7, 8]]
    assert np.all([batch["image"].ndim == 4 for batch in batches])


@pytest.mark.parametrize("is_share", [False, True], ids=["shared", "own share"])
def test_every_batch_tells_its_steps_galaxies_over_all_ranks_and_whether_it_ends_it(is_share):
    def work():
        loader = batches_of([4 + distributed.rank(), 4, 4, 4, 5] if is_share else [4, 4, 4, 4, 5])
        return list(ForeignLoader(loader, "train", accumulation=2, own_share=is_share))

    for batches in as_ranks(2, work):
        told = [(batch["step_galaxies"], batch["ends_step"]) for batch in batches]
        first, other, last = (17, 16, 10) if is_share else (8, 8, 5)
        assert told == [
            (first, False), (first, True), (other, False), (other, True), (last, True),
        ]  # fmt: skip


def test_reading_batches_leaves_torchs_generator_as_it_was():
    shuffled = DataLoader(TensorDataset(torch.rand(6, 1, 2, 2), torch.arange(6)), 2, shuffle=True)
    loader = ForeignLoader(shuffled, "train", label_cols=["label"])
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    drawn = [torch.rand(1) for _ in loader]
    assert torch.equal(torch.cat(drawn), expected)


def test_a_label_column_that_would_hide_what_a_batch_tells_of_its_step_is_refused():
    with pytest.raises(UserError, match="can't be called 'ends_step'"):
        ForeignLoader(batches_of([4]), "train", label_cols=["ends_step"])
