"""Contents page of the adjoints: how gradients cross a solve. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.registry import Entry, Registry

if TYPE_CHECKING:
    from zoo.adjoints.base import Adjoint

ADJOINTS: Registry[Adjoint] = Registry(
    "adjoint",
    Entry("implicit", "zoo.adjoints.implicit:Implicit", "implicit function theorem: one linear solve", "fixed_point"),
    Entry("neumann", "zoo.adjoints.implicit:neumann", "implicit, the inverse cut to k Neumann terms", "fixed_point"),
    Entry("shine", "zoo.adjoints.shine:Shine", "implicit, with Broyden's forward inverse estimate", "fixed_point"),
    Entry("phantom", "zoo.adjoints.phantom:Phantom", "k damped steps unrolled at the fixed point", "fixed_point"),
    Entry("jfb", "zoo.adjoints.phantom:jfb", "Jacobian-free: one undamped step at the fixed point", "fixed_point"),
    Entry(
        "reversible", "zoo.adjoints.reversible:Reversible", "undoes the steps of the solver reversible", "fixed_point"
    ),
    Entry("unroll", "zoo.adjoints.unroll:Unroll", "backpropagation through every step of the solver", "any"),
    Entry("checkpoint", "zoo.adjoints.checkpoint:Checkpoint", "unroll's gradient; keeps one state a time step", "ode"),
    Entry("backsolve", "zoo.adjoints.backsolve:Backsolve", "the adjoint ODE, solved backwards in time", "ode"),
    bases=("zoo.adjoints.base:Adjoint",),
)

__all__ = ["ADJOINTS"]
