"""Ask a model about a batch, and do something about the samples on which its solve failed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.hub.answers import Solved
from zoo.implicit import ImplicitMixin, SolveRecord, implicit_modules, record_solves
from zoo.solve import make_solver
from zoo.solvers.ode.base import ODESolver

OnFailure = Literal["warn", "fallback", "raise"]
ON_FAILURE: tuple[OnFailure, ...] = ("warn", "fallback", "raise")
Batch = tuple[Tensor, ...]
MORE = 8  # times the steps that a failed sample is given before another solver is tried
LEAST = 100  # steps that another solver is given, at least
OTHERS: Mapping[str, Sequence[Mapping[str, Any]]] = {  # tried in this order, each with more steps
    "fixed_point": ({"name": "broyden"}, {"name": "anderson"}, {"name": "picard"}, {"name": "picard", "damping": 0.5}),
    "ode": ({"name": "dopri5"}, {"name": "torchdiffeq:scipy_solver", "options": {"solver": "Radau"}}),
}


class FailedSolve(RuntimeError):
    """Raised by ``on_failure="raise"``.

    Attributes:
        answers: those before it, in order.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.answers: list[Any] = []


def ask(
    model: nn.Module, call: Callable[[Batch], Batch], batch: Batch, on_failure: OnFailure
) -> tuple[Batch, list[Solved]]:
    """Ask a model about a batch; return its answer, and of each sample how the solves went.

    With "fallback" the samples on which a solve failed are asked again: with more steps, then by other solvers. What
    converges first is the answer; where nothing does, the answer of least residual. The model keeps its own solver.

    Args:
        model: in evaluation mode.
        call: asks the model; (B, ...) in, (B, ...) out.
        batch: (B, ...) each.
        on_failure: what to do about failed samples; only "fallback" says something here.
    """
    if on_failure != "fallback":
        return _once(call, batch)
    with _silent(model):
        out, told = _once(call, batch)
        for name, change in _attempts(model):
            failed = [i for i, s in enumerate(told) if not s.converged]
            if not failed:
                break
            rows = torch.tensor(failed)
            with _changed(change):
                try:
                    again, anew = _once(call, tuple(x[rows.to(x.device)] for x in batch))
                except (
                    RuntimeError,
                    ValueError,
                    ImportError,
                ):  # this solver cannot take the model
                    continue
            for place, i in enumerate(failed):
                if anew[place].converged or _less(anew[place].residual, told[i].residual):
                    told[i] = replace(anew[place], solver=name)
                    out = tuple(x.index_copy(0, rows[place : place + 1].to(x.device), y[place : place + 1])
                                for x, y in zip(out, again, strict=True))  # fmt: skip
    return out, told


def _less(new: float, old: float) -> bool:
    return math.isfinite(new) and not new >= old


def _once(call: Callable[[Batch], Batch], batch: Batch) -> tuple[Batch, list[Solved]]:
    with torch.inference_mode(), record_solves() as solves:
        out = call(batch)
    return out, solved([record for _, record in solves], len(batch[0]))


def solved(records: Sequence[SolveRecord], count: int) -> list[Solved]:
    """How the solves of each of ``count`` samples went.

    A solve of ``k`` states a sample counts as one of the sample; one of the whole batch as one of every sample.
    """
    converged, residual = torch.ones(count, dtype=torch.bool), torch.full((count,), math.nan, dtype=torch.float64)
    for record in records:
        good, left = record.stats.converged.bool().cpu(), record.stats.residual.double().cpu()
        if len(good) % count:
            good, left = good.all().expand(count), left.max().expand(count)
        else:
            good, left = good.view(count, -1).all(1), left.view(count, -1).amax(1)
        converged &= good
        residual = torch.fmax(residual, left)
    return [Solved(c, r) for c, r in zip(converged.tolist(), residual.tolist(), strict=True)]


Change = list[tuple[ImplicitMixin, Any]]


def _attempts(model: nn.Module) -> Iterator[tuple[str, Change]]:
    """What to try of a model whose solves have failed: a name, and the solver of each of its modules."""
    posers = _posers(model)
    if not posers:
        return
    more = [(m, replace(s, max_steps=MORE * s.max_steps) if hasattr(s, "max_steps") else s) for m, s in posers]
    own = sorted({type(s).__name__.lower() for _, s in posers})
    yield ", ".join(["/".join(own), *_steps(more)]), more
    for kind, others in OTHERS.items():
        mine = [(m, s) for m, s in more if isinstance(s, ODESolver) == (kind == "ode")]
        rest = [(m, s) for m, s in more if isinstance(s, ODESolver) != (kind == "ode")]
        for other in others if mine else ():
            if other != {"name": own[0]}:
                change = [(m, make_solver(_like(s, other))) for m, s in mine]
                damped = [f"damping {other['damping']}"] if "damping" in other else []
                yield ", ".join([other["name"], *damped, *_steps(change)]), [*rest, *change]


def _posers(model: nn.Module) -> Change:
    """The modules that solve, each with the solver that it evaluates with."""
    return [(m, s) for _, m in implicit_modules(model) if (s := m.eval_solver or m.solver) is not None]


def _steps(change: Change) -> list[str]:
    """The most steps of a change, in words; nothing where its solvers count none."""
    steps = [s.max_steps for _, s in change if hasattr(s, "max_steps")]
    return [f"{max(steps):,} steps"] if steps else []


def changed_steps(model: nn.Module, steps: int) -> None:
    """Give every solver of a model that counts its steps so many of them.

    Raises:
        ValueError: fewer than 1, or the model solves nothing.
    """
    posers = [(m, s) for m, s in _posers(model) if hasattr(s, "max_steps")]
    if not posers:
        raise ValueError(f"{type(model).__name__} has no solver whose steps are bounded, so max_steps says nothing.")
    for module, solver in posers:
        module.eval_solver = replace(solver, max_steps=steps)


@contextmanager
def at_most(model: nn.Module, steps: int | None) -> Iterator[None]:
    """Scope in which the model's solvers take at most so many steps; None: their own."""
    posers = [(m, s) for m, s in _posers(model) if steps is not None and hasattr(s, "max_steps")]
    with _changed([(m, replace(s, max_steps=steps)) for m, s in posers]):
        yield


def steps_of(model: nn.Module) -> int | None:
    """The most steps of the model's solvers; None where it solves nothing whose steps are bounded."""
    return max((s.max_steps for _, s in _posers(model) if hasattr(s, "max_steps")), default=None)


def _like(solver: Any, other: Mapping[str, Any]) -> dict[str, Any]:
    kept = {k: getattr(solver, k) for k in ("rtol", "atol", "max_steps") if hasattr(solver, k)}
    if "max_steps" in kept:
        kept["max_steps"] = max(kept["max_steps"], LEAST)
    if other["name"].startswith("torchdiffeq:"):
        kept.pop("max_steps", None)
    return {**kept, **other}


@contextmanager
def _changed(change: Change) -> Iterator[None]:
    was = [(module, module.eval_solver) for module, _ in change]
    try:
        for module, solver in change:
            module.eval_solver = solver
        yield
    finally:
        for module, solver in was:
            module.eval_solver = solver


@contextmanager
def _silent(model: nn.Module) -> Iterator[None]:
    """Scope in which a failed solve raises nothing: it is dealt with here."""
    was = [(m, m.throw) for _, m in implicit_modules(model)]
    try:
        for module, _ in was:
            module.throw = False
        yield
    finally:
        for module, throw in was:
            module.throw = throw
