"""What every ODE solver shares: `ODESolver`, its options, and `integrate`, the one entry to the time loops.

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

from zoo.solvers.base import Solution, Stats
from zoo.solvers.dense import Event, Interpolant
from zoo.solvers.packing import Packed, Packing, resolution

VectorField = Callable[..., Tensor]  # (t, y, *args) -> dy/dt, of y's shape
Norm = Callable[[Tensor], Tensor]  # error over tolerance, of the state's shape -> (rows,), each at most 1 to accept


class Attempt(NamedTuple):
    """What one step proposes."""

    y: Tensor  # state at the step's end
    k: Tensor | None  # f there, where the method has it (first same as last)
    ratio: Tensor | None  # (B,) error estimate over tolerance; None for a step without an estimate
    bend: Tensor | None = None  # quartic term of the dense output, where it was asked for
    unsolved: np.ndarray | None = None  # (B,) where the equation of an implicit step was not solved


Step = Callable[..., Attempt]  # (t, dt, y, k, bend: bool) -> Attempt; t and dt floats, or (B, 1, ..., 1)


@dataclass(frozen=True)
class ODEStats(Stats):
    """`Stats` of an integration: ``steps`` counts attempts, accepted and rejected.

    ``residual`` is the error estimate of each sample's last accepted step over its tolerance (NaN for fixed steps),
    ``trace`` (K, B) that of each attempt, and ``converged`` tells who reached the last requested time.

    Attributes:
        reached: (B,) time to which each sample was integrated. Rows of the value that belong to later times repeat
            the state at ``reached``: one rule for a terminal event, for exhausted steps and for a non-finite state.
        event_time: (B,) time of the terminal event; NaN where none occurred.
    """

    reached: Tensor | None = None
    event_time: Tensor | None = None


@dataclass(frozen=True)
class ODESolution(Solution[Any]):
    """States at the requested times, (T, B, ...). With ``dense=True``, `evaluate` gives the states between them."""

    stats: ODEStats
    interpolant: Interpolant | None = None
    unpack: Callable[[Tensor], Any] | None = None

    def evaluate(self, t: float | Sequence[float] | Tensor) -> Any:
        """The state at a time (B, ...), or at several (T, B, ...), by the solver's interpolant."""
        if self.interpolant is None:
            raise ValueError("This solution kept no interpolant; solve with dense=True to evaluate it between ts.")
        y = self.interpolant(t)
        return y if self.unpack is None else self.unpack(y)


Around = Callable[[Step, "Field", bool], Step]  # (step, field, keep the slope k) -> step


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
        return self.f(_time(self.packing, t), self.packing.unpack(flat), *args).to(flat.dtype)  # type: ignore[union-attr]


def _time(packing: Packing, t: Tensor) -> Tensor:
    return (t.view((-1,) + (1,) * len(packing.shapes[0])) if t.dim() else t).to(packing.dtype)


class Field:
    """The user's ``f`` bound to its per-sample arguments: it counts calls, checks shapes and holds still who is done.

    A sample that is settled (terminal event, diverged) sees ``f = 0``: its state stays, its error is zero, and its
    gradient passes through unchanged, whatever the method.
    """

    def __init__(self, f: VectorField, args: tuple[Tensor, ...] | None) -> None:
        self.f, self.args = f, args or ()
        self.calls = self.samples = 0
        self.moving: Tensor | None = None  # (B, 1, ..., 1), False for samples that are held still

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        self.samples += y.shape[0]
        dy = self.f(t, y, *self.args)
        if dy.__class__ is not Tensor and not isinstance(dy, Tensor):
            raise TypeError(f"f(t, y) must return a tensor of y's shape {tuple(y.shape)}; got {type(dy).__name__}.")
        if dy.dtype != y.dtype and torch.is_autocast_enabled(y.device.type):
            dy = dy.to(y.dtype)
        if dy.shape != y.shape or dy.dtype != y.dtype:
            raise ValueError(
                f"f(t, y) must return dy/dt with y's shape and dtype: given {tuple(y.shape)} {y.dtype}, it returned "
                f"{tuple(dy.shape)} {dy.dtype}. Add a projection (or a .to(dtype)) at its end."
            )
        return dy if self.moving is None else torch.where(self.moving, dy, 0.0)


@dataclass(frozen=True)
class Problem:
    """A checked initial value problem: what `integrate` hands to a solver."""

    field: Field
    y0: Tensor
    ts: np.ndarray  # (T,), or (B, T) where every sample has its own times
    event: Event | None
    dense: bool
    norm: Norm | None
    around: Around | None
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
            Methods of fixed steps make no use of them.
        max_steps: attempted steps at most; then the states reached are returned with ``Result.max_steps``.

    Raises:
        ValueError: a negative tolerance, both tolerances zero, or ``max_steps < 1``.
    """

    rtol: float = 1e-5
    atol: float = 1e-6
    max_steps: int = 10_000

    order: ClassVar[int]

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not (self.rtol >= 0 and self.atol >= 0):
            raise ValueError(f"{name}: rtol and atol must not be negative; got {self.rtol} and {self.atol}.")
        if self.rtol == 0 and self.atol == 0:
            raise ValueError(f"{name}: rtol and atol are both 0, which nothing meets; set one above 0.")
        if self.max_steps < 1:
            raise ValueError(f"{name}: max_steps must be at least 1; got {self.max_steps}.")

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


def integrate(
    f: VectorField,
    y0: Tensor,
    ts: Tensor | Sequence[float],
    solver: ODESolver,
    *,
    args: tuple[Tensor, ...] | None = None,
    event: Event | None = None,
    dense: bool = False,
    norm: Norm | None = None,
    around: Around | None = None,
) -> ODESolution:
    """Integrate ``dy/dt = f(t, y)`` from ``ts[0]`` through every time of ``ts``.

    Args:
        f: the field, called as ``f(t, y, *args)``; ``t`` broadcasts against ``y`` (see the head of this file).
        y0: (B, ...), floating point and finite.
        ts: at least two times, increasing or decreasing; (B, T) for times of each sample (``per_sample`` solvers).
        solver: the method with its tolerances.
        args: batch-first tensors that ``f`` needs for its samples. None: ``f`` may hold such tensors itself, and no
            sample leaves the batch.
        event: ``(t, y, *args) -> (B,)``; a sample ends where its sign changes. ``t`` broadcasts against ``y``.
        dense: keep what `ODESolution.evaluate` needs.
        norm: replaces the per-sample norm of the error (for states whose first dimension is no batch).
        around: wraps the step function, for adjoints that decide what the graph of a step keeps.

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
    return solver.run(Problem(field, y0, times, event, dense, norm, around, compact=args is not None))


def tolerance(solver: ODESolver, f: VectorField, y: Tensor) -> tuple[float, float]:
    """The solver's rtol, not below the resolution of what ``f`` computes with, and atol."""
    return max(solver.rtol, resolution(f, y)), solver.atol


def _times(ts: Tensor | Sequence[float], batch: int) -> np.ndarray:
    if isinstance(ts, Tensor):
        if ts.requires_grad:
            raise ValueError(
                "ts requires grad, but gradients to the times are not computed. Scale time inside f instead: "
                "with a learned duration T, integrate lambda s, y: T * f(s * T, y) over s in [0, 1]."
            )
        times = ts.detach().double().cpu().numpy()
    else:
        times = np.asarray(ts, dtype=np.float64)
    if times.ndim not in (1, 2) or times.shape[-1] < 2:
        raise ValueError(f"ts must hold at least two times, the start and an end; got the shape {times.shape}.")
    if times.ndim == 2 and len(times) != batch:
        raise ValueError(f"ts of shape (B, T) must have one row a sample; got {times.shape} for a batch of {batch}.")
    gaps = np.diff(times, axis=-1)
    if not (np.isfinite(times).all() and (bool((gaps > 0).all()) or bool((gaps < 0).all()))):
        raise ValueError(f"ts must be finite and strictly increasing, or strictly decreasing; got {_short(times)}.")
    return times


def _short(times: np.ndarray) -> str:
    return np.array2string(times, threshold=8, precision=6, separator=", ")
