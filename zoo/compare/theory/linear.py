"""The linear equilibrium model, in closed form.

    z = W z + U x + b

* *Existence and uniqueness.* For every ``x`` there is exactly one ``z*`` if and only if 1 is no eigenvalue of ``W``:
  ``I - W`` is invertible. Nothing is asked of the size of ``W``.
* *The fixed point.* ``z* = (I - W)^{-1} (U x + b)``: a linear layer with the weight ``(I - W)^{-1} U``.
* *Iterating.* ``z_{k+1} = W z_k + U x + b`` converges from every start if and only if the spectral radius
  ``rho(W) < 1``; then ``z* = sum_k W^k (U x + b)``. A norm ``|W| < 1`` is enough for that, not needed: where ``W`` is
  not normal, ``rho(W) < 1 < |W|``, the error may grow before it falls.
* *The implicit derivative.* With ``u = (I - W)^{-T} dL/dz*``: ``dL/db = u``, ``dL/dW = u z*^T``, ``dL/dU = u x^T`` and
  ``dL/dx = U^T u``; no derivative of any iteration appears.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.compare.theory.scale import Scale
from zoo.solve import fixed_point

SOLVERS = ("picard", "anderson", "broyden", "newton")


def matrices(n: int) -> dict[str, Tensor]:
    """Three kinds of W: a contraction; not normal, rho < 1 < norm; expanding, rho > 1, and 1 no eigenvalue."""
    w = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    q, _ = torch.linalg.qr(w)
    contraction = 0.9 * w / torch.linalg.matrix_norm(w, 2)
    upper = torch.triu(torch.ones(n, n, dtype=torch.float64), diagonal=1)
    skewed = q @ (0.5 * torch.eye(n, dtype=torch.float64) + 0.6 * upper / n**0.5) @ q.T
    spread = torch.linspace(-1.6, 0.6, n, dtype=torch.float64)
    return {"|W| < 1": contraction, "rho(W) < 1 < |W|": skewed, "rho(W) > 1": q @ torch.diag(spread) @ q.T}


def closed_form(w: Tensor, u: Tensor, b: Tensor, x: Tensor, c: Tensor) -> dict[str, Tensor]:
    """The fixed point, and the gradient of ``sum(c * z*)``, as the docstring of this file has them."""
    inverse = torch.linalg.inv(torch.eye(len(w), dtype=w.dtype) - w)
    z = (x @ u.T + b) @ inverse.T
    adjoint = c @ inverse  # rows are u^T
    return {"z": z, "W": adjoint.T @ z, "U": adjoint.T @ x, "b": adjoint.sum(0), "x": adjoint @ u}


def measure(scale: Scale) -> dict[str, Any]:
    """Error of the solved model against the closed form, by kind of W and solver."""
    n, b = min(scale.width, 16), scale.batch
    g = torch.Generator().manual_seed(1)
    u, bias, x, c = (torch.randn(*shape, dtype=torch.float64, generator=g) for shape in ((n, n), (n,), (b, n), (b, n)))
    rows = []
    for kind, w in matrices(n).items():
        exact = closed_form(w, u, bias, x, c)
        size = {
            "norm": float(torch.linalg.matrix_norm(w, 2)),
            "radius": float(torch.linalg.eigvals(w).abs().max()),
            "distance_to_singular": float(torch.linalg.svdvals(torch.eye(n, dtype=w.dtype) - w).min()),
        }
        for solver in SOLVERS:
            leaves = {"W": w.clone(), "U": u.clone(), "b": bias.clone(), "x": x.clone()}
            for leaf in leaves.values():
                leaf.requires_grad_()

            def f(z: Tensor, p: dict[str, Tensor] = leaves) -> Tensor:
                return z @ p["W"].T + p["x"] @ p["U"].T + p["b"]

            spec = {"name": solver, "rtol": 1e-12, "atol": 0.0, "max_steps": 400}
            inner = {"name": "gmres", "rtol": 1e-12, "atol": 0.0, "max_steps": 4 * n}
            solution = fixed_point(f, torch.zeros(b, n, dtype=w.dtype), spec, {"name": "implicit", "solver": inner})
            row = {"kind": kind, "solver": solver, **size, "evaluations": solution.stats.nfe}
            row["converged"] = float(solution.stats.converged.double().mean())
            row["error_z"] = error(solution.value.detach(), exact["z"])
            if row["converged"] == 1.0:
                grads = torch.autograd.grad((c * solution.value).sum(), list(leaves.values()))
                row |= {f"error_{k}": error(v, exact[k]) for k, v in zip(leaves, grads, strict=True)}
            rows.append(row)
    return {"text": (__doc__ or "").strip(), "rows": rows}


def error(a: Tensor, b: Tensor) -> float:
    """The relative error ``|a - b| / |b|``."""
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))
