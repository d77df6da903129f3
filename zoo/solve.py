"""The entry points: `fixed_point` and `odeint`."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from zoo._compat import forward_mode_is_on, inside_transform, opaque
from zoo.adjoints import ADJOINTS
from zoo.adjoints.base import Adjoint
from zoo.registry import ELSEWHERE, names_keywords, option_names
from zoo.solvers import SOLVERS
from zoo.solvers.base import Result, Solution, SolveError, Solver
from zoo.solvers.bounded import bounded_fixed_point, bounded_odeint, refuse_unbounded
from zoo.solvers.ode.base import ODESolution, ODESolver, PackedEvent, PackedField
from zoo.solvers.ode.events import Event, Events
from zoo.solvers.ode.runge_kutta import RungeKutta
from zoo.solvers.packing import Packing, Tensors
from zoo.solvers.profiler import profile_scope

Spec = str | Mapping[str, Any]
AnySolver = Solver | ODESolver


def make_solver(spec: Spec | AnySolver) -> AnySolver:
    """Make a solver of a name, a mapping ``{"name": ..., option: value}``, or an instance. Nested specs are built too.

    A mapping that gives a fixed-point solver an ``rtol`` alone, tighter than its default, takes ``atol`` along.

    Raises:
        UnknownName: no such solver or option; the nearest is named.
        TypeError: something that is no solver.
    """
    if isinstance(spec, str | Mapping):
        spec = _tightened(_nested(spec))
    return SOLVERS.build(spec)


def _tightened(spec: Any) -> Any:
    """The options with ``atol`` in the proportion of its default to ``rtol``, where a tighter ``rtol`` stands alone."""
    if not isinstance(spec, Mapping) or "rtol" not in spec or "atol" in spec or spec.get("name") not in SOLVERS:
        return spec
    rtol, usual = spec["rtol"], _usual_tolerances(spec["name"])
    if usual is None or not isinstance(rtol, float) or not 0 < rtol < usual[0]:
        return spec
    return {**spec, "atol": usual[1] * rtol / usual[0]}


@functools.cache
def _usual_tolerances(name: str) -> tuple[float, float] | None:
    """The defaults of ``rtol`` and ``atol`` that go together; None: of an ODE solver, they do not, or one is 0."""
    if SOLVERS.entry(name).kind == "ode":
        return None
    usual = {p.name: p.default for p in inspect.signature(SOLVERS[name]).parameters.values()}
    rtol, atol = usual.get("rtol"), usual.get("atol")
    return (rtol, atol) if rtol and atol else None


def make_adjoint(spec: Spec | Adjoint) -> Adjoint:
    """An adjoint from a name, a mapping, or an instance; its own ``solver`` may be given as a name or a mapping."""
    return ADJOINTS.build(_nested(spec) if isinstance(spec, str | Mapping) else spec)


def _nested(spec: Any) -> Any:
    if not isinstance(spec, Mapping):
        return spec
    solvers = {"solver", "linear_solver"}
    return {k: make_solver(v) if k in solvers and isinstance(v, str | Mapping) else v for k, v in spec.items()}


def _option_of(*methods: str) -> Callable[[str, Any], str | None]:
    """Where a keyword belongs that is an option of one of these solvers, or of other packages."""

    def hint(name: str, value: Any) -> str | None:
        if name == "options":
            return f"Options stand beside the solver's name: solver={{'name': {methods[-1]!r}, ...}}."
        option = ELSEWHERE.get(name, name)
        for method in methods:
            if option in option_names(SOLVERS[method]):
                return f"It is an option of the solver: solver={{'name': {method!r}, {option!r}: {value!r}}}."
        return None

    return hint


@opaque  # the loop reads the host at every step: no work for a compiler
@names_keywords(_option_of("anderson", "broyden", "picard"))
def fixed_point(
    f: Callable[..., Tensors],
    z0: Tensors,
    solver: Spec | AnySolver = "anderson",
    adjoint: Spec | Adjoint = "implicit",
    *,
    args: tuple[Any, ...] | None = None,
    coupled: bool = False,
    throw: bool = False,
) -> Solution[Any]:
    """Solve ``z = f(z)`` for every sample of a batch by itself, differentiably.

        >>> import torch
        >>> from zoo import fixed_point
        >>> W, x = torch.nn.Linear(8, 8), torch.randn(4, 8)
        >>> solution = fixed_point(lambda z: torch.tanh(0.5 * W(z) + x), torch.zeros_like(x))
        >>> solution.value.sum().backward()     # the implicit function theorem: memory of one evaluation

    Args:
        f: the map, called as ``f(z, *args)``; returns a state shaped like ``z``. It may capture parameters, and any
            other tensors: gradients reach them.
        z0: the start, a tensor or a tuple of tensors, batch first, real or complex. A state of one axis, (N,), is
            one sample. No gradient goes to it, save by ``unroll``: a
            fixed point does not depend on where the search began.
        solver: a name of `zoo.list_solvers`, a mapping ``{"name": "anderson", "rtol": 1e-5}``, or an instance.
        adjoint: how gradients cross the solve, given likewise.
        args: batch-first tensors that ``f`` needs for its samples. Naming them here, instead of capturing them, allows
            samples that have converged to leave the batch; ``()`` says that there are none.
        coupled: solve the whole batch as one system, with one stopping decision and one residual: for samples that
            depend on one another, such as the nodes of a graph, or a map with batch normalization.
        throw: raise where a sample did not converge, instead of saying so in ``result``.

    Returns:
        ``value`` structured like ``z0``; ``result``; ``stats`` with ``nfe``, ``steps``, ``residual`` (both per sample).

    Raises:
        UnknownName: no such solver, adjoint or option; the nearest is named.
        TypeError, ValueError: a state that is empty, not finite, of no floating dtype; a map that changes its shape;
            a solver and an adjoint that do not fit.
        SolveError: with ``throw``, holding the solution that was reached.
    """
    _refuse_no_function(f, z0)
    packing = Packing.of(z0, coupled=coupled)
    flat = packing.pack(z0).clone()  # the map may write into it, and the answer may be the start: both stay apart
    if args is not None and packing.whole:
        f, args = bind(f, _arguments(args)), None  # of one sample nothing is ever cut
    elif args is not None:
        args = _arguments(args, flat.shape[0])
    method, across = make_solver(solver), make_adjoint(adjoint)
    if isinstance(method, ODESolver):
        raise TypeError(
            f"The solver {type(method).__name__} integrates ODEs, not fixed points (adjoint {type(across).__name__}); "
            "use a fixed-point solver, such as anderson, or call odeint."
        )
    _refuse_trace(method)
    if torch.compiler.is_exporting():
        solution = bounded_fixed_point(packing.wrap(f), flat, method, args)
        return dataclasses.replace(solution, value=packing.unpack(solution.value))
    with profile_scope(f"solve by {type(method).__name__}"), _said_of_transforms():
        solution = across.solve(packing.wrap(f), flat, method, args)
    solution = dataclasses.replace(solution, value=packing.unpack(solution.value))
    if throw and solution.result is not Result.converged:
        raise SolveError(solution)
    return solution


def _refuse_no_function(f: Any, state: Any) -> None:
    if not callable(f):
        hint = " The function comes first, the state second." if callable(state) else ""
        raise TypeError(f"f must be a function or a module; got {type(f).__name__}.{hint}")


def bind(f: Callable[..., Tensors], args: Sequence[Any]) -> Callable[..., Tensors]:
    """The map of its state alone, ``z -> f(z, *args)``."""
    return (lambda z: f(z, *args)) if args else f


def _arguments(args: Any, batch: int | None = None) -> tuple[Any, ...]:
    """Check the arguments of a map: a tuple, of tensors with ``batch`` samples first unless that is None.

    Raises:
        TypeError, ValueError: something else.
    """
    if not isinstance(args, tuple | list):
        raise TypeError(
            f"args must be a tuple of tensors; got {type(args).__name__}. A tuple of one needs its comma: args=(x,)."
        )
    for i, a in enumerate(args if batch is not None else ()):
        if not isinstance(a, Tensor) or a.dim() == 0 or a.shape[0] != batch:
            got = f"the shape {tuple(a.shape)}" if isinstance(a, Tensor) else type(a).__name__
            raise ValueError(
                f"args[{i}] must be a tensor with {batch} samples first, as z0 has; got {got}. What all samples share "
                "(a mask, a graph) is captured by f: lambda z, x: f(z, x, mask)."
            )
    return tuple(args)


@contextmanager
def _said_of_transforms() -> Iterator[None]:
    """Say in words what a solve inside a transform of torch.func, or under forward-mode derivatives, fails with."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, SolveError) or not (inside_transform() or forward_mode_is_on()):
            raise
        what, why = (
            ("inside torch.func.grad, vjp, jvp, jacrev or vmap", "it reads residuals to know when to stop, and those "
             "transforms hide them")
            if inside_transform()
            else ("under forward-mode derivatives (torch.autograd.forward_ad)", "this solver or adjoint writes into "
                  "its own tensors, or has derivatives of its own. Picard and Anderson by the adjoint unroll, and the "
                  "explicit ODE solvers by unroll or checkpoint, carry tangents")
        )  # fmt: skip
        raise RuntimeError(
            f"A solve cannot run {what}: {why}. Use loss.backward() or torch.autograd.grad, with "
            "torch.func.functional_call where the parameters are given; in place of vmap, a batch. Transforms inside "
            f"the map itself are fine. ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
        ) from error


def _refuse_trace(method: Solver | ODESolver) -> None:
    """Raise where a trace would keep the steps that one input took."""
    if torch.compiler.is_exporting():
        refuse_unbounded(method)
    fixed = isinstance(method, RungeKutta) and not method.adaptive
    if torch.jit.is_tracing() and not fixed:
        raise RuntimeError(
            "A solve cannot be traced by torch.jit: how many steps it takes depends on its input, and a trace would "
            "keep those of one. Use torch.export, which unrolls picard and anderson to a bounded number of steps, or "
            "save the module itself."
        )


@opaque
@names_keywords(_option_of("dopri5", "rk4"))
def odeint(
    f: Callable[..., Tensors],
    y0: Tensors,
    ts: Tensor | Sequence[float],
    solver: Spec | AnySolver = "dopri5",
    adjoint: Spec | Adjoint = "unroll",
    *,
    args: tuple[Tensor, ...] | None = None,
    params: Iterable[Tensor] | None = None,
    event: Event | Sequence[Event] | None = None,
    dense: bool = False,
    throw: bool = False,
) -> ODESolution:
    """Integrate ``dy/dt = f(t, y)``, ``y(ts[0]) = y0``, differentiably.

        >>> import torch
        >>> from zoo import odeint
        >>> net = torch.nn.Linear(2, 2)
        >>> solution = odeint(lambda t, y: torch.tanh(net(y)), torch.randn(16, 2), [0.0, 0.5, 1.0])
        >>> solution.value.shape                 # (T, B, ...): the states at the three times, the start included
        torch.Size([3, 16, 2])

    Args:
        f: the field, called as ``f(t, y, *args)``; returns what has y's structure. ``t`` is a tensor that *broadcasts
            against y*: 0-dimensional, or (B, 1, ..., 1) where every sample has steps of its own. A time channel is
            ``torch.cat([y, t.expand_as(y[:, :1])], 1)``.
        y0: the start, a tensor or a tuple of tensors, batch first.
        ts: two or more times, increasing or decreasing; steps land on each, so that many times cost many steps: where
            there are more than the tolerance needs, give start and end, ``dense=True``, and `ODESolution.evaluate`.
            (B, T) gives every sample its own times, with a solver of ``per_sample=True``. Gradients to the times are
            not computed.
        solver: a name such as ``tsit5``, ``rk4`` or ``torchdiffeq:dopri8``, a mapping ``{"name": "dopri5", "rtol":
            1e-4}``, or an instance.
        adjoint: ``unroll``, ``checkpoint`` (its gradient, at the memory of the accepted states) or ``backsolve``.
        args: batch-first tensors that ``f`` needs for its samples. Naming them here, instead of capturing them, allows
            ``per_sample`` solvers to take finished samples out of the batch; ``()`` says that there are none.
        params: for backsolve, every tensor besides y0 and args that gradients go to; by default the parameters of an
            ``f`` that is a module.
        event: ``(t, y, *args) -> (B,)``; a sample ends where its sign changes. Several events are a tuple of functions,
            or one of (B, K); a sample ends at the first, ``stats.event_index``. ``stats.event_time`` says when, and
            ``solution.event_time`` is the same with its gradient. Backsolve refuses events.
        dense: keep what ``solution.evaluate(t)`` needs to give the states, with their gradients, between the times.
        throw: raise where a sample did not reach the last time (or its event), instead of saying so in ``result``.

    Returns:
        ``value`` (T, B, ...) structured like ``y0``; ``result``; ``stats`` with ``nfe``, ``accepted``, ``rejected`` and
        ``reached``: rows of later times than a sample has ``reached`` repeat its last state.

    Raises:
        UnknownName: no such solver, adjoint or option; the nearest is named.
        TypeError, ValueError: a state or times that cannot be integrated; a field that changes the state's shape; a
            solver and an adjoint that do not fit; a dependency of ``f`` that backsolve would miss.
        SolveError: with ``throw``, holding the solution that was reached.
    """
    _refuse_no_function(f, y0)
    packing = Packing.of(y0, "y0")
    args = None if args is None else _arguments(args)
    method, across = make_solver(solver), make_adjoint(adjoint)
    if not isinstance(method, ODESolver):
        raise TypeError(
            f"The solver {type(method).__name__} solves fixed points, not ODEs (adjoint {type(across).__name__}); "
            "use an ODE solver, such as dopri5, or call fixed_point."
        )
    plain = isinstance(y0, Tensor) and packing.work == y0.dtype and not packing.whole
    field: Callable[..., Any] = f if plain else PackedField(f, packing)
    events = Events.of(event)
    if events is not None and not plain:
        events = Events(tuple(PackedEvent(e, packing) for e in events.functions))
    start = y0 if plain and isinstance(y0, Tensor) else packing.pack(y0)
    params = None if params is None else tuple(params)
    _refuse_trace(method)
    if torch.compiler.is_exporting():
        assert isinstance(method, RungeKutta)
        solution = bounded_odeint(field, start, ts, method, args)
        return solution if plain else dataclasses.replace(solution, value=packing.unpack(solution.value))
    with profile_scope(f"integrate by {type(method).__name__}"), _said_of_transforms():
        solution = across.integrate(field, start, ts, method, args, params, event=events, dense=dense)
    if not plain:
        solution = dataclasses.replace(solution, value=packing.unpack(solution.value), unpack=packing.unpack)
    if throw and not solution.result.success:
        raise SolveError(solution)
    return solution
