import copy
import inspect

import pandas as pd
import pytest
import timm
import torch
from torch import nn

from zoobot.models import finetune
from zoobot.models.finetune import (
    FinetuneableZoobotClassifier,
    FinetuneableZoobotRegressor,
    FinetuneableZoobotTree,
)
from zoobot.models.finetune_base import TRAINING_MODES, FinetuneableZoobotAbstract
from zoobot.models.heads import LinearHead
from zoobot.models.tree import ZoobotTree
from zoobot.optim import layer_of_parameters
from zoobot.runs import checkpoint


def encoder(name="test_resnet", **kwargs):
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=0, **kwargs)


def classifier(**arguments):
    arguments.setdefault("num_classes", 3)
    if "encoder" not in arguments:
        arguments["encoder"] = encoder()
    return FinetuneableZoobotClassifier(**arguments)


IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 1])


def step(model, labels=LABELS, images=IMAGES):
    """One training step as the loop takes it."""
    optimizer = model.configure_optimizers()
    model.train()
    model.losses(model(images), labels).sum().backward()
    optimizer.step()


# losses and head


def test_losses_are_not_reduced_and_labels_are_cast():
    logits = torch.randn(4, 3)
    loss = finetune.cross_entropy_loss(logits, LABELS.int())
    torch.testing.assert_close(loss, nn.functional.cross_entropy(logits, LABELS, reduction="none"))
    numbers = torch.randn(4)
    for ours, theirs in ((finetune.mse_loss, nn.MSELoss), (finetune.l1_loss, nn.L1Loss)):
        torch.testing.assert_close(
            ours(numbers, LABELS), theirs(reduction="none")(numbers, LABELS.float())
        )


@pytest.mark.parametrize("weight", [[1, 2, 4], [1.0, 2.0, 4.0], torch.tensor([1, 2, 4])])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float32])
def test_class_weights_and_labels_of_any_number_type_work(weight, dtype):
    logits = torch.zeros(4, 3)
    loss = finetune.cross_entropy_loss(logits, LABELS.to(dtype), weight=weight)
    unweighted = finetune.cross_entropy_loss(logits, LABELS)
    torch.testing.assert_close(loss, unweighted * torch.tensor([1.0, 2.0, 4.0, 2.0]))


def test_label_smoothing_is_torchs():
    logits = torch.randn(4, 3)
    torch.testing.assert_close(
        finetune.cross_entropy_loss(logits, LABELS, label_smoothing=0.2),
        nn.functional.cross_entropy(logits, LABELS, label_smoothing=0.2, reduction="none"),
    )


def test_smoothing_draws_no_galaxy_of_a_common_class_to_a_rare_one():
    """The best prediction for a galaxy that is always of class 0 is its smoothed label."""
    weight, smoothing = torch.tensor([0.4, 1.0, 20.0]), 0.1
    smoothed = torch.tensor([[1 - 2 * smoothing / 3, smoothing / 3, smoothing / 3]])
    logits = smoothed.log().requires_grad_()
    loss = finetune.cross_entropy_loss(logits, torch.tensor([0]), smoothing, weight)
    loss.sum().backward()
    torch.testing.assert_close(logits.grad, torch.zeros(1, 3), atol=1e-6, rtol=0)
    entropy = -(smoothed * smoothed.log()).sum()
    torch.testing.assert_close(loss.detach(), 0.4 * entropy[None])


@pytest.mark.parametrize("batch_size", [1, 5])
def test_a_head_of_one_output_gives_one_number_a_galaxy(batch_size):
    features = torch.randn(batch_size, 8)
    assert LinearHead(8, 1)(features).shape == (batch_size,)
    assert LinearHead(8, 3)(features).shape == (batch_size, 3)
    squashed = LinearHead(8, 1, activation=torch.sigmoid)(features * 100)
    assert squashed.min() >= 0
    assert squashed.max() <= 1


def test_the_head_computes_in_float32_under_autocast():
    head = LinearHead(8, 3).eval()
    features = torch.randn(4, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head(features), head(features.float()))
        assert head(features.bfloat16()).dtype == torch.float32


# what is given


def test_defaults_are_the_documented_ones():
    model = classifier()
    defaults = {
        "training_mode": "full", "learning_rate": 1e-4, "layer_decay": 0.75, "weight_decay": 0.05,
        "head_dropout_prob": 0.5, "scheduler_kwargs": None, "greyscale": False,
    }  # fmt: skip
    assert {name: getattr(model, name) for name in defaults} == defaults
    parameters = inspect.signature(FinetuneableZoobotAbstract.__init__).parameters
    assert not any(isinstance(p.default, (dict, list)) for p in parameters.values())


@pytest.mark.parametrize(
    ("sources", "told"),
    [
        ({}, "give exactly one of name, encoder, zoobot_checkpoint_loc, not none"),
        ({"name": "resnet18", "encoder": nn.Identity()}, "not name and encoder"),
        ({"encoder": nn.Identity(), "zoobot_checkpoint_loc": "a.ckpt"}, "not encoder and zoobot"),
    ],
)
def test_exactly_one_source_of_the_encoder_is_taken(sources, told):
    with pytest.raises(ValueError, match=told):
        FinetuneableZoobotClassifier(num_classes=2, **sources)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"training_mode": "head-only"}, "training_mode 'head-only' .*; did you mean 'head_only'"),
        ({"num_classes": 1}, "a classifier has 2 to 100000"),
        ({"class_weights": [1, 2]}, "2 class_weights for num_classes=3"),
    ],
)
def test_misuse_of_a_classifier_is_told(arguments, told):
    with pytest.raises(ValueError, match=told):
        classifier(**arguments)


def test_an_unknown_regression_loss_is_told():
    with pytest.raises(ValueError, match="loss 'rmse' is none of mse, mean_squared_error"):
        FinetuneableZoobotRegressor(encoder=encoder(), loss="rmse")


def table(column, values):
    return pd.DataFrame({"id_str": [f"g{i}" for i in range(len(values))], column: values})


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ([0, 1, 3], r"'label' of id_str 'g2' holds 3, .* 0 to 2; classes found: 0, 1, 3"),
        ([0, -1, 2], "'g1' holds -1"),
        ([0, 0.5, 2], "'g1' holds 0.5"),
        ([0, 1, float("nan")], "'g2' holds nan"),
    ],
)
def test_labels_that_are_no_class_numbers_are_told_with_the_classes_found(labels, told):
    classifier().check_labels(table("label", [0, 1, 2]), "train")
    with pytest.raises(ValueError, match=told):
        classifier().check_labels(table("label", labels), "train")


def test_regression_labels_must_be_finite_and_in_the_unit_interval_if_asked():
    model = FinetuneableZoobotRegressor(encoder=encoder(), unit_interval=True)
    model.check_labels(table("label", [0.0, 1.0]), "train")
    with pytest.raises(ValueError, match=r"'g1' holds nan, which is no finite number"):
        model.check_labels(table("label", [0.5, float("nan")]), "train")
    with pytest.raises(ValueError, match=r"'g0' holds 1.5, which is outside 0-1"):
        model.check_labels(table("label", [1.5, 0.5]), "train")


def test_fractional_votes_are_told(tree):
    model = FinetuneableZoobotTree(schema=tree, encoder=encoder())
    votes = pd.DataFrame(1.5, index=[0], columns=tree.label_cols)
    votes["id_str"] = "g0"
    with pytest.raises(ValueError, match="'smooth_yes' of id_str 'g0' holds 1.5"):
        model.check_labels(votes, "train")


def test_balanced_weights_make_galaxies_weigh_one_on_average():
    model = classifier(class_weights="balanced")
    labels = [0] * 6 + [1] * 3 + [2]
    model.learn_from_labels(table("label", labels))
    weights = model.arguments()["class_weights"]
    assert weights == pytest.approx([10 / 18, 10 / 9, 10 / 3])
    assert sum(weights[i] for i in labels) == pytest.approx(10)
    model.learn_from_labels(table("label", [0, 1, 2]))
    assert model.arguments()["class_weights"] == [1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="class '2' has no galaxy"):
        classifier(class_weights="balanced").learn_from_labels(table("label", [0, 1]))


def test_colour_models_work_after_greyscale_ones():
    grey = classifier(encoder=encoder(in_chans=1), greyscale=True)
    assert grey(IMAGES[:, :1]).shape == (4, 3)
    assert classifier()(IMAGES).shape == (4, 3)
    with pytest.raises(ValueError, match="takes 1 channel, the images have 3: set greyscale"):
        grey(IMAGES)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"encoder": timm.create_model("test_resnet", num_classes=10)}, "classifier of 10 classes"),
        ({"encoder": encoder(in_chans=1)}, "takes 1 channels, but 3 are asked for"),
        ({"class_weights": {"a": 1}}, "use 'balanced', or numbers"),
        ({"class_weights": "balance"}, "use 'balanced', or numbers"),
        ({"class_weights": [1, 2, -1]}, "use 'balanced', or numbers"),
        ({"class_names": ["disk", "error", "ring"]}, "class 'error': .*rename it"),
        ({"class_names": ["disk", "ring"]}, "2 class_names for num_classes=3"),
        ({"class_names": ["disk", "ring", "disk"]}, "class 'disk' is named twice"),
        ({"class_names": ["disk", "ring", 2]}, "class 2 is no text"),
        ({"label_col": "split"}, "label column 'split': .*rename it"),
        ({"label_col": ["a", "b"]}, "give one column"),
        ({"scheduler_kwargs": [1]}, "scheduler_kwargs must be a dict"),
        ({"scheduler_kwargs": {"sched": "cosin"}}, "cosin"),
    ],
)
def test_what_would_fail_in_training_is_told_at_once(arguments, told):
    with pytest.raises(ValueError, match=told):
        classifier(**arguments)


def test_an_encoder_that_does_not_pool_is_told():
    model = classifier(encoder=encoder(global_pool=""))
    with pytest.raises(ValueError, match="it must pool"):
        model(IMAGES)


# training


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_head_only_leaves_the_encoder_bit_for_bit(name):
    model = classifier(
        encoder=encoder(name, drop_path_rate=0.5), training_mode="head_only", learning_rate=0.1
    )
    before = copy.deepcopy(model.state_dict())
    for _ in range(2):
        step(model)
    after = model.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"head.linear.weight", "head.linear.bias"}
    assert all(p.grad is None for p in model.encoder.parameters())


def test_head_only_turns_stochastic_depth_off():
    model = classifier(
        encoder=encoder("test_convnext", drop_path_rate=0.9),
        training_mode="head_only",
        head_dropout_prob=0,
    )
    model.train()
    assert torch.equal(model(IMAGES), model(IMAGES))
    full = classifier(encoder=encoder("test_convnext", drop_path_rate=0.9), head_dropout_prob=0)
    full.train()
    assert not torch.equal(full(IMAGES), full(IMAGES))


def test_head_only_keeps_no_activations_of_the_encoder():
    model = classifier(training_mode="head_only")
    features = []
    model.head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    model.train()
    model(IMAGES)
    assert features[0].grad_fn is None


def test_layer_decay_of_zero_trains_head_and_top_block_and_freezes_the_rest():
    model = classifier(layer_decay=0, learning_rate=0.1)
    before = copy.deepcopy(model.state_dict())
    step(model)
    changed = {k.rsplit(".", 1)[0] for k, v in model.state_dict().items() if (v != before[k]).any()}
    assert all(name.startswith(("head", "encoder.layer4")) for name in changed)
    assert "encoder.layer4.0.bn1" in changed


def test_fine_layer_groups_decay_the_stem_further_and_come_back_from_a_checkpoint():
    def rate_of_stem(model):
        stem = next(model.encoder.parameters())
        groups = model.configure_optimizers().param_groups
        (group,) = [g for g in groups if any(p is stem for p in g["params"])]
        return group["lr"] / model.learning_rate

    models = [
        classifier(encoder=encoder("test_convnext"), layer_groups=kind)
        for kind in ("blocks", "fine")
    ]
    depths = [max(layer_of_parameters(m.encoder, m.layer_groups).values()) for m in models]
    assert depths[0] < depths[1]
    assert [rate_of_stem(model) for model in models] == pytest.approx([0.75**n for n in depths])
    again = models[1].build_again(models[1].describe())
    assert rate_of_stem(again) == rate_of_stem(models[1])
    with pytest.raises(ValueError, match="layer_groups='coarse': use one of blocks, fine"):
        classifier(layer_groups="coarse")


def test_full_training_changes_every_parameter_also_a_position_embedding():
    model = classifier(encoder=encoder("test_vit", img_size=32), learning_rate=1e-2)
    before = copy.deepcopy(dict(model.named_parameters()))
    step(model)
    unchanged = [n for n, p in model.named_parameters() if torch.equal(before[n], p)]
    assert unchanged == []


def test_parameters_that_were_given_frozen_stay_frozen():
    given = encoder()
    given.bn1.requires_grad_(False)
    model = classifier(encoder=given)
    model.freeze_encoder(True)
    model.freeze_encoder(False)
    assert not given.bn1.weight.requires_grad
    assert sum(p.requires_grad for p in given.parameters()) == len(list(given.parameters())) - 2


def test_a_frozen_encoder_stays_frozen_in_head_only():
    model = classifier(training_mode="head_only")
    model.freeze_encoder(False)
    assert not any(p.requires_grad for p in model.encoder.parameters())


class TwoHeads(FinetuneableZoobotClassifier):
    """A subclass with an argument, and parameters, of its own."""

    def __init__(self, width, **super_kwargs):
        super().__init__(**super_kwargs)
        self.width = width
        self.extra = nn.Linear(3, width)

    def forward(self, images):
        return super().forward(images) + self.extra.weight.sum()


def test_a_subclass_trains_and_reloads_all_that_it_has(tmp_path):
    model = TwoHeads(width=5, num_classes=3, label_col="ring", encoder=encoder())
    trained = {id(p) for g in model.configure_optimizers().param_groups for p in g["params"]}
    assert trained == {id(p) for p in model.parameters()}
    again = TwoHeads.load_from_checkpoint(write(model, tmp_path / "a.ckpt"))
    assert (again.width, again.label_col) == (5, "ring")
    assert torch.equal(again.extra.weight, model.extra.weight)


class NamedOtherwise(FinetuneableZoobotClassifier):
    """A subclass that stores its arguments under other names, or not at all."""

    def __init__(self, scale, activation=None, **others):
        super().__init__(**others)
        self.factor = scale


def test_a_subclass_may_store_its_arguments_under_any_name(tmp_path):
    model = NamedOtherwise(0.5, num_classes=3, encoder=encoder())
    again = NamedOtherwise.load_from_checkpoint(write(model, tmp_path / "a.ckpt"))
    assert again.factor == 0.5


class Passing(FinetuneableZoobotClassifier):
    """A subclass that passes on what it is given."""

    def __init__(self, *args, **others):
        super().__init__(*args, **others)


def test_a_subclass_may_pass_its_arguments_on(tmp_path):
    model = Passing(3, "ring", encoder=encoder())
    again = Passing.load_from_checkpoint(write(model, tmp_path / "a.ckpt"))
    assert (again.num_classes, again.label_col) == (3, "ring")


def test_an_argument_that_no_file_can_keep_is_warned_of(tmp_path):
    model = NamedOtherwise(2, activation=torch.tanh, num_classes=3, encoder=encoder())
    with pytest.warns(UserWarning, match="can't keep activation, .* give them to NamedOtherwise"):
        write(model, tmp_path / "a.ckpt")


def test_a_copy_of_a_model_keeps_its_arguments():
    model = copy.deepcopy(TwoHeads(width=5, num_classes=3, encoder=encoder()))
    assert model.arguments()["width"] == 5


def test_loading_builds_the_encoder_once_and_before_it_one_without_weights(tmp_path, monkeypatch):
    path, built = write(classifier(), tmp_path / "a.ckpt"), []
    create = timm.create_model

    def note(*args, **kwargs):
        model = create(*args, **kwargs)
        built.append(next(model.parameters()).device.type)
        return model

    monkeypatch.setattr(timm, "create_model", note)
    FinetuneableZoobotClassifier.load_from_checkpoint(path)
    assert built == ["meta", "cpu"]  # the first tells how large it will be


@pytest.mark.parametrize("mode", TRAINING_MODES)
def test_the_heads_weights_never_decay(mode):
    groups = classifier(training_mode=mode, weight_decay=0.5).configure_optimizers().param_groups
    assert {g["weight_decay"] for g in groups if g["name"] == "head"} == {0.0}
    assert groups[0]["name"] == "head"


def test_the_seed_decides_the_heads_first_weights_and_leaves_torchs_generator_alone():
    shared = encoder()
    state = torch.get_rng_state()
    first, again, other = (classifier(encoder=shared, seed=s) for s in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first.head.linear.weight, again.head.linear.weight)
    assert not torch.equal(first.head.linear.weight, other.head.linear.weight)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_batch_of_one_trains_and_predicts(batch_size, tree):
    images, labels = torch.rand(batch_size, 3, 64, 64), LABELS[:batch_size]
    for model, target, shape in (
        (classifier(), labels, (batch_size, 3)),
        (FinetuneableZoobotRegressor(encoder=encoder()), labels / 2, (batch_size,)),
        (
            FinetuneableZoobotTree(schema=tree, encoder=encoder()),
            torch.ones(batch_size, 7),
            (batch_size, 7),
        ),
    ):
        step(model, target, images)
        model.eval()
        assert model.predict_step({"image": images}, 0).shape == shape
        assert model.losses(model(images), target).shape[0] == batch_size


def test_a_classifier_predicts_probabilities_and_a_unit_regressor_numbers_within_0_and_1():
    assert torch.allclose(classifier().eval().predict_step(IMAGES).sum(1), torch.ones(4))
    model = FinetuneableZoobotRegressor(encoder=encoder(), unit_interval=True).eval()
    predicted = model.predict_step(IMAGES * 1000)
    assert predicted.min() >= 0
    assert predicted.max() <= 1


def test_a_trees_loss_is_summed_over_questions_as_from_scratch(tree):
    from zoobot.models.tree import ZoobotTree

    tuned = FinetuneableZoobotTree(schema=tree, encoder=encoder())
    scratch = ZoobotTree(schema=tree, architecture_name="test_resnet")
    votes = torch.randint(0, 9, (4, 7))
    concentrations = 1 + 10 * torch.rand(4, 7)
    tuned_values, _ = tuned.measure(tuned.losses(concentrations, votes), concentrations, votes)
    values, _ = scratch.measure(scratch.losses(concentrations, votes), concentrations, votes)
    assert torch.equal(tuned_values, values)
    torch.testing.assert_close(tuned_values[:, 0], tuned.losses(concentrations, votes).sum(1))


def test_labels_are_found_in_either_form_of_batch():
    model = classifier(label_col="ring")
    columns = {"image": IMAGES, "id_str": list("abcd"), "ring": LABELS, "size": LABELS * 2}
    labels = torch.stack([LABELS * 2, LABELS], dim=1)
    tensor = {"image": IMAGES, "labels": labels, "label_cols": ["size", "ring"]}
    for batch in (columns, tensor):
        images, found = model.batch_to_supervised_tuple(batch)
        assert images is IMAGES
        assert torch.equal(found, LABELS)
    columns["ring"] = LABELS.double()
    assert model.batch_to_supervised_tuple(columns)[1].dtype == torch.float32
    del columns["ring"]
    with pytest.raises(ValueError, match=r"no label column 'ring'; they have \['size'\]"):
        model.batch_to_supervised_tuple(columns)


# saving and loading


def models_of_each_class(tree):
    return [
        classifier(label_col="ring", class_weights=torch.tensor([1, 2, 3]), label_smoothing=0.1),
        FinetuneableZoobotRegressor(encoder=encoder(), loss="mae", unit_interval=True),
        FinetuneableZoobotTree(encoder=encoder(), schema=tree, learning_rate=3e-4),
    ]


@pytest.fixture
def no_downloads(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a download was tried")

    monkeypatch.setattr("timm.models._builder.load_pretrained", refuse)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)


def write(model, path):
    weights, description = model.state_dict(), {**model.describe(), "image_size": 32}
    if path.suffix == ".ckpt":
        checkpoint.save_checkpoint(path, {"model": weights, "description": description})
    else:
        checkpoint.save_weights(path, weights, description)
    return path


@pytest.mark.usefixtures("no_downloads")
@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors"])
def test_every_class_is_reloaded_with_weights_and_arguments_and_no_download(tmp_path, tree, name):
    for model in models_of_each_class(tree):
        path = write(model, tmp_path / name)
        again = type(model).load_from_checkpoint(path)
        assert again.arguments() == model.arguments()
        assert torch.equal(again(IMAGES), model.eval()(IMAGES))
        assert not again.training
        changed = type(model).load_from_checkpoint(path, learning_rate=0.5)
        assert changed.learning_rate == 0.5


@pytest.mark.usefixtures("no_downloads")
def test_a_tree_is_reloaded_with_or_without_its_schema(tmp_path, tree):
    path = write(models_of_each_class(tree)[2], tmp_path / "a.ckpt")
    for extra in ({}, {"schema": tree}):
        model = FinetuneableZoobotTree.load_from_checkpoint(path, **extra)
        assert model.schema.label_cols == tree.label_cols
        assert model.learning_rate == 3e-4


def test_a_checkpoint_of_another_class_is_told(tmp_path, tree):
    path = write(classifier(), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="holds a FinetuneableZoobotClassifier, not a Finet"):
        FinetuneableZoobotTree.load_from_checkpoint(path, schema=tree)


def test_finetuning_from_a_checkpoint_takes_its_encoder_and_a_new_head(tmp_path, tree):
    first = write(FinetuneableZoobotTree(schema=tree, encoder=encoder()), tmp_path / "a.ckpt")
    model = FinetuneableZoobotClassifier(num_classes=2, zoobot_checkpoint_loc=first)
    expected = encoder().state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in model.encoder.state_dict().items())


def test_an_encoder_that_cannot_be_rebuilt_must_be_given_again(tmp_path):
    foreign = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    path = write(classifier(encoder=foreign), tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="does not tell how to build its encoder: give encoder="):
        FinetuneableZoobotClassifier.load_from_checkpoint(path)
    blank = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    again = FinetuneableZoobotClassifier.load_from_checkpoint(path, encoder=blank)
    assert torch.equal(again.encoder[0].weight, foreign[0].weight)


def test_a_lightning_file_of_a_finetuned_classifier_is_loaded(tmp_path):
    model = classifier(label_col="ring")
    arguments = {"name": "hf_hub:x/zoobot-encoder-test_resnet", "num_classes": 3,
                 "label_col": "ring", "prog_bar": True}  # fmt: skip
    path = tmp_path / "FinetuneableZoobotClassifier.ckpt"
    torch.save({"state_dict": model.state_dict(), "hyper_parameters": arguments}, path)
    again = FinetuneableZoobotClassifier.load_from_checkpoint(path)
    assert again.label_col == "ring"
    assert torch.equal(again(IMAGES), model.eval()(IMAGES))


def test_a_finetuned_model_is_loaded_from_the_hub_by_name(tmp_path, monkeypatch):
    path = write(classifier(), tmp_path / "FinetuneableZoobotClassifier.ckpt")
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download", lambda *names: asked.append(names) or str(path)
    )
    FinetuneableZoobotClassifier.load_from_name("hf_hub:mwalmsley/zoobot-finetuned-x")
    assert asked == [("mwalmsley/zoobot-finetuned-x", "FinetuneableZoobotClassifier.ckpt")]


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_classes": -1},
        {"num_classes": "x"},
        {"head_dropout_prob": "x"},
        {"class_names": 3},
        None,
    ],
)
def test_saved_arguments_that_make_no_model_are_told(tmp_path, arguments):
    model = classifier()
    description = model.describe()
    described = None if arguments is None else {**description["arguments"], **arguments}
    state = {"model": model.state_dict(), "description": {**description, "arguments": described}}
    checkpoint.save_checkpoint(tmp_path / "a.ckpt", state)
    with pytest.raises(ValueError, match="a.ckpt describes a model that can't be built"):
        FinetuneableZoobotClassifier.load_from_checkpoint(tmp_path / "a.ckpt")


def test_labels_from_which_nothing_can_be_learned_are_refused(tree):
    one, none = table("label", [1, 1, 1]), table("label", [0, 0])
    regressors = [
        FinetuneableZoobotRegressor(encoder=encoder(), label_scale=s) for s in ("auto", None)
    ]
    for model in (classifier(), *regressors):
        with pytest.raises(ValueError, match="column 'label' holds 1 in each of the 3 galaxies"):
            model.learn_from_labels(one)
    no_votes = none.assign(**dict.fromkeys(tree.label_cols, 0))
    for model in (
        FinetuneableZoobotTree(schema=tree, encoder=encoder()),
        ZoobotTree(schema=tree, architecture_name="test_resnet"),
    ):
        with pytest.raises(ValueError, match="none of the 2 galaxies to train on has a vote"):
            model.learn_from_labels(no_votes)


def test_a_regressor_of_a_reserved_column_is_refused():
    with pytest.raises(ValueError, match="label column 'image': .*rename it"):
        FinetuneableZoobotRegressor(["size", "image"], encoder=encoder())
