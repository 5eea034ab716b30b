"""Starts the scripts: under torchrun, or in this process up to their error."""

import os
import subprocess
import sys

import pytest
from conftest import REPO

from zoobot.script import run_script


def torchrun(num_processes, script, *arguments, cwd):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    return _started(launcher, num_processes, script, arguments, cwd)


def ranks(num_processes, script, *arguments, cwd):
    """The same without torchrun, at a third of the time."""
    launcher = [str(REPO / "tests" / "forked_ranks.py")]
    return _started(launcher, num_processes, script, arguments, cwd)


def _started(launcher, num_processes, script, arguments, cwd):
    words = [*launcher, str(num_processes), str(REPO / script), *map(str, arguments)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True, timeout=300
    )


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
