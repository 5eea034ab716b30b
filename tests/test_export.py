import json

import numpy as np
import pytest
import torch
from processes import script_error
from small_models import (
    SIZE_PX,
    band_classifier,
    classifier,
    every_model,
    seen_at,
    tiny_classifier,
    tiny_encoder,
    tiny_models,
    write_run,
)
from torch import nn

from zoobot import export
from zoobot.models.finetune import FinetuneableZoobotClassifier

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
FORMATS = {"torch": ".pt2", "onnx": ".onnx"}


def predicted(model, images):
    """Predictions (B, A) of a model of this package for views as it is shown them."""
    with torch.no_grad():
        return model.predictions(model(images)).reshape(len(images), -1).numpy()


def as_taken(model, images):
    """What a file takes for what a model takes: of bands, before they are standardised."""
    told = export.describe(model)["images"]
    if told["std"] is None:
        return images
    mean, std = (torch.tensor(told[key])[:, None, None] for key in ("mean", "std"))
    return images * std + mean


def run_file(path, images) -> tuple[np.ndarray, dict]:
    """Predictions of an exported file, and what it tells."""
    if path.suffix == ".pt2":
        extra = {"zoobot.json": ""}
        program = torch.export.load(path, extra_files=extra)
        return program.module()(images).detach().numpy(), json.loads(extra["zoobot.json"])
    session = onnxruntime.InferenceSession(path)
    (found,) = session.run(["predictions"], {"images": images.numpy()})
    return found, json.loads(session.get_modelmeta().custom_metadata_map["zoobot"])


ONNX_KINDS = ["classifier", "regressor", "finetuned-tree", "bands", "encoder"]
KINDS = [*(("onnx", kind) for kind in ONNX_KINDS), ("torch", "regressor"), ("torch", "bands")]


@pytest.mark.parametrize(("format", "kind"), KINDS)
def test_a_file_predicts_what_the_model_does_for_any_number_of_images(tree, tmp_path, format, kind):
    model = tiny_models(tree)[kind]
    path = export.export(model, tmp_path / f"a{FORMATS[format]}", format)
    for num in (1, 3, 70):
        images = torch.rand(num, model.channels, SIZE_PX, SIZE_PX)
        found, told = run_file(path, as_taken(model, images))
        expected = predicted(model, images)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert told == json.loads(json.dumps(export.describe(model)))
    assert len(told["columns"]) == found.shape[1]
    assert [path.name for path in tmp_path.iterdir()] == [path.name]


def test_the_file_tells_how_images_are_made_and_what_is_predicted(tree):
    told = export.describe(classifier())
    assert told["columns"] == ["ring", "none"]
    assert told["task"] == "classification"
    images = told["images"]
    assert (images["size_px"], images["channels"], images["zoom"]) == (32, 3, 1.2)
    assert images["numbers"] == "Divided by 255, as (channels, rows, columns)."
    bands = export.describe(band_classifier())["images"]
    assert bands["bands"] == ["g", "r"]
    assert (bands["mean"], bands["std"]) == ([0.5, 0.25], [2.0, 4.0])
    assert "not standardised. The file subtracts the mean" in bands["numbers"]
    assert export.describe(every_model(tree)["tree"])["schema"] == tree.to_dict()


def test_a_file_of_another_image_size_is_written_and_the_model_left_as_it_was(tmp_path):
    model = tiny_classifier().train()
    path = export.export(model, tmp_path / "a.pt2", "torch", image_size=48)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    found, told = run_file(path, torch.rand(2, 3, 48, 48))
    assert told["images"]["size_px"] == 48
    assert found.shape == (2, 2)


class Drawing(FinetuneableZoobotClassifier):
    """Predicts something else each time."""

    def predictions(self, outputs):
        return outputs + torch.rand_like(outputs)


def test_a_file_that_predicts_something_else_does_not_appear(tmp_path):
    model = Drawing(2, encoder=tiny_encoder())
    model.images_seen = seen_at()
    path = tmp_path / "a.pt2"
    path.write_text("before")
    with pytest.raises(ValueError, match="predicts something else: 'label_0' differs by"):
        export.export(model, path, "torch")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(path.name, "before")]


def test_predictions_that_are_not_finite_are_not_exported(tmp_path):
    model = tiny_classifier()
    with torch.no_grad():
        model.head.linear.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="numbers that are not finite: it is not exported"):
        export.export(model, tmp_path / "a.pt2", "torch")
    assert not [*tmp_path.iterdir()]


class Branching(nn.Module):
    """Does what torch.export can't follow."""

    def __init__(self):
        super().__init__()
        self.inner = tiny_encoder()
        self.num_features = 4

    def forward(self, images):
        return self.inner(images) * (2 if images.sum() > 0 else 1)


def test_a_model_that_torch_cannot_export_is_told(tmp_path):
    model = classifier(encoder=Branching())
    with pytest.raises(ValueError, match="torch can't export this FinetuneableZoobotClassifier: "):
        export.export(model, tmp_path / "a.pt2", "torch")


def test_the_script_exports_the_model_of_a_runs_folder(tree, tmp_path, capsys):
    model = every_model(tree)["tree"]
    run = write_run(model, tmp_path / "run")
    words = ["--checkpoint", run, "--format", "onnx", "--save-loc", tmp_path / "a.onnx"]
    export.main(export.parse([*map(str, words)]))
    assert "a.onnx, compared with the model on 64 images" in capsys.readouterr().out
    images = torch.rand(2, 3, SIZE_PX, SIZE_PX)
    found, _ = run_file(tmp_path / "a.onnx", images)
    np.testing.assert_allclose(found, predicted(model, images), rtol=1e-4)


def test_mistakes_are_told(tmp_path, capsys, monkeypatch):
    run = write_run(classifier(), tmp_path / "run")
    words = ["--checkpoint", run, "--format", "onnx", "--save-loc"]
    told = script_error(capsys, export, *words, "a.pt2")
    assert told == "error: --save-loc a.pt2: a file of onnx ends in .onnx"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    told = script_error(capsys, export, *words, "a.onnx")
    assert told == (
        "error: ONNX needs onnx, onnxscript, onnxruntime: pip install 'zoobot-torch[onnx]'"
    )
    model = classifier()
    model.images_seen = type(model.images_seen)(transform="Compose()")
    with pytest.raises(ValueError, match="validated with a transform of its own, .* --image-size"):
        export.export(model, tmp_path / "a.pt2", "torch")
