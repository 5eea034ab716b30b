import errno
import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
import timm
import torch
from conftest import REPO
from torch.utils.data import DataLoader, TensorDataset

from zoobot import engine, evaluate
from zoobot.data import CatalogDataModule, get_galaxy_transform, minimal_view_config
from zoobot.data.catalog import read_catalog
from zoobot.data.views.cpu import GalaxyView
from zoobot.data.views.device import DeviceView
from zoobot.loop_loaders import Loading
from zoobot.models.finetune import (
    FinetuneableZoobotClassifier,
    FinetuneableZoobotRegressor,
    FinetuneableZoobotTree,
)
from zoobot.models.tree import ZoobotTree
from zoobot.predictions.models import ZoobotEncoder
from zoobot.pytorch.training.trainer import get_trainer
from zoobot.runs import checkpoint
from zoobot.runs.checkpoint import load_model
from zoobot.runs.resume import find_state
from zoobot.system.errors import UserError
from zoobot.trainer import Trainer


@pytest.fixture
def frame(small_catalog):
    frame = read_catalog(small_catalog)
    frame["label"] = (frame["smooth_yes"] > 10).astype(int)
    frame["fraction"] = frame["smooth_yes"] / 20
    return frame


def data_module(frame, *label_cols, **arguments):
    view = minimal_view_config()
    view.output_size = 32
    return CatalogDataModule(
        list(label_cols),
        get_galaxy_transform(view),
        get_galaxy_transform(view),
        **{"catalog": frame, "batch_size": 16, "num_workers": 0, **arguments},
    )


def again(frame):
    """The same galaxies under other names, for another split."""
    return frame.assign(id_str="again-" + frame["id_str"])


def encoder():
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=0)


def classifier(**arguments):
    return FinetuneableZoobotClassifier(num_classes=2, encoder=encoder(), **arguments)


def trainer(folder, **arguments):
    """Of float32 on the CPU, where the same run gives the same bits."""
    options = {"max_epochs": 2, "precision": "fp32", "accelerator": "cpu", "report": False}
    return get_trainer(folder, **options | arguments)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_loop_on_a_gpu_is_given_views_to_make_and_one_on_a_cpu_is_not(frame, accumulation):
    data = data_module(frame, "label")
    for device, kind in (("cpu", GalaxyView), ("cuda:0", DeviceView)):
        loading = Loading(torch.device(device), seed=0, accumulation=accumulation)
        for loader in (data.train_dataloader(), data.val_dataloader()):
            of_loop = loading.loop_loader(loader, classifier(), "train")
            of_loop = of_loop if accumulation == 1 else of_loop._loader
            assert type(of_loop.dataset.transform) is kind


def test_every_class_fits_validates_tests_and_predicts(frame, tree, tmp_path, precision):
    for model, columns, metrics in (
        (classifier(), ["label"], {"loss", "acc"}),
        (
            FinetuneableZoobotRegressor("fraction", encoder=encoder()),
            ["fraction"],
            {"loss", "rmse"},
        ),
        (FinetuneableZoobotTree(schema=tree, encoder=encoder()), tree.label_cols, {"loss"}),
    ):
        data = data_module(frame, *columns)
        run = trainer(tmp_path / type(model).__name__, precision=precision)
        run.fit(model, data)
        expected = {f"finetuning/{split}_{name}" for split in ("train", "val") for name in metrics}
        assert expected <= set(run.callback_metrics)
        fitted = {k: v for k, v in run.callback_metrics.items() if "val" in k}
        assert run.validate(model, data)[0] == pytest.approx(fitted)
        tested = run.test(model, data, ckpt_path="best", verbose=False)[0]
        assert tested == run.callback_metrics
        assert {f"finetuning/test_{name}" for name in metrics} <= set(tested)
        assert all(type(value) is float for value in tested.values())
        to_predict = data_module(frame, catalog=None, predict_catalog=frame)
        assert sum(len(part) for part in run.predict(model, to_predict)) == 60


def test_curves_and_a_report_are_left_and_how_a_fit_goes_on_and_ends_is_said(
    frame, tmp_path, capsys
):
    data, names = data_module(frame, "label"), ["disc", "smooth"]
    one = trainer(tmp_path, max_epochs=1, report=True)
    one.fit(classifier(class_names=names), data)
    assert {"finetuning/val_acc", "finetuning/train_acc"} <= one.callback_metrics.keys()
    assert "finetuning/test_acc" not in one.callback_metrics
    assert {"curves.png", "test_predictions.parquet", "report"} <= set(os.listdir(tmp_path))
    told = capsys.readouterr().out
    assert "42 galaxies to train on, 6 to validate, 12 to test" in told
    assert "classes: disc, smooth" in told
    assert "finished: 1 of 1 epochs; best weights: epoch 1" in told
    two = trainer(tmp_path, max_epochs=2)
    two.fit(classifier(class_names=names), data, ckpt_path="last")
    told = capsys.readouterr().out
    assert "last.ckpt, after epoch 1\n" in told
    line = next(line for line in told.splitlines() if line.startswith("epoch   2 of 2"))
    majority = two.constants["validation"]["finetuning/val_acc"]
    assert f"(most frequent class {majority:.5g})" in line
    assert line.count("(constant ") == 2
    assert "images/s" in line


def test_a_fit_that_can_not_be_reported_on_is_done_all_the_same(frame, tmp_path, monkeypatch):
    def refuse(*_):
        raise UserError("too many classes")

    monkeypatch.setattr(evaluate, "report_run", refuse)
    one = trainer(tmp_path, max_epochs=1, report=True)
    with pytest.warns(UserWarning, match="the fit is done, but has no report: too many classes"):
        one.fit(classifier(), data_module(frame, "label"))
    assert one.best_model_path


def test_a_tree_from_scratch_fits_validates_tests_and_predicts(frame, tree, tmp_path, precision):
    torch.manual_seed(0)
    model = ZoobotTree(schema=tree, architecture_name="test_resnet")
    data, run = data_module(frame, *tree.label_cols), trainer(tmp_path, precision=precision)
    run.fit(model, data)
    fitted = {k: v for k, v in run.callback_metrics.items() if k.startswith("validation/")}
    assert run.validate(model, data)[0] == pytest.approx(fitted)
    assert "test/supervised_loss" in run.test(model, data, ckpt_path="best", verbose=False)[0]
    to_predict = data_module(frame, catalog=None, predict_catalog=frame)
    assert torch.cat(run.predict(model, to_predict)).shape == (60, 7)
    again = ZoobotTree.load_from_checkpoint(run.best_model_path)
    assert again.images_seen.image_size == 32
    with pytest.raises(ValueError, match="can't be frozen: use FinetuneableZoobotTree"):
        trainer(tmp_path, unfreeze_after=1).fit(model, data)


def test_a_model_is_left_on_the_device_where_it_was(frame, tmp_path, monkeypatch):
    """Seen by its moves: in a suite without a GPU there is no other device."""
    model, data, moves = classifier(), data_module(frame, "label"), []
    move = type(model).to
    monkeypatch.setattr(
        type(model), "to", lambda self, *a, **k: moves.append(a) or move(self, *a, **k)
    )
    run = trainer(tmp_path)
    to_predict = data_module(frame, catalog=None, predict_catalog=frame)
    for work in (
        lambda: run.fit(model, data),
        lambda: run.test(model, data),
        lambda: run.predict(model, to_predict),
    ):
        work()
        assert len(moves) > 1
        assert moves[-1] == (torch.device("cpu"),)
        moves.clear()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu_a_model_is_trained_there_and_comes_back(frame, tmp_path):
    model, data = classifier(), data_module(frame, "label")
    run = trainer(tmp_path, accelerator="gpu")
    run.fit(model, data)
    assert run.device.type == "cuda"
    assert all(not p.is_cuda for p in model.parameters())
    model.cuda()
    run.test(model, data)
    assert all(p.is_cuda for p in model.parameters())


def test_an_encoder_alone_predicts_features_in_order(frame, tmp_path):
    model = ZoobotEncoder(encoder())
    to_predict = data_module(frame, catalog=None, predict_catalog=frame)
    features = torch.cat(trainer(tmp_path).predict(model, to_predict))
    images = torch.cat([batch["image"] for batch in to_predict.predict_dataloader()])
    with torch.no_grad():
        torch.testing.assert_close(features, model(images), rtol=1e-4, atol=1e-5)


def test_what_is_no_model_to_train_is_told(frame, tmp_path):
    with pytest.raises(ValueError, match="Linear can't be trained: subclass Finetuneable"):
        trainer(tmp_path).fit(torch.nn.Linear(2, 2), data_module(frame, "label"))


def test_without_a_model_the_fitted_one_is_tested_and_predicts(frame, tmp_path):
    data, run = data_module(frame, "label"), trainer(tmp_path, max_epochs=2)
    for call in (run.validate, run.test, run.predict):
        with pytest.raises(ValueError, match="has fitted no model yet: give one"):
            call(datamodule=data)
    with pytest.raises(ValueError, match="a CatalogDataModule is no model: give it as datamodule="):
        run.test(data)
    model = classifier()
    run.fit(model, data)
    assert (run.current_epoch, run.global_step) == (2, 6)
    expected = run.test(model, data, verbose=False)
    assert run.test(datamodule=data, verbose=False) == expected
    loss = run.callback_metrics["finetuning/test_loss"]
    assert loss.item() == loss == expected[0]["finetuning/test_loss"]
    assert json.dumps(run.callback_metrics) == json.dumps(expected[0])
    parts = run.predict(dataloaders=data.test_dataloader())
    assert torch.equal(torch.cat(parts), torch.cat(run.predict(model, data.test_dataloader())))


def test_a_run_goes_on_whose_checkpoints_names_tell_their_loss(frame, tmp_path):
    data, template = data_module(frame, "label"), "{epoch}-{finetuning/val_loss:.5f}"
    for epochs in (1, 3):
        run = trainer(tmp_path, max_epochs=epochs, file_template=template)
        run.fit(classifier(), data, ckpt_path="last")
    best = run.callback_metrics["finetuning/val_loss"]
    (kept,) = (tmp_path / "checkpoints").glob("epoch=*.ckpt")
    assert kept.name.endswith(f"-val_loss={best:.5f}.ckpt")


def test_wrong_test_labels_are_told_before_training(frame, tmp_path):
    parts = {"train_catalog": frame[:40], "val_catalog": frame[40:50]}
    bad = frame[50:].assign(label=7)
    data = data_module(frame, "label", catalog=None, test_catalog=bad, **parts)
    with pytest.raises(ValueError, match="catalog test: column 'label' .* holds 7"):
        trainer(tmp_path).fit(classifier(), data)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_columns_named_as_the_codes_own_attributes_train(frame, tmp_path):
    columns = ["source", "fingerprint", "label_table", "galaxies", "index", "labels", "matrix"]
    for column in columns:
        named = frame.assign(**dict.fromkeys(columns, "text")).assign(**{column: frame["label"]})
        run = trainer(tmp_path / column, max_epochs=1)
        run.fit(classifier(label_col=column), data_module(named, column))
        assert "finetuning/val_acc" in run.callback_metrics


def test_after_fit_the_model_has_the_best_weights(frame, tmp_path, monkeypatch):
    losses, real = iter([3.0, 1.0, 2.0, 4.0]), engine.evaluate
    monkeypatch.setattr(engine, "evaluate", lambda *a: {**real(*a), "loss": next(losses)})
    model = classifier()
    run = trainer(tmp_path, max_epochs=4)
    run.fit(model, data_module(frame, "label"))
    assert run.callback_metrics["finetuning/val_loss"] == 1.0
    assert Path(run.best_model_path).samefile(tmp_path / "checkpoints" / "epoch=2.ckpt")
    assert run.checkpoint_callback.best_model_path == run.best_model_path
    saved = torch.load(run.best_model_path, weights_only=True)["model"]
    assert all(torch.equal(value, saved[key]) for key, value in model.state_dict().items())


def test_metrics_are_means_over_galaxies_not_over_batches(frame, tmp_path):
    model = classifier(class_weights=[1.0, 5.0])
    data = data_module(frame, "label", catalog=None, train_catalog=frame, val_catalog=again(frame),
                       batch_size=59)  # fmt: skip
    metrics = trainer(tmp_path).validate(model, data)[0]
    with torch.no_grad():
        batch = [x for x in data.val_dataloader()]
        images = torch.cat([b["image"] for b in batch])
        labels = torch.cat([b["label"] for b in batch])
        right = (model.eval()(images).argmax(1) == labels).float().mean().item()
        loss = model.loss(model(images), labels).mean().item()
    assert metrics["finetuning/val_acc"] == pytest.approx(right)
    assert metrics["finetuning/val_loss"] == pytest.approx(loss, rel=1e-5)


def test_rmse_is_the_root_of_the_mean_over_galaxies(frame, tmp_path):
    model = FinetuneableZoobotRegressor("fraction", encoder=encoder())
    data = data_module(frame, "fraction", catalog=None, val_catalog=frame, batch_size=59)
    metrics = trainer(tmp_path).validate(model, data)[0]
    assert metrics["finetuning/val_rmse"] == pytest.approx(metrics["finetuning/val_loss"] ** 0.5)


def test_files_are_named_by_the_template_and_an_earlier_run_is_kept(frame, tmp_path):
    data = data_module(frame, "label")
    for _ in range(2):
        run = trainer(tmp_path, file_template="rings-{epoch}", save_top_k=1, max_epochs=1)
        run.fit(classifier(), data)
    assert (tmp_path / "checkpoints" / "rings-epoch=1.ckpt").exists()
    assert (tmp_path / "earlier-1" / "checkpoints" / "rings-epoch=1.ckpt").exists()
    assert (tmp_path / "earlier-1" / "metrics.jsonl").exists()


def test_fits_in_one_folder_keep_their_best_weights_apart(frame, tmp_path):
    runs, weights = [], []
    for fold in range(3):
        model = classifier(seed=fold)
        runs.append(trainer(tmp_path, max_epochs=1, save_top_k=fold % 2))
        runs[-1].fit(model, data_module(frame, "label", seed=fold))
        weights.append(weights_after(model))
    again = trainer(tmp_path)
    for run, expected in zip([*runs, again], [*weights, weights[-1]], strict=True):
        model = classifier()
        run.test(model, data_module(frame, "label"), ckpt_path="best", verbose=False)
        assert all(torch.equal(expected[k], v) for k, v in model.state_dict().items())
        if run is not again:
            found, _ = load_model(run.best_model_path)
            assert all(torch.equal(expected[k], v) for k, v in found.items())
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["split"] for line in lines] == ["train", "validation", "test"]


def test_changed_galaxies_are_refused_unless_allowed(frame, tmp_path):
    trainer(tmp_path, max_epochs=1).fit(classifier(), data_module(frame, "label"))
    mended = frame.assign(label=frame["label"].where(frame.index >= 4, 1 - frame["label"]))
    for data in (data_module(mended, "label"), data_module(frame[:50], "label")):
        with pytest.raises(ValueError, match="trained on other data"):
            trainer(tmp_path, max_epochs=1).fit(classifier(), data, ckpt_path="last")
    run = trainer(tmp_path, max_epochs=2, allow_changes=True)
    run.fit(classifier(), data_module(mended, "label"), ckpt_path="last")
    data = data_module(mended, "label")
    run.fit(classifier(), data.train_dataloader(), data.val_dataloader(), ckpt_path="last")
    run, old = trainer(tmp_path, max_epochs=2), data_module(frame, "label")
    with pytest.raises(ValueError, match="galaxies: 1 relabelled"):  # test galaxies aren't known
        run.fit(classifier(), old.train_dataloader(), old.val_dataloader(), ckpt_path="last")


def interrupt_at(monkeypatch, step):
    """Ctrl-C in the step of this number."""
    seed_step = engine.seed_step

    def seed_then_interrupt(seed, number):
        seed_step(seed, number)
        if number == step:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(engine, "seed_step", seed_then_interrupt)


def test_ctrl_c_saves_names_the_best_so_far_and_fit_goes_on(frame, tmp_path, monkeypatch):
    data, handler = data_module(frame, "label"), signal.getsignal(signal.SIGINT)
    trainer(tmp_path / "whole").fit(classifier(), data)
    run = trainer(tmp_path / "parts")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4)  # of 3 an epoch
        with pytest.raises(KeyboardInterrupt, match="ckpt_path='last'"):
            run.fit(classifier(), data)
    assert signal.getsignal(signal.SIGINT) is handler
    assert torch.load(run.best_model_path, weights_only=True)["progress"]["best_epoch"] == 1
    run.fit(classifier(), data, ckpt_path="last")
    whole, parts = last_weights(tmp_path / "whole"), last_weights(tmp_path / "parts")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_a_fit_in_a_thread_leaves_signals_alone_and_the_folder_to_no_other(frame, tmp_path):
    handler, told = signal.getsignal(signal.SIGINT), []

    def fit(folder=tmp_path):
        try:
            trainer(folder, max_epochs=1).fit(classifier(), data_module(frame, "label"))
        except ValueError as error:
            told.append(str(error))

    def in_a_thread(*_):
        thread = threading.Thread(target=fit)
        thread.start()
        thread.join()

    in_a_thread()
    assert told == []
    run = trainer(tmp_path, max_epochs=1)
    model = classifier()
    model.introduce = lambda: in_a_thread() or "a model"  # while the run holds its folder
    run.fit(model, data_module(frame, "label"))
    assert "in use by another run" in told[0]
    assert signal.getsignal(signal.SIGINT) is handler


def test_fp16_whose_gradients_always_overflow_stops(frame, tmp_path):
    model, data = classifier(), data_module(frame, "label", batch_size=4)
    losses = model.losses
    model.losses = lambda *a: losses(*a) * (1e30 if model.training else 1.0)
    run = trainer(tmp_path, precision="fp16", max_epochs=5)
    with pytest.raises(ValueError, match="not finite in 10 steps in a row"):
        run.fit(model, data)
    lines = (tmp_path / "skipped_steps.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(17, 27))
    short = trainer(tmp_path, precision="fp16", max_epochs=1)
    with pytest.raises(ValueError, match="none of the 11 steps was taken"):
        short.fit(model, data)


@pytest.mark.parametrize("template", ["best", "{epoch}-{val_loss:.2f}"])
def test_a_template_without_the_epoch_or_with_more_is_told(frame, tmp_path, template):
    with pytest.raises(ValueError, match="file_template"):
        trainer(tmp_path, file_template=template).fit(classifier(), data_module(frame, "label"))


def weights_after(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def last_weights(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["model"]


@pytest.mark.parametrize(
    "scheduler_kwargs",
    [None, {"sched": "cosine", "num_epochs": 4}, {"sched": "step", "decay_epochs": 1}],
)
def test_a_run_that_is_continued_is_the_run_never_stopped(
    frame, tmp_path, scheduler_kwargs, precision
):
    data = data_module(frame, "label")
    arguments = {"scheduler_kwargs": scheduler_kwargs, "learning_rate": 1e-2}
    for name, epochs, resume in (("whole", 4, None), ("parts", 2, None), ("parts", 4, "last")):
        run = trainer(tmp_path / name, max_epochs=epochs, precision=precision)
        run.fit(classifier(**arguments), data, ckpt_path=resume)
    whole, parts = last_weights(tmp_path / "whole"), last_weights(tmp_path / "parts")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


@pytest.mark.filterwarnings("ignore:PlateauLRScheduler")
def test_a_schedule_that_follows_the_loss_is_continued_too(frame, tmp_path):
    data = data_module(frame, "label")
    plateau = {"sched": "plateau", "patience_epochs": 0, "decay_rate": 0.5}
    rates = {}
    for name, stops in (("whole", [6]), ("parts", [3, 6])):
        for epochs in stops:
            model = classifier(scheduler_kwargs=plateau, learning_rate=0.1)
            run = trainer(tmp_path / name, max_epochs=epochs)
            run.fit(model, data, ckpt_path="last" if epochs != stops[0] else None)
        state = torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)
        rates[name] = state["optimizer"]["param_groups"][0]["lr"]
    assert rates["whole"] == rates["parts"] < 0.1


def test_the_encoder_is_frozen_first_and_trained_after(frame, tmp_path):
    data = data_module(frame, "label")
    model = classifier()
    before = weights_after(model)
    run = trainer(tmp_path, max_epochs=3, save_top_k=-1, unfreeze_after=2)
    run.fit(model, data)
    encoders = [
        {
            k: v
            for k, v in torch.load(
                tmp_path / "checkpoints" / f"epoch={epoch}.ckpt", weights_only=True
            )["model"].items()
            if k.startswith("encoder.")
        }
        for epoch in (1, 2, 3)
    ]
    same = [all(torch.equal(v, before[k]) for k, v in weights.items()) for weights in encoders]
    assert same == [True, True, False]


def test_a_frozen_encoder_is_not_unfrozen_later(frame, tmp_path):
    run = trainer(tmp_path, unfreeze_after=1)
    with pytest.raises(ValueError, match="no meaning with training_mode='head_only'"):
        run.fit(classifier(training_mode="head_only"), data_module(frame, "label"))


def test_an_encoder_left_frozen_by_an_interrupted_fit_trains_in_the_next(frame, tmp_path):
    model = classifier()
    model.freeze_encoder(True)
    before = weights_after(model)
    trainer(tmp_path, max_epochs=1).fit(model, data_module(frame, "label"))
    after = model.state_dict()["encoder.bn1.weight"]
    assert not torch.equal(after, before["encoder.bn1.weight"])


def test_the_learning_rate_is_logged(frame, tmp_path):
    cosine = {"sched": "cosine", "warmup_epochs": 1, "warmup_lr": 0.0}
    run = trainer(tmp_path, max_epochs=2)
    run.fit(classifier(scheduler_kwargs=cosine, learning_rate=0.5), data_module(frame, "label"))
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rates = [x["finetuning/train_learning_rate"] for x in lines if x["split"] == "train"]
    assert 0 < rates[0] < 0.5
    assert 0 < rates[1] < 0.5


def test_a_continued_run_may_be_longer_but_not_another(frame, tmp_path):
    data = data_module(frame, "label")
    trainer(tmp_path, max_epochs=1).fit(classifier(), data)
    trainer(tmp_path, max_epochs=2).fit(classifier(), data, ckpt_path="last")
    other = "other options .model.arguments.learning_rate was 0.0001, now 0.5.:"
    with pytest.raises(ValueError, match=other):
        trainer(tmp_path, max_epochs=3).fit(classifier(learning_rate=0.5), data, ckpt_path="last")


def test_a_continued_run_has_classes_of_the_same_names_whatever_its_config_tells(frame, tmp_path):
    data, config = data_module(frame, "label"), {"epochs": 2}
    model = classifier(class_names=["no", "yes"])
    trainer(tmp_path, max_epochs=1).fit(model, data, config=config)
    for allow in (False, True):
        run = trainer(tmp_path, allow_changes=allow)
        renamed = classifier(class_names=["bar", "spiral"])
        state = find_state(tmp_path, "auto", config, set(), allow)
        if allow:
            run.fit(renamed, data, config=config, resume_from=state)
        else:
            with pytest.raises(ValueError, match="class_names was .'no', 'yes'., now .'bar', 'spi"):
                run.fit(renamed, data, config=config, resume_from=state)


def test_a_fit_whose_last_epoch_could_not_be_saved_ends_with_an_error(frame, tmp_path, monkeypatch):
    real = checkpoint.save_checkpoint

    def save(path, state):
        if state["progress"]["epoch"] == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, state)

    data, model = data_module(frame, "label"), classifier()
    options = {"max_epochs": 3, "precision": "fp32", "device": "cpu"}
    run = Trainer(tmp_path, **options, on_save_error="continue")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_checkpoint", save)
        with pytest.raises(ValueError, match="epoch 3 could not be saved.*goes on from epoch 2"):
            run.fit(model, data)
    saved, _ = load_model(run.best_model_path)
    assert all(torch.equal(saved[key], value) for key, value in model.state_dict().items())
    run.fit(model, data, ckpt_path="last")
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 6


def test_a_run_is_continued_from_its_best_epoch(frame, tmp_path, monkeypatch):
    losses, real = iter([3.0, 1.0, 2.0, 4.0, 5.0]), engine.evaluate
    monkeypatch.setattr(engine, "evaluate", lambda *a: {**real(*a), "loss": next(losses)})
    data, run = data_module(frame, "label"), trainer(tmp_path, max_epochs=3)
    with pytest.raises(ValueError, match="no best epoch yet: name last, or a path"):
        run.fit(classifier(), data, ckpt_path="best")
    run.fit(classifier(), data)
    run.max_epochs = 4
    run.fit(classifier(), data, ckpt_path="best")
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    told = {x["epoch"]: x["finetuning/val_loss"] for x in lines if x["split"] == "validation"}
    assert told == {1: 3.0, 2: 1.0, 3: 4.0, 4: 5.0}


def test_a_fit_leaves_torchs_generator_as_it_was(frame, tmp_path, monkeypatch):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    data, model = data_module(frame, "label"), classifier()
    torch.set_rng_state(before)
    trainer(tmp_path, max_epochs=1).fit(model, data)
    assert torch.equal(torch.get_rng_state(), before)
    loaders = Foreign(frame, ["label"])
    trainer(tmp_path, max_epochs=1).fit(model, loaders)
    assert torch.equal(torch.get_rng_state(), before)
    interrupt_at(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, max_epochs=1).fit(model, data)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_continued_in_the_folder_of_another_keeps_the_other(frame, tmp_path):
    data = data_module(frame, "label")
    for name in ("a", "b"):
        trainer(tmp_path / name, max_epochs=1).fit(classifier(), data)
    other = (tmp_path / "a" / "best.safetensors").read_bytes()
    from_b = tmp_path / "b" / "checkpoints" / "last.ckpt"
    trainer(tmp_path / "a", max_epochs=2).fit(classifier(), data, ckpt_path=from_b)
    assert (tmp_path / "a" / "earlier-1" / "best.safetensors").read_bytes() == other
    lines = [json.loads(x) for x in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert {line["epoch"] for line in lines} == {2}


def test_patience_counts_from_the_unfreezing(frame, tmp_path):
    run = trainer(tmp_path, max_epochs=6, patience=1, unfreeze_after=4)
    run.fit(classifier(learning_rate=0.0), data_module(frame, "label"))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert max(json.loads(line)["epoch"] for line in lines) == 5


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"max_epoch": 3}, "no argument 'max_epoch'; did you mean 'max_epochs'"),
        ({"precision": "half"}, "precision 'half' is none of"),
        ({"devices": 4}, "torchrun --nproc-per-node 4"),
        ({"devices": "4"}, "torchrun --nproc-per-node 4"),
        ({"accelerator": "tpu"}, "accelerator 'tpu' is none of"),
    ],
)
def test_wrong_arguments_of_the_trainer_are_told(tmp_path, arguments, told):
    with pytest.raises(ValueError, match=told):
        get_trainer(tmp_path, **arguments)


def test_what_has_no_effect_is_warned_of(tmp_path):
    with pytest.warns(UserWarning, match="without effect: log_every_n_steps, logger object"):
        get_trainer(tmp_path, logger=object(), log_every_n_steps=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        get_trainer(tmp_path, logger=False, precision="bf16-mixed", devices=1, accelerator="cpu")


def test_wrong_labels_are_told_before_training(frame, tmp_path):
    frame.loc[3, "label"] = 2
    with pytest.raises(ValueError, match="catalog train: .* 'g3' holds 2, .* found: 0, 1, 2"):
        trainer(tmp_path / "a").fit(
            classifier(), data_module(frame, "label", catalog=None, train_catalog=frame,
                                      val_catalog=again(frame))
        )  # fmt: skip
    assert not (tmp_path / "a").exists()


def test_a_split_of_one_class_is_warned_of(frame, tmp_path, capsys):
    frame = frame.sort_values("label")
    data = data_module(frame, "label", catalog=None, train_catalog=frame[5:], val_catalog=frame[:5])
    trainer(tmp_path, max_epochs=1).fit(classifier(class_names=["disk", "ring"]), data)
    told = capsys.readouterr().err
    assert "warning: split 'val' has galaxies of the class 'disk' only (5)" in told


def test_images_are_looked_at_before_training(frame, tmp_path):
    frame.loc[7, "file_loc"] = "no.png"
    with pytest.raises(ValueError, match="1 of 60 image files are missing: no.png"):
        trainer(tmp_path / "run").fit(classifier(), data_module(frame, "label"))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["bad_images.csv"]
    data = data_module(frame, "label", on_bad_image="drop")
    trainer(tmp_path / "run", max_epochs=1).fit(classifier(), data)
    assert sum(data.num_galaxies(s) for s in ("train", "val", "test")) == 59


def test_the_linear_sanity_check_tells_what_frozen_features_reach(frame, tmp_path, capsys):
    model = classifier(run_linear_sanity_check=True)
    trainer(tmp_path, max_epochs=1).fit(model, data_module(frame, "label"))
    told = capsys.readouterr().out
    assert "linear model on the encoder's features as they are: accuracy train 0." in told or (
        "accuracy train 1." in told
    )


# data modules of others


class Foreign:
    """A data module that is not ours, over torch's own loaders: float images, one entry a label."""

    def __init__(self, frame, label_cols, batch_size=16):
        self._module = data_module(
            frame, *label_cols, catalog=None, train_catalog=frame, val_catalog=again(frame[:17]),
            test_catalog=again(again(frame[:17])),
        )  # fmt: skip
        self.batch_size = batch_size

    def setup(self, stage=None):
        self._module.setup(stage)

    def _loader(self, split, shuffle=False):
        return DataLoader(self._module.datasets[split], batch_size=self.batch_size, shuffle=shuffle)

    def train_dataloader(self):
        return self._loader("train", shuffle=True)

    def val_dataloader(self):
        return self._loader("val")

    def test_dataloader(self):
        return self._loader("test")


def test_a_foreign_data_module_trains_and_its_last_batch_of_one_counts(frame, tmp_path):
    data, model, run = Foreign(frame, ["label"]), classifier(), trainer(tmp_path)
    run.fit(model, data)
    metrics = run.test(model, data, verbose=False)[0]
    ours = data_module(frame, "label", catalog=None, test_catalog=frame.head(17))
    assert metrics == pytest.approx(run.test(model, ours, verbose=False)[0], rel=1e-5)


def test_labels_of_a_foreign_data_module_are_checked(frame, tmp_path):
    frame.loc[40, "label"] = 7
    with pytest.raises(ValueError, match="'g40' holds 7"):
        trainer(tmp_path).fit(classifier(), Foreign(frame, ["label"]))


def test_micro_batches_make_one_step(frame, tmp_path):
    steps = {}
    for name, batch_size, micro in (("whole", 16, 1), ("parts", 4, 4)):
        run = trainer(tmp_path / name, max_epochs=1, accumulate_grad_batches=micro)
        run.fit(classifier(head_dropout_prob=0), Foreign(frame, ["label"], batch_size))
        state = torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)
        steps[name] = state["progress"]["step"]
    assert steps == {"whole": 4, "parts": 4}


def test_batches_to_accumulate_multiply_the_data_modules_own(frame, tmp_path):
    data = data_module(frame, "label", catalog=None, train_catalog=frame, val_catalog=again(frame),
                       batch_size=8, grad_accumulation=2)  # fmt: skip
    run = trainer(tmp_path, max_epochs=1, accumulate_grad_batches=2)
    run.fit(classifier(), data)
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["progress"]["step"] == 4  # 60 galaxies, 16 a step


def test_a_loader_of_pairs_trains_and_is_evaluated_as_one_of_dicts(frame, tmp_path):
    class Pairs(Foreign):
        def _loader(self, split, shuffle=False):
            rows = [self._module.datasets[split][i] for i in range(17)]
            images = torch.stack([row["image"] for row in rows])
            return DataLoader(
                TensorDataset(images, torch.tensor([[row["label"]] for row in rows])), batch_size=8
            )

    metrics = []
    for number, kind in enumerate((Pairs, Foreign)):
        model, run = classifier(), trainer(tmp_path / str(number))
        run.fit(model, Pairs(frame, ["label"]))
        metrics.append(run.test(model, kind(frame, ["label"]), verbose=False)[0])
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-5)


SCRIPT = """
import json, os, sys
import pandas as pd, timm, torch
from zoobot.pytorch.training import finetune
from zoobot import engine
from zoobot.data import CatalogDataModule, get_galaxy_transform, minimal_view_config

torch.set_num_threads(1)
frame = pd.read_csv("labelled.csv", dtype={"id_str": str})
view = minimal_view_config()
view.output_size = 32
view = get_galaxy_transform(view)
data = CatalogDataModule(["label"], view, view, catalog=frame, batch_size=16, num_workers=0)
torch.manual_seed(0)
encoder = timm.create_model("test_convnext", num_classes=0)
model = finetune.FinetuneableZoobotClassifier(
    encoder=encoder, num_classes=2, head_dropout_prob=0.0, learning_rate=1e-3)
trainer = finetune.get_trainer(sys.argv[1], max_epochs=2, precision="fp32", accelerator="cpu")
trainer.fit(model, data)
metrics = trainer.test(model, data, ckpt_path="best")[0]
few = CatalogDataModule(  # the second of two ranks has no galaxy to validate, test or predict
    ["label"], view, view, train_catalog=frame[:8], val_catalog=frame[8:9],
    test_catalog=frame[9:10], predict_catalog=frame[10:11], batch_size=8, num_workers=0)
model = finetune.FinetuneableZoobotClassifier(
    encoder=encoder, num_classes=2, run_linear_sanity_check=True)
trainer = finetune.get_trainer(sys.argv[1] + "-few", max_epochs=1, accelerator="cpu")
trainer.fit(model, few)
metrics["num_tested"] = len(trainer.test(model, few))
rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
predicted = trainer.predict(model, few)
assert sum(map(len, predicted)) == (rank == 0)
line = json.dumps({"rank": rank, **metrics}) + chr(10)
os.write(1, line.encode())  # in one piece, as two ranks write to one pipe
"""


def test_under_torchrun_the_same_script_gives_the_same_model(frame, tmp_path):
    frame.to_csv(tmp_path / "labelled.csv", index=False)
    (tmp_path / "script.py").write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    outputs = {}
    for name, command in (
        ("one", [sys.executable]),
        ("two", [*torchrun, "--nproc-per-node", "2"]),
    ):
        done = subprocess.run(
            [*command, "script.py", name], cwd=tmp_path, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        lines = [x for x in done.stdout.splitlines() if x.startswith("{")]
        outputs[name] = [json.loads(x) for x in lines]
    assert sorted(x.pop("rank") for x in outputs["two"]) == [0, 1]
    outputs["one"][0].pop("rank")
    for metrics in outputs["two"]:
        assert metrics == pytest.approx(outputs["one"][0], rel=1e-4)
    one, two = last_weights(tmp_path / "one"), last_weights(tmp_path / "two")
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=1e-3, atol=1e-5, msg=key)


def test_predictions_keep_the_order_of_the_catalog(frame, tmp_path):
    model = FinetuneableZoobotRegressor("fraction", encoder=encoder())
    data = data_module(frame, catalog=None, predict_catalog=frame)
    predicted = torch.cat(trainer(tmp_path).predict(model, data))
    alone = data_module(frame, catalog=None, predict_catalog=frame.tail(1))
    assert torch.allclose(predicted[-1:], trainer(tmp_path).predict(model, alone)[0], atol=1e-5)
