"""The header of a safetensors file is bounded for every reader of one."""

import json
import struct
import types

import pytest
from hostile_files import refused

from zoobot.models import encoders
from zoobot.predictions.models import load_predictor
from zoobot.predictions.parts import read_part
from zoobot.runs.data_digest import splits_of

MOST = {"MAX_HEADER_BYTES": 200_000, "MOST_TENSORS": 1000}


def with_header(header):
    return struct.pack("<Q", len(header)) + header


def many_tensors():
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    return json.dumps({str(i): entry for i in range(MOST["MOST_TENSORS"] + 1)}).encode()


HEADERS = {
    "large": lambda: with_header(b"{" + b" " * MOST["MAX_HEADER_BYTES"] + b"}"),
    "tensors": lambda: with_header(many_tensors()),
    "claim": lambda: struct.pack("<Q", 2**62) + b"{}",
    "empty": lambda: b"",
    "nested": lambda: with_header(b'{"a":' * 10_000),
    "list": lambda: with_header(b"[]"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_is_bounded_for_every_reader(cheap, tmp_path, name, monkeypatch):
    for constant, most in MOST.items():
        monkeypatch.setattr(f"zoobot.limits.weights.{constant}", most)
    path = tmp_path / "model.safetensors"
    path.write_bytes(HEADERS[name]())
    refused(lambda: load_predictor(str(path)), path.name)
    config = {"architecture": "test_resnet", "num_classes": 0, "pretrained_cfg": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    refused(lambda: encoders.load_encoder(f"local-dir:{tmp_path}"), tmp_path)
    path.rename(tmp_path / "part-0000000.safetensors")
    work = types.SimpleNamespace(path=lambda part: tmp_path / "part-0000000.safetensors")
    refused(lambda: read_part(work, 0), "part-0000000")
    assert splits_of(None, tmp_path / "part-0000000.safetensors") is None
