"""Freed memory is kept for the next batch."""

import os
import platform
import subprocess
import sys

import pytest

from zoobot.system import memory

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is not glibc's")
FAULTS = """
import resource
import torch
from zoobot.system.memory import keep_freed_memory

def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        torch.zeros(64 << 20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

kept = keep_freed_memory()
faults(20)  # until malloc's caches are full
print(kept, faults(4))
"""
PAGES = (64 << 20) // os.sysconf("SC_PAGE_SIZE")


def kept_and_faults(**environment) -> tuple[bool, int]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    told = subprocess.run(
        [sys.executable, "-c", FAULTS], env=clean | environment, capture_output=True, text=True
    )
    kept, faults = told.stdout.split()
    return kept == "True", int(faults)


def test_memory_freed_is_used_again_without_asking_the_system():
    kept, faults = kept_and_faults()
    assert kept
    assert faults < PAGES / 100


def test_the_users_own_settings_of_malloc_are_left_alone():
    kept, faults = kept_and_faults(MALLOC_MMAP_MAX_="65536")
    assert not kept
    assert faults > PAGES


def test_the_memory_that_is_free_is_at_most_what_the_process_may_take(monkeypatch):
    resource = pytest.importorskip("resource")
    free = memory.free_bytes()
    assert free is None or free > 0
    limits = {resource.RLIMIT_DATA: 10**15, resource.RLIMIT_AS: resource.RLIM_INFINITY}
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limits[which],) * 2)
    monkeypatch.setattr(memory, "_left_of_group", lambda: 12_345)
    assert memory.free_bytes() == 12_345
    limits[resource.RLIMIT_DATA] = 1
    assert memory.free_bytes() == 0
