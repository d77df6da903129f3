"""What every ODE solver shares: `ODESolver` with its options, the field, the checked problem, the solution.

The equation is ``dy/dt = f(t, y)`` with ``y(ts[0]) = y0``. Shape letters: ``B`` samples, ``T`` requested times.

The time that ``f`` sees. ``t`` is a tensor of the state's dtype and device that *broadcasts against y*: 0-dimensional
where the whole batch shares its steps, (B, 1, ..., 1) where every sample has its own. So ``t * y``, ``torch.sin(t)``
and, for a time channel, ``torch.cat([y, t.expand_as(y[:, :1])], 1)`` work in both.

The clock itself is made of Python floats, and no decision needs more than one host read a step. Steps land exactly on
the requested times, with and without gradients: differentiating through an interpolant costs accuracy (26 % error of
the gradient at a tolerance of 1e-3 against 4 %), and values must not depend on whether a gradient is wanted.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoo.solvers.base import Result, Solution, Stats, check_numbers
from zoo.solvers.ode.dense import Interpolant
from zoo.solvers.ode.events import Events
from zoo.solvers.packing import Packed, Packing, refuse_in_place, resolution, versions, wrote_in_place

VectorField = Callable[..., Tensor]  # (t, y, *args) -> dy/dt, of y's shape
Norm = Callable[[Tensor], Tensor]  # error over tolerance, of the state's shape -> (rows,), each at most 1 to accept


class Attempt(NamedTuple):
    """What one step proposes."""

    y: Tensor  # state at the step's end
    k: Tensor | None  # f there, where the method has it (first same as last)
    ratio: Tensor | None  # (B,) error estimate over tolerance; None for a step without an estimate
    dense_coeff: Tensor | None = None  # quartic term of the dense output, where it was asked for
    unsolved: np.ndarray | None = None  # (B,) where the equation of an implicit step was not solved


Step = Callable[..., Attempt]  # (t, dt, y, k, dense: bool) -> Attempt; t and dt floats, or (B, 1, ..., 1)


@dataclass(frozen=True)
class ODEStats(Stats):
    """`Stats` of an integration: ``steps`` counts attempts, accepted and rejected.

    ``residual`` is the error estimate of each sample's last accepted step over its tolerance (NaN for fixed steps),
    ``trace`` (K, B) that of each attempt. ``converged`` tells who reached the last requested time: with adaptive steps
    each within its tolerance, with fixed steps whatever the error (``Result.fixed_steps`` says so).

    Attributes:
        reached: (B,) time to which each sample was integrated. Rows of the value that belong to later times repeat
            the state at ``reached``: one rule for a terminal event, for exhausted steps and for a non-finite state.
        event_time: (B,) time of the terminal event; NaN where none occurred.
        event_index: (B,) which of several events it was, from 0; -1 where none occurred.
    """

    reached: Tensor | None = None
    event_time: Tensor | None = None
    event_index: Tensor | None = None


# What else helps where an integration ends early.
STEPS = {
    Result.max_steps: " A larger atol helps where the state crosses zero.",
    Result.nonfinite: " Where the input is right, the steps are too large for a field this stiff, or the solution "
    "itself is singular: take smaller or adaptive steps, implicit_euler for a stiff field, or end earlier.",
}


@dataclass(frozen=True)
class ODESolution(Solution[Any]):
    """States at the requested times, (T, B, ...). With ``dense=True``, `evaluate` gives the states between them.

    ``event_time`` (B,) is `ODEStats.event_time` in the state's dtype with its derivative, by the implicit function
    theorem, ``dt* = -dg / (dg/dt)``; None where no event was looked for.
    """

    stats: ODEStats
    event_time: Tensor | None = None
    interpolant: Interpolant | None = None
    unpack: Callable[[Tensor], Any] | None = None

    @property
    def message(self) -> str:
        """How the integration ended, in a sentence, and what helps where it failed."""
        return self.result.value + STEPS.get(self.result, "")

    def evaluate(self, t: float | Sequence[float] | Tensor) -> Any:
        """The state at a time (B, ...), or at several (T, B, ...), by the solver's interpolant."""
        if self.interpolant is None:
            raise ValueError(
                f"This solution has nothing between its times (result: {self.result.name}): it was solved without "
                "dense=True, or it took no step."
            )
        y = self.interpolant(t)
        return y if self.unpack is None else self.unpack(y)


StepWrapper = Callable[[Step, "Field", bool], Step]  # (step, field, keep the slope k) -> step


class PackedField(Packed):
    """A field of tuples, or of half precision, as the solvers see it: (B, N), in float32 at least.

    A half-precision state is added up in float32; ``f`` sees it, and ``t``, in its own dtype. ``t`` broadcasts against
    the first tensor of a tuple.
    """

    def __call__(self, t: Tensor, flat: Tensor, *args: Tensor) -> Tensor:  # type: ignore[override]
        return self.packing.pack(self.f(_time(self.packing, t), self.packing.unpack(flat), *args))


class PackedEvent(Packed):
    """An event of tuples, or of half precision, as the solvers see it."""

    def __call__(self, t: Tensor, flat: Tensor, *args: Tensor) -> Tensor:  # type: ignore[override]
        found: Any = self.f(_time(self.packing, t), self.packing.unpack(flat), *args)
        if isinstance(found, Tensor) and self.packing.whole and found.dim() < 2:
            return found.reshape(1, -1)  # of the one sample that a state without a batch axis is
        return found


def _time(packing: Packing, t: Tensor) -> Tensor:
    if t.dim():
        t = t.reshape(()) if packing.whole else t.view((-1,) + (1,) * len(packing.shapes[0]))
    return t.to(packing.real)


WRITER = "The field f(t, y, *args)"


class Field:
    """The user's ``f`` bound to its per-sample arguments: it counts calls, checks shapes and holds still who is done.

    A sample that is settled (terminal event, diverged) sees ``f = 0``: its state stays, its error is zero, and its
    gradient passes through unchanged, whatever the method.

    Attributes:
        active_mask: (B, 1, ..., 1), False for samples that are held still.
        stand_in: the sample whose state, and arguments, ``f`` is shown in place of those that are held still: where
            ``f`` is not finite at their own, 0 * NaN would reach the parameters that all share. None: their own.
    """

    def __init__(self, f: VectorField, args: tuple[Tensor, ...] | None) -> None:
        self.f, self.args = f, args or ()
        self.calls = self.samples = 0
        self.active_mask: Tensor | None = None
        self.stand_in: int | None = None

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        self.samples += y.shape[0]
        if self.calls == 1 or self.args or self.stand_in is not None or y.is_inference():
            dy = self._apart(t, y)
        else:
            before = y._version
            dy = self.f(t, y)
            if y._version != before:
                raise wrote_in_place(WRITER)
        if dy.__class__ is not Tensor and not isinstance(dy, Tensor):
            raise TypeError(f"f(t, y) must return a tensor of y's shape {tuple(y.shape)}; got {type(dy).__name__}.")
        if dy.dtype != y.dtype and torch.is_autocast_enabled(y.device.type):
            dy = dy.to(y.dtype)
        if dy.shape != y.shape or dy.dtype != y.dtype:
            raise ValueError(
                f"f(t, y) must return dy/dt with y's shape and dtype: given {tuple(y.shape)} {y.dtype}, it returned "
                f"{tuple(dy.shape)} {dy.dtype}. Add a projection (or a .to(dtype)) at its end."
            )
        return dy if self.active_mask is None else torch.where(self.active_mask, dy, 0.0)

    def _apart(self, t: Tensor, y: Tensor) -> Tensor:
        """Call ``f`` with its arguments, on a copy where its writes would do harm unseen.

        The first state is the caller's own, and inference tensors do not count the writes.
        """
        given = (y.clone() if self.calls == 1 or y.is_inference() else y, *self.args)
        if self.stand_in is not None:
            given = tuple(self._standing_in(x, self.stand_in) for x in given)
        before = versions(given)
        try:
            dy = self.f(t, *given)
        except TypeError as error:
            if self.calls > 1 or "positional argument" not in str(error):
                raise
            raise TypeError(
                f"{error}. A field is called as f(t, y, *args), with {len(self.args)} args here."
            ) from error
        refuse_in_place(given, before, WRITER)
        if self.calls == 1 and given[0].is_inference() and not torch.equal(given[0], y):
            raise wrote_in_place(WRITER)
        return dy

    def _standing_in(self, x: Tensor, row: int) -> Tensor:
        assert self.active_mask is not None
        return torch.where(self.active_mask.view(-1, *[1] * (x.dim() - 1)), x, x[row].detach())


@dataclass(frozen=True)
class Problem:
    """A checked initial value problem: what `integrate` hands to a solver."""

    field: Field
    y0: Tensor
    ts: np.ndarray  # (T,), or (B, T) where every sample has its own times
    event: Events | None
    dense: bool
    norm: Norm | None
    step_wrapper: StepWrapper | None
    compact: bool  # finished samples may be taken out of the batch

    @property
    def batch(self) -> int:
        return self.y0.shape[0]


@dataclass(frozen=True, kw_only=True)
class ODESolver(ABC):
    """A method for ``dy/dt = f(t, y)``. Subclasses are frozen.

    Args:
        rtol, atol: a step is accepted when, with ``e`` its error estimate, ``s = atol + rtol * max(|y|, |y_next|)`` and
            the root mean square taken over one sample's numbers, ``rms(e / s) <= 1`` *for every sample*: a mean over
            the batch would average a hard sample's error away. Never below the resolution of the state's dtype.
            A tighter ``rtol`` alone leaves ``atol`` as it is, for one is of the state's unit and the other is not:
            numbers below ``atol / rtol`` (0.1, by default) are then as accurate as before, so give both. Methods of
            fixed steps make no use of them.
        max_steps: attempted steps of adaptive methods at most; then the states reached are returned with
            ``Result.max_steps``, or ``Result.stiff``. Fixed steps are taken as they were asked for.

    Raises:
        ValueError: a negative tolerance, both tolerances zero, or ``max_steps < 1``.
    """

    rtol: float = 1e-5
    atol: float = 1e-6
    max_steps: int = 10_000

    order: ClassVar[int]

    def __post_init__(self) -> None:
        name = type(self).__name__
        check_numbers(self, ("rtol", "atol", "steps", "step_size", "first_step", "max_step"), ("max_steps",))
        if not (self.rtol >= 0 and self.atol >= 0):
            raise ValueError(f"{name}: rtol and atol must not be negative; got {self.rtol} and {self.atol}.")
        if self.rtol == 0 and self.atol == 0:
            raise ValueError(f"{name}: rtol and atol are both 0, which nothing meets; set one above 0.")
        if self.max_steps < 1:
            raise ValueError(f"{name}: max_steps must be at least 1; got {self.max_steps}.")


class WholeSolver(ODESolver):
    """A method with a time loop of its own, such as another package's."""

    @abstractmethod
    def run(self, problem: Problem) -> ODESolution:
        """Integrate a checked problem."""


def sample_norm(y: Tensor) -> Norm:
    """The root mean square over each sample's numbers, for states of ``y``'s shape."""
    if y.dim() == 1:
        return torch.abs
    dims, root = tuple(range(1, y.dim())), 1 / math.sqrt(y[0].numel())
    return lambda x: torch.linalg.vector_norm(x, dim=dims) * root


def scaled(error: Tensor, y0: Tensor, y1: Tensor, rtol: float, atol: float) -> Tensor:
    """``error / (atol + rtol * max(|y0|, |y1|))``, overwriting ``error``."""
    return error.div_(torch.maximum(y0.abs(), y1.abs()).mul_(rtol).add_(atol))


def tolerance(solver: ODESolver, f: VectorField, y: Tensor) -> tuple[float, float]:
    """The solver's rtol, not below the resolution of what ``f`` computes with, and atol."""
    return max(solver.rtol, resolution(f, y)), solver.atol
