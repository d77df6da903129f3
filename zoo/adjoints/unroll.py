"""Backpropagation through every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from zoo.adjoints.base import Adjoint, wrong_pair
from zoo.solvers.base import Map, Solution, Solver
from zoo.solvers.iterate import iterate
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
        f: Map,
        y0: Tensor,
        ts: Any,
        solver: Any,
        args: Any = None,
        params: Any = None,
        *,
        event: Any = None,
        dense: bool = False,
    ) -> Any:
        return integrate(f, y0, ts, solver, args=args, event=event, dense=dense)
