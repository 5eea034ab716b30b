"""The code of docs/deploying.md, run as it stands."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import REPO
from PIL import Image
from small_models import SIZE_PX, tiny_classifier

from zoobot.export import export
from zoobot.predictions.predict import predict_to_file


def code_blocks() -> list[str]:
    text = (REPO / "docs" / "deploying.md").read_text()
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_recipe_for_onnxruntime_predicts_what_predict_does(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    monkeypatch.chdir(tmp_path)
    model = tiny_classifier()
    export(model, "rings.onnx", "onnx")
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for size in ((90, 70), (30, 34)):  # one shrinks, one is magnified
        pixels = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
        for name in ("galaxy.png", "images/galaxy.png"):
            Image.fromarray(pixels).save(name)
        options = {"num_workers": 0, "show_progress": False, "device": "cpu", "precision": "fp32"}
        predict_to_file("images", model, "expected.csv", **options)
        expected = pd.read_csv("expected.csv")[["ring", "none"]].to_numpy()[0]
        names = {}
        exec(code_blocks()[0], names)
        np.testing.assert_allclose(names["predictions"][0], expected, rtol=1e-4)
        assert capsys.readouterr().out.splitlines()[-1].startswith("{'ring': ")


def test_the_recipe_for_torch_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export(tiny_classifier(), "rings.pt2", "torch")
    names = {}
    exec(code_blocks()[1], names)
    assert names["predictions"].shape == (5, 2)
    assert names["size"] == SIZE_PX
    assert torch.allclose(names["predictions"].sum(1), torch.ones(5))
