"""The one entry to the time loops: checks a problem, and hands it to the loop that its solver asks for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from zoo.solvers.ode.base import Field, Norm, ODESolution, ODESolver, Problem, StepWrapper, VectorField, WholeSolver
from zoo.solvers.ode.batched import integrate_batched
from zoo.solvers.ode.events import Event, Events
from zoo.solvers.ode.one_step import OneStep
from zoo.solvers.ode.per_sample import integrate_per_sample
from zoo.solvers.packing import Packed

CALLBACKS = ("callback_step", "callback_accept_step", "callback_reject_step")  # of torchdiffeq


def integrate(
    f: VectorField,
    y0: Tensor,
    ts: Tensor | Sequence[float],
    solver: ODESolver,
    *,
    args: tuple[Tensor, ...] | None = None,
    event: Event | Sequence[Event] | Events | None = None,
    dense: bool = False,
    norm: Norm | None = None,
    step_wrapper: StepWrapper | None = None,
) -> ODESolution:
    """Integrate ``dy/dt = f(t, y)`` from ``ts[0]`` through every time of ``ts``.

    Args:
        f: the field, called as ``f(t, y, *args)``; ``t`` broadcasts against ``y`` (see the head of this file).
        y0: (B, ...), floating point and finite.
        ts: at least two times, increasing or decreasing; (B, T) for times of each sample (``per_sample`` solvers).
        solver: the method with its tolerances.
        args: batch-first tensors that ``f`` needs for its samples. None: ``f`` may hold such tensors itself, and no
            sample leaves the batch.
        event: ``(t, y, *args) -> (B,)``; a sample ends where its sign changes. ``t`` broadcasts against ``y``. Several
            events are a tuple of functions, or (B, K); a sample ends at the first.
        dense: keep what `ODESolution.evaluate` needs.
        norm: replaces the per-sample norm of the error (for states whose first dimension is no batch).
        step_wrapper: wraps the step function, for adjoints that decide what the graph of a step keeps.

    Returns:
        the solution, with a value of shape (T, B, ...); ``value[0]`` is ``y0``.

    Raises:
        TypeError, ValueError: a state or times that cannot be integrated, or a field that changes shape or dtype.
    """
    if not isinstance(y0, Tensor) or not y0.is_floating_point():
        got = f"a tensor of {y0.dtype}" if isinstance(y0, Tensor) else type(y0).__name__
        raise TypeError(f"The state must be a floating-point tensor; got {got}. Use y0.float().")
    if y0.dim() == 0 or y0.numel() == 0:
        raise ValueError(f"Nothing to integrate: y0 has the shape {tuple(y0.shape)}; expected (B, ...) with B >= 1.")
    if not isinstance(solver, ODESolver):
        raise TypeError(f"{type(solver).__name__} solves fixed points; integrate needs an ODE solver, such as dopri5.")
    for name in CALLBACKS:
        if hasattr(f.f if isinstance(f, Packed) else f, name):
            raise ValueError(
                f"The field has a {name}, which torchdiffeq calls at its steps, and zoo does not. Remove it, or wrap "
                "the field in a function; stats.accepted, stats.rejected and stats.trace tell of the steps."
            )
    times = _times(ts, y0.shape[0])
    if times.ndim == 2 and not getattr(solver, "per_sample", False):
        raise ValueError(
            "ts of shape (B, T) gives every sample its own times; that needs a solver with per_sample=True."
        )
    if not math.isfinite(y0.detach().sum().item()):  # one pass; a sum may also have overflowed
        bad = (~torch.isfinite(y0.detach())).reshape(len(y0), -1).any(1).nonzero().flatten().tolist()
        if bad:
            raise ValueError(f"y0 is not finite in samples {bad[:5]}; check the input for NaN.")
    for i, a in enumerate(args or ()):
        if not isinstance(a, Tensor) or a.dim() == 0 or a.shape[0] != y0.shape[0]:
            shape = tuple(a.shape) if isinstance(a, Tensor) else type(a).__name__
            raise ValueError(
                f"args must be tensors of batch {y0.shape[0]}, cut with the samples; args[{i}] is {shape}."
            )
    field = Field(f, args)
    problem = Problem(field, y0, times, Events.of(event), dense, norm, step_wrapper, compact=args is not None)
    if isinstance(solver, OneStep):
        return (integrate_per_sample if solver.per_sample else integrate_batched)(solver, problem)
    assert isinstance(solver, WholeSolver)
    return solver.run(problem)


def _times(ts: Tensor | Sequence[float], batch: int) -> np.ndarray:
    parts = [ts] if isinstance(ts, Tensor) else ts
    if not isinstance(parts, Iterable) or (isinstance(ts, Tensor) and ts.is_complex()):
        got = f"a tensor of {ts.dtype}" if isinstance(ts, Tensor) else repr(ts)
        raise TypeError(f"ts must be a tensor of real times, or a sequence of them; got {got}.")
    if any(isinstance(t, Tensor) and t.requires_grad for t in parts):
        raise ValueError(
            "ts requires grad, but gradients to the times are not computed. Scale time inside f instead: "
            "with a learned duration T, integrate lambda s, y: T * f(s * T, y) over s in [0, 1]."
        )
    try:
        times = ts.cpu().double().numpy() if isinstance(ts, Tensor) else np.asarray(ts, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"ts must be a tensor, or a sequence of numbers; got {ts!r} ({error}).") from None
    if times.ndim not in (1, 2) or times.shape[-1] < 2:
        raise ValueError(f"ts must hold at least two times, the start and an end; got the shape {times.shape}.")
    if times.ndim == 2 and len(times) != batch:
        raise ValueError(f"ts of shape (B, T) must have one row a sample; got {times.shape} for a batch of {batch}.")
    gaps = times[..., 1:] - times[..., :-1]
    least, most = gaps.min(), gaps.max()  # NaN where a time is
    if not (least > 0 or most < 0) or not (math.isfinite(least) and math.isfinite(most)):
        raise ValueError(f"ts must be finite and strictly increasing, or strictly decreasing; got {_short(times)}.")
    return times


def _short(times: np.ndarray) -> str:
    return np.array2string(times, threshold=8, precision=6, separator=", ")
