"""Symplectic methods for separable equations of motion: explicit steps that keep the energy from drifting.

The state is ``y = [q, p]``, positions and momenta side by side along dimension 1, and the field is separable,

    dq/dt = g(t, p),    dp/dt = h(t, q)        as with  H(q, p) = T(p) + V(q):  g = dT/dp,  h = -dV/dq

One step of Stoermer and Verlet's method ("leapfrog") is a kick, a drift and a kick:

    p_half = p + dt/2 h(t, q),    q_next = q + dt g(t + dt/2, p_half),    p_next = p_half + dt/2 h(t + dt, q_next)

It is of order 2, symplectic (``J^T Omega J = Omega`` for its Jacobian J), symmetric (a step back undoes a step), and
its energy error stays bounded over very long times, where that of a Runge-Kutta method grows linearly. Yoshida's
composition of three leapfrog steps is of order 4. For fields that are not separable: ``implicit_midpoint``.

A field is evaluated as a whole, so that a step costs two evaluations where the last kick's is kept for the next one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from zoo.solvers.ode.base import Attempt, Norm, Problem, Step, tolerance
from zoo.solvers.ode.one_step import OneStep


@dataclass(frozen=True, kw_only=True)
class Leapfrog(OneStep):
    """Stoermer-Verlet, order 2, fixed steps (``steps`` or ``step_size``), two evaluations a step.

    Args:
        check: make sure at the start of a solve, by two evaluations, that the field is separable; what is not would be
            integrated at order 1 without a word.
    """

    check: bool = True

    order: ClassVar[int] = 2
    first_slope: ClassVar[Literal["field", "own", "none"]] = "own"
    shares: ClassVar[tuple[float, ...]] = (1.0,)  # of the leapfrog steps that one step is composed of

    def stepper(self, problem: Problem, norm: Norm) -> Step:
        f, y0 = problem.field, problem.y0
        if y0.dim() < 2 or y0.shape[1] % 2:
            raise ValueError(
                f"{type(self).__name__} needs a state [q, p] with positions and momenta side by side along dimension "
                f"1, an even number of them; got the shape {tuple(y0.shape)}. For other states use rk4 or dopri5."
            )
        if self.check:
            self._refuse_coupled(problem)

        def clock(t: float) -> Tensor:
            return torch.full((), t, dtype=y0.dtype, device=y0.device)

        def step(t: float, dt: float, y: Tensor, k: Tensor, dense: bool) -> Attempt:
            q, p = y.chunk(2, 1)
            force = k.chunk(2, 1)[1]
            for share in self.shares:
                h = share * dt
                p = torch.add(p, force, alpha=h / 2)
                q = torch.add(q, f(clock(t + h / 2), torch.cat([q, p], 1)).chunk(2, 1)[0], alpha=h)
                t += h
                k = f(clock(t), torch.cat([q, p], 1))
                force = k.chunk(2, 1)[1]
                p = torch.add(p, force, alpha=h / 2)
            # k's first half is g at the momenta before the kick: right for the next step, not for a dense output
            return Attempt(torch.cat([q, p], 1), None if dense else k, None)

        return step

    def _refuse_coupled(self, problem: Problem) -> None:
        """Raise where dq/dt changes with q, or dp/dt with p."""
        f, y = problem.field, problem.y0.detach()
        t = torch.full((), float(problem.ts.flat[0]), dtype=y.dtype, device=y.device)
        q, p = y.chunk(2, 1)
        with torch.no_grad():
            k = f(t, y).chunk(2, 1)
            for i, moved in enumerate((torch.cat([_moved(q), p], 1), torch.cat([q, _moved(p)], 1))):
                change = (f(t, moved).chunk(2, 1)[i] - k[i]).abs().amax().item()
                rtol, _ = tolerance(self, f.f, y)
                if change > 100 * rtol * max(1.0, k[i].abs().amax().item()):
                    one, other = ("dq/dt", "q") if i == 0 else ("dp/dt", "p")
                    raise ValueError(
                        f"{type(self).__name__} needs a separable field, dq/dt = g(t, p) and dp/dt = h(t, q); here "
                        f"{one} changes with {other} (by {change:.2g}). Use implicit_midpoint, which is symplectic for "
                        "every Hamiltonian, or rk4. (The adjoint backsolve needs a solver of its own: its backward "
                        "equation is not separable.)"
                    )


def _moved(x: Tensor) -> Tensor:
    """Another point, none of whose coordinates is the same."""
    return x + 0.1 * (1 + x.abs())


@dataclass(frozen=True, kw_only=True)
class Yoshida4(Leapfrog):
    """Yoshida's composition of three leapfrog steps, order 4, six evaluations a step; the middle one goes backwards.

    Reference: Yoshida, "Construction of higher order symplectic integrators", Physics Letters A 150(5-7), 1990.
    """

    order: ClassVar[int] = 4
    shares: ClassVar[tuple[float, ...]] = (
        1 / (2 - 2 ** (1 / 3)),
        -(2 ** (1 / 3)) / (2 - 2 ** (1 / 3)),
        1 / (2 - 2 ** (1 / 3)),
    )
