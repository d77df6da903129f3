"""What every benchmark writes: its rows, and all that is needed to judge them."""

from __future__ import annotations

import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]


def processor() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def environment(*packages: str) -> dict[str, Any]:
    """Commit, hardware and versions."""
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    found = {}
    for name in ("torch", *packages):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "commit": git.stdout.strip() or None,
        "hardware": {"processor": processor(), "machine": platform.machine(), "gpu": gpu},
        "python": platform.python_version(),
        "versions": found,
    }


def write_record(out: Path, rows: list[dict[str, Any]], *, packages: tuple[str, ...] = (), **facts: Any) -> None:
    """Write rows and environment as JSON."""
    out.parent.mkdir(parents=True, exist_ok=True)
    rounded = [{k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    record = {**facts, **environment(*packages), "rows": rounded}
    out.write_text(json.dumps(record, indent=2) + "\n")
    print(f"written to {out}")
