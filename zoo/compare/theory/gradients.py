"""The error of a gradient against the solver's tolerance, for each adjoint.

The reference is computed in float64: for the fixed point, unrolled to the end; for the ODE, unrolled at a tolerance of
1e-12. Errors are of the gradients of all parameters as one vector: ``|g - g_ref| / |g_ref|``, and the angle as
``1 - cos``. What does not fall with the tolerance is the adjoint's own bias (phantom, jfb, a cut Neumann series).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoo.compare.theory.scale import Scale
from zoo.solve import fixed_point, odeint

FIXED_POINT = ("implicit", "unroll", "phantom", "jfb", "neumann", "shine")
ODE = ("unroll", "checkpoint", "backsolve")


def compared(g: Tensor, reference: Tensor) -> dict[str, float]:
    """Relative error and cosine of two gradients."""
    cosine = torch.nn.functional.cosine_similarity(g, reference, dim=0)
    relative = torch.linalg.vector_norm(g - reference) / torch.linalg.vector_norm(reference)
    return {"error": float(relative), "cosine": float(cosine)}


def equilibrium(scale: Scale, rate: float = 0.9) -> Callable[[Any, Any], tuple[Tensor, Any]]:
    """``(solver, adjoint) -> (gradient, stats)`` of ``z = tanh(W z + U x + b)`` with ``|W| = rate``, in float64."""
    n, b = scale.width // 2, scale.batch
    g = torch.Generator().manual_seed(2)
    w, u = (torch.randn(n, n, dtype=torch.float64, generator=g) for _ in range(2))
    w = rate * w / torch.linalg.matrix_norm(w, 2)
    leaves = [w, u * 0.5 / n**0.5, torch.zeros(n, dtype=torch.float64)]
    x, c = (torch.randn(b, n, dtype=torch.float64, generator=g) for _ in range(2))

    def gradient(solver: Any, adjoint: Any) -> tuple[Tensor, Any]:
        p = [leaf.clone().requires_grad_() for leaf in leaves]
        solution = fixed_point(
            lambda z: torch.tanh(z @ p[0].T + x @ p[1].T + p[2]), torch.zeros_like(x), solver, adjoint
        )
        grads = torch.autograd.grad((c * solution.value).sum(), p)
        return torch.cat([v.flatten() for v in grads]), solution.stats

    return gradient


def flow(scale: Scale) -> Callable[[Any, str], tuple[Tensor, Any]]:
    """``(solver, adjoint) -> (gradient, stats)`` of ``dy/dt = V tanh(W y)`` over 2 units of time, in float64."""
    n, b = scale.width // 2, scale.batch
    g = torch.Generator().manual_seed(3)
    leaves = [1.5 * torch.randn(n, n, dtype=torch.float64, generator=g) / n**0.5 for _ in range(2)]
    y0, c = (torch.randn(b, n, dtype=torch.float64, generator=g) for _ in range(2))

    def gradient(solver: Any, adjoint: str) -> tuple[Tensor, Any]:
        p = [leaf.clone().requires_grad_() for leaf in leaves]
        params = tuple(p) if adjoint == "backsolve" else None
        solution = odeint(lambda t, y: torch.tanh(y @ p[0].T) @ p[1].T, y0, (0.0, 2.0), solver, adjoint, params=params)
        grads = torch.autograd.grad((c * solution.value[-1]).sum(), p)
        return torch.cat([v.flatten() for v in grads]), solution.stats

    return gradient


def measure(scale: Scale) -> dict[str, Any]:
    """Error, cosine and evaluations by adjoint and tolerance, for a fixed point and an ODE."""
    out: dict[str, Any] = {"tolerances": list(scale.tolerances), "fixed_point": {}, "ode": {}}
    of = equilibrium(scale)
    reference, _ = of({"name": "picard", "rtol": 1e-15, "atol": 0.0, "max_steps": 400}, "unroll")
    for adjoint in FIXED_POINT:
        rows = []
        for tol in scale.tolerances:
            name = "broyden" if adjoint == "shine" else "picard"
            spec: Any = adjoint
            if adjoint == "implicit":
                spec = {"name": "implicit", "solver": {"name": "gmres", "rtol": tol, "atol": 0.0, "max_steps": 64}}
            g, stats = of({"name": name, "rtol": tol, "atol": 0.0, "max_steps": 400}, spec)
            back = stats.backward[-1].nfe if stats.backward else None
            rows.append({**compared(g, reference), "nfe": stats.nfe, "nfe_backward": back})
        out["fixed_point"][adjoint] = rows
    along = flow(scale)
    reference, _ = along({"name": "dopri5", "rtol": 1e-12, "atol": 1e-12}, "unroll")
    for adjoint in ODE:
        rows = []
        for tol in scale.tolerances:
            g, stats = along({"name": "dopri5", "rtol": tol, "atol": tol}, adjoint)
            back = stats.backward[-1].nfe if stats.backward else None
            rows.append({**compared(g, reference), "nfe": stats.nfe, "nfe_backward": back})
        out["ode"][adjoint] = rows
    return out
