"""Scripts in the style of Zoobot 2.x's documentation run, with the data module's import changed.

With galaxy-datasets installed they run with its data module too.
"""

import importlib.util

import numpy as np
import pytest
import timm
import torch

from zoobot.data.catalog import read_catalog


def ours():
    from zoobot.data import CatalogDataModule

    return CatalogDataModule


def theirs():
    if importlib.util.find_spec("galaxy_datasets") is None:
        pytest.skip("galaxy-datasets is not installed")
    from galaxy_datasets.pytorch.galaxy_datamodule import CatalogDataModule

    return CatalogDataModule


@pytest.fixture(params=[ours, theirs])
def data_module_class(request):
    return request.param()


@pytest.fixture
def labelled(small_catalog):
    frame = read_catalog(small_catalog)
    frame["ring"] = (frame["smooth_yes"] > 10).astype(int)
    frame["fraction"] = frame["smooth_yes"] / 20
    return frame


SETTINGS = {"batch_size": 16, "num_workers": 0}


def local_encoder(folder):
    """The place of ``hf_hub:mwalmsley/zoobot-encoder-...`` where there is no network."""
    from zoobot.models.encoders import save_encoder

    save_encoder(timm.create_model("test_resnet", num_classes=0), folder / "encoder")
    return f"local-dir:{folder / 'encoder'}"


def test_classifier(data_module_class, labelled, tmp_path):
    from zoobot.pytorch.training import finetune

    datamodule = data_module_class(label_cols=["ring"], catalog=labelled, **SETTINGS)
    model = finetune.FinetuneableZoobotClassifier(
        name=local_encoder(tmp_path), num_classes=2, label_col="ring", learning_rate=1e-4
    )
    trainer = finetune.get_trainer(save_dir=str(tmp_path / "save"), max_epochs=1)
    trainer.fit(model, datamodule)
    assert 0 <= trainer.callback_metrics["finetuning/val_acc"] <= 1

    best_checkpoint = trainer.checkpoint_callback.best_model_path
    finetuned = finetune.FinetuneableZoobotClassifier.load_from_checkpoint(best_checkpoint)
    trainer.test(finetuned, datamodule)
    assert "finetuning/test_loss" in trainer.callback_metrics


def test_classifier_with_weights_smoothing_and_schedule(data_module_class, labelled, tmp_path):
    from zoobot.pytorch.training import finetune

    datamodule = data_module_class(label_cols=["ring"], catalog=labelled, **SETTINGS)
    model = finetune.FinetuneableZoobotClassifier(
        encoder=timm.create_model("test_resnet", num_classes=0),
        num_classes=2,
        label_col="ring",
        class_weights=np.array([1.0, 3.0]),
        label_smoothing=0.1,
        layer_decay=0.5,
        weight_decay=0.01,
        head_dropout_prob=0.2,
        scheduler_kwargs={"sched": "cosine", "num_epochs": 2, "warmup_epochs": 1},
        training_mode="full",
    )
    trainer = finetune.get_trainer(tmp_path, max_epochs=2, accelerator="cpu", devices=1)
    trainer.fit(model, datamodule)
    trainer.test(model, datamodule, ckpt_path="best")


def test_regressor(data_module_class, labelled, tmp_path):
    from zoobot.pytorch.training import finetune

    datamodule = data_module_class(label_cols=["fraction"], catalog=labelled, **SETTINGS)
    model = finetune.FinetuneableZoobotRegressor(
        encoder=timm.create_model("test_resnet", num_classes=0),
        label_col="fraction",
        unit_interval=True,
        loss="mae",
        training_mode="head_only",
    )
    trainer = finetune.get_trainer(tmp_path, max_epochs=1)
    trainer.fit(model, datamodule)
    assert trainer.callback_metrics["finetuning/val_rmse"] > 0


def test_tree_with_pairs_and_dependencies_of_ones_own(data_module_class, labelled, tmp_path):
    from zoobot.pytorch.training import finetune
    from zoobot.shared.schemas import Schema

    my_pairs = {"smooth": ["_yes", "_no"], "bar": ["_strong", "_weak", "_no"]}
    my_dependencies = {"smooth": None, "bar": "smooth_no"}
    schema = Schema(my_pairs, my_dependencies)

    datamodule = data_module_class(label_cols=schema.label_cols, catalog=labelled, **SETTINGS)
    model = finetune.FinetuneableZoobotTree(
        encoder=timm.create_model("test_resnet", num_classes=0), schema=schema
    )
    trainer = finetune.get_trainer(tmp_path, max_epochs=1)
    trainer.fit(model, datamodule)
    again = finetune.FinetuneableZoobotTree.load_from_checkpoint(
        trainer.best_model_path, schema=schema
    )
    batch = next(iter(datamodule.val_dataloader()))
    assert again.predict_step(batch, 0).shape == (len(batch["image"]), 5)


def test_tree_from_scratch():
    from zoobot.pytorch.estimators import define_model
    from zoobot.shared.schemas import gz2_ortho_schema as schema

    model = define_model.ZoobotTree(
        output_dim=len(schema.answers),
        question_answer_pairs=schema.question_answer_pairs,
        dependencies=schema.dependencies,
        architecture_name="test_resnet",
    )
    assert model(torch.rand(2, 3, 64, 64)).shape == (2, len(schema.answers))


def test_losses():
    from zoobot.pytorch.estimators.define_model import get_dirichlet_loss_func
    from zoobot.pytorch.training import losses
    from zoobot.shared.schemas import gz2_ortho_schema as schema

    concentrations = 1 + 100 * torch.rand(4, len(schema.answers))
    votes = torch.randint(0, 20, (4, len(schema.answers)))
    loss_func = losses.CustomMultiQuestionLoss(schema.question_answer_pairs)
    loss = loss_func(concentrations, votes)
    assert loss.shape == (4, len(schema.questions))
    one_question = losses.get_dirichlet_neg_log_prob(concentrations[:, :3], votes[:, :3])
    torch.testing.assert_close(one_question, loss[:, 0])

    by_column = {column: votes[:, i] for i, column in enumerate(schema.label_cols)}
    tree_loss = get_dirichlet_loss_func(schema.question_answer_pairs)(concentrations, by_column)
    torch.testing.assert_close(tree_loss, loss)


def test_a_new_task_by_subclassing(data_module_class, labelled, tmp_path, precision):
    from zoobot.pytorch.training.finetune import FinetuneableZoobotAbstract, get_trainer

    class FinetuneableZoobotCustomRegression(FinetuneableZoobotAbstract):
        def __init__(self, foo, **super_kwargs):
            super().__init__(**super_kwargs)
            self.foo = foo
            self.label_col = "fraction"
            self.loss = torch.nn.HuberLoss(reduction="none")
            self.head = torch.nn.Sequential(
                torch.nn.Linear(self.encoder_dim, 1), torch.nn.Flatten(0)
            )

    datamodule = data_module_class(label_cols=["fraction"], catalog=labelled, **SETTINGS)
    encoder = timm.create_model("test_resnet", num_classes=0)
    model = FinetuneableZoobotCustomRegression(foo=3, encoder=encoder)
    trainer = get_trainer(tmp_path, max_epochs=1, precision=precision)
    trainer.fit(model, datamodule)
    again = FinetuneableZoobotCustomRegression.load_from_checkpoint(trainer.best_model_path)
    assert again.foo == 3


def test_the_encoder_alone(tmp_path):
    from zoobot.pytorch.training import finetune

    name = local_encoder(tmp_path)
    encoder = finetune.FinetuneableZoobotClassifier(name=name, num_classes=2).encoder
    same = timm.create_model(name, pretrained=True, num_classes=0)
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(encoder.eval()(images), same.eval()(images))


def test_views_of_ones_own(labelled):
    from torchvision.transforms import v2 as T

    from zoobot.data import CatalogDataModule, default_view_config, get_galaxy_transform

    config = default_view_config()
    config.output_size = 64
    config.erase_iterations = 0
    for transform in (
        get_galaxy_transform(config),
        T.Compose([T.Resize((64, 64)), T.RandomHorizontalFlip(), T.ToDtype(torch.float32, True)]),
    ):
        datamodule = CatalogDataModule(
            ["ring"], train_transform=transform, test_transform=transform, catalog=labelled,
            **SETTINGS,
        )  # fmt: skip
        datamodule.setup("fit")
        batch = next(iter(datamodule.train_dataloader()))
        assert batch["image"].shape == (14, 3, 64, 64)
        assert batch["image"].dtype == torch.float32
