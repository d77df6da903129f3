"""What every solver shares: `Solver`, `Solution`, `Result`, `Stats`, `Affine`.

Shape letters: ``B`` samples, ``N`` numbers in one sample's state (everything behind the batch, flattened), ``K`` steps.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, Generic, Self, TypeVar, overload

import torch
from torch import Tensor

Z = TypeVar("Z")
Map = Callable[..., Tensor]  # (B, N), *args -> (B, N)


class Result(enum.Enum):
    """How a solve ended; the value is the sentence that a person reads."""

    converged = "Every sample met its tolerance."
    fixed_steps = (
        "Every sample reached the last time by fixed steps, whose error nobody estimated. Halve the steps to see it, "
        "or take a solver that adapts them, such as dopri5."
    )
    terminated = "A terminal event ended the integration before the last requested time."
    max_steps = (
        "The solver used all its steps before every sample met its tolerance. Raise max_steps or rtol, or try another "
        "solver."
    )
    dependent = (
        "The samples of this batch depend on one another, or the map does not answer the same twice: a state that had "
        "met its tolerance no longer does. Solve the batch as one system (coupled=True, or a leading axis of 1), or "
        "take batch normalization and random draws out of the map."
    )
    unsolved = (
        "The equation of an implicit time step was not solved to its tolerance; the best iterate was taken. Take "
        "smaller steps, or raise max_steps of the solver's own solver."
    )
    stiff = (
        "The field is stiff: stability, not accuracy, bounds the steps of an explicit solver, and max_steps ran out. "
        "Use implicit_euler, or torchdiffeq:scipy_solver with options={'solver': 'Radau'} (or 'BDF'), or raise "
        "max_steps."
    )
    stalled = (
        "The time step fell below the resolution of the clock while the error stayed too large: the solution is "
        "singular there, or the field jumps. End before the singularity, name the jump in jump_ts, or raise atol."
    )
    nonfinite = "A state became infinite or NaN; the best finite one was kept. Check the input for NaN."

    @property
    def success(self) -> bool:
        """Whether the solve reached its end: the tolerance, the last time, or a terminal event."""
        return self in (Result.converged, Result.fixed_steps, Result.terminated)

    @staticmethod
    def worst(results: Iterable[Result]) -> Result:
        """The worst of several results; the members stand in this order, the best first."""
        return max(results, key=list(Result).index)


# What else helps where a search for a fixed point ends without one.
CONTRACT = {
    Result.max_steps: " A map that contracts more needs fewer (weight or spectral normalization, Jacobian "
    "regularization).",
    Result.nonfinite: " Damp the iteration, or make the map contractive (normalization, Jacobian regularization).",
}


class SolveError(RuntimeError):
    """Raised by ``throw=True`` where a solve did not converge. ``solution`` holds what was reached."""

    def __init__(self, solution: Solution[Any]) -> None:
        s = solution.stats
        super().__init__(
            f"{solution.message} ({int(s.converged.sum())} of {len(s.converged)} samples converged in "
            f"{s.nfe} evaluations; worst residual {float(s.residual.max()):.3g}.)"
        )
        self.solution = solution

    def __reduce__(self) -> tuple[type[SolveError], tuple[Solution[Any]]]:
        """Pickle by the solution: an error must cross a process boundary."""
        return SolveError, (self.solution,)


@dataclass(frozen=True)
class Stats:
    """What a solve did, on the host, detached from every graph.

    Attributes:
        nfe: calls of the map (for a linear solve: products with the matrix).
        steps: (B,) steps that each sample took until it converged or the solve ended.
        residual: (B,) of the returned state, ``|f(z) - z| / |z|`` (linear systems and adjoints: ``/ |b|``).
        converged: (B,) whether the sample met its tolerance.
        trace: (K, B) residual after each evaluation; NaN for a sample that was no longer in the batch.
        sample_nfe: evaluations counted by sample: less than ``nfe * B`` where finished samples left the batch.
        accepted, rejected: (B,) time steps, for ODEs; else None.
        last_dt: (B,) last accepted time step, for ODEs; else None.
        lost: (B,) whether the sample's state became infinite or NaN, for fixed points; else None.
        coupled: whether samples were seen to depend on one another; None: nothing tells.
        whole: whether the batch was kept together because a part of it could not be solved by itself.
        backward: the stats of each backward solve that has run through this solution, oldest first: a `BackwardLog`
            where the adjoint solves a system of its own, else empty.
    """

    nfe: int
    steps: Tensor
    residual: Tensor
    converged: Tensor
    trace: Tensor
    sample_nfe: int = 0
    accepted: Tensor | None = None
    rejected: Tensor | None = None
    last_dt: Tensor | None = None
    lost: Tensor | None = None
    coupled: bool | None = None
    whole: bool = False
    backward: Sequence[Stats] = ()


class BackwardLog(Sequence[Stats]):
    """The stats of the backward solves that have run through a solution, oldest first.

    It grows after the solution was returned: the adjoint that made it appends to it whenever a gradient comes through.
    """

    def __init__(self) -> None:
        self._solves: list[Stats] = []

    def append(self, stats: Stats) -> None:
        """Add one backward solve; for the adjoint alone."""
        self._solves.append(stats)

    def __len__(self) -> int:
        return len(self._solves)

    @overload
    def __getitem__(self, k: int) -> Stats: ...
    @overload
    def __getitem__(self, k: slice) -> list[Stats]: ...
    def __getitem__(self, k: int | slice) -> Stats | list[Stats]:
        return self._solves[k]

    def __repr__(self) -> str:
        return repr(self._solves)


@dataclass(frozen=True)
class Solution(Generic[Z]):
    """A state, how the solve ended (the worst over the batch), and what it took.

    ``state`` is the method's own last state where it was asked for, else None: it may hold many times the value.
    """

    value: Z
    result: Result
    stats: Stats
    state: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """What crosses a process boundary: all but the graph and the method's own state."""
        return {**self.__dict__, "value": _detached(self.value), "state": None}

    @property
    def message(self) -> str:
        """How the solve ended, in a sentence, and what helps where it failed."""
        return self.result.value + CONTRACT.get(self.result, "")


def check_numbers(options: Any, numbers: Sequence[str], whole: Sequence[str]) -> None:
    """Raise where an option of a solver is no number, or no whole one; what is absent, or None, is left alone.

    Raises:
        TypeError: the option is named.
    """
    kinds = {**dict.fromkeys(numbers, (Real, "a number")), **dict.fromkeys(whole, (Integral, "a whole number"))}
    for name, (kind, what) in kinds.items():
        value = getattr(options, name, None)
        usual = value is None or type(value) is int or (type(value) is float and kind is Real)
        if not usual and not isinstance(value, kind):
            raise TypeError(f"{type(options).__name__}: {name} must be {what}; got {value!r}.")


@dataclass(frozen=True)
class Affine:
    """The affine map ``u -> L u + b`` whose fixed point solves the linear system ``(I - L) u = b``.

    Args:
        linear: the product ``L u``, (B, N) -> (B, N).
        offset: ``b``, (B, N).
        transpose: the product ``L^T u``, for the methods that need it (conjugate gradients on the normal equations).
        zero: a start that is zero, so that its residual is ``b`` without a product.
    """

    linear: Map
    offset: Tensor
    transpose: Map | None = None
    zero: Tensor | None = None

    def __call__(self, u: Tensor) -> Tensor:
        return self.linear(u) + self.offset

    def residual(self, u: Tensor) -> Tensor:
        """``b + L u - u``."""
        return self.offset if u is self.zero else self(u) - u

    def start(self, solver: Solver) -> tuple[Affine, Tensor]:
        """This map, and where a method begins best where nothing is known of the answer.

        A Krylov method begins at zero: with as many products it then searches ``span(b, Lb, ...)``, of which
        ``b + span(Lb, ...)``, what it would search from ``b``, is a part. Every other method begins at ``b``, one
        plain step from zero that costs nothing.
        """
        if not solver.krylov:
            return self, self.offset
        zero = self.offset.new_zeros(()).expand_as(self.offset)
        return dataclasses.replace(self, zero=zero), zero

    @classmethod
    def of(cls, f: Map, z: Tensor) -> Affine:
        """View ``f`` as an affine map, by its value at zero: ``L u = f(u) - f(0)``. One evaluation."""
        offset = f(torch.zeros_like(z))
        return cls(lambda u: f(u) - offset, offset)


@dataclass(frozen=True, kw_only=True)
class Solver(ABC):
    """A method for ``z = f(z)``. Subclasses are final, frozen, and know nothing of stopping or statistics.

    Args:
        rtol: a sample has converged when ``|f(z) - z| <= atol * sqrt(N) + rtol * |z|`` (euclidean norms over one
            sample). In a linear system ``|b|`` stands for ``|z|``: with a gradient as ``b``, the answer's relative
            error does not depend on the scale of the loss. Never below the resolution of the map's own dtype.
        atol: absolute part, a root mean square. A name with options that give a tighter ``rtol`` alone, as in
            ``{"name": "anderson", "rtol": 1e-8}``, takes ``atol`` in the same proportion: 1e-3 of it.
        max_steps: steps at most. Every returned iterate was measured, so a solve costs at most one evaluation more.

    Raises:
        ValueError: a negative tolerance, both tolerances zero, or ``max_steps < 1``.
    """

    rtol: float = 1e-3
    atol: float = 1e-6
    max_steps: int = 30

    linear: ClassVar[bool] = False  # solves affine maps only
    krylov: ClassVar[bool] = False  # ... by the best combination of the products that it has seen
    monotone: ClassVar[bool] = False  # its residual never grows: the last iterate is the best
    unrollable: ClassVar[bool] = True  # its steps can be backpropagated through
    traceable: ClassVar[bool] = False  # its steps decide nothing on the host: a graph of tensors can hold them
    holds: ClassVar[bool] = False  # a settled sample stays at its answer, and every step measures it again there

    def __post_init__(self) -> None:
        check_numbers(self, ("rtol", "atol"), ("max_steps", "window"))
        for name in ("rtol", "atol"):
            value = getattr(self, name)
            if not value >= 0:
                raise ValueError(f"{type(self).__name__}: {name} must not be negative, or NaN; got {value}.")
        if self.rtol == 0 and self.atol == 0:
            raise ValueError(f"{type(self).__name__}: rtol and atol are both 0, which nothing meets; set one above 0.")
        if self.max_steps < 1:
            raise ValueError(f"{type(self).__name__}: max_steps must be at least 1; got {self.max_steps}.")

    def replace(self, **changes: Any) -> Self:
        """Return the same solver with other options; a network that it holds is shared."""
        return dataclasses.replace(self, **changes)

    @property
    def forgets_at(self) -> float:
        """The growth of the residual at which a sample's history is forgotten."""
        return math.inf

    @abstractmethod
    def init(self, f: Map, z: Tensor) -> Any:
        """The state at the start: a NamedTuple with ``z`` (B, N), ``norm`` (B,) = |f(z) - z|, and the method's own
        tensors, batch first."""

    @abstractmethod
    def step(self, f: Map, state: Any, active: Tensor | None) -> Any:
        """The next state. ``active`` (B,) is False for samples whose answer is already settled; None: all active."""

    def value(self, state: Any) -> Tensor:
        """Return the iterate that a state stands for, (B, N)."""
        return state.z

    def propose(self, state: Any) -> tuple[Tensor, Any]:
        """Return the next iterate, (B, N), without an evaluation, and the state that knows of it; not all can."""
        raise TypeError(f"The solver {type(self).__name__} cannot tell its next iterate without an evaluation.")

    def residual(self, state: Any) -> Tensor | None:
        """Return ``f(z) - z``, (B, N), where the state has it, for norms that leave the range of the dtype."""
        return None

    def forget(self, state: Any, mask: Tensor) -> Any:
        """Return the state without the history of the samples in ``mask`` (B,), whose residual has grown."""
        return state


@dataclass(frozen=True, kw_only=True)
class FixedPointSolver(Solver):
    """A method of one evaluation a step: propose an iterate, evaluate the map there, absorb what was seen."""

    holds: ClassVar[bool] = True

    @abstractmethod
    def start(self, z: Tensor, fz: Tensor) -> Any:
        """The state that has seen one evaluation, ``fz = f(z)``."""

    @abstractmethod
    def propose(self, state: Any) -> tuple[Tensor, Any]:
        """The next iterate, (B, N), and the state with what `absorb` will want to know of it."""

    @abstractmethod
    def absorb(self, state: Any, z: Tensor, fz: Tensor) -> Any:
        """The state after the map was evaluated at ``z``."""

    def init(self, f: Map, z: Tensor) -> Any:
        return self.start(z, f(z))

    def step(self, f: Map, state: Any, active: Tensor | None) -> Any:
        z, state = self.propose(state)
        if active is None:
            return self.absorb(state, z, f(z))
        # A settled sample stays at its answer, where it is measured again. Its rows stay in the graph of f, where
        # 0 * NaN would reach the parameters that all samples share: no gradient comes back from there.
        moving = active[:, None]
        z = torch.where(moving, z, state.z.detach())
        fz = f(z)
        return self.absorb(state, z, torch.where(moving, fz, fz.detach()) if fz.requires_grad else fz)


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    return tuple(map(_detached, value)) if isinstance(value, tuple) else value


def take(state: Any, index: Tensor) -> Any:
    """The rows ``index`` of every tensor in a state."""
    if isinstance(state, Tensor):
        return state.index_select(0, index) if state.dim() else state
    if isinstance(state, tuple):
        parts = [take(s, index) for s in state]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    return state


def freeze(state: Any, moving: Tensor) -> Any:
    """The same state, through whose rows no gradient passes but for those that are ``moving`` (B,)."""
    if isinstance(state, Tensor):
        if not state.requires_grad:
            return state
        return torch.where(moving.view(-1, *[1] * (state.dim() - 1)), state, state.detach())
    if isinstance(state, tuple):
        parts = [freeze(s, moving) for s in state]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    return state
