"""Run the scripts of this repository in a benchmark's own process."""

import importlib
import shlex
import sys
from pathlib import Path

from zoobot.script import run_script

sys.path.insert(0, str(Path(__file__).parent.parent))  # of train.py, finetune.py and predict.py


def run_command(script: str, *words: object) -> None:
    """Run a script as from the command line, and print the command.

    Args:
        script: ``train``, ``finetune``, ``predict``, or one within the package: ``zoobot.select``.
    """
    told = [str(word) for word in words]
    called = f"-m {script}" if "." in script else f"{script}.py"
    print(f"\n$ python {called} {shlex.join(told)}", flush=True)
    module = importlib.import_module(script)
    run_script(module.main, lambda: module.parse(told))
