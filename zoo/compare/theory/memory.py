"""Memory between the forward and the backward pass, against depth: an explicit network pays for every layer.

A chain of ``L`` maps keeps what each of them needs for its derivative, ``O(L)``. The implicit function theorem needs
the map at the fixed point alone, and the adjoint ODE the last state alone: ``O(1)``. Without gradients, every way
holds a few states at a time: the peak over the forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.compare.theory.scale import Scale
from zoo.reporting.counters import held_bytes, peak_bytes
from zoo.solve import fixed_point, odeint

FORWARD = {  # without gradients the adjoints are alike: which way stands for which method
    "explicit, L layers": "explicit, L layers",
    "DEQ, Picard": "DEQ, implicit",
    "DEQ, Anderson": "DEQ, Anderson, implicit",
    "ODE, rk4": "ODE, unrolled",
}


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """The ``p`` of ``y ~ x^p`` by least squares on a log-log scale, over the upper half of the ``x``."""
    half = len(x) // 2 if len(x) > 3 else 0
    a = torch.tensor([math.log(v) for v in x[half:]], dtype=torch.float64)
    b = torch.tensor([math.log(max(v, 1e-300)) for v in y[half:]], dtype=torch.float64)
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / a.square().sum())


def ways(scale: Scale) -> dict[str, Callable[[int], Callable[[], Tensor]]]:
    """The forward passes that are compared: label -> depth -> a call that returns the last state."""
    torch.manual_seed(0)
    n, b = scale.width, scale.batch
    x = 0.1 * torch.randn(b, n)  # small: tanh stays steep, so that no iteration settles before its budget is spent
    layers = [nn.Linear(n, n) for _ in range(max(scale.depths))]
    cell = layers[0]
    for layer in layers:
        nn.init.orthogonal_(layer.weight, gain=0.95)
        nn.init.zeros_(layer.bias)
    zero = torch.zeros(b, n)

    def f(z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(cell(z) + x)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(cell(y))

    def explicit(depth: int) -> Tensor:
        z = zero
        for layer in layers[:depth]:
            z = torch.tanh(layer(z) + x)
        return z

    def deq(depth: int, adjoint: str, solver: str = "picard") -> Tensor:
        spec = {"name": solver, "max_steps": depth, "rtol": 1e-30, "atol": 1e-30}  # never met: the depth is the budget
        return fixed_point(f, zero, spec, adjoint, args=(x,)).value

    def ode(depth: int, adjoint: str) -> Tensor:
        params = tuple(cell.parameters()) if adjoint == "backsolve" else None
        return odeint(field, x, (0.0, 1.0), {"name": "rk4", "steps": depth}, adjoint, params=params).value[-1]

    return {
        "explicit, L layers": lambda k: lambda: explicit(k),
        "DEQ, unrolled": lambda k: lambda: deq(k, "unroll"),
        "DEQ, implicit": lambda k: lambda: deq(k, "implicit"),
        "DEQ, phantom": lambda k: lambda: deq(k, "phantom"),
        "DEQ, jfb": lambda k: lambda: deq(k, "jfb"),
        "DEQ, Anderson, implicit": lambda k: lambda: deq(k, "implicit", "anderson"),
        "ODE, unrolled": lambda k: lambda: ode(k, "unroll"),
        "ODE, checkpoint": lambda k: lambda: ode(k, "checkpoint"),
        "ODE, backsolve": lambda k: lambda: ode(k, "backsolve"),
    }


def measure(scale: Scale) -> dict[str, Any]:
    """Bytes held for the backward pass by depth, and the exponent of their growth, for each way; and the peak bytes of
    a forward pass without gradients, likewise."""
    out: dict[str, Any] = {"depths": list(scale.depths), "batch": scale.batch, "width": scale.width}
    made = ways(scale)
    out["ways"] = {label: _grown(scale, [held_bytes(way(k)) for k in scale.depths]) for label, way in made.items()}
    with torch.no_grad():
        out["forward"] = {
            label: _grown(scale, [peak_bytes(made[way](k)) for k in scale.depths]) for label, way in FORWARD.items()
        }
    return out


def _grown(scale: Scale, found: list[int]) -> dict[str, Any]:
    return {"bytes": found, "exponent": exponent(scale.depths, found)}
