import pandas as pd
import pytest
import timm
import torch

from zoobot.data.dataset import ImagesSeen
from zoobot.models import encoders
from zoobot.models.architectures import get_pytorch_encoder
from zoobot.models.finetune import FinetuneableZoobotTree
from zoobot.models.heads import DirichletHead, get_pytorch_dirichlet_head
from zoobot.models.tree import ZoobotTree
from zoobot.predictions.models import predict_samples
from zoobot.runs import checkpoint
from zoobot.schemas import get_schema


@pytest.fixture
def model(tree):
    torch.manual_seed(0)
    return ZoobotTree(schema=tree, architecture_name="test_convnext", dropout_rate=0.5)


def test_one_channel_models_do_not_change_later_ones(tree):
    grey = ZoobotTree(schema=tree, architecture_name="test_resnet", channels=1)
    colour = ZoobotTree(schema=tree, architecture_name="test_resnet")
    assert grey(torch.rand(2, 1, 32, 32)).shape == colour(torch.rand(2, 3, 32, 32)).shape


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_concentrations_are_float32_between_1_and_101_under_autocast(model, dtype):
    with torch.autocast("cpu", dtype):
        concentrations = model(torch.rand(2, 3, 32, 32))
    assert concentrations.dtype == torch.float32
    assert concentrations.shape == (2, 7)
    assert ((concentrations > 1) & (concentrations < 101)).all()


def test_the_head_computes_in_float32_under_autocast():
    torch.manual_seed(0)
    head = DirichletHead(64, 5, dropout_rate=0)
    features = torch.randn(8, 64)
    with torch.autocast("cpu", torch.bfloat16):
        inside = head(features)
    assert torch.equal(inside, head(features))


def test_dropout_is_off_in_evaluation_and_on_for_samples(model):
    images = torch.rand(2, 3, 32, 32)
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(images), model(images))
    samples = predict_samples(model, images, 5)
    assert samples.shape == (2, 7, 5)
    assert not torch.equal(samples[..., 0], samples[..., 1])
    with torch.no_grad():
        assert torch.equal(model(images), model(images))
    head = get_pytorch_dirichlet_head(4, 3, test_time_dropout=True, dropout_rate=0.5).eval()
    features = torch.rand(2, 4)
    assert not torch.equal(head(features), head(features))


def test_samples_are_those_of_the_head_and_one_sample_is_without_dropout(model):
    images = torch.rand(4, 3, 32, 32)
    model.eval()
    torch.manual_seed(1)
    samples = predict_samples(model, images, 3)
    torch.manual_seed(1)
    with torch.no_grad():
        model.head.dropout.train()
        expected = model.head(model.encoder(images).repeat(3, 1)).reshape(3, 4, 7)
        model.head.eval()
        assert torch.equal(samples, expected.permute(1, 2, 0))
        assert torch.equal(predict_samples(model, images)[..., 0], model(images))


def test_the_kind_of_head_comes_back_from_checkpoints_and_sets_the_constants_bounds(tree, tmp_path):
    votes = pd.DataFrame([[30, 0, 0, 0, 0, 0, 0]] * 5, columns=tree.label_cols)
    votes.insert(0, "id_str", [*"abcde"])
    encoder = {"encoder": get_pytorch_encoder("test_convnext")}
    for kind, make in {
        ZoobotTree: lambda: ZoobotTree(
            schema=tree, architecture_name="test_convnext", head_activation="softplus"
        ),
        FinetuneableZoobotTree: lambda: FinetuneableZoobotTree(tree, "softplus", **encoder),
    }.items():
        model, path = make().eval(), tmp_path / f"{kind.__name__}.safetensors"
        checkpoint.save_weights(path, model.state_dict(), model.describe())
        loaded = kind.load_from_checkpoint(path).eval()
        images = torch.rand(2, 3, 32, 32)
        with torch.no_grad():
            assert torch.equal(loaded(images), model(images))
        assert loaded.head.activation == "softplus"
        best, _ = loaded.constants(votes)
        assert best[0] / best[:2].sum() > 0.995  # 101 / 102 within the bounds of a sigmoid


def test_a_model_is_loaded_from_its_checkpoint(model, tmp_path):
    images_seen = ImagesSeen(image_size=32, view={"output_size": 32})
    path = tmp_path / "best.safetensors"
    checkpoint.save_weights(path, model.state_dict(), model.describe() | images_seen.to_dict())
    again = ZoobotTree.load_from_checkpoint(path)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(again(images), model.eval()(images))
    assert again.schema == model.schema
    assert again.head.dropout.p == 0.5
    assert again.images_seen == images_seen


def test_votes_come_from_one_tensor_or_one_entry_a_column(model):
    votes = torch.randint(0, 5, (3, 7))
    images = torch.zeros(3, 3, 8, 8)
    by_column = {column: votes[:, i] for i, column in enumerate(model.schema.label_cols)}
    for batch in ({"labels": votes}, by_column):
        _, stacked = model.batch_to_supervised_tuple({"image": images, **batch})
        assert torch.equal(stacked, votes)


def test_documented_construction_from_pairs_and_dependencies():
    from zoobot.pytorch.estimators.define_model import ZoobotTree

    schema = get_schema("gz_rings_schema")
    model = ZoobotTree(
        output_dim=2,
        question_answer_pairs=schema.question_answer_pairs,
        dependencies=schema.dependencies,
        architecture_name="test_resnet",
    )
    assert model.schema == schema
    with pytest.raises(ValueError, match="output_dim is 3, but the tree has 2"):
        ZoobotTree(3, schema.question_answer_pairs, schema.dependencies, "test_resnet")
    with pytest.raises(ValueError, match="give schema="):
        ZoobotTree(3)


def test_an_unknown_encoder_is_answered_with_names():
    with pytest.raises(ValueError, match="no encoder 'resnet19'; did you mean .*'resnet18'"):
        get_pytorch_encoder("resnet19")
    with pytest.raises(ValueError, match="refuses"):
        get_pytorch_encoder("resnet18", no_such_option=1)
    assert timm.is_model("resnet18")


def saved(model, folder, **encoder):
    """The model's weights under a description of another encoder."""
    description = model.describe()
    description["encoder"] |= encoder
    checkpoint.save_weights(folder / "a.safetensors", model.state_dict(), description)
    return folder / "a.safetensors"


@pytest.mark.parametrize(
    "encoder",
    [
        {"architecture": "test_vit", "timm_kwargs": {"embed_dim": 100_000}},
        {"architecture": "test_vit", "timm_kwargs": {"depth": 10_000}},
        {"architecture": "test_vit", "timm_kwargs": {"img_size": 100_000}},
        {"architecture": "test_vit", "timm_kwargs": {"depth": "x"}},
        {"architecture": "test_vit", "timm_kwargs": {"absent": 1}},
        {"architecture": "../a"},
    ],
)
def test_a_described_model_that_is_too_large_or_impossible_is_given_up(model, tmp_path, encoder):
    path = saved(model, tmp_path, **encoder)
    for load in (ZoobotTree.load_from_checkpoint, encoders.load_pretrained_zoobot):
        with pytest.raises(ValueError, match="a.safetensors describes a model that can't be built"):
            load(path)


def test_a_description_can_not_make_timm_fetch_or_load_weights(model, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("weights were asked for")

    monkeypatch.setattr("timm.models._builder.load_pretrained", refuse)
    monkeypatch.setattr("timm.models._factory.load_checkpoint", refuse)
    kwargs = {"pretrained": True, "checkpoint_path": "other.ckpt"}
    path = saved(model, tmp_path, timm_kwargs=kwargs)
    ZoobotTree.load_from_checkpoint(path)
    encoders.load_pretrained_zoobot(path)


def test_weights_of_another_kind_are_told(model, tmp_path):
    weights = model.state_dict()
    weights["head.linear.bias"] = weights["head.linear.bias"].to_sparse()
    path = tmp_path / "a.ckpt"
    state = {"format_version": 2, "model": weights, "description": model.describe()}
    torch.save(state, path)
    with pytest.raises(ValueError, match="a.ckpt .* a tensor that is not plain numbers"):
        ZoobotTree.load_from_checkpoint(path)
