"""Inexact Newton-Krylov."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from zoo.solvers.base import Affine, Map, Solver
from zoo.solvers.inference_mode import derivatives
from zoo.solvers.iterate import iterate
from zoo.solvers.krylov import GMRES


class State(NamedTuple):
    z: Tensor
    norm: Tensor
    g: Tensor


@dataclass(frozen=True, kw_only=True)
class Newton(Solver):
    """Newton's method on ``g(z) = f(z) - z``, each step's linear system solved only as far as it helps.

    ``(I - J) d = g(z)``, ``z <- z + d``, with ``J = df/dz`` applied by forward-mode differentiation. A step whose
    residual does not fall is halved up to ``halvings`` times, per sample. Every product with ``J`` counts as an
    evaluation. Worth it where evaluations are cheap beside the accuracy wanted, or where ``f`` does not contract.

    Args:
        linear_solver: the solver of each step's linear system; its ``rtol`` is the forcing term.
        halvings: of a step that makes the residual worse.

    Reference: Knoll and Keyes, "Jacobian-free Newton-Krylov methods", JCP 193, 2004.
    """

    linear_solver: Solver = field(default_factory=lambda: GMRES(rtol=1e-2, atol=0.0, max_steps=20))
    halvings: int = 3

    unrollable: ClassVar[bool] = False
    holds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.linear_solver, Solver):
            raise TypeError(
                f"Newton: linear_solver must be a solver instance such as GMRES(); got {self.linear_solver!r}."
            )

    def residual(self, state: State) -> Tensor:
        return state.g

    def init(self, f: Map, z: Tensor) -> State:
        g = f(z) - z
        return State(z, torch.linalg.vector_norm(g, dim=1), g)

    def step(self, f: Map, state: State, active: Tensor | None) -> State:
        z, norm, g = state
        system, start = Affine(lambda v: jvp(f, z, v), g).start(self.linear_solver)
        direction = iterate(system, start, self.linear_solver).value
        size = torch.ones_like(norm)
        if active is not None:  # a settled sample stays at its answer, whatever the direction is there
            direction = torch.where(active[:, None], direction, torch.zeros_like(direction))
        for _ in range(self.halvings + 1):
            new = self.init(f, z + size[:, None] * direction)
            worse = ~(new.norm < norm)
            if active is not None:
                worse &= active
            if not worse.any():
                break
            size = torch.where(worse, size / 2, size)
        return new


def jvp(f: Map, z: Tensor, v: Tensor) -> Tensor:
    """``(df/dz) v`` by forward-mode differentiation, (B, N)."""
    with derivatives(z, v) as (z, v), forward_ad.dual_level():
        out = forward_ad.unpack_dual(f(forward_ad.make_dual(z, v)))
    return torch.zeros_like(v) if out.tangent is None else out.tangent
