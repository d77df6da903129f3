"""What every adjoint shares: the two entry points, and the error where one does not fit a solver."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from zoo.solvers.base import Map, Solution, Solver
from zoo.solvers.ode.base import ODESolution, ODESolver, VectorField
from zoo.solvers.ode.events import Events


@dataclass(frozen=True, kw_only=True)
class Adjoint(ABC):  # noqa: B024 (each serves one entry point or both)
    """How gradients cross a solve; a value beside the solver. A subclass serves fixed points, ODEs, or both."""

    def solve(self, f: Map, z0: Tensor, solver: Solver, args: tuple[Tensor, ...] | None = None) -> Solution[Tensor]:
        """The fixed point of ``f`` on (B, N), differentiable in whatever ``f`` depends on."""
        raise wrong_pair(self, "a fixed point", solver, "implicit, phantom, jfb or unroll")

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
        """Solve ``dy/dt = f(t, y)`` through the times ``ts``, differentiably. See `zoo.solvers.ode.integrate`."""
        raise wrong_pair(self, "an ODE", solver, "unroll, checkpoint or backsolve")


def wrong_pair(adjoint: Adjoint, problem: str, solver: Solver | ODESolver, instead: str) -> TypeError:
    """The error for an adjoint that does not fit a solver, naming both."""
    return TypeError(
        f"The adjoint {type(adjoint).__name__} cannot differentiate {problem} solved by {type(solver).__name__}; "
        f"use {instead}."
    )
