"""The environment that a number was measured in: versions, hardware, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from zoo import __version__

PACKAGES = ("torch", "lightning", "torchmetrics", "timm", "torchdiffeq", "numpy", "jsonargparse")


def environment(*peers: str) -> dict[str, Any]:
    """What a number was measured on: versions (of ``peers`` too, where they are installed), hardware, commit.

    No word of the machine's folders: what this returns is kept beside published numbers.
    """
    return {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {
            "zoo": __version__,
            **{name: _version(name) for name in PACKAGES},
            **{name: v for name in peers if (v := _version(name))},
        },
        "hardware": hardware(),
        "commit": commit(),
    }


def hardware() -> dict[str, Any]:
    """CPU threads, and the CUDA devices if any."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"cpu": _cpu(), "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpus": gpus}


def commit() -> str | None:
    """The commit of the package's checkout, with ``+changes`` where files differ from it; None outside of one."""
    here = Path(__file__).resolve().parents[1]

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        if not git("ls-files", "--", str(here / "registry.py")):
            return None  # installed below somebody else's checkout
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno", "--", str(here)) else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
