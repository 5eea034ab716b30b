import itertools

import numpy as np
import pytest
from hugging_face import datasets, galaxies, picture
from ranks import as_ranks

from zoobot.data import CatalogDataModule
from zoobot.data.images import read_image
from zoobot.data.streams import EvalStreamSampler, GalaxyStream, TrainStreamSampler

WHOLE = galaxies(range(23)).select_columns(["id_str", "image", "label"])


def stream(num_shards=4, split="train", dataset=WHOLE, **options):
    options = {"shuffle_buffer": 5, "seed": 1, **options}
    streamed = dataset.to_iterable_dataset(num_shards=num_shards)
    return GalaxyStream(streamed, ["label"], split, **options)


def train_steps(epoch=0, first_step=0, batch_size=12, num_steps=3, accumulation=1, given=None):
    """The ids of each piece of an epoch."""
    sampler = given or TrainStreamSampler(stream(), batch_size, num_steps, accumulation)
    sampler.set_epoch(epoch, first_step)
    return [piece.ids for _, piece in sampler]


def test_epochs_go_on_from_pass_to_pass_and_each_uses_every_galaxy_once():
    sampler = TrainStreamSampler(stream(), 12, 3, 1)
    in_order = sum((sum(train_steps(epoch, given=sampler), []) for epoch in range(4)), [])
    assert len(in_order) == 4 * 3 * 12
    passes = [in_order[start : start + 23] for start in range(0, 138, 23)]
    assert all(sorted(one) == sorted(WHOLE["id_str"]) for one in passes)
    assert passes[0] != passes[1] != list(WHOLE["id_str"])


@pytest.mark.parametrize(("epoch", "first_step"), [(0, 2), (1, 0), (3, 1)])
def test_an_epoch_begun_elsewhere_has_the_steps_it_would_have_had(epoch, first_step):
    sampler = TrainStreamSampler(stream(), 12, 3, 1)
    whole = [train_steps(number, given=sampler) for number in range(epoch + 1)]
    assert train_steps(epoch, first_step) == whole[epoch][first_step:]


def test_an_iteration_that_was_interrupted_is_begun_anew():
    sampler = TrainStreamSampler(stream(), 12, 3, 1)
    sampler.set_epoch(0)
    list(itertools.islice(sampler, 2))
    assert train_steps(0, given=sampler) == train_steps(0)


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_processes_share_each_step_and_none_gets_less_than_two(num_ranks, accumulation):
    per_rank = as_ranks(num_ranks, lambda: train_steps(0, batch_size=13, accumulation=accumulation))
    assert min(len(ids) for pieces in per_rank for ids in pieces) >= 2
    for step, whole in enumerate(train_steps(0, batch_size=13)):
        pieces = slice(step * accumulation, (step + 1) * accumulation)
        shares = [sum(own[pieces], []) for own in per_rank]
        assert [whole[rank::num_ranks] for rank in range(num_ranks)] == shares


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [2, 4, 30])
def test_one_pass_gives_each_galaxy_once_in_its_order(num_ranks, batch_size):
    def pieces():
        sampler = EvalStreamSampler(stream(split="val"), batch_size)
        steps, given = sampler.steps(), []
        for _, piece in sampler:
            given.append(piece.ids)
            next(steps)
        assert list(steps) == []
        return given

    per_rank = as_ranks(num_ranks, pieces)
    assert len({len(own) for own in per_rank}) == 1
    for rank, own in enumerate(per_rank):
        assert sum(own, []) == list(WHOLE["id_str"])[rank::num_ranks]


def test_places_and_so_views_differ_from_pass_to_pass():
    sampler = TrainStreamSampler(stream(), 23, 2, 1)
    first, second = (piece for _, piece in sampler)
    assert not set(first.places) & set(second.places)


def test_pictures_made_on_the_way_are_read_as_they_are():
    def turned(row):
        return {**row, "image": row["image"].rotate(180)}

    mapped = WHOLE.to_iterable_dataset().map(turned)
    _, piece = next(iter(EvalStreamSampler(GalaxyStream(mapped, ["label"], "val"), 5)))
    pixels = np.asarray(read_image(piece.source(piece.places[3])))
    assert np.array_equal(pixels, np.asarray(picture(3).rotate(180)))


def changing():
    passes = iter([5, 3])

    def rows():
        for i in range(next(passes)):
            yield {"id_str": str(i), "image": b"", "label": 0}

    return datasets.IterableDataset.from_generator(rows)


def test_a_stream_that_is_empty_or_changes_is_refused():
    empty = WHOLE.to_iterable_dataset().filter(lambda row: False)
    for split, sampler in (
        ("train", TrainStreamSampler(GalaxyStream(empty, [], "train"), 4, 1, 1)),
        ("val", EvalStreamSampler(GalaxyStream(empty, [], "val"), 4)),
    ):
        with pytest.raises(ValueError, match=f"the {split} stream gave no galaxies"):
            list(sampler)
    with pytest.raises(ValueError, match="gave 5 galaxies, and later 3: it must give the same"):
        list(TrainStreamSampler(GalaxyStream(changing(), [], "train"), 4, 4, 1))


def test_ids_and_labels_of_a_stream_are_checked_as_they_come():
    nameless = WHOLE.remove_columns("id_str")
    with pytest.raises(ValueError, match="a galaxy of the train stream has no 'id_str': rename"):
        train_steps(given=TrainStreamSampler(stream(dataset=nameless), 12, 1, 1))
    worded = WHOLE.remove_columns("label").add_column("label", ["a"] * 23)
    with pytest.raises(ValueError, match="train stream: label column 'label' holds 'a', which is"):
        train_steps(given=TrainStreamSampler(stream(dataset=worded), 12, 1, 1))
    lacking = TrainStreamSampler(stream(dataset=WHOLE.remove_columns("label")), 12, 1, 1)
    with pytest.raises(ValueError, match="train stream has no column 'label'"):
        train_steps(given=lacking)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "a stream, whose number is not known: give steps_per_epoch, for example 1000"),
        ({"steps_per_epoch": 0}, "steps_per_epoch=0: give a whole number of 1 or more"),
        ({"steps_per_epoch": 2, "cache": "memory"}, "images of a stream are not kept"),
        ({"steps_per_epoch": 2, "batch_size": 3, "grad_accumulation": 2}, "give 4 or more"),
    ],
)
def test_misuse_is_told(options, told):
    streamed = WHOLE.to_iterable_dataset()
    with pytest.raises(ValueError, match=told):
        CatalogDataModule(["label"], train_catalog=streamed, **options).train_dataloader()


def test_steps_are_for_streams_only():
    with pytest.raises(ValueError, match="steps_per_epoch is for streams"):
        CatalogDataModule(["label"], train_catalog=WHOLE, steps_per_epoch=3)
