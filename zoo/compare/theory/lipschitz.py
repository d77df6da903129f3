"""Convergence against the Lipschitz constant: Banach's bound, what lies beyond 1, and spectral normalization.

Banach: if ``|f(a) - f(b)| <= L |a - b|`` with ``L < 1`` there is one fixed point, and ``|z_k - z*| <= L^k |z_0 - z*|``.
For ``f(z) = tanh(W z + x)`` the constant is at most ``|W|_2``, as the slope of tanh is at most 1: a guarantee. It is
measured here as the largest spectral norm of the Jacobian ``diag(1 - f(z)^2) W`` over points of the ball around ``z*``
on whose edge the start lies, and which therefore holds every iterate of a contraction: random points of the ball, and
points of the way from the start to ``z*``. No error of an iteration enters it, so that the bound is a test.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from zoo.compare.theory.scale import Scale
from zoo.solve import fixed_point, odeint

CONSTANTS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
BEYOND = (0.5, 0.7, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 2.5, 3.0)
SOLVERS = ("picard", "anderson", "broyden", "newton")
CAP = 200
BOUND = 0.95
FREE, HELD, FLOW = "DEQ, W free", f"DEQ, spectral normalisation, |W| = {BOUND}", "Neural ODE, W free"
POINTS = 8  # of the ball, for each sample
WAY = (0.0, 0.25, 0.5, 0.75, 1.0)  # from the fixed point to the start
POWER = 300  # iterations for the norm: with 3, two singular values that come close let it pass 1 in training


def weight(n: int, constant: float, symmetric: bool) -> Tensor:
    """A matrix (n, n) of spectral norm ``constant``, in float64."""
    w = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    w = w + w.T if symmetric else w
    return constant * w / torch.linalg.matrix_norm(w, 2)


def iterates(w: Tensor, x: Tensor, count: int, linear: bool) -> list[Tensor]:
    """``z_0 = 0, z_1, ...`` of plain iteration."""
    z = [torch.zeros_like(x)]
    for _ in range(count):
        h = z[-1] @ w.T + x
        z.append(h if linear else torch.tanh(h))
    return z


def constant_in_ball(w: Tensor, x: Tensor, star: Tensor, start: Tensor, linear: bool) -> float:
    """The largest spectral norm of the map's Jacobian at points of the balls around ``star`` that ``start`` bounds."""
    if linear:
        return float(torch.linalg.matrix_norm(w, 2))  # the Jacobian is W everywhere
    g = torch.Generator().manual_seed(8)
    way = torch.randn(POINTS, *star.shape, dtype=star.dtype, generator=g)
    share = torch.rand(POINTS, len(star), 1, dtype=star.dtype, generator=g)
    radius = torch.linalg.vector_norm(start - star, dim=-1, keepdim=True)
    ball = star + share * radius * way / torch.linalg.vector_norm(way, dim=-1, keepdim=True)
    between = torch.stack([star + a * (start - star) for a in WAY])
    slope = 1 - torch.tanh(torch.cat([ball, between]) @ w.T + x).square()
    return float(torch.linalg.matrix_norm(slope[..., None] * w, 2).max())


def rates(scale: Scale) -> list[dict[str, Any]]:
    """By map and norm of W: the Jacobian's norm in the ball, the rate of convergence, the error by iteration."""
    n, rows = scale.width, []
    x = torch.randn(scale.batch, n, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    kinds = {"linear, symmetric W": (True, True), "tanh, symmetric W": (True, False), "tanh, random W": (False, False)}
    for kind, (symmetric, linear) in kinds.items():
        for constant in CONSTANTS:
            w = weight(n, constant, symmetric)
            shift = x if linear else 0.1 * x
            z = iterates(w, shift, 900, linear)  # 0.95^900 is 1e-20
            errors = torch.stack([torch.linalg.vector_norm(v - z[-1], dim=1) for v in z[:400]])  # (K, B)
            share = errors / errors[0]
            alive = (share > 1e-8).all(1)
            last = max(2, int(alive.sum()) - 1)
            tail = (errors[last] / errors[last // 2]) ** (1 / (last - last // 2))
            rows.append(
                {
                    "kind": kind,
                    "constant": constant,
                    "measured": constant_in_ball(w, shift, z[-1], z[0], linear),
                    "rate": float(tail.max()),
                    "error": share.amax(1)[: min(last + 1, 120)].tolist(),
                }
            )
    return rows


def beyond(scale: Scale) -> list[dict[str, Any]]:
    """By solver and spectral norm of a random W: evaluations, and the share of samples that converged."""
    n, rows = scale.width, []
    x = 0.2 * torch.randn(scale.batch, n, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    for constant in BEYOND:
        w = weight(n, constant, symmetric=False)
        radius = float(torch.linalg.eigvals(w).abs().max())
        for solver in SOLVERS:
            spec = {"name": solver, "rtol": 1e-6, "atol": 0.0, "max_steps": CAP}
            with torch.no_grad():
                stats = fixed_point(
                    lambda z, x, w=w: torch.tanh(z @ w.T + x), torch.zeros_like(x), spec, args=(x,)
                ).stats
            share = float(stats.converged.double().mean())
            rows.append({"norm": constant, "radius": radius, "solver": solver, "nfe": stats.nfe, "converged": share})
    return rows


class Cell(nn.Module):
    """``tanh(W z + U x)``, with ``|W|_2`` free, or held at ``bound`` by spectral normalization."""

    def __init__(self, n: int, bound: float | None) -> None:
        super().__init__()
        self.inner, self.inject = nn.Linear(n, n, bias=False), nn.Linear(n, n)
        nn.init.orthogonal_(self.inner.weight, gain=0.5)
        self.bound = bound
        if bound is not None:
            spectral_norm(self.inner, n_power_iterations=POWER)  # in place

    @property
    def weight(self) -> Tensor:
        return self.inner.weight * (1.0 if self.bound is None else self.bound)

    def forward(self, z: Tensor, x: Tensor, w: Tensor) -> Tensor:
        return torch.tanh(z @ w.T + self.inject(x))


def trained(scale: Scale, bound: float | None, timed: bool = False) -> list[dict[str, float]]:
    """Norm of W, evaluations and converged share while a small model learns a steep target.

    The model is the equilibrium of the cell, or, ``timed``, the flow ``dz/dt = cell(z)`` over one unit of time.
    """
    torch.manual_seed(7)
    n, rows = min(scale.width, 16), []
    x = torch.randn(8 * scale.batch, n)
    target = torch.sign(x @ torch.randn(n, n))  # steep: the model gains by a W that amplifies
    cell, read = Cell(n, bound), nn.Linear(n, n)
    optimiser = torch.optim.Adam([*cell.parameters(), *read.parameters()], lr=1e-2)
    spec = {"name": "picard", "rtol": 1e-4, "atol": 0.0, "max_steps": 100}
    clock = {"name": "dopri5", "rtol": 1e-4, "atol": 1e-4}
    zero = torch.zeros(len(x), n)
    for step in range(scale.steps // 2):
        w = cell.weight
        if timed:
            solution: Any = odeint(lambda t, z, w=w: cell(z, x, w), zero, (0.0, 1.0), clock)
        else:
            solution = fixed_point(lambda z, w=w: cell(z, x, w), zero, spec, "implicit")
        loss = nn.functional.mse_loss(read(solution.value[-1] if timed else solution.value), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rows.append(
            {
                "step": step,
                "loss": float(loss.detach()),
                "norm": float(torch.linalg.matrix_norm(w.detach(), 2)),
                "nfe": solution.stats.nfe,
                "converged": float(solution.stats.converged.double().mean()),
            }
        )
    return rows


def measure(scale: Scale) -> dict[str, Any]:
    """The rates, the solvers beyond a norm of 1, and training with and without spectral normalization."""
    return {
        "rates": rates(scale),
        "beyond": beyond(scale),
        "cap": CAP,
        "training": {
            FREE: trained(scale, None),
            HELD: trained(scale, BOUND),
            FLOW: trained(scale, None, timed=True),
        },
    }
