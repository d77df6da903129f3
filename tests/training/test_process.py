"""The settings of a process that computes."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

PAGES = """
import mmap, resource, sys
from zoo.training.process import prepare
prepare()
import numpy
for _ in range(20):
    parts = [numpy.ones(400_000) for _ in range(10)]
    del parts
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt * mmap.PAGESIZE / 32e6)
"""


def faults(**settings: str) -> float:
    """Page faults of twenty rounds of 32 MB, in rounds."""
    bare = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    done = subprocess.run([sys.executable, "-c", PAGES], env={**bare, **settings}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator of glibc")
def test_memory_that_a_step_frees_is_there_for_the_next_one():
    assert faults() < 5


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator of glibc")
def test_a_setting_of_the_user_stands():
    assert faults(MALLOC_MMAP_THRESHOLD_="65536") > 10


def test_threads_sleep_while_they_wait_unless_told_otherwise(monkeypatch):
    from zoo.training.process import prepare

    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")  # leaves the allocator of this process alone
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    prepare()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    prepare()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
