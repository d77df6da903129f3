"""Backpropagation through every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from zoo.adjoints.base import Adjoint, wrong_pair
from zoo.solvers.base import Map, Solution, Solver
from zoo.solvers.iterate import iterate
from zoo.solvers.ode.base import ODESolution, ODESolver, VectorField
from zoo.solvers.ode.events import Events
from zoo.solvers.ode.integrate import integrate


@dataclass(frozen=True, kw_only=True)
class Unroll(Adjoint):
    """Differentiate the steps that the solver took: the exact gradient of what was computed, to any order.

    Memory grows with every step. The value is the last iterate, without a measurement of its own, so that ``k`` steps
    of Picard are the ``k``-layer weight-tied network. A sample that converged earlier stays where it converged.
    """

    def solve(self, f: Map, z0: Tensor, solver: Solver, args: tuple[Tensor, ...] | None = None) -> Solution[Tensor]:
        if not solver.unrollable:
            raise wrong_pair(self, "the steps of a fixed point", solver, "the adjoint implicit, or picard, anderson or "
                             "broyden as the solver")  # fmt: skip
        return iterate(f, z0, solver, args=args, select="next")

    def integrate(
        self,
        f: VectorField,
        y0: Tensor,
        ts: Tensor | Sequence[float],
        solver: ODESolver,
        args: tuple[Tensor, ...] | None = None,
        params: tuple[Tensor, ...] | None = None,
        *,
        event: Events | None = None,
        dense: bool = False,
    ) -> ODESolution:
        return integrate(f, y0, ts, solver, args=args, event=event, dense=dense)
