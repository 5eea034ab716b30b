"""The code blocks of README and docs/: which there are, and how a test runs them.

A block in Python, or of commands (``bash``, or without a language), runs unless a comment before
it, which no page shows, says why it can't:

    <!-- not run: needs a GPU -->

Or the comment has what the reader is expected to have by then, in Python:

    <!-- run after: votes = torch.zeros(4, 30) -->

The blocks of a page run in their order, with the names and files that earlier ones made, in a
folder that has the galaxies and models of ``make_files``. Commands of our scripts run in this
process, with the options in ``QUICK``. Whether a block runs or not, options of our scripts in it
must be ones that they know.
"""

import importlib
import json
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import timm
import torch
from astropy.table import Table
from conftest import REPO, draw_galaxies
from safetensors.torch import save_file

from zoobot.models import FinetuneableZoobotClassifier, ZoobotTree
from zoobot.models.encoders import save_encoder
from zoobot.runs.checkpoint import save_weights
from zoobot.schemas import Schema
from zoobot.script import run_script

FENCE = re.compile(
    r"(?:<!-- (?P<mark>not run|run after):(?P<text>(?:(?!-->).)*)-->\s*\n)?"
    r"^(?P<indent> *)```(?P<language>\S*)[^\n]*\n(?P<code>.*?)^ *```",
    re.MULTILINE | re.DOTALL,
)
COMMANDS = ("", "bash")
QUICK = {
    "train": "--epochs 1 --encoder test_resnet --image-size 32 --num-workers 0",
    "finetune": "--epochs 1 --image-size 32 --num-workers 0",
    "predict": "--num-workers 0",
    "zoobot.create_shards": "--num-workers 0 --img-size 32 --eval-size 8",
}
# What is large in a block, and what takes its place.
SMALLER = {
    "convnext_nano": "test_resnet",
    "max_epochs=50": "max_epochs=1",
    "max_epochs=30": "max_epochs=1",
    "max_epochs=20": "max_epochs=1",
    'get_trainer("runs/rings")': 'get_trainer("runs/rings", max_epochs=1)',
    'get_trainer("runs/tuned")': 'get_trainer("runs/tuned", max_epochs=1)',
    "--schema gz_evo_v2_schema": "--schema tree.json",
    "--number 200": "--number 2",
    "--number 50": "--number 5",
    "number=50": "number=5",
}
HUB = ("mwalmsley/zoobot-encoder-test_resnet", "timm/test_resnet.r160_in1k")


@dataclass
class Block:
    page: str
    line: int
    language: str
    code: str
    not_run: str | None  # why
    before: str  # what a reader has by then, Python

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def is_code(self) -> bool:
        return self.language in (*COMMANDS, "python")

    def run(self, names: dict) -> None:
        """Run it with these names, in the current folder."""
        code = self.code
        for large, small in SMALLER.items():
            code = code.replace(large, small)
        if self.before:
            exec(compile(self.before, f"before {self}", "exec"), names)
        if self.language == "python":
            # Empty lines before it, so that an error's line is the page's.
            exec(compile("\n" * self.line + code, self.page, "exec"), names)
            return
        for words in commands(code):
            script, arguments = our_script(words)
            if script is None:
                raise AssertionError(f"{self}: say why it is not run: {shlex.join(words)}")
            module = importlib.import_module(script)
            words = arguments + QUICK.get(script, "").split()
            if script == "finetune" and "--encoder" not in words:
                words += ["--encoder", f"hf_hub:{HUB[0]}"]
            run_script(module.main, lambda m=module, w=words: m.parse(w))


def blocks(page: Path) -> list[Block]:
    """All code blocks of a page."""
    text, found = page.read_text(encoding="utf-8"), []
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("indent")) + 1
        indent = len(match["indent"])
        code = "".join(row[indent:] for row in match["code"].splitlines(keepends=True))
        said = " ".join((match["text"] or "").split())
        not_run = said if match["mark"] == "not run" else None
        before = (match["text"] or "").strip() if match["mark"] == "run after" else ""
        name = str(page.relative_to(REPO))
        found.append(Block(name, line, match["language"], code, not_run, before))
    return found


def commands(code: str) -> list[list[str]]:
    """Words of each command; ends of commands in shell are ends of commands here."""
    code = code.replace("\\\n", " ")
    found = []
    for line in code.splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        command = []
        for word in words:
            if set(word) <= set(";&|(){}"):
                found.append(command)
                command = []
            else:
                command.append(word)
        found.append(command)
    return [words for words in found if words]


def our_script(words: list[str]) -> tuple[str | None, list[str]]:
    """The module of the script that a command starts, if it is one of ours, and its options."""
    for i, word in enumerate(words):
        if word in ("train.py", "finetune.py", "predict.py"):
            return word.removesuffix(".py"), words[i + 1 :]
        if word == "-m" and words[i + 1 : i + 2] and words[i + 1].startswith("zoobot."):
            return words[i + 1], words[i + 2 :]
    return None, []


def make_files(folder: Path) -> None:
    """What readers have: galaxies, models that they made earlier, and the hub's cache.

    The cache, ``hub/``, is laid out as huggingface_hub does it, and has the encoders of ``HUB``.
    """
    tree = Schema(
        {
            "smooth-or-featured": ["_smooth", "_featured-or-disk"],
            "has-spiral-arms": ["_yes", "_no"],
        },
        {"smooth-or-featured": None, "has-spiral-arms": "smooth-or-featured_featured-or-disk"},
    )
    drawn = Schema(
        {"smooth": ["_yes", "_no"], "bar": ["_strong", "_weak", "_no"], "merging": ["_yes", "_no"]},
        {"smooth": None, "bar": "smooth_no", "merging": None},
    )
    galaxies = pd.read_csv(draw_galaxies(folder, drawn, 32))
    galaxies.loc[0, "id_str"] = "J100213.91+021645.6"
    smooth = galaxies["smooth_yes"]
    named = galaxies[["id_str", "file_loc"]]
    named.assign(ring=(smooth > smooth.median()).astype(int)).to_csv(
        folder / "rings.csv", index=False
    )
    counts = np.stack([smooth, 20 - smooth, (20 - smooth) // 2, (20 - smooth) // 3], axis=1)
    votes = pd.concat([named, pd.DataFrame(counts, columns=tree.label_cols)], axis=1)
    votes.to_parquet(folder / "votes.parquet")
    votes = votes.assign(ra=150.1, dec=np.linspace(1, 2, len(votes)))
    votes.to_parquet(folder / "cat.parquet")
    Table.from_pandas(votes).write(folder / "cat.fits")
    shutil.copy(folder / "images" / "g0.png", folder / "galaxy.png")
    (folder / "tree.json").write_text(json.dumps(tree.to_dict()))
    torch.manual_seed(0)
    small = {"encoder": timm.create_model("test_resnet", num_classes=0)}
    for name, model in (
        ("evo", ZoobotTree(schema=tree, architecture_name="test_resnet")),
        ("rings", FinetuneableZoobotClassifier(num_classes=2, label_col="ring", **small)),
    ):
        (folder / "runs" / name).mkdir(parents=True)
        weights = folder / "runs" / name / "best.safetensors"
        save_weights(weights, model.state_dict(), model.describe())
    encoder = timm.create_model("test_resnet")
    hub = folder / "hub"
    for repo in HUB:
        cached = hub / f"models--{repo.replace('/', '--')}"
        snapshot = cached / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text("0" * 40)
        if repo.startswith("timm/"):
            save_file(encoder.state_dict(), snapshot / "model.safetensors")
        else:
            save_encoder(timm.create_model("test_resnet", num_classes=0), snapshot)
