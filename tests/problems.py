"""Problems with exact answers, conditioned by construction, shared by the contracts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import zoo


@dataclass(frozen=True)
class Problem:
    """``z = f(z, x)`` with its fixed point, for a batch."""

    f: Callable[[Tensor, Tensor], Tensor]
    x: Tensor  # (B, N)
    exact: Tensor  # (B, N)
    affine: bool


def matrix(n: int, rate: float, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """A random matrix (n, n) of spectral norm ``rate``."""
    w = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (rate * w / torch.linalg.matrix_norm(w, 2)).to(dtype)


def linear(batch: int = 4, n: int = 12, rate: float = 0.7, dtype: torch.dtype = torch.float64) -> Problem:
    """``z = W z + x``, whose fixed point is ``(I - W)^{-1} x``."""
    w = matrix(n, rate)
    x = torch.randn(batch, n, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    exact = torch.linalg.solve(torch.eye(n, dtype=torch.float64) - w, x.T).T
    w = w.to(dtype)
    return Problem(lambda z, x: z @ w.T + x, x.to(dtype), exact.to(dtype), True)


def tanh(batch: int = 4, n: int = 12, rate: float = 0.9, dtype: torch.dtype = torch.float64) -> Problem:
    """``z = tanh(W z + x)``, with ``x`` chosen so that a given ``z*`` is the fixed point."""
    w = matrix(n, rate)
    exact = 1.6 * torch.rand(batch, n, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) - 0.8
    x = torch.atanh(exact) - exact @ w.T
    w = w.to(dtype)
    return Problem(lambda z, x: torch.tanh(z @ w.T + x), x.to(dtype), exact.to(dtype), False)


def cosine(batch: int = 4, n: int = 3, dtype: torch.dtype = torch.float64) -> Problem:
    """``z = cos(z)``: the Dottie number in every place."""
    exact = torch.full((batch, n), 0.7390851332151607, dtype=dtype)
    return Problem(lambda z, x: torch.cos(z) + 0 * x, torch.zeros(batch, n, dtype=dtype), exact, False)


PROBLEMS = {"linear": linear, "tanh": tanh, "cosine": cosine}


def left(
    loss: Callable[[], Tensor | tuple[Tensor, Tensor]],
    model: torch.nn.Module,
    goal: float,
    lr: float = 1e-2,
    steps: int = 200,
) -> float:
    """The share of the first loss that Adam leaves, once it is below ``goal``; or after all ``steps``.

    The steps are several times as many as any start needs, so that no rounding decides whether the goal is met: only a
    gradient that points nowhere runs out of them. Those that are not needed are not made.

    Args:
        loss: of one step, or a loss and a penalty that is minimized with it but not counted.
        model: whose parameters are trained; its gradients are left as the last step had them.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    first = share = None
    for _ in range(steps):
        found = loss()
        value, penalty = found if isinstance(found, tuple) else (found, 0.0)
        first = float(value.detach()) if first is None else first
        share = float(value.detach()) / first
        if share < goal:
            break
        optimizer.zero_grad()
        (value + penalty).backward()
        optimizer.step()
    return share


def contract(model: torch.nn.Module) -> None:
    """Let the input of a model outweigh its state, as random weights may have no fixed point."""
    cell = getattr(model, "cell", None)
    with torch.no_grad():
        for p in getattr(cell, "net", nn.Identity()).parameters():  # of a reasoner of two levels
            p.mul_(0.3)
        for post in getattr(cell, "post", []):  # MDEQ's last normalization then adds much and lets little through
            torch.nn.init.constant_(post[2].weight, 0.02)
            torch.nn.init.normal_(post[2].bias)
        if attention := getattr(cell, "attention", None):
            for layer, factor in ((attention.qkv, 0.2), (attention.out, 5.0), (cell.feedforward.narrow, 0.2)):
                layer.parametrizations.weight.original0.mul_(factor)


# A solver and an adjoint for a fixed point and for an ODE, tight enough that gradients of several processes agree.
GMRES = {"name": "gmres", "rtol": 1e-12, "atol": 0.0, "max_steps": 100}
SOLVES = {
    "equilibrium": (
        {"name": "anderson", "rtol": 1e-10, "atol": 0.0, "max_steps": 300},
        {"name": "implicit", "solver": GMRES},
    ),
    "ode": ({"name": "dopri5", "rtol": 1e-10, "atol": 1e-12, "max_steps": 1000}, "checkpoint"),
}


def unfinished(_: object) -> None:
    """Raise `zoo.SolveError`; in a module that a spawned process can import by name."""
    torch.set_num_threads(1)
    w = torch.ones(1, requires_grad=True)
    zoo.fixed_point(lambda z: 1 - z * w, torch.zeros(1, 1), "picard", throw=True)
