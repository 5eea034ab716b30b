import warnings

import pytest
import timm
import torch
from torch import nn

from zoobot.data import CatalogDataModule, get_galaxy_transform, minimal_view_config
from zoobot.data.catalog import read_catalog
from zoobot.models.architectures import image_size_kwargs
from zoobot.models.descriptions import build_encoder, describe_encoder
from zoobot.models.finetune import FinetuneableZoobotClassifier
from zoobot.models.rebuild import check_rebuilds
from zoobot.models.tree import ZoobotTree
from zoobot.pytorch.training.trainer import get_trainer


def encoder(name="test_resnet", **kwargs):
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=0, **kwargs)


def foreign():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


IN_MEMORY = [
    ("test_maxvit", {"img_size": 64}),
    ("test_coatnet", {"img_size": 96}),
    ("test_vit_relpos", {"img_size": 64}),
    ("vit_tiny_patch16_224", {"dynamic_img_size": True}),
    ("vit_tiny_patch16_224", {"dynamic_img_size": True, "img_size": 64}),
    ("test_resnet", {"global_pool": "max"}),
]


@pytest.mark.parametrize(("name", "kwargs"), IN_MEMORY)
def test_an_encoder_made_in_memory_is_built_again_as_it_was_made(name, kwargs):
    module = encoder(name, **kwargs).eval()
    again = build_encoder(describe_encoder(module)).eval()
    again.load_state_dict(module.state_dict())
    for size_px in (64, 96, 160) if "dynamic_img_size" in kwargs else (kwargs.get("img_size", 64),):
        images = torch.rand(1, 3, size_px, size_px)
        torch.testing.assert_close(again(images), module(images))


@pytest.mark.parametrize(("name", "kwargs"), IN_MEMORY[:-1])
def test_what_timm_does_not_note_is_found_by_trying(name, kwargs):
    module = encoder(name, **kwargs)
    vars(module).pop("_model_args", None)
    described = describe_encoder(module, kwargs.get("img_size"))["timm_kwargs"]
    assert described.keys() == kwargs.keys()


def test_an_encoder_that_was_resized_is_described_as_it_is():
    module = encoder("vit_tiny_patch16_224")
    module.set_input_size(img_size=96)
    described = describe_encoder(module)
    again = build_encoder(described).eval()
    again.load_state_dict(module.state_dict())
    images = torch.rand(1, 3, 96, 96)
    torch.testing.assert_close(again(images), module.eval()(images))


@pytest.fixture
def frame(small_catalog):
    frame = read_catalog(small_catalog)
    frame["label"] = (frame["smooth_yes"] > 10).astype(int)
    return frame


def fit(model, frame, folder, size_px=32):
    view = minimal_view_config()
    view.output_size = size_px
    transform = get_galaxy_transform(view)
    data = CatalogDataModule(
        ["label"], transform, transform, catalog=frame, batch_size=16, num_workers=0
    )
    trainer = get_trainer(folder / "run", max_epochs=1, precision="fp32")
    trainer.fit(model, data)
    return trainer


def test_a_model_that_cannot_be_built_again_is_told_before_anything_is_written(frame, tmp_path):
    model = FinetuneableZoobotClassifier(
        num_classes=2, name="test_resnet", timm_kwargs={"pretrained": False}
    )
    model.encoder.bn1 = nn.GroupNorm(2, 16)
    with pytest.raises(ValueError, match="can't be built again from its checkpoints: .* missing"):
        fit(model, frame, tmp_path)
    assert not (tmp_path / "run").exists()


def test_a_tree_whose_encoder_was_changed_is_told(tree):
    model = ZoobotTree(schema=tree, architecture_name="test_resnet")
    check_rebuilds(model, model.describe())
    model.encoder.bn1 = nn.GroupNorm(2, 16)
    with pytest.raises(ValueError, match="this model can't be built again from its checkpoints"):
        check_rebuilds(model, model.describe())


def with_tanh(module):
    for name, child in list(module.named_children()):
        setattr(module, name, nn.Tanh() if isinstance(child, nn.ReLU) else with_tanh(child))
    return module


def test_a_model_whose_layers_without_weights_were_changed_is_told(tree, frame, tmp_path):
    model = FinetuneableZoobotClassifier(
        num_classes=2, name="test_resnet", timm_kwargs={"pretrained": False}
    )
    with_tanh(model.encoder)
    with pytest.raises(ValueError, match="with the same weights it predicts something else; give"):
        fit(model, frame, tmp_path)
    assert not (tmp_path / "run").exists()
    model = ZoobotTree(schema=tree, architecture_name="test_resnet", test_time_dropout=True)
    check_rebuilds(model, model.describe())
    with_tanh(model.encoder)
    with pytest.raises(ValueError, match="it predicts something else"):
        check_rebuilds(model, model.describe())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_an_encoder_in_another_precision_is_told(dtype):
    with pytest.raises(ValueError, match=r"weights are torch.*: give encoder.float\(\)"):
        FinetuneableZoobotClassifier(num_classes=2, encoder=encoder().to(dtype))


def test_images_that_the_encoder_cannot_take_are_told_before_anything_is_written(frame, tmp_path):
    model = FinetuneableZoobotClassifier(num_classes=2, encoder=encoder("test_coatnet"))
    with pytest.raises(ValueError, match=r"can't take images of shape \(3, 40, 40\)"):
        fit(model, frame, tmp_path, size_px=40)
    assert not (tmp_path / "run").exists()


def test_a_users_encoder_trains_and_is_loaded_with_the_cure_that_the_warning_tells(frame, tmp_path):
    model = FinetuneableZoobotClassifier(num_classes=2, encoder=foreign())
    with pytest.warns(UserWarning, match=r"load_from_checkpoint\(path, encoder=encoder\)"):
        path = fit(model, frame, tmp_path).best_model_path
    again = FinetuneableZoobotClassifier.load_from_checkpoint(path, encoder=foreign())
    assert torch.equal(again.encoder[0].weight, model.encoder[0].weight)


class Closed(FinetuneableZoobotClassifier):
    """A subclass that makes its encoder itself, so that none can be given."""

    def __init__(self):
        super().__init__(num_classes=2, encoder=encoder())


def test_a_subclass_that_takes_no_encoder_trains_with_a_warning(frame, tmp_path):
    with pytest.warns(UserWarning, match="Closed must take the arguments of Finetuneable"):
        fit(Closed(), frame, tmp_path)


class Activated(FinetuneableZoobotClassifier):
    """A subclass with an argument that no checkpoint keeps."""

    def __init__(self, activation, **others):
        super().__init__(**others)
        self.activation = activation


def test_an_argument_that_no_checkpoint_keeps_is_not_missed():
    model = Activated(torch.tanh, num_classes=2, encoder=encoder())
    with pytest.warns(UserWarning, match="can't keep activation") as told:
        check_rebuilds(model, model.describe())
    assert len(told) == 1


def test_the_check_leaves_model_and_generator_as_they_were():
    model = FinetuneableZoobotClassifier(num_classes=2, encoder=encoder())
    model.train()
    before, state = dict(model.state_dict()), torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_rebuilds(model, {**model.describe(), "image_size": 32})
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.encoder.training


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")])
def test_a_wrapped_model_is_fitted_tested_and_loaded_as_itself(frame, tmp_path, wrap):
    model = FinetuneableZoobotClassifier(num_classes=2, encoder=encoder())
    trainer = fit(wrap(model), frame, tmp_path)
    again = FinetuneableZoobotClassifier.load_from_checkpoint(trainer.best_model_path)
    assert torch.equal(again.encoder.bn1.weight, model.encoder.bn1.weight.cpu())


@pytest.mark.parametrize(
    ("name", "image_size", "kwargs"),
    [
        ("test_coatnet", 64, {"img_size": 64}),
        ("test_maxvit", 96, {"img_size": 96}),
        ("test_resnet", 64, {}),
        ("crossvit_tiny_240", 64, {}),  # of fixed size by timm, but takes no img_size
    ],
)
def test_an_encoder_is_given_the_image_size_where_it_needs_it(name, image_size, kwargs):
    assert image_size_kwargs(name, image_size) == kwargs


@pytest.mark.parametrize(
    ("name", "image_size", "told"),
    [
        ("test_vit", 8, "can't take images of 8 px .*it was made for 160 px"),
        ("test_vit", 100, r"can't take images of 100 px .*divisible by patch size \(16\)"),
        ("test_coatnet", 50, "can't take images of 50 px"),
        ("efficientformer_l1", 64, "can't take images of 64 px .*it was made for 224 px"),
        ("test_resnet.nope", 64, "no pretrained weights 'test_resnet.nope'; did you mean"),
    ],
)
def test_an_image_size_that_an_encoder_cannot_take_is_told(name, image_size, told):
    with pytest.raises(ValueError, match=told):
        image_size_kwargs(name, image_size)


def test_arguments_that_no_file_can_tell_are_refused_at_once(tree):
    for make in (
        lambda kwargs: ZoobotTree(schema=tree, architecture_name="test_resnet", timm_kwargs=kwargs),
        lambda kwargs: FinetuneableZoobotClassifier(
            num_classes=2, name="test_resnet", timm_kwargs={**kwargs, "pretrained": False}
        ),
    ):
        with pytest.raises(ValueError, match="timm_kwargs act_layer=<class .* can't be written"):
            make({"act_layer": nn.SiLU})
        with pytest.raises(ValueError, match="timm_kwargs in_chans=1 is not taken, it is 3"):
            make({"in_chans": 1})
        with pytest.raises(ValueError, match="timm_kwargs num_classes=5 is not taken, it is 0"):
            make({"num_classes": 5})
        make({"in_chans": 3, "num_classes": 0, "act_layer": "silu"})


def test_timm_kwargs_without_a_name_are_refused():
    with pytest.raises(ValueError, match="timm_kwargs .* go with name=, not with encoder="):
        FinetuneableZoobotClassifier(
            num_classes=2, encoder=encoder(), timm_kwargs={"drop_path_rate": 0.1}
        )
    with pytest.raises(ValueError, match="encoder='test_resnet' is no torch module"):
        FinetuneableZoobotClassifier(num_classes=2, encoder="test_resnet")
