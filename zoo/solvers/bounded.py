"""Solves of a bounded number of steps without a look at the host: what an exported program holds.

`iterate` and `integrate` decide on the host when to stop, which no graph of tensors can hold. Here every decision is a
mask: a fixed point takes ``max_steps`` steps, in which a sample that has met its tolerance stays where it is, and an
ODE takes its fixed steps. The answers are those of the eager loops for the same method, tolerances and steps. Residuals
and convergence are tensors of the graph; the status is not known when the graph is made, so that it says
`Result.fixed_steps`, and nothing is ever raised.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from zoo.solvers.base import Map, Result, Solution, Solver, Stats
from zoo.solvers.ode.base import Field, ODESolution, ODESolver, ODEStats, Problem, VectorField, sample_norm
from zoo.solvers.ode.one_step import OneStep
from zoo.solvers.ode.runge_kutta import RungeKutta
from zoo.solvers.packing import resolution


def refuse_unbounded(solver: Solver | ODESolver) -> None:
    """Raise where a method's steps cannot stand in a graph.

    Raises:
        RuntimeError: it makes decisions on the host.
    """
    name = type(solver).__name__
    if isinstance(solver, Solver) and not solver.traceable:
        raise RuntimeError(
            f"A solve by {name} cannot be traced or exported: it decides on the host. Export a model that solves by "
            "picard or anderson: zoo.load(..., solver='anderson'), or model.configure_implicit('anderson')."
        )
    fixed = isinstance(solver, RungeKutta) and not solver.adaptive and not solver.jump_ts
    if isinstance(solver, ODESolver) and not fixed:
        raise RuntimeError(
            f"An ODE solve by {name} with adaptive steps cannot be traced or exported: how many steps it takes depends "
            "on its input. Give it fixed ones: zoo.load(..., solver={'name': 'rk4', 'steps': 16})."
        )


def bounded_fixed_point(f: Map, z0: Tensor, solver: Solver, args: tuple[Tensor, ...] | None = None) -> Solution[Tensor]:
    """Take ``max_steps`` steps towards ``z = f(z)``; a sample stops at its tolerance.

    Args:
        f: the map, (B, N) -> (B, N), called as ``f(z, *args)``.
        z0: the start, (B, N).
        solver: a method that is ``traceable``.
        args: batch-first tensors that ``f`` takes after its state.
    """
    relative, absolute = max(solver.rtol, resolution(f, z0)), solver.atol * math.sqrt(z0.shape[1])
    call: Map = (lambda z: f(z, *args)) if args else f
    state = solver.init(call, z0)
    value, far = z0, torch.full_like(z0[:, 0], math.inf)
    best = least = residual = far
    active = torch.ones_like(far, dtype=torch.bool)
    converged, steps = ~active, torch.zeros_like(far)
    for k in range(solver.max_steps + 1):
        norm, scale = state.norm, torch.linalg.vector_norm(state.z, dim=1)
        hit = active & (norm <= absolute + relative * scale)
        better = active & ((norm < best) | hit)
        over = active & (norm > solver.forgets_at * least)
        value, best = torch.where(better[:, None], state.z, value), torch.where(better, norm, best)
        residual = torch.where(better, norm / torch.where(scale > 0, scale, 1.0), residual)
        least = torch.where(over | (norm < least), norm, least)
        steps = torch.where(active, float(k), steps)
        converged = converged | hit
        active = active & ~hit & torch.isfinite(norm)
        if k == solver.max_steps:
            break
        if math.isfinite(solver.forgets_at):
            state = solver.forget(state, over)
        state = solver.step(call, state, active)
    stats = Stats(
        nfe=solver.max_steps + 1,
        steps=steps,
        residual=residual,
        converged=converged,
        trace=residual[None],
    )
    return Solution(value, Result.fixed_steps, stats)


def bounded_odeint(
    f: VectorField,
    y0: Tensor,
    ts: Tensor | Sequence[float],
    solver: OneStep,
    args: tuple[Tensor, ...] | None = None,
) -> ODESolution:
    """Take the fixed steps of an explicit Runge-Kutta method through the times ``ts`` (T,).

    Returns:
        the states (T, B, ...); ``converged`` tells where they are finite, and the residual is NaN: nobody estimates it.
    """
    field = Field(f, args)
    field.calls = 1  # the first call looks for writes into the input, on the host
    times = [float(t) for t in ts]
    problem = Problem(field, y0, np.array(times), None, False, None, None, compact=False)
    step = solver.stepper(problem, sample_norm(y0))
    span = abs(times[-1] - times[0])
    y, values, count = y0, [y0], 0
    k: Tensor | None = None
    for start, end in itertools.pairwise(times):
        t, left = start, solver.substeps(abs(end - start), span)
        while left:
            h = (end - t) / left
            if k is None:
                k = field(torch.full((), t, dtype=y.dtype, device=y.device), y)
            attempt = step(t, h, y, k, False)
            t, left, count = (end if left == 1 else t + h), left - 1, count + 1
            y, k = attempt.y, attempt.k
        values.append(y)
    finite = torch.isfinite(y).flatten(1).all(1)
    none = torch.full_like(y.flatten(1)[:, 0], math.nan)
    stats = ODEStats(
        nfe=field.calls, steps=torch.full_like(none, count), residual=none, converged=finite, trace=none[None]
    )
    return ODESolution(torch.stack(values), Result.fixed_steps, stats)
