"""The calls that public scripts for Zoobot make, restated on a tiny catalog.

Each test names the script that it was read in. Encoders that scripts get from the hub are fresh
ones of ``test_resnet`` here, in a folder as the hub has it; ``galaxy_datasets`` is ``zoobot.data``.
"""

import warnings

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from conftest import draw_galaxies
from torch import nn

from zoobot.data import (
    CatalogDataModule,
    default_view_config,
    get_galaxy_transform,
    minimal_view_config,
)
from zoobot.data.catalog import read_catalog
from zoobot.models import encoders, hub, save_encoder
from zoobot.pytorch.estimators import define_model
from zoobot.pytorch.predictions import predict_on_catalog
from zoobot.pytorch.training import (
    finetune,
    losses,
    representations,
    train_with_pytorch_lightning,
)
from zoobot.schemas import Schema
from zoobot.shared import label_metadata, load_predictions, save_predictions, schemas

SIZE_PX = 32
PAIRS = {"smooth": ["_yes", "_no"], "bar": ["_strong", "_weak", "_no"], "merging": ["_yes", "_no"]}
SCHEMA = Schema(PAIRS, {"smooth": None, "bar": "smooth_no", "merging": None})
FAST = {"accelerator": "cpu", "precision": "32", "max_epochs": 1}


class CSVLogger:
    """By name, of Lightning's loggers."""


class ModelCheckpoint:
    """By name, one of Lightning's callbacks."""


class LearningRateMonitor:
    """By name, one of Lightning's callbacks."""


def transform(config=minimal_view_config):
    view = config()
    view.output_size = (SIZE_PX, SIZE_PX)
    return get_galaxy_transform(view)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    """24 galaxies, with votes, the class ``label`` and absolute paths."""
    path = draw_galaxies(tmp_path_factory.mktemp("galaxies"), SCHEMA, 24)
    frame = read_catalog(path)
    return frame.assign(label=(frame["smooth_yes"] > 10).astype(int))


@pytest.fixture(scope="module")
def splits(catalog):
    names = ("train_catalog", "val_catalog", "test_catalog")
    return dict(zip(names, (catalog[:14], catalog[14:19], catalog[19:]), strict=True))


@pytest.fixture(scope="module")
def encoder_name(tmp_path_factory):
    """In place of ``hf_hub:mwalmsley/zoobot-encoder-convnext_nano``."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    save_encoder(timm.create_model("test_resnet", num_classes=0), folder)
    return f"local-dir:{folder}"


@pytest.fixture(scope="module")
def tree_checkpoint(tmp_path_factory, encoder_name, splits):
    """A tree that was finetuned for an epoch: the path of its best checkpoint."""
    model = finetune.FinetuneableZoobotTree(name=encoder_name, schema=SCHEMA)
    data = CatalogDataModule(
        SCHEMA.label_cols, transform(), transform(), **splits, batch_size=8, num_workers=0
    )
    trainer = finetune.get_trainer(tmp_path_factory.mktemp("tree"), **FAST)
    trainer.fit(model, data)
    return trainer.checkpoint_callback.best_model_path


def of_classes(splits, **arguments):
    """A data module of the class column."""
    options = {"batch_size": 8, "num_workers": 0, **splits, **arguments}
    return CatalogDataModule(["label"], transform(default_view_config), transform(), **options)


def test_galaxy_mnist_end_to_end(tmp_path, catalog, encoder_name):
    # vfgalabo/Coding_portfolio, Deep_Learning_projects/Zoobot (notebook)
    label_cols = ["label"]
    datamodule = of_classes({"catalog": catalog})
    datamodule.prepare_data()
    datamodule.setup()
    batch = next(iter(datamodule.train_dataloader()))
    assert batch["image"].shape[1:] == (3, SIZE_PX, SIZE_PX)
    model = finetune.FinetuneableZoobotClassifier(
        label_col=label_cols[0], name=encoder_name, learning_rate=1e-5, num_classes=2
    )
    trainer = finetune.get_trainer(tmp_path, devices=1, patience=3, **FAST)
    trainer.fit(model, datamodule)
    model.eval()
    assert model.predict_step(batch, 0).shape == batch["label"].shape + (2,)


def test_a_name_of_the_hub_needs_no_prefix(monkeypatch):
    # vfgalabo/Coding_portfolio gives name='mwalmsley/convnext_nano'
    asked = []

    def load_encoder(name, *args, **kwargs):
        asked.append(name)
        return timm.create_model("test_resnet", num_classes=0), None

    monkeypatch.setattr(encoders, "load_encoder", load_encoder)
    monkeypatch.setattr(hub, "_config", lambda name: {})  # of an encoder alone
    monkeypatch.setattr(hub, "download", lambda *names: "/".join(names))
    finetune.FinetuneableZoobotClassifier(num_classes=2, name="mwalmsley/convnext_nano")
    representations.ZoobotEncoder.load_from_name("mwalmsley/convnext_nano")
    assert asked == ["hf_hub:mwalmsley/convnext_nano"] * 2
    for name in ("OWNER/NAME", "hf_hub:OWNER/NAME"):
        path = finetune.download_from_name("FinetuneableZoobotTree", name)
        assert path == "OWNER/NAME/FinetuneableZoobotTree.ckpt"


def test_downstream_finetuning_with_options_of_lightning(tmp_path, splits):
    # mwalmsley/gz-evo, gz_evo/downstream/finetune.py
    encoder = timm.create_model("test_resnet", num_classes=0)
    model = finetune.FinetuneableZoobotClassifier(
        num_classes=2,
        encoder=encoder,
        always_train_batchnorm=False,
        dropout_prob=0.3,
        cosine_schedule=False,
    )
    assert model.hparams.head_dropout_prob == model.hparams["head_dropout_prob"] == 0.3
    datamodule = of_classes(splits)
    with pytest.warns(UserWarning, match="without effect: logger CSVLogger .metrics are in"):
        trainer = finetune.get_trainer(
            tmp_path,
            accelerator="cpu",
            devices=1,
            num_nodes=1,
            strategy="auto",
            precision="bf16-mixed",
            max_epochs=2,
            enable_progress_bar=True,
            check_val_every_n_epoch=1,
            logger=CSVLogger(),
            patience=5,
            overfit_batches=0,
        )
    trainer.fit(model, datamodule)
    tested = trainer.test(datamodule=datamodule, ckpt_path="best")
    assert (
        trainer.callback_metrics["finetuning/test_loss"].item() == tested[0]["finetuning/test_loss"]
    )
    predicted = torch.concat(trainer.predict(model, dataloaders=datamodule.test_dataloader()))
    assert predicted.numpy().shape == (5, 2)
    again = torch.concat(trainer.predict(dataloaders=datamodule.test_dataloader()))
    assert torch.equal(predicted, again)


def test_pre_2_9_arguments_say_what_replaced_them():
    # mwalmsley/gz-evo, and scripts of galaxy mergers and dwarf galaxies
    encoder = timm.create_model("test_resnet", num_classes=0)
    for arguments, told in (
        ({"n_blocks": 5}, "n_blocks=5 .* write training_mode='head_only' for none, else .* layer_"),
        ({"n_blocks": 0}, "n_blocks=0 .* write training_mode='head_only'"),
        ({"lr_decay": 0.5}, "lr_decay=0.5 .* write layer_decay="),
        ({"cosine_schedule": True}, "write scheduler_kwargs={'sched': 'cosine'"),
    ):
        with pytest.raises(ValueError, match=told):
            finetune.FinetuneableZoobotClassifier(num_classes=2, encoder=encoder, **arguments)
    with pytest.raises(ValueError, match="write scheduler_kwargs={'sched': ..., ...}"):
        define_model.ZoobotTree(
            schema=SCHEMA, architecture_name="test_resnet", scheduler_params={"name": "plateau"}
        )


def test_lens_finder_heads_that_are_resumed(tmp_path, splits, encoder_name):
    # Alarion239/EuclidPolish, scripts/lensfinder_train.py
    datamodule = of_classes(splits, seed=42)
    model = finetune.FinetuneableZoobotClassifier(
        num_classes=2,
        label_col="label",
        name=encoder_name,
        learning_rate=1e-4,
        training_mode="head_only",
    )
    trainer = finetune.get_trainer(
        save_dir=str(tmp_path), patience=6, devices=1, **FAST, logger=None
    )
    for callback in trainer.callbacks:
        callback.save_last = True  # last.ckpt is always saved
    with pytest.raises(ValueError, match="ModelCheckpoint is not supported: use .* save_top_k="):
        trainer.callbacks.append(ModelCheckpoint())
    trainer.fit(model, datamodule)
    assert (trainer.current_epoch, trainer.global_step) == (1, 2)
    loss = next(v for k, v in trainer.callback_metrics.items() if "val" in k and "loss" in k)
    assert float(loss) == loss.item()
    longer = finetune.get_trainer(tmp_path, patience=6, **{**FAST, "max_epochs": 2})
    longer.fit(model, datamodule, ckpt_path=str(tmp_path / "checkpoints" / "last.ckpt"))
    assert longer.global_step == 4
    table = predict_on_catalog.predict(
        catalog=splits["test_catalog"],
        model=model,
        label_cols=["p_notlens", "p_lens"],
        inference_transform=transform(),
        save_loc=str(tmp_path / "predictions.csv"),
        datamodule_kwargs={"batch_size": 8, "num_workers": 0},
        trainer_kwargs={"accelerator": "auto", "devices": 1},
    )
    assert list(table) == ["id_str", "p_notlens", "p_lens"]
    saved = pd.read_csv(tmp_path / "predictions.csv")
    np.testing.assert_allclose(saved[["p_notlens", "p_lens"]].sum(axis=1), 1, atol=1e-5)


def test_morphology_of_super_resolved_images(tmp_path, catalog, encoder_name, tree_checkpoint):
    # Alarion239/EuclidPolish, scripts/zoobot_morphology.py
    model = representations.ZoobotEncoder.load_from_name(encoder_name)
    assert model.device == torch.device("cpu")
    encoder_dim = define_model.get_encoder_dim(model.encoder)
    label_cols = [f"feat_{k}" for k in range(encoder_dim)]
    options = {
        "inference_transform": transform(default_view_config),
        "datamodule_kwargs": {"batch_size": 32, "num_workers": 0},
        "trainer_kwargs": {"accelerator": "cpu", "devices": 1},
    }
    frame = catalog[["id_str", "file_loc"]][:6]
    features = predict_on_catalog.predict(
        catalog=frame, model=model, label_cols=label_cols, save_loc=tmp_path / "f.csv", **options
    )
    vectors = {row["id_str"]: [row[name] for name in label_cols] for _, row in features.iterrows()}
    assert list(vectors) == list(frame["id_str"])
    tree = finetune.FinetuneableZoobotTree.load_from_checkpoint(tree_checkpoint)
    votes = predict_on_catalog.predict(
        catalog=frame, model=tree, label_cols=SCHEMA.label_cols, save_loc=tmp_path / "v.csv",
        **options,
    )  # fmt: skip
    assert list(votes)[1:] == SCHEMA.label_cols
    assert schemas.gz_evo_v1_public_schema.label_cols


def test_a_ceers_tree_is_finetuned_from_a_checkpoint(tmp_path, splits, tree_checkpoint):
    # mhuertascompany/ceers, bot/train_on_gz_ceers_tree.py
    datamodule = CatalogDataModule(
        label_cols=SCHEMA.label_cols, **splits, batch_size=8, num_workers=0,
        train_transform=transform(), test_transform=transform(),
    )  # fmt: skip
    model = finetune.FinetuneableZoobotTree(checkpoint_loc=tree_checkpoint, schema=SCHEMA)
    assert model.output_dim == 7
    trainer = finetune.get_trainer(
        save_dir=tmp_path,
        logger=None,
        **FAST,
        file_template="epoch-{epoch}-val_loss-{finetuning/val_loss:.7f}",
    )
    trainer.fit(model, datamodule)
    loss = trainer.callback_metrics["finetuning/val_loss"]
    (named,) = (tmp_path / "checkpoints").glob("epoch-*.ckpt")
    assert named.name == f"epoch-1-val_loss-{loss:.7f}.ckpt"
    votes = model.batch_to_supervised_tuple(next(iter(datamodule.val_dataloader())))[1]
    assert model.loss(torch.full(votes.shape, 5.0), votes).shape == (5, 3)


def test_bars_of_a_whole_catalog(tmp_path, catalog, tree_checkpoint):
    # mhuertascompany/ceers, bot/find_bars_F200W.py and bar_estimate/estimate_full_catalog.py
    model = finetune.FinetuneableZoobotTree.load_from_checkpoint(tree_checkpoint, schema=SCHEMA)
    frame = catalog[:4].assign(id_str=range(4))
    options = {"trainer_kwargs": {"devices": 1, "accelerator": "cpu"}}
    for samples in (1, 5):
        table = predict_on_catalog.predict(
            frame,
            model,
            n_samples=samples,
            label_cols=SCHEMA.label_cols,
            save_loc=str(tmp_path / f"bars_{samples}.csv"),
            datamodule_kwargs={"batch_size": 64, "num_workers": 0, "prefetch_factor": None},
            **options,
        )
        assert np.stack(table["smooth_yes"].to_numpy()).size == 4 * samples
    with pytest.raises(ValueError, match="custom_albumentation_transform .* inference_transform="):
        predict_on_catalog.predict(
            frame, model, tmp_path / "p.csv",
            datamodule_kwargs={"custom_albumentation_transform": print}, **options,
        )  # fmt: skip


def test_representations_of_a_finetuned_model(tmp_path, catalog, tree_checkpoint):
    # mhuertascompany/ceers, no_finetune/representations.py and bar_estimate/zb_embeddings.py
    encoder = finetune.FinetuneableZoobotTree.load_from_checkpoint(
        tree_checkpoint, schema=SCHEMA
    ).encoder
    with pytest.warns(UserWarning, match="pyramid= is not needed"):
        model = representations.ZoobotEncoder(encoder=encoder, pyramid=False)
    label_cols = [f"feat_{n}" for n in range(model.encoder_dim)]
    path = str(tmp_path / "representations.hdf5")
    predict_on_catalog.predict(
        catalog[:4],
        model,
        n_samples=1,
        label_cols=label_cols,
        save_loc=path,
        datamodule_kwargs={"batch_size": 16, "num_workers": 0, "resize_after_crop": SIZE_PX},
        trainer_kwargs={"devices": 1, "accelerator": "cpu"},
    )
    table = load_predictions.single_forward_pass_hdf5s_to_df(path)
    assert list(table["id_str"]) == list(catalog["id_str"][:4])
    assert table[label_cols].to_numpy().shape == (4, model.encoder_dim)
    assert set(table["hdf5_loc"]) == {"representations.hdf5"}


def test_an_encoder_is_taken_out_of_a_classifier(encoder_name):
    # ramc77/GalaxyCBM-SR-public, src/galaxycbm/concepts/model.py
    stub = finetune.FinetuneableZoobotClassifier(
        num_classes=2, name=encoder_name, greyscale=False, learning_rate=0.0, prog_bar=False
    )
    with torch.no_grad():
        features = stub.encoder(torch.zeros(1, 3, 224, 224))
    assert features.flatten(1).shape[-1] == stub.head.input_dim


def test_weights_are_read_by_name_and_an_own_head_put_on_top(tmp_path):
    # David-Chemaly/Dwarf_ZooBot, ZOO_lightning.py; and scripts that wrap a classifier in a module
    torch.manual_seed(0)
    tuned = finetune.FinetuneableZoobotClassifier(
        num_classes=2, encoder=timm.create_model("test_resnet", num_classes=0)
    )
    wrapped = nn.ModuleDict({"model": tuned})
    for name, weights in (
        ("state_dict", tuned.state_dict()),
        ("model", tuned.state_dict()),
        ("model_state_dict", wrapped.state_dict()),
    ):
        torch.save({name: weights, "epoch": 3}, tmp_path / f"{name}.ckpt")
        encoder = finetune.load_pretrained_zoobot(tmp_path / f"{name}.ckpt", "test_resnet")
        for key, value in tuned.encoder.state_dict().items():
            assert torch.equal(encoder.state_dict()[key], value)
    with pytest.raises(ValueError, match="does not tell which encoder .* architecture='...'"):
        finetune.FinetuneableZoobotClassifier(2, checkpoint_loc=tmp_path / "model.ckpt")


def test_a_default_zoobot_is_trained_from_scratch(tmp_path, splits):
    # patrikasvanagas/Zoobot-sweep-version, zoobot/pytorch/examples/script.py
    schema = schemas.Schema(PAIRS, {"smooth": None, "bar": "smooth_no", "merging": None})
    with pytest.warns(UserWarning, match="without effect: logger CSVLogger"):
        model, trainer = train_with_pytorch_lightning.train_default_zoobot_from_scratch(
            save_dir=str(tmp_path),
            schema=schema,
            wandb_logger=CSVLogger(),
            color=True,
            architecture_name="test_resnet",
            nodes=1,
            num_workers=0,
            **splits,
            batch_size=8,
            epochs=1,
            patience=8,
            gpus=0,
            mixed_precision=False,
            random_state=42,
            resize_after_crop=SIZE_PX,
            checkpoint_file_template="{epoch:02d}",
        )
    assert (tmp_path / "checkpoints" / "epoch=01.ckpt").exists()
    assert "test/supervised_loss" in trainer.callback_metrics
    again = define_model.ZoobotTree.load_from_checkpoint(
        trainer.best_model_path, output_dim=7, map_location=torch.device("cpu")
    )
    assert torch.equal(again.head.linear.weight, model.head.linear.weight)
    for name, told in (("resize_size", "write resize_after_crop="), ("train_urls", "--shards DIR")):
        with pytest.raises(ValueError, match=told):
            train_with_pytorch_lightning.train_default_zoobot_from_scratch(
                tmp_path, schema, **{name: 200}
            )


def test_pairs_and_dependencies_have_their_names():
    # patrikasvanagas/Zoobot-sweep-version; mwalmsley/zoobot-euclid, development/convert_zoobot.py
    schema = schemas.Schema(
        label_metadata.decals_dr5_ortho_pairs, label_metadata.decals_ortho_dependencies
    )
    assert schema == schemas.decals_dr5_ortho_schema
    for tree in ("gz2_ortho", "hubble_ortho", "candels_ortho", "rings", "cosmic_dawn", "desi"):
        pairs = label_metadata.__getattr__(f"{tree}_pairs")
        questions, label_cols = label_metadata.extract_questions_and_label_cols(pairs)
        assert label_metadata.__getattr__(f"{tree}_questions") == questions
        assert label_metadata.__getattr__(f"{tree}_label_cols") == label_cols
        assert f"{tree}_dependencies" in dir(label_metadata)
    with pytest.raises(AttributeError, match="no attribute 'decals_pairs'"):
        label_metadata.__getattr__("decals_pairs")


def test_predictions_of_snippets_are_grouped_and_summed_up(tmp_path):
    # mwalmsley/zoobot-predictions, make_predictions/b_group_hdf5_from_a_model.py, d_all_...table.py
    values = np.random.default_rng(0).uniform(1, 20, (5, 7, 2)).astype(np.float32)
    paths = [str(tmp_path / f"{i}_preds.hdf5") for i in range(2)]
    for path, rows in zip(paths, (slice(0, 3), slice(3, 5)), strict=True):
        ids = [f"g{i}" for i in range(5)][rows]
        save_predictions.predictions_to_hdf5(values[rows], ids, SCHEMA.label_cols, path)
    galaxies, predictions, label_cols = load_predictions.load_hdf5s(paths)
    assert not any(galaxies["id_str"].duplicated())
    np.testing.assert_array_equal(predictions, values)
    of_bars = [column.startswith("bar") for column in label_cols]
    assert predictions[:, of_bars].shape == (5, 3, 2)
    assert list(label_cols[of_bars]) == SCHEMA.label_cols[2:5]
    grouped = str(tmp_path / "grouped.hdf5")
    save_predictions.predictions_to_hdf5(
        predictions, galaxies["id_str"].values, label_cols, grouped
    )
    load_predictions.prediction_hdf5_to_summary_parquet(
        grouped, str(tmp_path / "predictions.parquet"), SCHEMA, debug=True
    )
    friendly = pd.read_parquet(tmp_path / "predictions_friendly.parquet")
    advanced = pd.read_parquet(tmp_path / "predictions_advanced.parquet")
    assert list(friendly["id_str"]) == list(galaxies["id_str"])
    fraction = (values[:, 0] / values[:, :2].sum(1)).mean(-1)
    np.testing.assert_allclose(advanced["smooth_yes_fraction"], fraction, rtol=1e-5)
    assert "bar_proportion-asked" in advanced
    with pytest.warns(UserWarning, match="of 2 forward passes the first is taken"):
        first = load_predictions.single_forward_pass_hdf5s_to_df([grouped], drop_extra_dims=True)
    np.testing.assert_array_equal(first[SCHEMA.label_cols], values[:, :, 0])
    save_predictions.predictions_to_csv(
        values[..., 0], galaxies["id_str"], label_cols, tmp_path / "p.csv"
    )
    assert list(pd.read_csv(tmp_path / "p.csv")) == ["id_str", *SCHEMA.label_cols]
    with pytest.raises(ValueError, match=r"predictions.reshape\(galaxies, columns, -1\)"):
        save_predictions.predictions_to_hdf5(values[:, :, None], range(5), label_cols, grouped)
    bars = SCHEMA.label_cols[2:5]
    save_predictions.predictions_to_csv(values[:, 2:5, 0], range(5), bars, tmp_path / "p.csv")
    with pytest.raises(ValueError, match="columns of .*p.csv are not those of"):
        load_predictions.load_hdf5s([grouped, tmp_path / "p.csv"])


def test_the_third_argument_of_predict_was_the_number_of_samples(
    tmp_path, catalog, tree_checkpoint
):
    # mwalmsley/zoobot-predictions, make_predictions/a_make_bulk_catalog_predictions.py
    with pytest.warns(UserWarning, match="checkpoint_loc= is not needed"):
        model = finetune.FinetuneableZoobotTree.load_from_checkpoint(
            tree_checkpoint, checkpoint_loc="encoder.ckpt", schema=SCHEMA
        )
    with pytest.raises(ValueError, match="third argument is save_loc: write n_samples=5"):
        predict_on_catalog.predict(catalog, model, 5, SCHEMA.label_cols, str(tmp_path / "p.hdf5"))


def test_the_loss_of_a_loop_of_ones_own():
    # inigoval/byol, byol_main; and training loops on Galaxy Zoo 2 by label_metadata's trees
    generator = torch.Generator().manual_seed(0)
    concentrations = 1 + 10 * torch.rand(4, 7, generator=generator)
    votes = torch.randint(0, 5, (4, 7), generator=generator)
    loss = losses.calculate_multiquestion_loss(
        votes, concentrations, SCHEMA.question_index_groups, careful=True
    )
    expected = losses.CustomMultiQuestionLoss(SCHEMA.question_answer_pairs)(concentrations, votes)
    assert torch.equal(loss, expected)
    with pytest.raises(ValueError, match="don't follow each other"):
        losses.calculate_multiquestion_loss(votes, concentrations, [(0, 1), (4, 6)])
    concentrations[0, 0] = torch.nan
    with pytest.raises(ValueError, match="a loss is not finite"):
        losses.calculate_multiquestion_loss(votes, concentrations, [(0, 6)], careful=True)


def test_a_loss_with_the_models_class_weights(tmp_path, splits):
    # a script that finetunes Hubble types in four classes replaces model.loss by its own
    model = finetune.FinetuneableZoobotClassifier(
        num_classes=2,
        encoder=timm.create_model("test_resnet", num_classes=0),
        class_weights=np.array([1.0, 3.0]),
        prog_bar=True,
    )

    def loss(y_pred, y):
        weight = model.class_weights.to(device=y.device, dtype=torch.float32)
        return nn.functional.cross_entropy(
            y_pred, y.long(), weight, label_smoothing=model.label_smoothing, reduction="none"
        )

    model.loss = loss
    trainer = finetune.get_trainer(tmp_path, file_template="regular_{epoch}", **FAST)
    trainer.fit(model, of_classes(splits))
    assert (tmp_path / "checkpoints" / "regular_epoch=1.ckpt").exists()
    again = finetune.FinetuneableZoobotClassifier.load_from_checkpoint(
        str(trainer.best_model_path), strict=False
    )
    assert again.class_weights.tolist() == [1.0, 3.0]


class OfBatches(nn.Module):
    """A module of one's own, called with the batch as Lightning calls it."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, batch):
        return self.linear(batch["image"].mean((2, 3)))


class OfAttributes(OfBatches):
    def forward(self, batch):
        return self.linear(batch.get("image").mean((2, 3)))


class WithStep(nn.Module):
    """A module whose ``predict_step`` is not what ``forward`` gives."""

    def forward(self, images):
        return images.mean((2, 3))

    def predict_step(self, batch, batch_idx):
        return self(batch["image"]).softmax(1)


class Faulty(nn.Module):
    def forward(self, images):
        return images.mean((2, 3))[0, 0, 0]


def test_a_module_of_ones_own_is_called_as_lightning_calls_it(tmp_path, catalog):
    # mwalmsley/zoobot-predictions and mwalmsley/zoobot-3d predict with LightningModules
    def predict(model, label_cols):
        return predict_on_catalog.predict(
            catalog[:4], model, tmp_path / "p.parquet", label_cols,
            inference_transform=transform(), resume=False,
            datamodule_kwargs={"num_workers": 0}, trainer_kwargs=FAST,
        )  # fmt: skip

    trainer = finetune.get_trainer(tmp_path, **FAST)
    loader = of_classes({"test_catalog": catalog[:4]}).test_dataloader()
    for module in (OfBatches(), OfAttributes()):
        table = predict(module, ["a", "b"])
        (values,) = trainer.predict(module, loader)
        np.testing.assert_allclose(table[["a", "b"]], values, atol=1e-6)
    rows = predict(WithStep(), ["r", "g", "b"])
    np.testing.assert_allclose(rows[["r", "g", "b"]].sum(axis=1), 1, atol=1e-6)
    with pytest.raises(IndexError):
        predict(Faulty(), ["a"])


def test_options_of_lightning_are_refused_warned_of_or_accepted_in_silence(tmp_path):
    defaults = {
        "callbacks": [],
        "limit_train_batches": 1.0,
        "limit_val_batches": None,
        "deterministic": False,
        "enable_checkpointing": True,
        "fast_dev_run": False,
        "gradient_clip_val": None,
        "num_sanity_val_steps": 2,
        "precision": None,
        "strategy": "auto",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        finetune.get_trainer(tmp_path, **defaults)
    refused = {
        "limit_train_batches": (1, "give the data module fewer galaxies"),
        "overfit_batches": (1, "give the data module fewer galaxies"),
        "check_val_every_n_epoch": (5, "every epoch is validated"),
        "max_steps": (100, "give max_epochs="),
        "gpus": (2, "give devices= and accelerator="),
        "max_epochs": (-1, "max_epochs=-1: give a whole number of 1 or more"),
        "enable_checkpointing": (False, "save_top_k="),
        "callbacks": ([ModelCheckpoint()], "callback ModelCheckpoint .* get_trainer's save_top_k="),
    }
    for name, (value, told) in refused.items():
        with pytest.raises(ValueError, match=told):
            finetune.get_trainer(tmp_path, **{name: value})
    ignored = "without effect: benchmark, profiler, LearningRateMonitor"
    with pytest.warns(UserWarning, match=ignored):
        finetune.get_trainer(
            tmp_path, profiler="simple", benchmark=True, callbacks=LearningRateMonitor()
        )
