"""The compiled step: field, stages and error norm of one Runge-Kutta step as a single function of `torch.compile`.

The clock stays in Python, so steps stay adaptive and the time to compile does not grow with their number. Compiling
``f`` alone would make small fields slower, as every call pays for its guards. One function is kept a field and method;
it is compiled anew for another dtype, rank or gradient mode, and once more, with dynamic sizes, for another batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from zoo.solvers.ode.base import Attempt, Problem, Step, VectorField, sample_norm
from zoo.solvers.ode.stages import ErrorControl, attempt
from zoo.solvers.ode.tableaus import Tableau
from zoo.solvers.packing import Packed

_functions: WeakKeyDictionary[Any, dict[Any, Callable[..., Any]]] = WeakKeyDictionary()


def compiled_stepper(tableau: Tableau, tolerances: tuple[float, float] | None, problem: Problem, eager: Step) -> Step:
    """Compile a method's step, or return ``eager`` where this step cannot be compiled: one warning says so.

    Args:
        tolerances: rtol and atol of its error; None: fixed steps.
    """
    if problem.norm is not None:
        return eager
    field, stages = problem.field, len(tableau.a)
    function: Callable[..., Any] | None = _function(field.f, tableau, tolerances)

    def step(t: float | Tensor, dt: float | Tensor, y: Tensor, k: Tensor, dense: bool) -> Attempt:
        nonlocal function
        if function is None or dense or field.active_mask is not None:
            return eager(t, dt, y, k, dense)
        time, length = (
            x if isinstance(x, Tensor) else torch.full((), x, dtype=y.dtype, device=y.device) for x in (t, dt)
        )
        try:
            y1, k1, ratio = function(field.f, time, length, y, k, field.args)
        except Exception as error:  # whatever is wrong with f itself is raised again by the eager step
            warnings.warn(
                f"compile=True has no effect: the step of {tableau.name} cannot be compiled for this field "
                f"({type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}); "
                f"continuing with the eager step. Set compile=False, or make f traceable (torch.compile(f, "
                f"fullgraph=True) tells where it is not).",
                stacklevel=2,
            )
            function = None
            return eager(t, dt, y, k, dense)
        field.calls += stages
        field.samples += stages * y.shape[0]
        return Attempt(y1, k1, ratio)

    return step


def _function(f: VectorField, tableau: Tableau, tolerances: tuple[float, float] | None) -> Callable[..., Any]:
    own: Callable[..., Any] = f.f if isinstance(f, Packed) else f
    owner = getattr(own, "__self__", own)  # a bound method is a new object at each access
    key = (getattr(own, "__func__", None), tableau.name, tolerances)
    try:
        kept = _functions.setdefault(owner, {})
    except TypeError:  # cannot be weakly referenced
        return _compile(tableau, tolerances)
    if key not in kept:
        kept[key] = _compile(tableau, tolerances)
    return kept[key]


def _compile(tableau: Tableau, tolerances: tuple[float, float] | None) -> Callable[..., Any]:
    def step(f: VectorField, t: Tensor, dt: Tensor, y: Tensor, k: Tensor, args: tuple[Tensor, ...]) -> tuple[Any, ...]:
        def field(time: Tensor, z: Tensor) -> Tensor:
            return f(time, z, *args).to(y.dtype)

        times = tuple(t + c * dt for c in tableau.c)
        control = None if tolerances is None else ErrorControl(*tolerances, sample_norm(y))
        a = attempt(tableau, control, field, times, dt, y, k, False)
        return a.y, a.k, a.ratio

    # torch.compile counts recompilations by code object; a copy gives every field a budget of its own.
    step.__code__ = step.__code__.replace()
    return torch.compile(step, fullgraph=True)
