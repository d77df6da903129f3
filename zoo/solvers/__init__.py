"""Contents page of the solvers: a name, where it lives, and what it is. Imports no torch."""

from zoo.registry import Entry, Registry

SOLVERS: Registry = Registry(
    "solver",
    Entry("picard", "zoo.solvers.picard:Picard", "damped fixed-point iteration", "fixed_point"),
    Entry("anderson", "zoo.solvers.anderson:Anderson", "Anderson acceleration, type II, windowed", "fixed_point"),
    Entry("broyden", "zoo.solvers.broyden:Broyden", "limited-memory good Broyden", "fixed_point"),
    Entry("newton", "zoo.solvers.newton:Newton", "inexact Newton-Krylov", "fixed_point"),
    Entry("gmres", "zoo.solvers.krylov:GMRES", "minimal residual over a Krylov space", "linear"),
    Entry("bicgstab", "zoo.solvers.krylov:BiCGStab", "stabilised bi-conjugate gradients, short recurrence", "linear"),
    Entry("cg", "zoo.solvers.krylov:CG", "conjugate gradients (normal equations, or symmetric)", "linear"),
    Entry("neumann", "zoo.solvers.krylov:Neumann", "the Neumann series, term by term", "linear"),
)

__all__ = ["SOLVERS"]
