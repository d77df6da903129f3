"""Contents page of the solvers: a name, where it lives, and what it is. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo._compat import torchdiffeq_methods
from zoo.registry import Entry, Registry

if TYPE_CHECKING:
    from zoo.solvers.base import Solver
    from zoo.solvers.ode.base import ODESolver

CARRIED = ("rtol", "atol", "max_steps")  # what a solver hands on to the one that takes its place


def _torchdiffeq() -> list[Entry]:
    return [
        Entry(f"torchdiffeq:{n}", f"zoo.solvers.ode.torchdiffeq:method_{n}", f"torchdiffeq's {n}", "ode")
        for n in torchdiffeq_methods()
    ]


SOLVERS: Registry[Solver | ODESolver] = Registry(
    "solver",
    Entry("picard", "zoo.solvers.picard:Picard", "damped fixed-point iteration", "fixed_point"),
    Entry("anderson", "zoo.solvers.anderson:Anderson", "Anderson acceleration, type II, windowed", "fixed_point"),
    Entry("learned", "zoo.solvers.learned:Learned", "Anderson, corrected by a trained network", "fixed_point"),
    Entry("broyden", "zoo.solvers.broyden:Broyden", "limited-memory good Broyden", "fixed_point"),
    Entry("newton", "zoo.solvers.newton:Newton", "inexact Newton-Krylov", "fixed_point"),
    Entry("reversible", "zoo.solvers.reversible:Reversible", "relaxed iteration that can be undone", "fixed_point"),
    Entry("gmres", "zoo.solvers.krylov:GMRES", "minimal residual over a Krylov space", "linear"),
    Entry("bicgstab", "zoo.solvers.krylov:BiCGStab", "stabilised bi-conjugate gradients, short recurrence", "linear"),
    Entry("cg", "zoo.solvers.krylov:CG", "conjugate gradients (normal equations, or symmetric)", "linear"),
    Entry("neumann", "zoo.solvers.krylov:Neumann", "the Neumann series, term by term", "linear"),
    Entry("euler", "zoo.solvers.ode.runge_kutta:Euler", "explicit Euler, order 1, fixed steps", "ode"),
    Entry("midpoint", "zoo.solvers.ode.runge_kutta:Midpoint", "explicit midpoint rule, order 2, fixed steps", "ode"),
    Entry("heun", "zoo.solvers.ode.runge_kutta:Heun", "Heun-Euler 2(1), adaptive", "ode"),
    Entry("bosh3", "zoo.solvers.ode.runge_kutta:Bosh3", "Bogacki-Shampine 3(2), adaptive", "ode"),
    Entry("rk4", "zoo.solvers.ode.runge_kutta:ClassicRK4", "classical Runge-Kutta, order 4, fixed steps", "ode"),
    Entry("dopri5", "zoo.solvers.ode.runge_kutta:Dopri5", "Dormand-Prince 5(4), adaptive", "ode"),
    Entry("tsit5", "zoo.solvers.ode.runge_kutta:Tsit5", "Tsitouras 5(4), adaptive", "ode"),
    Entry("dopri8", "zoo.solvers.ode.runge_kutta:Dopri8", "Dormand-Prince 8(7), adaptive, tight tolerances", "ode"),
    Entry(
        "implicit_euler", "zoo.solvers.ode.implicit_rk:ImplicitEuler", "implicit Euler, order 1, stiff fields", "ode"
    ),
    Entry(
        "implicit_midpoint", "zoo.solvers.ode.implicit_rk:ImplicitMidpoint", "implicit midpoint rule, order 2", "ode"
    ),
    Entry("trapezoid", "zoo.solvers.ode.implicit_rk:Trapezoid", "trapezoidal rule, order 2, stiff fields", "ode"),
    Entry("leapfrog", "zoo.solvers.ode.symplectic:Leapfrog", "Stoermer-Verlet, order 2, separable [q, p]", "ode"),
    Entry("yoshida4", "zoo.solvers.ode.symplectic:Yoshida4", "Yoshida's order 4, separable [q, p], symplectic", "ode"),
    *_torchdiffeq(),
    bases=("zoo.solvers.base:Solver", "zoo.solvers.ode.base:ODESolver"),
)

__all__ = ["CARRIED", "SOLVERS"]
