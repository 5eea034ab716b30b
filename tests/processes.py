"""Starts the scripts: under torchrun, or in this process up to their error."""

import os
import subprocess
import sys

import pytest
from conftest import REPO

from zoobot.script import run_script


def torchrun(num_processes, script, *arguments, cwd):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        "--nproc-per-node", str(num_processes), str(REPO / script), *map(str, arguments),
    ]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


def script_error(capsys, script, *words):
    """The one line on stderr, but for progress bars, as a script ends with exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run_script(script.main, lambda: script.parse([str(word) for word in words]))
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    (line,) = (line for line in lines if line and "galaxy/s]" not in line)
    assert line.startswith("error: ")
    return line
