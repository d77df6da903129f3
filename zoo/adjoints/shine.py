"""SHINE: the inverse that Broyden's method has estimated on the way forward serves the backward pass."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from zoo.adjoints.base import Adjoint, wrong_pair
from zoo.adjoints.implicit import attach
from zoo.solvers.base import Map, Solution, Solver
from zoo.solvers.broyden import Broyden, State
from zoo.solvers.iterate import iterate
from zoo.solvers.krylov import GMRES
from zoo.solvers.packing import resolution


@dataclass(frozen=True, kw_only=True)
class Shine(Adjoint):
    """``u ~ -H^T dL/dz*`` with Broyden's inverse estimate ``H ~ (J - I)^{-1}``: no products with the Jacobian at all.

    Biased, as the estimate is good along the steps taken only. ``refine`` steps of ``solver`` start from it and, given
    enough of them, end at the exact implicit gradient.

    Args:
        refine: steps of refinement; 0 takes the estimate as it is (one product, to measure its residual).
        solver: of the refinement; its ``max_steps`` is replaced by ``refine``.

    Raises:
        TypeError: the forward solver is not `Broyden`.

    Reference: Ramzi et al., "SHINE: SHaring the INverse Estimate from the forward pass", ICLR 2022.
    """

    refine: int = 0
    solver: Solver = field(default_factory=lambda: GMRES(rtol=1e-3))

    def __post_init__(self) -> None:
        if self.refine < 0:
            raise ValueError(f"Shine: refine must not be negative; got {self.refine}.")

    def solve(self, f: Map, z0: Tensor, solver: Solver, args: tuple[Tensor, ...] | None = None) -> Solution[Tensor]:
        if not isinstance(solver, Broyden):
            raise wrong_pair(self, "a fixed point", solver, "broyden as the solver, or the adjoint implicit")
        with torch.no_grad():
            moving = _Moving(**{k.name: getattr(solver, k.name) for k in dataclasses.fields(solver)})
            solution = iterate(lambda z: f(z, *(args or ())), z0, moving, floor=resolution(f, z0), keep_state=True)
            _, state = solver.propose(solution.state)
        rest = dataclasses.replace(self.solver, max_steps=self.refine) if self.refine else None
        solution = dataclasses.replace(solution, state=None)
        return attach(f, solution, solver, rest, args=args, name="Shine", guess=lambda b: transposed_inverse(state, b))


@dataclass(frozen=True, kw_only=True)
class _Moving(Broyden):
    """Broyden's method whose settled samples move on: their estimates of the inverse improve with every step."""

    holds: ClassVar[bool] = False

    def step(self, f: Map, state: Any, active: Tensor | None) -> Any:
        return super().step(f, state, None)


def transposed_inverse(state: State, b: Tensor) -> Tensor:
    """``-H^T b`` for the product form of `Broyden`: ``prod_j (I + s_j s_{j+1}^T / |s_j|^2) b``, the last factor first.

    ``state`` holds a proposed step as well, which completes the factor of the last step taken.
    """
    assert state.step is not None
    n = state.steps.used
    last = state.step if state.scale is None else state.step * state.scale
    steps = [*state.steps.rows.unbind(dim=1), last]
    u = b
    for j in reversed(range(n)):
        square = torch.linalg.vecdot(steps[j], steps[j])
        weight = torch.linalg.vecdot(steps[j + 1], u) / torch.where(square > 0, square, torch.ones_like(square))
        u = u + (weight * state.kept[:, j].to(u.dtype))[:, None] * steps[j]
    return u
