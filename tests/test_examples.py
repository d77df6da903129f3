"""The examples run as they stand, each in a process of its own, and say what they promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PROMISED = {
    "own_pictures": r"accuracy \d+%; the new picture: (lying|standing)",
    "own_series": r"mean squared error of the last quarter of each series: \d\.\d+",
    "own_layer": r"accuracy (7|8|9)\d%; \d+ evaluations, (9\d|100)% of the samples converged",
    "own_solver": r"heavy_ball.*: \d+ evaluations, converged: True\nmdeq_tiny.digits with it: \(1, 10\)",
    "own_adjoint": r"cosine of the two gradients: (1\.000|0\.[6-9])",
    "finetune": r"accuracy of two epochs from the weights of digits: \d+%",
}


def test_every_example_is_run_and_named():
    scripts = {p.stem for p in EXAMPLES.glob("*.py")}
    assert scripts == PROMISED.keys()
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}.py`" in listed for name in scripts)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PROMISED))
def test_an_example_runs(name, tmp_path):
    settings = {**os.environ, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py")], cwd=tmp_path, env=settings, capture_output=True, text=True,
        timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(PROMISED[name], done.stdout), done.stdout[-2000:]
