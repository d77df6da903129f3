"""Implicit one-step methods for stiff fields; each step's equation is a fixed point, solved for every sample by itself.

All three are ``z = base + theta dt f(t + theta' dt, z)``:

    implicit Euler    z = y + dt f(t + dt, z)                           y_next = z
    midpoint rule     z = y + dt/2 f(t + dt/2, z)                       y_next = 2 z - y
    trapezoidal rule  z = y + dt/2 k + dt/2 f(t + dt, z)                y_next = z,  k_next = 2 (z - base) / dt

A gradient crosses a step by the implicit function theorem: one linear solve, and the memory of one evaluation,
whatever the solver did. The batch is never one big system: ``B`` systems of ``N`` unknowns are solved side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from zoo.solvers.autograd import Attach, needs_grad, refuse_second_order
from zoo.solvers.base import Affine, Solver
from zoo.solvers.iterate import iterate
from zoo.solvers.krylov import GMRES
from zoo.solvers.newton import Newton
from zoo.solvers.ode.base import Attempt, Norm, Problem, Step
from zoo.solvers.ode.one_step import OneStep
from zoo.solvers.packing import resolution


@dataclass(frozen=True, kw_only=True)
class ImplicitRungeKutta(OneStep):
    """A step whose equation is solved by a fixed-point solver. Fixed steps (``steps`` or ``step_size``).

    Args:
        solver: of the step's equation. Newton converges however stiff the field is; anderson or picard are cheaper
            where ``dt`` times the field's Lipschitz constant stays below about 1.
        linear_solver: of the adjoint system in the backward pass.
    """

    solver: Solver = field(
        default_factory=lambda: Newton(
            rtol=1e-7, atol=1e-9, linear_solver=GMRES(rtol=1e-3, atol=0.0, max_steps=50), max_steps=20
        )
    )
    linear_solver: Solver = field(default_factory=lambda: GMRES(rtol=1e-8, atol=0.0, max_steps=100))

    first_slope: ClassVar[Literal["field", "own", "none"]] = "none"
    theta: ClassVar[float]  # of dt f in the equation
    theta_time: ClassVar[float]  # theta'
    explicit: ClassVar[float] = 0.0  # weight of k in base
    extrapolate: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("solver", "linear_solver"):
            if not isinstance(getattr(self, name), Solver):
                raise TypeError(
                    f"{type(self).__name__}: {name} must be a fixed-point or linear solver, such as Newton(); got "
                    f"{getattr(self, name)!r}."
                )

    def stepper(self, problem: Problem, norm: Norm) -> Step:
        f, floor = problem.field, resolution(problem.field.f, problem.y0)

        def step(t: float, dt: float, y: Tensor, k: Tensor, dense: bool) -> Attempt:
            time = torch.full((), t + self.theta_time * dt, dtype=y.dtype, device=y.device)
            scale = self.theta * dt
            base = torch.add(y, k, alpha=self.explicit * dt) if self.explicit else y

            def equation(z: Tensor) -> Tensor:
                return torch.add(base, f(time, z.view_as(y)), alpha=scale).reshape(len(y), -1)

            with torch.no_grad():  # a state that is lost has no finite start; from zero its equation says so
                start = torch.nan_to_num(base.detach().reshape(len(y), -1), 0.0, 0.0, 0.0)
                solution = iterate(equation, start, self.solver, floor=floor)
            z, lost = solution.value, solution.stats.lost
            if lost is not None and bool(lost.any()):
                z = torch.where(lost.to(z.device)[:, None], torch.nan, z)
            if torch.is_grad_enabled():
                z = self._attach(equation, z, floor)
            z = z.view_as(y)
            unsolved = None if bool(solution.stats.converged.all()) else ~solution.stats.converged.numpy()
            if self.extrapolate:
                return Attempt(2 * z - y, None, None, None, unsolved)
            return Attempt(z, (z - base) / scale if self.fsal else None, None, None, unsolved)

        return step

    def _attach(self, equation: Callable[[Tensor], Tensor], z: Tensor, floor: float) -> Tensor:
        """Give a solved ``z`` the gradient of ``z = g(z)``: an incoming ``v`` becomes ``u = v + (dg/dz)^T u``."""
        start = z.detach().requires_grad_()
        g = equation(start)
        if not needs_grad(g, start):
            return z

        def transpose(u: Tensor) -> Tensor:
            return torch.autograd.grad(g, start, u, retain_graph=True, materialize_grads=True)[0]

        def adjoint(v: Tensor) -> Tensor:
            system, first = Affine(transpose, v).start(self.linear_solver)
            return iterate(system, first, self.linear_solver, floor=floor).value

        return Attach.apply(g, z, adjoint, _refuse)


def _refuse() -> None:
    refuse_second_order("An implicit time step", "an explicit solver, such as rk4 or dopri5")


@dataclass(frozen=True, kw_only=True)
class ImplicitEuler(ImplicitRungeKutta):
    """Implicit Euler, order 1: damps what is stiff (L-stable)."""

    order: ClassVar[int] = 1
    theta: ClassVar[float] = 1.0
    theta_time: ClassVar[float] = 1.0


@dataclass(frozen=True, kw_only=True)
class ImplicitMidpoint(ImplicitRungeKutta):
    """Implicit midpoint rule, order 2: A-stable, symplectic, keeps quadratic invariants."""

    order: ClassVar[int] = 2
    theta: ClassVar[float] = 0.5
    theta_time: ClassVar[float] = 0.5
    extrapolate: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Trapezoid(ImplicitRungeKutta):
    """Trapezoidal rule, order 2: A-stable."""

    order: ClassVar[int] = 2
    fsal: ClassVar[bool] = True
    first_slope: ClassVar[Literal["field", "own", "none"]] = "own"
    theta: ClassVar[float] = 0.5
    theta_time: ClassVar[float] = 1.0
    explicit: ClassVar[float] = 0.5
