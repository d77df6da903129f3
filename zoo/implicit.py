"""`ImplicitMixin`: a solver, an adjoint, and what the last solve did, for any ``nn.Module``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo import penalties
from zoo._compat import opaque
from zoo.adjoints.base import Adjoint
from zoo.adjoints.rng import RNGState
from zoo.solve import AnySolver, Spec, fixed_point, make_adjoint, make_solver, odeint
from zoo.solvers import CARRIED, SOLVERS
from zoo.solvers.base import Result, Solution, SolveError, Solver, Stats
from zoo.solvers.draws import warn_of_draws
from zoo.solvers.ode.base import ODESolver
from zoo.solvers.packing import Tensors

PROBLEMS = {  # what a module may pose: in words, and what solves and differentiates it
    "fixed_point": ("fixed points", "anderson, broyden or picard", "implicit, phantom, jfb or unroll"),
    "ode": ("ODEs", "dopri5, tsit5 or rk4", "unroll, checkpoint or backsolve"),
}


@dataclass(frozen=True)
class SolveRecord:
    """How a solve ended and what it took; detached numbers only, so that keeping it keeps no graph alive.

    ``cut`` says that `solver_budget` gave it fewer steps than its solver has: it was not meant to converge.
    """

    result: Result
    stats: Stats
    cut: bool = False


@dataclass(frozen=True)
class SolverBudget:
    """What `solver_budget` asks of the fixed-point solves within it."""

    most: int | None
    less: int
    adjoint: Adjoint | None

    def of(self, solver: Solver, adjoint: Adjoint) -> tuple[Solver, Adjoint]:
        """A solver of a smaller budget, and the adjoint to use."""
        steps = min(solver.max_steps, self.most or solver.max_steps) - self.less
        if steps != solver.max_steps:
            solver = solver.replace(max_steps=max(1, steps))
        return solver, self.adjoint or adjoint


_limits: ContextVar[tuple[SolverBudget, ...]] = ContextVar("zoo_solver_limits", default=())


@contextmanager
def solver_budget(*, most: int | None = None, less: int = 0, adjoint: Spec | Adjoint | None = None) -> Iterator[None]:
    """Scope in which fixed-point solves of modules get a smaller budget; time steps of ODEs are left alone.

        >>> import torch, zoo
        >>> model, x = zoo.create_model("test_mdeq"), torch.randn(2, 1, 8, 8)
        >>> with solver_budget(most=3, adjoint="jfb"):
        ...     early = model(x)      # the answer after three steps of its solver
        >>> early.shape
        torch.Size([2, 10])

    Args:
        most: steps at most; None: as the solver says.
        less: steps taken off the solver's budget; at least one is left.
        adjoint: in place of the modules' own; None: their own.
    """
    limit = SolverBudget(most, less, make_adjoint(adjoint) if adjoint is not None else None)
    token = _limits.set((*_limits.get(), limit))
    try:
        yield
    finally:
        _limits.reset(token)


Records = list[tuple["ImplicitMixin", SolveRecord]]
_records: ContextVar[Records | None] = ContextVar("zoo_solve_records", default=None)
_aside: ContextVar[bool] = ContextVar("zoo_solves_aside", default=False)


@contextmanager
def record_solves() -> Iterator[Records]:
    """Scope that lists the solves of modules within it, oldest first, each as ``(module, record)``.

    Where `ImplicitMixin.last` has a module's newest solve, this has all of them. Only the innermost scope sees a solve.
    """
    solves: Records = []
    token = _records.set(solves)
    try:
        yield solves
    finally:
        _records.reset(token)


Watch = Callable[[Callable[..., Any], int], Callable[..., Any]]
_watches: ContextVar[tuple[Watch, ...]] = ContextVar("zoo_watched_maps", default=())


@contextmanager
def watched_maps(watch: Watch) -> Iterator[None]:
    """Scope in which modules solve for ``watch(f, place)`` in place of their map or field ``f``.

    ``place`` is where ``f`` takes its state: 0 for ``f(z, ...)``, 1 for ``f(t, y, ...)``.
    """
    token = _watches.set((*_watches.get(), watch))
    try:
        yield
    finally:
        _watches.reset(token)


def _watched(f: Callable[..., Any], place: int) -> Callable[..., Any]:
    for watch in _watches.get():
        f = watch(f, place)
    return f


Move = Callable[[Tensors], Tensors]
_moves: ContextVar[tuple[Move, ...]] = ContextVar("zoo_moved_starts", default=())


@contextmanager
def moved_starts(move: Move) -> Iterator[None]:
    """Scope in which fixed-point solves of modules begin at ``move(z0)`` in place of ``z0``."""
    token = _moves.set((*_moves.get(), move))
    try:
        yield
    finally:
        _moves.reset(token)


@contextmanager
def untracked() -> Iterator[None]:
    """Scope of solves beside the answer (a shallow loss, a contractive start).

    A scope of `record_solves` around it does not see them, and none of them raises, whatever ``throw`` says.
    """
    token = _aside.set(True)
    try:
        with record_solves():
            yield
    finally:
        _aside.reset(token)


class ImplicitMixin:
    """Beside ``nn.Module``: ``class Model(ImplicitMixin, nn.Module)``.

    The model calls `configure_implicit` in its ``__init__``, and `solve` or `integrate` in its ``forward``.

    Attributes:
        problem_types: "fixed_point", "ode", or both; solvers and adjoints for others are refused.
        solver, adjoint: what the next solve uses.
        eval_solver: used instead of ``solver`` in evaluation mode, unless None.
        throw: raise where a solve does not reach its end, in training and evaluation, instead of saying so in `last`.
        last: how the newest solve went, None before the first. The one thing that a forward pass changes.
    """

    problem_types: ClassVar[tuple[str, ...]] = ("fixed_point",)

    solver: AnySolver | None = None
    adjoint: Adjoint | None = None
    eval_solver: AnySolver | None = None
    throw: bool = False
    last: SolveRecord | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        """Make a solver or an adjoint of what it is given as; refuse what is neither."""
        if value is not None and name in ("solver", "eval_solver"):
            value = make_solver(value)
        elif value is not None and name == "adjoint":
            value = make_adjoint(value)
        super().__setattr__(name, value)

    def configure_implicit(
        self,
        solver: Spec | AnySolver | None = None,
        adjoint: Spec | Adjoint | None = None,
        *,
        eval_solver: Spec | AnySolver | None = None,
        throw: bool | None = None,
    ) -> None:
        """Choose the solver and the adjoint; what is None stays as it is. The weights are not touched.

        A solver or adjoint is a name, a mapping ``{"name": ..., option: value}`` or an instance. Where a new solver
        leaves ``rtol``, ``atol`` or ``max_steps`` open, they carry over from the present one, if both are for the same
        kind of problem. With ``throw`` a solve that does not reach its end raises `zoo.SolveError`; without it the last
        (of fixed points: the best) state is the answer, and `last` has its status.

        Raises:
            UnknownName: no such solver, adjoint or option; the nearest is named.
            ValueError: a solver or an adjoint for another kind of problem than the module poses.
        """
        made = make_solver(_carry_over(solver, self.solver)) if solver is not None else self.solver
        evaluating = make_solver(_carry_over(eval_solver, made)) if eval_solver is not None else self.eval_solver
        across = make_adjoint(adjoint) if adjoint is not None else self.adjoint
        self._refuse_other_problems((made, evaluating), across)
        self.solver, self.eval_solver, self.adjoint = made, evaluating, across
        self.throw = self.throw if throw is None else throw

    @opaque
    def solve(
        self,
        f: Callable[..., Tensors],
        z0: Tensors,
        *,
        args: tuple[Any, ...] | None = None,
        coupled: bool = False,
    ) -> Any:
        """The fixed point of ``f`` by this module's solver and adjoint; records `last`. See `zoo.fixed_point`.

        Raises:
            SolveError: with `throw`, where a sample did not converge and no `solver_budget` cut the solve short.
        """
        present, adjoint = self._present("anderson", "implicit")
        solver = present
        for limit in _limits.get():
            if isinstance(solver, Solver):
                solver, adjoint = limit.of(solver, adjoint)
        for move in _moves.get():
            z0 = move(z0)
        cut = isinstance(present, Solver) and any((b.most or math.inf) < present.max_steps for b in _limits.get())
        first = z0 if isinstance(z0, Tensor) else next(iter(z0 or ()), None)
        draws = RNGState(first.device if isinstance(first, Tensor) else torch.device("cpu"))
        solution = fixed_point(_watched(f, 0), z0, solver, adjoint, args=args, coupled=coupled)
        self.record(SolveRecord(solution.result, solution.stats, cut))
        if solver is present:
            if not solution.result.success and draws.close():
                with untracked():
                    warn_of_draws(self, f, solution.value, args)
            self._refuse_unfinished(solution)
        penalties.observe(self, f, solution.value, args)
        return solution.value

    @opaque
    def integrate(
        self,
        f: Callable[..., Tensors],
        y0: Tensors,
        ts: Tensor | Sequence[float],
        *,
        args: tuple[Tensor, ...] | None = None,
        params: Iterable[Tensor] | None = None,
        event: Callable[..., Tensor] | None = None,
    ) -> Any:
        """The states (T, B, ...) of ``dy/dt = f(t, y)`` at the times ``ts``; records `last`. See `zoo.solve.odeint`.

        Raises:
            SolveError: with `throw`, where a sample did not reach the last time or its event.
        """
        solver, adjoint = self._present("dopri5", "unroll")
        solution = odeint(_watched(f, 1), y0, ts, solver, adjoint, args=args, params=params, event=event)
        self.record(SolveRecord(solution.result, solution.stats))
        self._refuse_unfinished(solution)
        return solution.value

    def record(self, solve: SolveRecord | None, parts: Sequence[SolveRecord] = ()) -> None:
        """Keep how the newest solve went, in `last` and in the scope of `record_solves`.

        Args:
            solve: the record; None: nothing was solved.
            parts: records of the solves that this one sums up, and takes the place of.
        """
        self.last = solve
        seen = _records.get()
        if seen is None or solve is None:
            return
        if parts:
            gone = {id(p) for p in parts}
            seen[:] = [pair for pair in seen if id(pair[1]) not in gone]
        seen.append((self, solve))

    def _refuse_unfinished(self, solution: Solution[Any]) -> None:
        if self.throw and not _aside.get() and not solution.result.success:
            raise SolveError(solution)

    def _present(self, solver: str, adjoint: str) -> tuple[AnySolver, Adjoint]:
        evaluating = self.eval_solver is not None and not self.training  # type: ignore[attr-defined]
        present = self.eval_solver if evaluating else self.solver
        if present is None or self.adjoint is None:
            raise RuntimeError(
                f"{type(self).__name__} has no solver yet: call configure_implicit(solver={solver!r}, "
                f"adjoint={adjoint!r}) in its __init__."
            )
        return present, self.adjoint

    def _refuse_other_problems(self, solvers: Iterable[AnySolver | None], adjoint: Adjoint | None) -> None:
        poses = " and ".join(PROBLEMS[p][0] for p in self.problem_types)
        for solver in solvers:
            kind = "ode" if isinstance(solver, ODESolver) else "fixed_point"
            if solver is not None and kind not in self.problem_types:
                raise ValueError(
                    f"{type(self).__name__} poses {poses}; the solver {type(solver).__name__} is for "
                    f"{PROBLEMS[kind][0]}. Use one such as {PROBLEMS[self.problem_types[0]][1]}."
                )
        if isinstance(adjoint, Adjoint) and not any(p in serves(adjoint) for p in self.problem_types):
            raise ValueError(
                f"{type(self).__name__} poses {poses}; the adjoint {type(adjoint).__name__} cannot differentiate them. "
                f"Use {PROBLEMS[self.problem_types[0]][2]}."
            )


def serves(adjoint: Adjoint) -> list[str]:
    """The problems whose entry point an adjoint has of its own."""
    entries = {"fixed_point": "solve", "ode": "integrate"}
    return [p for p, name in entries.items() if getattr(type(adjoint), name) is not getattr(Adjoint, name)]


def _carry_over(spec: Spec | AnySolver, present: AnySolver | None) -> Spec | AnySolver:
    if not isinstance(spec, str | Mapping) or present is None:
        return spec
    spec = {"name": spec} if isinstance(spec, str) else dict(spec)
    kinds = {e.name: e.kind for e in SOLVERS.entries()}
    if (kinds.get(str(spec.get("name"))) == "ode") != isinstance(present, ODESolver):
        return spec  # steps in time and iterations are different budgets
    have = {f.name for f in fields(present)}
    kept: dict[str, Any] = {k: getattr(present, k) for k in CARRIED if k in have}
    if "rtol" in spec and not isinstance(present, ODESolver):
        kept.pop("atol", None)  # it goes with the rtol that is replaced
    return {**kept, **spec}


def implicit_modules(model: nn.Module) -> list[tuple[str, ImplicitMixin]]:
    """The implicit modules within a model, itself included, with their names."""
    return [(name, m) for name, m in model.named_modules() if isinstance(m, ImplicitMixin)]


def implicit_layers(model: nn.Module) -> list[ImplicitMixin]:
    """Return the implicit modules that lie within no other one, in order: those that a solver is chosen for."""
    if isinstance(model, ImplicitMixin):
        return [model]
    return [layer for child in model.children() for layer in implicit_layers(child)]


class DelegatesImplicit:
    """Beside ``nn.Module``: a model that poses nothing itself, and whose implicit layers all solve alike.

    >>> class Model(DelegatesImplicit, nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.first, self.second = Layer(), Layer()
    >>> class Layer(ImplicitMixin, nn.Module): ...
    >>> model = Model()
    >>> model.configure_implicit("picard", "jfb", throw=True)
    >>> type(model.second.solver).__name__, model.first.throw
    ('Picard', True)
    """

    def configure_implicit(
        self,
        solver: Spec | AnySolver | None = None,
        adjoint: Spec | Adjoint | None = None,
        *,
        eval_solver: Spec | AnySolver | None = None,
        throw: bool | None = None,
    ) -> None:
        """Choose the solver and the adjoint of every implicit layer; see `ImplicitMixin.configure_implicit`."""
        assert isinstance(self, nn.Module)
        for layer in implicit_layers(self):
            layer.configure_implicit(solver, adjoint, eval_solver=eval_solver, throw=throw)
