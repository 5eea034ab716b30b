import copy
import math
import types
import warnings

import pytest
import torch
from torch import nn

from zoobot.data.catalog import read_catalog
from zoobot.data.datamodule import CatalogDataModule
from zoobot.data.views import get_galaxy_transform, minimal_view_config
from zoobot.models import FinetuneableZoobotTree, ZoobotTree, speed
from zoobot.predictions.predict import predict_to_file
from zoobot.system import caches
from zoobot.system.errors import UserError
from zoobot.trainer import Trainer

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def compilations(monkeypatch):
    """Whether the model was in training, at each compilation; nothing is compiled in fact."""
    found = []

    def backend(graph, inputs):
        found.append(torch.is_grad_enabled())
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(caches, "keep_compiled_privately", lambda: None)
    monkeypatch.setattr(speed, "BACKEND", backend)
    return found


def make_model(tree, encoder="test_convnext", **arguments):
    torch.manual_seed(0)
    return ZoobotTree(schema=tree, architecture_name=encoder, dropout_rate=0.0, **arguments)


def pretrained(tree, **arguments):
    kwargs = {"pretrained": False, "img_size": 32}
    return FinetuneableZoobotTree(tree, name="test_vit", timm_kwargs=kwargs, **arguments)


def images_of(number, channels=3):
    generator = torch.Generator().manual_seed(number)
    images = torch.rand(number, channels, 32, 32, generator=generator)
    return images.contiguous(memory_format=torch.channels_last)


def gradients(model, images, weights):
    model.zero_grad()
    (model(images).float() * weights).sum().backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


MODELS = {
    "one channel": lambda tree: make_model(tree, channels=1),
    "finetuned": pretrained,
    "frozen BatchNorm": lambda tree: FinetuneableZoobotTree(
        tree, name="test_resnet", training_mode="head_only", timm_kwargs={"pretrained": False}
    ),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_model_is_compiled_once_to_train_and_once_to_evaluate(make, tree, compilations):
    model = make(tree).to(memory_format=torch.channels_last)
    model._compiled_call_impl = speed.FixedSize(model, None, CPU, train_size=6, eval_size=8)
    for _ in range(2):
        model.train()
        for number in (5, 6, 5):
            model(images_of(number, model.channels)).sum().backward()
        model.eval()
        with torch.inference_mode():
            for number in (8, 3, 8):
                assert len(model(images_of(number, model.channels))) == number
    assert compilations == [True, False]


def test_a_model_with_batch_statistics_is_compiled_for_each_size_and_never_filled(
    tree, compilations
):
    model = make_model(tree, "test_resnet").to(memory_format=torch.channels_last)
    expected = copy.deepcopy(model)
    model._compiled_call_impl = speed.FixedSize(model, None, CPU, train_size=6)
    for number in (6, 5, 6, 5):
        images = images_of(number)
        torch.testing.assert_close(model(images), expected(images))
    assert compilations == [True, True]
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value)


@pytest.mark.parametrize("make", [make_model, pretrained], ids=["from scratch", "finetuned"])
def test_copies_that_fill_a_batch_have_no_part_in_outputs_and_gradients(make, tree, compilations):
    model = make(tree).to(memory_format=torch.channels_last)
    model.head.dropout.p = 0.0
    images, weights = images_of(5), torch.rand(5, 7)
    expected, wanted = model(images), gradients(model, images, weights)
    model._compiled_call_impl = speed.FixedSize(model, None, CPU, train_size=16)
    torch.testing.assert_close(model(images), expected)
    torch.testing.assert_close(gradients(model, images, weights), wanted, rtol=1e-4, atol=1e-5)
    assert compilations == [True]


def test_a_model_is_compiled_whether_or_not_its_device_has_a_number(tree, compilations):
    model = make_model(tree)
    model._compiled_call_impl = speed.FixedSize(model, None, torch.device("cpu", 0))
    model(images_of(2))
    assert compilations == [True]


def test_a_copy_of_a_compiled_model_is_not_compiled(tree, compilations):
    model = make_model(tree)
    model._compiled_call_impl = speed.FixedSize(model, None, CPU)
    copy.deepcopy(model)(images_of(2))
    assert compilations == []


def data_module(frame, tree):
    view = minimal_view_config()
    view.output_size = 32
    views = [get_galaxy_transform(view)] * 2
    splits = {"train_catalog": frame[:29], "val_catalog": frame[29:40], "test_catalog": frame[40:]}
    return CatalogDataModule(tree.label_cols, *views, **splits, batch_size=8, num_workers=0)


def test_a_run_compiles_once_to_train_and_once_for_all_that_is_evaluated_and_predicted(
    small_catalog, tree, tmp_path, compilations
):
    frame, metrics = read_catalog(small_catalog), {}
    for choice in ("off", "on"):
        model = make_model(tree)
        how = {"max_epochs": 2, "precision": "fp32", "compile": choice, "device": "cpu"}
        trainer = Trainer(tmp_path / choice, **how)
        trainer.fit(model, data_module(frame, tree))
        metrics[choice] = {}
        for evaluate in (trainer.validate, trainer.test):
            metrics[choice] |= evaluate(model, data_module(frame, tree))[0]
        predict_to_file(
            frame, model, tmp_path / f"{choice}.csv", batch_size=8, num_workers=0, device="cpu",
            precision="fp32", compile_encoder=choice, show_progress=False,
        )  # fmt: skip
        assert compilations == ([True, False] if choice == "on" else [])
    assert metrics["on"] == pytest.approx(metrics["off"], rel=1e-4)


def test_another_run_of_the_model_may_leave_it_as_it_is(tree, monkeypatch):
    model = make_model(tree)
    for choice, is_compiled in (("on", True), ("off", False), ("auto", False)):
        speed.set_up(model, CPU, torch.float32, choice, 1, None, None)
        assert (model._compiled_call_impl is not None) == is_compiled


def test_what_a_user_has_compiled_is_left_as_it_is(tree):
    model = make_model(tree)
    model.encoder.compile(backend="eager")
    told = speed.set_up(model, CPU, torch.float32, "on", 1, None, None)
    assert told == "; compiled as it was given"
    assert model._compiled_call_impl is None


@pytest.mark.parametrize(
    ("num_passes", "chosen"), [(10**9, "on"), (10**3, "off"), (None, "off")], ids=str
)
def test_on_a_gpu_auto_compiles_where_that_saves_more_than_it_takes(
    tree, monkeypatch, num_passes, chosen
):
    monkeypatch.setattr(speed, "_missing", lambda: "")
    found, told = speed.choose("auto", make_model(tree), GPU, num_passes)
    assert found == chosen
    assert told.startswith({"on": "compiled: "}.get(chosen, "eager: " if num_passes else "not"))
    assert speed.choose("auto", make_model(tree), CPU, num_passes) == ("off", "")


def test_on_a_gpu_auto_does_without_what_the_machine_lacks(tree, monkeypatch):
    monkeypatch.setattr(speed, "_missing", lambda: "C compiler")
    told = speed.choose("auto", make_model(tree), GPU, 1e12)
    assert told == ("off", "not compiled: there is no C compiler")


def test_larger_models_and_images_save_more(tree):
    model = make_model(tree)
    saved = speed.saved_a_pass_s(model)
    model.images_seen = types.SimpleNamespace(image_size=448)
    assert math.isclose(speed.saved_a_pass_s(model), 4 * saved)


def test_a_wrong_choice_is_told(tree):
    with pytest.raises(UserError, match="compile 'fast' is none of auto, on, max, off"):
        speed.choose("fast", make_model(tree), CPU, 1)


def test_a_deterministic_run_is_not_compiled(tree, monkeypatch):
    monkeypatch.setattr(speed, "_missing", lambda: "")
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert speed.choose("auto", make_model(tree), GPU, 1e12) == ("off", "")
    with pytest.raises(UserError, match="deterministic run can't be compiled"):
        speed.choose("max", make_model(tree), GPU, 1)


def test_norms_are_fast_on_a_gpu_under_autocast_only(tree):
    def fast_norms(device, dtype):
        model = make_model(tree)
        speed.use_fast_norms(model, device, dtype)
        return {layer._fast_norm for layer in model.modules() if "_fast_norm" in vars(layer)}

    assert fast_norms(GPU, torch.bfloat16) == {True}
    assert fast_norms(GPU, torch.float32) == fast_norms(CPU, torch.bfloat16) == {False}


def test_batch_statistics_are_those_of_layers_in_training():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.LayerNorm(4))
    assert speed.uses_batch_statistics(model)
    assert not speed.uses_batch_statistics(model.eval())
    assert not speed.uses_batch_statistics(nn.LayerNorm(4))


def test_what_torch_warns_of_float32_on_a_gpu_is_not_shown_where_a_model_is_compiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda call, **_: call)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        speed.FixedSize(torch.nn.Identity(), None, torch.device("cpu"))
        warnings.warn("TensorFloat32 tensor cores for float32 matrix ...", stacklevel=1)
        warnings.warn("another", stacklevel=1)
    assert [str(warning.message) for warning in shown] == ["another"]
