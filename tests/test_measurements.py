"""Experiments and benchmarks of the machine run, in the small; and what they are to show holds there."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def script(monkeypatch, tmp_path):
    """Run ``python -m NAME FLAGS`` in this process; returns what it wrote."""
    monkeypatch.syspath_prepend(str(ROOT))

    def run(name, *flags):
        out = tmp_path / "out.json"
        monkeypatch.setattr(sys, "argv", [name, *map(str, flags), "--out", str(out)])
        importlib.import_module(name).main()
        return json.loads(out.read_text())

    return run


@pytest.mark.parametrize("name", ["mdeq_tiny.digits", "odenet_mnist.digits"])
def test_a_solve_takes_few_more_evaluations_in_bfloat16(name, script):
    precision = importlib.import_module("experiments.precision")
    plain, half = (precision.measure(name, p, batches=1, batch_size=48) for p in ("32-true", "bf16-mixed"))
    for way in ("nfe_forward", "nfe_backward"):
        if plain[way] is not None:
            assert half[way] <= precision.GOAL * plain[way], way
    assert abs(half["accuracy"] - plain["accuracy"]) <= 2 / 48


@pytest.mark.slow
def test_the_compiled_step_is_measured(script):
    record = script("benchmarks.compile", "--only", "mdeq", "--batch", 4, "--pairs", 1, "--backend", "aot_eager")
    (row,) = record["rows"]
    assert row["speedup"] > 0 and row["nfe"] == row["eager nfe"]
    assert row["relative difference of the gradients"] < 1e-2


@pytest.mark.slow
def test_fsdp2_keeps_half_of_what_ddp_keeps(script):
    found = script("experiments.ranks_memory", "--model", "test_mdeq")
    assert all(r["in_all"] == found["ranks"]["ddp"][0]["in_all"] for r in found["ranks"]["ddp"])
    assert found["ranks"]["ddp"][0]["parameters"] == 4 * found["parameters"]
    assert 0.4 < found["share"] < 0.75  # a parameter's first dimension may not divide evenly


@pytest.mark.slow
def test_memory_is_read_while_a_run_trains(script):
    found = script("experiments.steps_memory", "--steps", 6, "--every", 2)
    assert [r["step"] for r in found["rows"]] == [2, 4, 6]
    assert all(r["resident_bytes"] > 2**20 for r in found["rows"])
