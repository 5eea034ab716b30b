import json
import os
import signal
import subprocess
import sys

import files_people_have
import numpy as np
import pandas as pd
import predict_worker
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import torch
from conftest import REPO, draw_galaxies
from fake_gpu import GPU, fake_gpu, seen
from PIL import Image
from processes import ranks
from torch import nn
from torchvision.transforms import v2

from zoobot import engine, statistics
from zoobot.data.catalog import read_catalog
from zoobot.data.dataset import CatalogDataset, ImagesSeen, float_images
from zoobot.data.images import ImageError
from zoobot.data.views.config import fast_view_config, minimal_view_config
from zoobot.data.views.cpu import get_galaxy_transform
from zoobot.data.views.turned import TurnedViews
from zoobot.models import speed
from zoobot.models.architectures import get_pytorch_encoder
from zoobot.models.finetune import FinetuneableZoobotClassifier, FinetuneableZoobotRegressor
from zoobot.models.tree import ZoobotTree
from zoobot.predictions import predict
from zoobot.predictions.files import read_predictions
from zoobot.predictions.models import AnyModule, ZoobotEncoder
from zoobot.predictions.outputs import Output, empty_predictions
from zoobot.predictions.parts import Work
from zoobot.predictions.passes import predict_parts
from zoobot.pytorch.predictions import predict_on_catalog
from zoobot.runs import checkpoint
from zoobot.system import caches

WORKER = "tests/predict_worker.py"
QUICK = {"batch_size": 4, "num_workers": 0, "show_progress": False, "precision": "fp32"}
NO_WEIGHTS = {"timm_kwargs": {"pretrained": False}}
SEEN = {"image_size": 32, "view": {"output_size": 32, "random_affine": {"degrees": 0}}}


@pytest.fixture
def model(tree):
    torch.manual_seed(0)
    model = ZoobotTree(schema=tree, architecture_name="test_convnext", dropout_rate=0.5)
    nn.init.normal_(model.head.linear.weight, std=0.5)
    model.images_seen = ImagesSeen.from_dict(SEEN)
    return model.eval()


@pytest.fixture
def catalog(tmp_path, tree):
    """37 galaxies: 10 parts, the last of one galaxy, with batches of 4."""
    return draw_galaxies(tmp_path, tree, 37)


@pytest.fixture
def saved(model, tmp_path):
    path = tmp_path / "best.safetensors"
    checkpoint.save_weights(path, model.state_dict(), model.describe() | SEEN)
    return path


def images_of(catalog, size_px=32):
    view = get_galaxy_transform(SEEN["view"] | {"output_size": size_px})
    paths = read_catalog(catalog)["file_loc"]
    return torch.stack([view(Image.open(path)) for path in paths]).float() / 255


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 0.1)])
def test_every_galaxy_has_the_models_prediction_in_the_catalogs_order(
    model, catalog, tmp_path, precision, tolerance
):
    options = QUICK | {"precision": precision}
    path = predict.predict_to_file(catalog, model, tmp_path / "p.parquet", **options)
    table = pd.read_parquet(path)
    assert list(table["id_str"]) == [f"g{i}" for i in range(37)]
    assert list(table.columns) == ["id_str", *model.schema.label_cols]
    with torch.no_grad():
        expected = model(images_of(catalog)).numpy()
    np.testing.assert_allclose(table.iloc[:, 1:].to_numpy(), expected, rtol=tolerance)
    assert not (tmp_path / "p.parquet.parts").exists()


def test_a_model_that_has_predicted_can_be_trained(catalog, tree, tmp_path):
    model = ZoobotTree(schema=tree, architecture_name="test_convnext")
    predict.predict_to_file(catalog, model, tmp_path / "p.parquet", **QUICK)
    model.train()(torch.rand(2, 3, 32, 32)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_samples_differ_by_dropout_and_repeat_with_the_seed(model, catalog, tmp_path):
    files = [
        predict.predict_to_file(
            catalog, model, tmp_path / f"p{i}.hdf5", num_samples=5, seed=seed, **QUICK
        )
        for i, seed in enumerate((1, 1, 2))
    ]
    first, same, other = (read_predictions(path).values for path in files)
    assert first.shape == (37, 7, 5)
    assert not np.allclose(first[..., 0], first[..., 1])
    np.testing.assert_array_equal(first, same)
    assert not np.allclose(first, other)


def turned_apart(catalog, model, folder):
    """What a model predicts of galaxies turned by 0, 90, 180 and 270 degrees: (N, A, 4)."""
    apart = []
    for angle in (0, 90, 180, 270):
        view = get_galaxy_transform(SEEN["view"] | {"random_affine": {"degrees": (angle, angle)}})
        path = folder / f"{angle}.hdf5"
        predict.predict_to_file(catalog, model, path, transform=view, **QUICK)
        apart.append(read_predictions(path).values[..., 0])
    assert not np.allclose(apart[0], apart[1], rtol=1e-4)
    return np.stack(apart, axis=2)


def test_several_views_of_a_tree_are_samples_one_an_angle(model, catalog, tmp_path):
    path = tmp_path / "p.parquet"
    predict.predict_to_file(catalog, model, path, num_views=4, summary=True, **QUICK)
    together, apart = read_predictions(path), turned_apart(catalog, model, tmp_path)
    np.testing.assert_allclose(together.values, apart, rtol=1e-4)
    assert together.metadata["samples"] == {"models": 1, "views": 4, "passes": 1}
    told = pq.read_schema(path).field("bar_no").metadata[b"description"].decode()
    assert told.endswith("; 4 samples: 4 views")
    summary = pd.read_parquet(tmp_path / "p_summary.parquet")
    disagree = statistics.mutual_information(apart, model.schema)
    assert (disagree > 0).all()
    names = [f"{question.text}_mutual-information" for question in model.schema.questions]
    np.testing.assert_allclose(summary[names], disagree, rtol=1e-3, atol=1e-5)


def test_several_views_of_classes_give_the_mean_over_a_galaxy_turned_through_equal_angles(
    catalog, tmp_path
):
    model = FinetuneableZoobotClassifier(num_classes=3, name="test_convnext", **NO_WEIGHTS)
    nn.init.normal_(model.head.linear.weight, std=5)
    model.images_seen = ImagesSeen.from_dict(SEEN)
    together = predict_on_catalog.predict(catalog, model, tmp_path / "p.csv", n_views=4, **QUICK)
    wanted = turned_apart(catalog, model, tmp_path).mean(axis=2)
    np.testing.assert_allclose(together.iloc[:, 1:].to_numpy(), wanted, rtol=1e-4)


def test_views_of_unreadable_images_and_samples_keep_their_places(model, catalog, tmp_path):
    table = pd.read_csv(catalog, dtype={"id_str": str})
    table["file_loc"] = [str(catalog.parent / f) for f in table["file_loc"]]
    table.loc[3, "file_loc"] = str(tmp_path / "missing.png")
    path = predict.predict_to_file(
        table,
        model,
        tmp_path / "p.hdf5",
        num_samples=3,
        num_views=2,
        on_bad_image="record",
        **QUICK,
    )
    read = read_predictions(path)
    assert read.values.shape == (37, 7, 6)
    first, second = read.values[..., :3], read.values[..., 3:]  # the passes of each view
    assert np.nanmean(np.abs(first - second)) > 0.01
    np.testing.assert_array_equal(np.isnan(read.values).any(axis=(1, 2)), np.arange(37) == 3)


def test_several_views_of_a_transform_that_cannot_be_turned_are_refused(model, catalog, tmp_path):
    for transform in (v2.Resize(32), get_galaxy_transform(fast_view_config())):
        with pytest.raises(ValueError, match=r"need a view of ours to turn|combined with"):
            predict.predict_to_file(
                catalog, model, tmp_path / "p.csv", transform=transform, num_views=2, **QUICK
            )


def test_a_view_set_by_hand_and_the_generator_outside_are_left_alone(model, catalog, tmp_path):
    config = minimal_view_config()
    config.output_size = 48
    torch.manual_seed(7)
    before = torch.get_rng_state()
    predict.predict_to_file(
        catalog, model, tmp_path / "p.csv", transform=get_galaxy_transform(config), **QUICK
    )
    assert torch.equal(torch.get_rng_state(), before)
    usual = predict.predict_to_file(catalog, model, tmp_path / "q.csv", **QUICK)
    assert usual.read_bytes() != (tmp_path / "p.csv").read_bytes()


def test_two_and_three_processes_and_two_kills_make_the_same_files_of_two_models(
    saved, model, catalog, tmp_path
):
    nn.init.normal_(model.head.linear.weight, std=0.5)
    other = tmp_path / "other.safetensors"
    checkpoint.save_weights(other, model.state_dict(), model.describe() | SEEN)
    both = f"{saved}{os.pathsep}{other}"

    def arguments(name, parts_to_write=0):
        return list(map(str, (both, catalog, tmp_path / f"{name}.parquet", parts_to_write)))

    def shared_by(num_processes, name):
        done = ranks(num_processes, WORKER, *arguments(name), cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]

    predict_worker.main(*arguments("one"))
    shared_by(2, "two")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
    for parts_to_write in (3, 2):
        command = [sys.executable, str(REPO / WORKER), *arguments("killed", parts_to_write)]
        killed = subprocess.run(command, env=env, capture_output=True, text=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert len(list((tmp_path / "killed.parquet.parts").glob("part-*"))) == 5
    assert not (tmp_path / "killed.parquet").exists()
    shared_by(3, "killed")
    for end in (".parquet", "_summary.parquet"):
        contents = [(tmp_path / (name + end)).read_bytes() for name in ("one", "two", "killed")]
        assert contents[0] == contents[1] == contents[2]


def stop_before_joining(model, catalog, save_loc, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(predict, "join_parts", killed)
        with pytest.raises(KeyboardInterrupt):
            predict.predict_to_file(catalog, model, save_loc, **QUICK)


def test_parts_of_another_prediction_are_refused_with_what_differs(
    model, catalog, tmp_path, monkeypatch
):
    stop_before_joining(model, catalog, tmp_path / "p.csv", monkeypatch)
    with torch.no_grad():
        model.head.linear.bias += 1
    with pytest.raises(ValueError, match="parts of another prediction: weights, seed differ"):
        predict.predict_to_file(catalog, model, tmp_path / "p.csv", seed=5, **QUICK)


def test_parts_whose_plan_is_gone_are_neither_taken_nor_deleted(
    model, catalog, tmp_path, monkeypatch
):
    stop_before_joining(model, catalog, tmp_path / "p.csv", monkeypatch)
    folder = tmp_path / "p.csv.parts"
    (folder / "plan.json").unlink()
    left = sorted(folder.iterdir())
    with pytest.raises(ValueError, match="holds 'part-0000000.safetensors' and no plan.json"):
        predict.predict_to_file(catalog, model, tmp_path / "p.csv", **QUICK)
    assert sorted(folder.iterdir()) == left


def test_only_what_a_prediction_has_written_is_deleted_after_it(
    model, catalog, tmp_path, monkeypatch
):
    stop_before_joining(model, catalog, tmp_path / "p.csv", monkeypatch)
    folder = tmp_path / "p.csv.parts"
    (folder / "part-list.txt").write_text("mine")
    predict.predict_to_file(catalog, model, tmp_path / "p.csv", **QUICK)
    assert [path.name for path in folder.iterdir()] == ["part-list.txt"]


def test_a_run_stopped_by_a_bad_image_goes_on_recording_it(model, catalog, tmp_path):
    (tmp_path / "images" / "g30.png").write_bytes(b"")
    with pytest.raises(ImageError):
        predict.predict_to_file(catalog, model, tmp_path / "p.csv", **QUICK)
    assert len(list((tmp_path / "p.csv.parts").glob("part-*"))) > 3
    path = predict.predict_to_file(
        catalog, model, tmp_path / "p.csv", on_bad_image="record", **QUICK
    )
    assert pd.read_csv(path)["error"].notna().sum() == 1


def bad_images(folder, tree):
    """100 galaxies, six of them odd; returns the catalog and the ids of the unreadable three."""
    catalog = draw_galaxies(folder, tree, 100)
    image = folder / "images"
    (image / "g10.png").write_bytes((image / "g10.png").read_bytes()[:300])
    (image / "g20.png").unlink()
    Image.new("RGB", (1, 1)).save(image / "g30.png")
    Image.new("RGBA", (40, 40), (200, 10, 10, 128)).save(image / "g40.png")
    grey = np.random.default_rng(0).integers(0, 65536, (40, 40)).astype(np.uint16)
    Image.fromarray(grey).save(image / "g50.png")
    Image.new("1", (20_000, 20_000)).save(image / "g60.png")
    return catalog, ["g10", "g20", "g60"]


def test_unreadable_images_keep_their_rows_with_nan_and_the_reason(model, tree, tmp_path):
    catalog, unreadable = bad_images(tmp_path, tree)
    path = predict.predict_to_file(
        catalog, model, tmp_path / "p.parquet", on_bad_image="record", summary=True, **QUICK
    )
    table = pd.read_parquet(path).set_index("id_str")
    assert len(table) == 100
    assert list(table.index[table["error"].notna()]) == unreadable
    assert list(table.index[table["smooth_yes"].isna()]) == unreadable
    assert "damaged or truncated" in table.loc["g10", "error"]
    assert "no such file" in table.loc["g20", "error"]
    assert "over the limit of 100,000,000 pixels" in table.loc["g60", "error"]
    summary = pd.read_parquet(tmp_path / "p_summary.parquet").set_index("id_str")
    assert list(summary.index[summary["smooth_yes_fraction"].isna()]) == unreadable
    with pytest.raises(ImageError, match="g10.png: damaged"):
        predict.predict_to_file(catalog, model, tmp_path / "q.parquet", **QUICK)
    assert not (tmp_path / "q.parquet").exists()


def test_a_batch_without_any_readable_image_is_recorded(model, catalog, tmp_path):
    for image in (tmp_path / "images").iterdir():
        image.write_bytes(b"")
    path = predict.predict_to_file(
        catalog, model, tmp_path / "p.csv", on_bad_image="record", **QUICK
    )
    assert pd.read_csv(path)["error"].str.contains("empty file").all()


def test_the_summary_is_that_of_the_predictions(model, catalog, tmp_path):
    path = predict.predict_to_file(
        catalog, model, tmp_path / "p.parquet", num_samples=3, summary=True, **QUICK
    )
    made = read_predictions(path)
    summary = pd.read_parquet(tmp_path / "p_summary.parquet")
    expected = statistics.summary_table(made.ids, made.values, model.schema)
    pd.testing.assert_frame_equal(summary, expected, check_dtype=False, rtol=1e-5)


def classifier(**arguments):
    encoder = get_pytorch_encoder("test_resnet")
    return FinetuneableZoobotClassifier(encoder=encoder, **{"num_classes": 2} | arguments)


def test_columns_are_named_by_the_model_or_by_the_user(catalog, tmp_path):
    frame = read_catalog(catalog)
    encoder = get_pytorch_encoder("test_resnet")
    regressor = FinetuneableZoobotRegressor(encoder=encoder, label_col="bar_length")
    cases = [
        (classifier(label_col="ring"), None, ["ring_0", "ring_1"]),
        (classifier(class_names=["no ring", "ring"]), None, ["no ring", "ring"]),
        (classifier(), ["a", "b"], ["a", "b"]),
        (regressor, None, ["bar_length"]),
        (ZoobotEncoder(encoder), None, [f"feat_{i}" for i in range(encoder.num_features)]),
        (encoder, [f"f{i}" for i in range(encoder.num_features)], None),
    ]
    for model, label_cols, expected in cases:
        table = predict_on_catalog.predict(
            frame, model, tmp_path / "p.csv", label_cols,
            datamodule_kwargs={"batch_size": 40, "num_workers": 0},
            trainer_kwargs={"accelerator": "cpu", "precision": 32, "logger": False},
        )  # fmt: skip
        assert list(table.columns) == ["id_str", *(expected or label_cols)]
        assert len(table) == 37
        assert np.isfinite(table.iloc[:, 1:].to_numpy()).all()
    probabilities = predict_on_catalog.predict(frame, classifier(), tmp_path / "q.csv", **QUICK)
    np.testing.assert_allclose(probabilities.iloc[:, 1:].sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("num_samples", [1, 2])
def test_a_compiled_model_sees_batches_of_one_size_and_predicts_the_same(
    model, catalog, tmp_path, monkeypatch, num_samples
):
    compilations = []
    monkeypatch.setattr(speed, "BACKEND", lambda g, i: compilations.append(g) or g.forward)
    monkeypatch.setattr(caches, "keep_compiled_privately", lambda: None)
    torch._dynamo.reset()
    how = QUICK | {"num_samples": num_samples}
    eager = predict.predict_to_file(catalog, model, tmp_path / "e.hdf5", **how)
    assert not compilations
    for name in "cd":
        path = tmp_path / f"{name}.hdf5"
        compiled = predict.predict_to_file(catalog, model, path, compile_encoder=True, **how)
        np.testing.assert_allclose(
            read_predictions(compiled).values, read_predictions(eager).values, rtol=1e-4
        )
    assert len(compilations) == 1
    assert all(module._compiled_call_impl is None for module in (model, model.encoder))


def test_what_was_compiled_to_train_has_no_part_in_predictions_that_are_not(
    model, catalog, tmp_path, monkeypatch
):
    monkeypatch.setattr(caches, "keep_compiled_privately", lambda: None)
    model._compiled_call_impl = trained = speed.FixedSize(model, None, torch.device("cpu"), 64, 64)
    monkeypatch.setattr(trained, "_compiled", None)
    predict.predict_to_file(catalog, model, tmp_path / "e.csv", **QUICK)
    assert model._compiled_call_impl is trained


def test_auto_does_not_compile_on_a_cpu_and_another_word_is_told(
    model, catalog, tmp_path, monkeypatch
):
    monkeypatch.setattr(speed.FixedSize, "__init__", None)
    predict.predict_to_file(catalog, model, tmp_path / "a.csv", compile_encoder="auto", **QUICK)
    with pytest.raises(ValueError, match="compile 'fast' is none of"):
        predict.predict_to_file(catalog, model, tmp_path / "b.csv", compile_encoder="fast", **QUICK)


def test_misuse_is_told(model, catalog, tmp_path):
    def refused(match, *, using=model, label_cols=None, save_loc="p.csv", **options):
        with pytest.raises(ValueError, match=match):
            predict.predict_to_file(
                catalog, using, tmp_path / save_loc, label_cols, **QUICK | options
            )
        assert not (tmp_path / save_loc).exists()

    refused("end the name with one of", save_loc="p.txt")
    refused("label columns don't match the tree", label_cols=["x", "y"])
    refused("1 label_cols, but the model predicts 2", using=classifier(), label_cols=["x"])
    refused("does not name its columns", using=get_pytorch_encoder("test_resnet"))
    refused("a summary is made of decision trees", using=classifier(), summary=True)
    refused("give 1 or more", num_samples=0)
    encoder = get_pytorch_encoder("test_resnet")
    refused("3 samples need a head", using=ZoobotEncoder(encoder), num_samples=3)
    refused("can't be called 'error'", using=classifier(), label_cols=["good", "error"])
    refused("can't be called 'a'", using=classifier(), label_cols=["a", "a"])
    refused("use \\['ab'\\]", using=classifier(), label_cols="ab")
    mine = ZoobotEncoder(encoder)
    mine.images_seen = ImagesSeen(transform="Compose(Resize(32))")
    refused("a transform of its own, Compose", using=mine)
    refused("use one of error, record", on_bad_image="skip")
    refused(
        "predicts 32 columns|predicts [0-9]+ columns, but there are 1 label_cols",
        using=get_pytorch_encoder("test_resnet"),
        label_cols=["x"],
    )
    with pytest.raises(ValueError, match="no argument 'shuffle'"):
        predict_on_catalog.predict(catalog, model, "p.csv", datamodule_kwargs={"shuffle": True})


def test_what_the_predictions_are_of_is_in_the_file(model, catalog, tmp_path, tree):
    path = predict.predict_to_file(catalog, model, tmp_path / "p.parquet", **QUICK)
    metadata = read_predictions(path).metadata
    assert metadata["task"] == "tree"
    assert metadata["schema"] == tree.to_dict()
    json.dumps(metadata)


def test_the_file_tells_its_checkpoint_and_a_killed_run_goes_on_from_another_place(
    model, catalog, tmp_path, monkeypatch
):
    path = tmp_path / "p.parquet"
    stop_before_joining(model, catalog, path, monkeypatch)
    predict.predict_to_file(catalog, model, path, checkpoint="moved/best.safetensors", **QUICK)
    assert read_predictions(path).metadata["checkpoint"] == "moved/best.safetensors"


def test_images_of_a_folder_may_have_their_names_as_ids(model, catalog, tmp_path):
    for id_from, id_str in (("path", "images/g0"), ("stem", "g0")):
        (tmp_path / id_from).mkdir()
        (tmp_path / id_from / "images").symlink_to(tmp_path / "images")
        path = predict.predict_to_file(
            tmp_path / id_from, model, tmp_path / f"{id_from}.csv", id_from=id_from, **QUICK
        )
        assert pd.read_csv(path)["id_str"][0] == id_str


@pytest.mark.parametrize("num_views", [1, 2])
def test_images_that_show_nothing_are_warned_of_by_count(
    model, catalog, tmp_path, capsys, num_views
):
    for i, colour in ((2, "black"), (3, "white"), (11, "black"), (12, "red")):
        Image.new("RGB", (40, 40), colour).save(tmp_path / "images" / f"g{i}.png")
    (tmp_path / "images" / "g1.png").write_bytes(b"")
    predict.predict_to_file(
        catalog, model, tmp_path / "p.csv", on_bad_image="record", num_views=num_views, **QUICK
    )
    told = capsys.readouterr().err.splitlines()
    assert "warning: 1 of 37 images can't be read: their predictions are NaN" in told
    (line,) = (x for x in told if "show nothing" in x)
    assert line.startswith("warning: 4 of 36 images")
    assert "2 black, 1 white, 1 of one grey or colour" in line
    assert line.endswith("id_str 'g2', 'g3', 'g11', 'g12'")


def test_values_taken_for_no_data_are_told_by_count(model, catalog, tmp_path, capsys):
    pytest.importorskip("astropy")
    for i in (4, 30):
        content = files_people_have.with_no_data()["corner -9999"][0]
        (tmp_path / "images" / f"g{i}.png").write_bytes(content)
    predict.predict_to_file(catalog, model, tmp_path / "p.csv", **QUICK)
    assert "-9999 is taken for no data in 2 of 37 images" in capsys.readouterr().out


class Brightness(nn.Module):
    """Images (B, 3, H, W) to the means of their channels."""

    def forward(self, images):
        return images.mean((2, 3))


def test_on_a_gpu_nothing_is_read_too_early_and_the_host_waits_for_nothing(tmp_path, monkeypatch):
    model = AnyModule(Brightness())
    template = empty_predictions(model, ["r", "g", "b"], with_errors=True)
    work = Work(tmp_path, 11, 2, template, None, seed=0)
    parts = range(work.num_parts)
    output = Output(tmp_path / "p.csv", nn.ModuleList([model]), work, todo={*parts})
    pixels = torch.arange(11).repeat_interleave(3 * 4 * 4).reshape(11, 3, 4, 4).to(torch.uint8)

    def loader():
        for rows in (rows for part in range(work.num_parts) for rows in work.batches(part)):
            read = [row for row in rows if row not in (2, 3, 5)]
            errors = {place: "missing" for place, row in enumerate(rows) if row not in read}
            batch = {"id_str": [f"g{row}" for row in rows], "errors": errors, "no_data": []}
            yield batch | ({"image": seen(pixels[read])} if read else {})

    with fake_gpu(monkeypatch) as gpu:
        monkeypatch.setattr(nn.Module, "to", lambda self, *_, **__: self)
        settings = engine.Settings(GPU)
        bar = predict.progress_bar(work, [], work.num_parts, show_progress=False)
        notes = predict_parts([output], loader(), parts, settings, bar)
        assert gpu.num_waits == 0
    assert notes.num_images == 8
    values = [parts_values(work, part) for part in parts]
    wanted = np.arange(11)[:, None].repeat(3, 1) / 255
    wanted[[2, 3, 5]] = np.nan
    np.testing.assert_allclose(np.concatenate(values)[..., 0], wanted, rtol=1e-5)


def parts_values(work, part):
    return safetensors.numpy.load_file(work.path(part))["predictions"]


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Views are left to the device, as they are if it is a GPU."""
    made_for = CatalogDataset.made_for
    monkeypatch.setattr(CatalogDataset, "made_for", lambda self, _: made_for(self, GPU))


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("num_views", [1, 3])
def test_a_gpus_predictions_are_of_views_that_it_makes(model, catalog, tmp_path, num_views):
    options = QUICK | {"num_views": num_views}
    path = predict.predict_to_file(catalog, model, tmp_path / "p.hdf5", **options)
    view = get_galaxy_transform(SEEN["view"])
    turned = TurnedViews(view, num_views) if num_views > 1 else view
    batch = CatalogDataset(read_catalog(catalog), transform=turned, augment="device").batch(
        0, range(37)
    )
    assert "matrix" in batch
    with torch.no_grad():
        views = float_images(batch).split(3, dim=1)
        wanted = torch.stack([model(images) for images in views], dim=2)
    np.testing.assert_allclose(read_predictions(path).values, wanted, rtol=1e-4)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_parts_with_views_of_the_device_go_on_with_such_views_only(
    model, catalog, tmp_path, monkeypatch
):
    path, options = tmp_path / "p.csv", QUICK | {"on_bad_image": "record"}
    with monkeypatch.context() as patch:
        patch.setattr(predict, "join_parts", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            predict.predict_to_file(catalog, model, path, **options)
    with monkeypatch.context() as patch:
        patch.setattr(CatalogDataset, "made_for", lambda self, _: self)
        with pytest.raises(ValueError, match="images differ"):
            predict.predict_to_file(catalog, model, path, **options)
    predict.predict_to_file(catalog, model, path, **options)
    assert len(pd.read_csv(path)) == 37
