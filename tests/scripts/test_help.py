import subprocess
import sys

import pytest
from conftest import REPO

import train
from zoobot import engine, optim, options
from zoobot.data.catalog import SPLITS
from zoobot.models.finetune_base import TRAINING_MODES
from zoobot.models.heads import HEAD_ACTIVATIONS
from zoobot.models.regressor import LOSSES
from zoobot.predictions.predict import ON_BAD_IMAGE


@pytest.mark.parametrize("script", ["train.py", "finetune.py", "predict.py"])
def test_help_is_answered_before_torch_is_imported(script, tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('torch was imported')\n")
    done = subprocess.run(
        [sys.executable, str(REPO / script), "--help"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": f"{tmp_path}:{REPO}"},
    )
    assert done.returncode == 0, done.stderr
    assert "--config FILE" in done.stdout


def test_the_package_is_imported_without_torch():
    code = "import sys, zoobot; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO).returncode == 0


def choices_of(module_parser, option):
    return tuple(module_parser._option_string_actions[option].choices)


def test_the_options_offer_every_head_and_kind_of_layer_groups():
    import finetune

    assert options.HEADS == tuple(HEAD_ACTIVATIONS)
    assert choices_of(finetune.make_parser(), "--layer-groups") == optim.LAYER_GROUPS


def test_the_options_offer_what_the_code_takes():
    import finetune
    import predict

    assert options.PRECISIONS == tuple(engine.PRECISIONS)
    assert choices_of(train.make_parser(), "--scheduler") == optim.SCHEDULES
    assert choices_of(finetune.make_parser(), "--loss") == tuple(LOSSES)
    assert choices_of(finetune.make_parser(), "--training-mode") == TRAINING_MODES
    assert choices_of(predict.make_parser(), "--split") == SPLITS
    assert choices_of(predict.make_parser(), "--on-bad-image") == ON_BAD_IMAGE
