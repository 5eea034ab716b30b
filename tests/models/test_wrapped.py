import pytest
import timm
import torch
from torch import nn

from zoobot.models.encoders import describe_encoder, save_encoder
from zoobot.models.features import get_encoder_dim
from zoobot.models.finetune import FinetuneableZoobotClassifier
from zoobot.models.wrapped import inside, unwrapped
from zoobot.predictions.models import ZoobotEncoder, as_predictor, hash_weights
from zoobot.runs import checkpoint

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def encoder():
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=0)


def compiled(module):
    return torch.compile(module, backend="eager")


WRAPPERS = {
    "compiled": compiled,
    "parallel": nn.DataParallel,
    "compiled, then parallel": lambda module: nn.DataParallel(compiled(module)),
    "parallel, then compiled": lambda module: compiled(nn.DataParallel(module)),
}


@pytest.fixture(params=WRAPPERS)
def wrap(request):
    return WRAPPERS[request.param]


def test_an_encoder_is_taken_out_of_what_is_wrapped_around_it(wrap):
    module = encoder()
    model = FinetuneableZoobotClassifier(num_classes=2, encoder=wrap(module))
    assert model.encoder is module
    plain = FinetuneableZoobotClassifier(num_classes=2, encoder=encoder())
    rates = [g["lr"] for g in model.configure_optimizers().param_groups]
    assert rates == [g["lr"] for g in plain.configure_optimizers().param_groups]
    assert len({*rates}) > 2  # layer decay


def test_a_model_with_a_wrapped_encoder_is_loaded_again(wrap, tmp_path):
    model = FinetuneableZoobotClassifier(num_classes=2, encoder=wrap(encoder()))
    checkpoint.save_weights(tmp_path / "a.safetensors", model.state_dict(), model.describe())
    again = FinetuneableZoobotClassifier.load_from_checkpoint(tmp_path / "a.safetensors")
    torch.testing.assert_close(again(IMAGES), model.eval()(IMAGES))


def test_what_was_compiled_stays_compiled_with_its_options():
    calls = []

    def backend(graph, inputs):
        calls.append(graph)
        return graph.forward

    model = FinetuneableZoobotClassifier(
        num_classes=2, encoder=torch.compile(encoder(), backend=backend)
    ).eval()
    expected = FinetuneableZoobotClassifier(num_classes=2, encoder=encoder()).eval()(IMAGES)
    torch.testing.assert_close(model(IMAGES), expected)
    assert calls


def test_blocks_compiled_one_by_one_keep_their_names():
    module = encoder()
    names = [*module.state_dict()]
    module.layer1 = compiled(module.layer1)
    assert [*unwrapped(module).state_dict()] == names


def test_wrapped_encoders_are_predicted_with_saved_and_measured(wrap, tmp_path):
    module = encoder()
    assert ZoobotEncoder(wrap(module)).encoder is module
    assert get_encoder_dim(wrap(module)) == get_encoder_dim(module)
    save_encoder(wrap(module), tmp_path)
    assert describe_encoder(module)["architecture"] == "test_resnet"
    assert inside(wrap(module)) is module


def test_a_wrapped_model_predicts_as_itself(wrap):
    model = FinetuneableZoobotClassifier(num_classes=2, encoder=encoder())
    assert as_predictor(wrap(model)) is model
    assert hash_weights(wrap(model)) == hash_weights(model)
