import pickle

import pytest
import torch
from comparing import assert_same_run
from hugging_face import datasets, galaxies
from ranks import as_ranks
from torch import nn

from zoobot.data import CatalogDataModule, get_galaxy_transform
from zoobot.data.loaders import own_loader
from zoobot.data.stream_loaders import StreamLoader
from zoobot.data.views.device import DeviceView
from zoobot.models.finetune import FinetuneableZoobotClassifier
from zoobot.system import distributed
from zoobot.system.errors import UserError
from zoobot.trainer import Trainer

WHOLE = galaxies(range(40))
TRAIN, VAL = WHOLE.select(range(29)), WHOLE.select(range(29, 40))
VIEWS = [get_galaxy_transform({"output_size": 16, "flip_prob": p}) for p in (0.5, 0.0)]


def streamed(train=TRAIN, val=VAL, num_shards=3, **options):
    """A data module of streams, 3 steps of 10 galaxies an epoch."""
    options = {"batch_size": 10, "num_workers": 0, "steps_per_epoch": 3, **options}
    return CatalogDataModule(
        ["label"],
        *VIEWS,
        train_catalog=train and train.to_iterable_dataset(num_shards=num_shards),
        val_catalog=val and val.to_iterable_dataset(num_shards=2),
        shuffle_buffer=8,
        **options,
    )


def classifier(**options):
    torch.manual_seed(0)
    parts = (nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    encoder = nn.Sequential(*parts)
    return FinetuneableZoobotClassifier(encoder=encoder, num_classes=2, **options)


def trainer(folder, **options):
    options = {"device": "cpu", "precision": "fp32", "show_progress": False, **options}
    return Trainer(folder, **options)


def batches(loader, epoch=0):
    loader.set_epoch(epoch)
    return list(loader)


def test_workers_make_the_batches_that_the_process_itself_would_make():
    alone, helped = (streamed(num_workers=number).loader("train") for number in (0, 2))
    for epoch in (0, 1):
        for one, other in zip(batches(alone, epoch), batches(helped, epoch), strict=True):
            assert one["id_str"] == other["id_str"]
            assert torch.equal(one["image"], other["image"])
            assert torch.equal(one["labels"], other["labels"])


def test_steps_have_one_size_and_tell_it_and_evaluation_reads_to_the_end():
    data = streamed(grad_accumulation=2)
    told = [(len(b["id_str"]), b["step_galaxies"], b["ends_step"]) for b in data.loader("train")]
    assert told == [(5, 10, False), (5, 10, True)] * 3
    assert sum((b["id_str"] for b in data.loader("val")), []) == VAL["id_str"][:]
    assert len(data.train_dataloader()) == 6
    with pytest.raises(TypeError, match="not known before its end"):
        len(data.val_dataloader())


def test_metrics_of_a_stream_are_those_of_the_same_galaxies_by_number(tmp_path):
    model = classifier()
    options = {"test_transform": VIEWS[1], "batch_size": 7, "num_workers": 0}
    by_number = CatalogDataModule(["label"], val_catalog=VAL, **options)
    told = [trainer(tmp_path).validate(model, data)[0] for data in (streamed(), by_number)]
    assert told[0] == pytest.approx(told[1])


def shares(num_ranks, split, make=streamed):
    def own():
        return [batch["id_str"] for batch in make().loader(split)]

    return as_ranks(num_ranks, own)


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
def test_each_process_gets_its_share_of_a_stream_and_may_get_none_of_its_end(num_ranks):
    per_rank = shares(num_ranks, "val", lambda: streamed(val=WHOLE.select(range(9))))
    assert sorted(sum(sum(per_rank, []), [])) == [f"g{i}" for i in range(9)]
    per_rank = shares(num_ranks, "train")
    alone = shares(1, "train")[0]
    for step, whole in enumerate(alone):
        assert sorted(sum((own[step] for own in per_rank), [])) == sorted(whole)


@pytest.mark.parametrize("split", ["train", "val"])
def test_processes_that_were_given_parts_of_a_stream_are_told(split):
    def own_part():
        part = WHOLE.select(range(distributed.rank(), 40, 3))  # 14, 13, 13 galaxies
        return streamed(part, part)

    with pytest.raises(UserError, match=f"process 1 has read other galaxies of the {split} stream"):
        shares(3, split, own_part)


def test_a_stream_that_ends_early_in_one_process_is_noticed_at_the_end():
    def shorter():
        return streamed(val=WHOLE.select(range(40 - 3 * distributed.rank())), batch_size=4)

    with pytest.raises(UserError, match="process 1 has read other galaxies of the val stream"):
        shares(2, "val", shorter)


def test_training_goes_on_bitwise_from_a_saved_epoch(tmp_path):
    trainer(tmp_path / "a", max_epochs=4).fit(classifier(), streamed())
    trainer(tmp_path / "b", max_epochs=2).fit(classifier(), streamed())
    again = trainer(tmp_path / "b", max_epochs=4)
    again.fit(classifier(), streamed(), ckpt_path="last")
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_a_label_that_can_not_be_learned_stops_training_in_one_line(tmp_path):
    wrong = [5 if i == 7 else i % 2 for i in range(29)]
    train = TRAIN.remove_columns("label").add_column("label", wrong)
    with pytest.raises(ValueError, match="train stream.*'label' of id_str 'g7' holds 5"):
        trainer(tmp_path).fit(classifier(), streamed(train))


def test_balanced_weights_are_refused_as_no_stream_tells_its_labels(tmp_path):
    with pytest.raises(ValueError, match="needs all labels before training"):
        trainer(tmp_path).fit(classifier(class_weights="balanced"), streamed())


def test_a_stream_is_predicted_to_its_end(tmp_path):
    data = CatalogDataModule(
        None, predict_catalog=VAL.to_iterable_dataset(), batch_size=4, num_workers=0
    )
    predicted = trainer(tmp_path).predict(classifier(), data)
    assert [len(batch) for batch in predicted] == [4, 4, 3]


def test_a_gpu_makes_the_views_of_a_stream_itself():
    loader = own_loader(streamed().train_dataloader(), torch.device("cuda", 0))
    assert isinstance(loader, StreamLoader)
    assert isinstance(loader.dataset.transform, DeviceView)
    with_cpu = own_loader(streamed().train_dataloader())
    assert [b["id_str"] for b in loader] == [b["id_str"] for b in with_cpu]


def test_a_stream_has_no_numbers_and_no_table():
    data = streamed()
    data.setup("fit")
    with pytest.raises(ValueError, match="a stream has no galaxy of that number"):
        data.train_dataset[0]
    with pytest.raises(ValueError, match="a stream, which can't be had as a table"):
        data.labels("train")
    assert [data.num_galaxies(split) for split in ("train", "val", "test")] == [30, 0, 0]


def test_workers_get_no_stream():
    data = streamed()
    data.setup("fit")
    assert pickle.loads(pickle.dumps(data.train_dataset)).galaxies._dataset is None


def test_a_dict_of_streams_goes_in_by_its_splits():
    parts = {"train": TRAIN.to_iterable_dataset(), "validation": VAL.to_iterable_dataset()}
    given = datasets.IterableDatasetDict(parts)
    data = CatalogDataModule(["label"], catalog=given, steps_per_epoch=2, num_workers=0)
    assert sum((b["id_str"] for b in data.loader("val")), []) == VAL["id_str"][:]
