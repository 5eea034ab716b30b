"""Versions, machine and git commit: where a run's numbers come from."""

import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path

import torch

from zoobot.system import distributed

PACKAGES = ("torchvision", "timm", "numpy", "pandas", "pyarrow", "pillow", "safetensors")


def environment() -> dict:
    """Versions, machine and git commit: what is needed to know where a number came from."""
    return {
        "python": platform.python_version(),
        "machine": platform.platform(),
        "processor": processor(),
        "versions": {"torch": torch.__version__}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "git_commit": git_commit(),
        "num_processes": distributed.world_size(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def processor() -> str:
    """The processor's name, from the kernel where it tells."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def git_commit() -> str | None:
    """The commit of this checkout, with ``+changes`` if files differ; None outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit, status = (
            subprocess.run([*git, *told], capture_output=True, encoding="utf-8", errors="replace")
            for told in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except OSError:
        return None
    if commit.returncode != 0:
        return None
    return commit.stdout.strip() + ("+changes" if status.stdout.strip() else "")
