"""The entry points: `fixed_point` and `odeint`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from zoo.adjoints import ADJOINTS
from zoo.adjoints.base import Adjoint
from zoo.solvers import SOLVERS
from zoo.solvers.base import Result, Solution, SolveError, Solver
from zoo.solvers.packing import Packing, Tensors

Spec = str | Mapping[str, Any]


def make_solver(spec: Spec | Any) -> Any:
    """A solver from a name, a mapping ``{"name": ..., option: value}``, or an instance. Nested specs are built too."""
    return SOLVERS.build(_nested(spec))


def make_adjoint(spec: Spec | Any) -> Any:
    """An adjoint from a name, a mapping, or an instance; its own ``solver`` may be given as a name or a mapping."""
    return ADJOINTS.build(_nested(spec))


def _nested(spec: Any) -> Any:
    if not isinstance(spec, Mapping):
        return spec
    solvers = {"solver", "linear_solver"}
    return {k: make_solver(v) if k in solvers and isinstance(v, str | Mapping) else v for k, v in spec.items()}


def fixed_point(
    f: Callable[..., Tensors],
    z0: Tensors,
    solver: Spec | Solver = "anderson",
    adjoint: Spec | Adjoint = "implicit",
    *,
    args: tuple[Tensor, ...] | None = None,
    throw: bool = False,
) -> Solution[Any]:
    """Solve ``z = f(z)`` for every sample of a batch by itself, differentiably.

        >>> W = torch.nn.Linear(8, 8)
        >>> solution = fixed_point(lambda z: torch.tanh(0.5 * W(z) + x), torch.zeros_like(x))
        >>> solution.value.sum().backward()     # the implicit function theorem: memory of one evaluation

    Args:
        f: the map, called as ``f(z, *args)``; returns a state shaped like ``z``. It may capture parameters, and any
            other tensors: gradients reach them.
        z0: the start, a tensor or a tuple of tensors, batch first. No gradient goes to it, save by ``unroll``: a
            fixed point does not depend on where the search began.
        solver: a name of `zoo.list_solvers`, a mapping ``{"name": "anderson", "rtol": 1e-5}``, or an instance.
        adjoint: how gradients cross the solve, given likewise.
        args: batch-first tensors that ``f`` needs for its samples. Naming them here, instead of capturing them, allows
            samples that have converged to leave the batch; ``()`` says that there are none.
        throw: raise where a sample did not converge, instead of saying so in ``result``.

    Returns:
        ``value`` structured like ``z0``; ``result``; ``stats`` with ``nfe``, ``steps``, ``residual`` (both per sample).

    Raises:
        UnknownName: no such solver, adjoint or option; the nearest is named.
        TypeError, ValueError: a state that is empty, not finite, of no floating dtype; a map that changes its shape;
            a solver and an adjoint that do not fit.
        SolveError: with ``throw``, holding the solution that was reached.
    """
    packing = Packing.of(z0)
    flat = packing.pack(z0)
    for i, a in enumerate(args or ()):
        if not isinstance(a, Tensor) or a.dim() == 0 or a.shape[0] != flat.shape[0]:
            got = tuple(a.shape) if isinstance(a, Tensor) else type(a).__name__
            raise ValueError(f"args[{i}] must be a tensor with {flat.shape[0]} samples first, as z0 has; got {got}.")
    solution = make_adjoint(adjoint).solve(packing.wrap(f), flat, make_solver(solver), args)
    solution = dataclasses.replace(solution, value=packing.unpack(solution.value))
    if throw and solution.result is not Result.converged:
        raise SolveError(solution)
    return solution
