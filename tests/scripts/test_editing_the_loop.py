"""The diffs in docs/editing_the_loop.md apply to the code as it is, and train."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import REPO, draw_galaxies

from zoobot.runs.checkpoint import load_weights

DIFFS = re.findall(
    r"^## (.+?)$.*?```diff\n(.+?)```",
    (REPO / "docs" / "editing_the_loop.md").read_text(),
    flags=re.DOTALL | re.MULTILINE,
)

# train.py for an epoch, then for the second that goes on from it, each with NaN in the images of
# its third training step, and so in BatchNorm's statistics.
SPOILT_STEP = """
import itertools, runpy, sys
from zoobot.models.tree import ZoobotTree

forward = ZoobotTree.forward

def spoilt(self, images):
    is_third = self.training and next(steps) == 2
    return forward(self, images * float("nan") if is_third else images)

ZoobotTree.forward = spoilt
words = sys.argv[1:]
for epochs in ("1", "2"):
    steps = itertools.count()
    sys.argv[1:] = [*words, "--epochs", epochs]
    runpy.run_path("train.py", run_name="__main__")
"""


@pytest.mark.parametrize("diff", [d for _, d in DIFFS], ids=[title for title, _ in DIFFS])
def test_a_documented_change_is_short_applies_and_trains(diff, tmp_path, tree):
    changed = [line for line in diff.splitlines() if re.match(r"[+-](?![+-]{2} )", line)]
    assert len(changed) <= 15
    shutil.copytree(REPO / "zoobot", tmp_path / "zoobot")
    shutil.copy(REPO / "train.py", tmp_path)
    (tmp_path / "change.diff").write_text(diff)
    subprocess.run(["git", "apply", "change.diff"], cwd=tmp_path, check=True)

    (tmp_path / "spoilt.py").write_text(SPOILT_STEP)
    draw_galaxies(tmp_path, tree, 40)
    (tmp_path / "tree.json").write_text(json.dumps(tree.to_dict()))
    command = [
        sys.executable, "spoilt.py", "--catalog", "catalog.csv", "--schema", "tree.json",
        "--encoder", "test_resnet", "--image-size", "32", "--batch-size", "8",
        "--num-workers", "0", "--save-dir", "run", "--no-report",
    ]  # fmt: skip
    subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["progress"]["epoch"] == 2
    assert ("average" in state) == ("AveragedModel" in diff)
    assert len((tmp_path / "run" / "skipped_steps.jsonl").read_text().splitlines()) >= 1
    weights, _ = load_weights(tmp_path / "run" / "best.safetensors")
    for tensor in (*state["model"].values(), *state.get("average", {}).values(), *weights.values()):
        assert torch.isfinite(tensor).all()


def test_both_changes_are_documented():
    assert [title for title, _ in DIFFS] == [
        "An exponential moving average of the weights",
        "A second loss term",
    ]
