"""Explicit Runge-Kutta methods: one stepper for all tableaus.

A method of ``S`` stages goes from ``y`` at ``t`` to ``y_next`` at ``t + dt`` by

    k_i = f(t + c_i dt, y + dt sum_{j<i} a_ij k_j),    y_next = y + dt sum_i b_i k_i,    error = dt sum_i e_i k_i

where ``e`` is ``b`` less the weights of an embedded method of lower order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zoo.solvers.ode.base import Attempt, Norm, Problem, Step, VectorField, tolerance
from zoo.solvers.ode.compiled import compiled_stepper
from zoo.solvers.ode.one_step import OneStep
from zoo.solvers.ode.stages import ErrorControl, attempt, combine, weighted
from zoo.solvers.ode.tableaus import BOSH3, DOPRI5, DOPRI8, EULER, HEUN, MIDPOINT, RK4, TSIT5, Tableau


@dataclass(frozen=True, kw_only=True)
class RungeKutta(OneStep):
    """The stepper of every tableau.

    Args:
        compile: run each step, field and error estimate included, as one function of ``torch.compile`` under the
            Python clock: adaptive steps, and one call each. Worth it where launching operations costs more than what
            they compute. Off by default, as that cannot be known beforehand: the first call takes up to a minute, and
            on the benchmark's CPU a small field gains 15 % in training and nothing at inference, its matrix products
            being what is left (``experiments/results/bench_ode.json``). Second derivatives and side effects of ``f``
            need it off.
    """

    compile: bool = False

    tableau: ClassVar[Tableau]

    def __init_subclass__(cls) -> None:
        if "tableau" in cls.__dict__:
            cls.order, cls.fsal, cls.embedded = cls.tableau.order, cls.tableau.fsal, cls.tableau.e is not None
            cls.error_constant = cls.tableau.error_constant

    def stepper(self, problem: Problem, norm: Norm) -> Step:
        f, y0 = problem.field, problem.y0
        rtol, atol = tolerance(self, f.f, y0)
        tableau = self.tableau
        control = ErrorControl(rtol, atol, norm) if self.adaptive else None
        shares = torch.tensor(tableau.c, dtype=y0.dtype, device=y0.device)

        def step(t: float | Tensor, dt: float | Tensor, y: Tensor, k: Tensor, dense: bool) -> Attempt:
            if dt.__class__ is float:
                times = (shares * dt).add_(t).unbind() if tableau.c else ()
            else:
                times = tuple(torch.add(t, dt, alpha=c) for c in tableau.c)
            return attempt(tableau, control, f, times, dt, y, k, dense)

        if not self.compile:
            return step
        return compiled_stepper(tableau, (rtol, atol) if self.adaptive else None, problem, step)


def local_error(solver: RungeKutta, f: VectorField, t: float, dt: float, y: Tensor) -> Tensor:
    """The error estimate of one step, *with* its graph: the root mean square over each sample's numbers, (B,).

    ``rms(dt sum_i e_i k_i)``. A solve keeps no graph of its estimates, as steps are chosen outside of the gradient;
    this is for penalties that make a field easy to integrate.

    Raises:
        ValueError: a method without an estimate.
    """
    tableau = solver.tableau
    if tableau.e is None:
        raise ValueError(f"{type(solver).__name__} has no embedded error estimate; use one such as dopri5 or heun.")
    times = [torch.full((), t + c * dt, dtype=y.dtype, device=y.device) for c in (0.0, *tableau.c)]
    ks = [f(times[0], y)]
    for time, terms in zip(times[1:], tableau.stages, strict=True):
        ks.append(f(time, combine(y, dt, terms, ks)))
    error = weighted(dt, tableau.error, ks).flatten(1)
    # the root has no slope at 0, where a field without error would give NaN
    return (error.square().mean(1) + torch.finfo(y.dtype).tiny).sqrt()


@dataclass(frozen=True, kw_only=True)
class Euler(RungeKutta):
    """Explicit Euler, order 1, fixed steps: a residual network of shared weights."""

    tableau: ClassVar[Tableau] = EULER


@dataclass(frozen=True, kw_only=True)
class Midpoint(RungeKutta):
    """Explicit midpoint rule, order 2, fixed steps."""

    tableau: ClassVar[Tableau] = MIDPOINT


@dataclass(frozen=True, kw_only=True)
class Heun(RungeKutta):
    """Heun's method, order 2, with Euler embedded. Cheap steps for loose tolerances, often the best in training."""

    tableau: ClassVar[Tableau] = HEUN


@dataclass(frozen=True, kw_only=True)
class Bosh3(RungeKutta):
    """Bogacki-Shampine 3(2), 3 evaluations a step.

    Reference: Bogacki, Shampine, "A 3(2) pair of Runge-Kutta formulas", Appl. Math. Letters 2(4), 1989.
    """

    tableau: ClassVar[Tableau] = BOSH3


@dataclass(frozen=True, kw_only=True)
class ClassicRK4(RungeKutta):
    """The classical method of order 4, fixed steps: accurate and of known cost where the field is smooth."""

    tableau: ClassVar[Tableau] = RK4


@dataclass(frozen=True, kw_only=True)
class Dopri5(RungeKutta):
    """Dormand-Prince 5(4), 6 evaluations a step. The default: what others are compared with.

    Reference: Dormand, Prince, "A family of embedded Runge-Kutta formulae", J. Comp. Appl. Math. 6(1), 1980.
    """

    tableau: ClassVar[Tableau] = DOPRI5


@dataclass(frozen=True, kw_only=True)
class Tsit5(RungeKutta):
    """Tsitouras 5(4), 6 evaluations a step, with smaller error constants than Dormand-Prince.

    Reference: Tsitouras, "Runge-Kutta pairs of order 5(4) satisfying only the first column simplifying assumption",
    Computers and Mathematics with Applications 62(2), 2011.
    """

    tableau: ClassVar[Tableau] = TSIT5


@dataclass(frozen=True, kw_only=True)
class Dopri8(RungeKutta):
    """Dormand-Prince 8(7), 13 evaluations a step: for tolerances below about 1e-7.

    Reference: Prince, Dormand, "High order embedded Runge-Kutta formulae", J. Comp. Appl. Math. 7(1), 1981.
    """

    tableau: ClassVar[Tableau] = DOPRI8
