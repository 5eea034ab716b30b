"""Starts the scripts: under torchrun, or in this process up to their error."""

import os
import signal
import subprocess
import sys

import pytest
from conftest import REPO

from zoobot.script import run_script


def torchrun(num_processes, script, *arguments, cwd):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    return _started(launcher, num_processes, script, arguments, cwd)


def ranks(num_processes, script, *arguments, cwd):
    """The same without torchrun; what the script imports is imported once."""
    launcher = [str(REPO / "tests" / "forked_ranks.py")]
    return _started(launcher, num_processes, script, arguments, cwd)


def _started(launcher, num_processes, script, arguments, cwd):
    words = [sys.executable, *launcher, num_processes, REPO / script, *arguments]
    words = [str(word) for word in words]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, cwd=cwd, env=env, start_new_session=True, **pipes) as process:
        try:
            said = process.communicate(timeout=300)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # the ranks as well
            raise
    return subprocess.CompletedProcess(words, process.returncode, *said)


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
