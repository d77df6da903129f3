"""What is measured of a trained model, each number by itself: where one cannot be had, its reason is kept instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from zoo.compare.bench import Bench
from zoo.compare.solver_curves import CURVES, reason
from zoo.tasks.base import Task
from zoo.training.metrics_log import read_metrics

EXPLICIT = "an explicit model solves nothing"


def measure(task: Task, data: Any) -> tuple[dict[str, float], dict[str, str], dict[str, Any]]:
    """All numbers of a trained model, why others are missing, and curves."""
    bench = Bench(task, data)
    values: dict[str, float] = {}
    reasons: dict[str, str] = {}
    solves = {"nfe_forward": "", "nfe_forward_p95": "", "converged": "", "residual": ""}
    backward = {"nfe_backward": "", "nfe_backward_p95": ""}
    parts: list[tuple[Callable[[], dict[str, Any]], tuple[str, ...]]] = [
        (bench.parameters, ("parameters",)),
        (bench.checkpoint, ("checkpoint_bytes",)),
        (bench.forward_flops, ("flops_forward", "flops_evaluation")),
        (bench.step_flops, ("flops_step",)),
        (bench.memory, ("held_bytes", "peak_bytes")),
        (bench.step_time, ("step_ms", "step_ms_p95")),
        (bench.latency, ("latency_ms", "latency_ms_p95", "throughput")),
    ]
    if bench.modules:
        parts += [(bench.forward_solves, tuple(solves)), (bench.backward_solves, tuple(backward))]
    else:
        reasons |= dict.fromkeys([*solves, *backward, *CURVES], EXPLICIT)
    for part, names in parts:
        bench.restore()
        for name, value in _attempt(part, names).items():
            if isinstance(value, str):
                reasons[name] = value
            else:
                values[name] = float(value)
    shapes: dict[str, Any] = {}
    for name, curve in CURVES.items() if bench.modules else ():
        bench.restore()
        found = _curve(curve, bench)
        (reasons if isinstance(found, str) else shapes)[name] = found
    bench.restore()
    return values, reasons, shapes


def _curve(curve: Callable[[Bench], Any], bench: Bench) -> Any:
    """A curve, or why there is none; it costs no number, not even where memory runs out."""
    try:
        return curve(bench)
    except Exception as error:
        return reason(error)


def _attempt(part: Callable[[], Any], names: tuple[str, ...]) -> Any:
    """What a measurement gives; where it fails, the reason for each of its numbers. Memory running out is no reason."""
    try:
        return part()
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        return dict.fromkeys(names, reason(error))


def training_curves(file: Path, monitor: str) -> dict[str, Any]:
    """Evaluations over the training steps, thinned to 200 points, and the monitored measure over the seconds."""
    nfe: list[tuple[float, float]] = []
    reached: list[tuple[float, float]] = []
    for row in read_metrics(file):
        if monitor in row and "seconds" in row:
            reached.append((row["seconds"], row[monitor]))
        found = [v for k, v in row.items() if k.startswith("solver/") and k.endswith("nfe_forward")]
        if found:
            nfe.append((row["step"], sum(found)))
    every = max(1, len(nfe) // 200)
    out: dict[str, Any] = {}
    if nfe:
        out["nfe"] = {"step": [s for s, _ in nfe[::every]], "nfe": [n for _, n in nfe[::every]]}
    if reached:
        out["score"] = {"seconds": [s for s, _ in reached], "value": [v for _, v in reached]}
    return out
