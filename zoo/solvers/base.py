"""What every solver shares: `Solver`, `Solution`, and `iterate`, the one loop that runs a fixed-point method.

Shape letters: ``B`` samples, ``N`` numbers in one sample's state (everything behind the batch, flattened), ``K`` steps.

The loop owns stopping, the best iterate, frozen samples, statistics and taking finished samples out of the batch;
a method owns nothing but the proposal of its next iterate. The decisions of the loop are made on the host from one
read a step of two numbers a sample, ``|f(z) - z|`` and the scale it is measured against.
"""

from __future__ import annotations

import enum
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from zoo.solvers.history import release
from zoo.solvers.packing import resolution

Z = TypeVar("Z")
Map = Callable[..., Tensor]  # (B, N), *args -> (B, N)


class Result(enum.Enum):
    """How a solve ended; the value is the sentence that a person reads."""

    converged = "Every sample met its tolerance."
    max_steps = (
        "The solver used all its steps before every sample met its tolerance. Raise max_steps or rtol, try another "
        "solver, or make the map more contractive (weight or spectral normalisation, Jacobian regularisation)."
    )
    nonfinite = (
        "A state became infinite or NaN; the best finite iterate was kept. Check the input for NaN, damp the "
        "iteration, or make the map contractive (normalisation, Jacobian regularisation)."
    )
    terminated = "A terminal event ended the integration before the last requested time."
    stalled = (
        "The time step fell below the resolution of the clock while the error stayed too large: the solution is "
        "singular there, or the field jumps. End before the singularity, split ts at the jump, or raise atol."
    )
    unsolved = (
        "The equation of an implicit time step was not solved to its tolerance; the best iterate was taken. Take "
        "smaller steps, or raise max_steps of the solver's own solver."
    )


class SolveError(RuntimeError):
    """Raised by ``throw=True`` where a solve did not converge. ``solution`` holds what was reached."""

    def __init__(self, solution: Solution[Any]) -> None:
        s = solution.stats
        super().__init__(
            f"{solution.result.value} ({int(s.converged.sum())} of {len(s.converged)} samples converged in "
            f"{s.nfe} evaluations; worst residual {float(s.residual.max()):.3g}.)"
        )
        self.solution = solution


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
        backward: the stats of each backward solve that has run through this solution, oldest first.
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
    backward: list[Stats] = field(default_factory=list)


@dataclass(frozen=True)
class Solution(Generic[Z]):
    """A state, how the solve ended (the worst over the batch), and what it took.

    ``state`` is the method's own last state where it was asked for, else None: it may hold many times the value.
    """

    value: Z
    result: Result
    stats: Stats
    state: Any = None


@dataclass(frozen=True)
class Affine:
    """The affine map ``u -> L u + b`` whose fixed point solves the linear system ``(I - L) u = b``.

    Args:
        linear: the product ``L u``, (B, N) -> (B, N).
        offset: ``b``, (B, N).
        transpose: the product ``L^T u``, for the methods that need it (conjugate gradients on the normal equations).
    """

    linear: Map
    offset: Tensor
    transpose: Map | None = None

    def __call__(self, u: Tensor) -> Tensor:
        return self.linear(u) + self.offset

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
        atol: absolute part, a root mean square.
        max_steps: steps at most. Every returned iterate was measured, so a solve costs at most one evaluation more.

    Raises:
        ValueError: a negative tolerance, both tolerances zero, or ``max_steps < 1``.
    """

    rtol: float = 1e-3
    atol: float = 1e-6
    max_steps: int = 30

    linear: ClassVar[bool] = False  # solves affine maps only
    monotone: ClassVar[bool] = False  # its residual never grows: the last iterate is the best
    unrollable: ClassVar[bool] = True  # its steps can be backpropagated through
    restart: ClassVar[float] = math.inf  # growth of the residual at which a sample's history is forgotten

    def __post_init__(self) -> None:
        for name in ("rtol", "atol"):
            value = getattr(self, name)
            if not value >= 0:
                raise ValueError(f"{type(self).__name__}: {name} must not be negative; got {value}.")
        if self.rtol == 0 and self.atol == 0:
            raise ValueError(f"{type(self).__name__}: rtol and atol are both 0, which nothing meets; set one above 0.")
        if self.max_steps < 1:
            raise ValueError(f"{type(self).__name__}: max_steps must be at least 1; got {self.max_steps}.")

    @abstractmethod
    def init(self, f: Map, z: Tensor) -> Any:
        """The state at the start: a NamedTuple with ``z`` (B, N), ``norm`` (B,) = |f(z) - z|, and the method's own
        tensors, batch first."""

    @abstractmethod
    def step(self, f: Map, state: Any, active: Tensor | None) -> Any:
        """The next state. ``active`` (B,) is False for samples whose answer is already settled; None: all active."""

    def value(self, state: Any) -> Tensor:
        """The iterate that a state stands for, (B, N)."""
        return state.z

    def forget(self, state: Any, mask: Tensor) -> Any:
        """The state without the history of the samples in ``mask`` (B,); asked for where the residual has grown."""
        return state


@dataclass(frozen=True, kw_only=True)
class FixedPointSolver(Solver):
    """A method of one evaluation a step: propose an iterate, evaluate the map there, absorb what was seen."""

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
        return self.absorb(state, z, f(z))


class SolverModule(nn.Module, ABC):
    """A solver with parameters of its own (a learned solver): ``init`` and ``step`` as `Solver` describes them."""

    rtol: float = 1e-3
    atol: float = 1e-6
    max_steps: int = 30
    linear = monotone = unrollable = False
    restart: float = math.inf

    @abstractmethod
    def init(self, f: Map, z: Tensor) -> Any: ...

    @abstractmethod
    def step(self, f: Map, state: Any, active: Tensor | None) -> Any: ...

    def value(self, state: Any) -> Tensor:
        return state.z

    def forget(self, state: Any, mask: Tensor) -> Any:
        return state


class Counted:
    """A map bound to its per-sample arguments that counts its calls and refuses a change of shape or dtype."""

    def __init__(self, f: Map, args: tuple[Tensor, ...] | None, autocast: Any = None) -> None:
        self.f, self.args, self.autocast = f, args or (), autocast
        self.calls = self.samples = 0

    def __call__(self, z: Tensor) -> Tensor:
        self.calls += 1
        self.samples += z.shape[0]
        with self.autocast or nullcontext():
            fz = self.f(z, *self.args)
        if fz.shape != z.shape or fz.dtype != z.dtype:
            raise ValueError(
                f"The map must keep its state's shape and dtype: given {tuple(z.shape)} {z.dtype}, it returned "
                f"{tuple(fz.shape)} {fz.dtype}. Add a projection (or a .to(dtype)) at its end."
            )
        return fz


class Work(NamedTuple):
    """What is left of the batch: the rows still being solved, and everything that is cut with them."""

    rows: np.ndarray  # their places in the whole batch
    f: Counted
    state: Any


def take(state: Any, index: Tensor) -> Any:
    """The rows ``index`` of every tensor in a state."""
    if isinstance(state, Tensor):
        return state.index_select(0, index) if state.dim() else state
    if isinstance(state, tuple):
        parts = [take(s, index) for s in state]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    return state


def iterate(
    f: Map,
    z0: Tensor,
    solver: Solver,
    *,
    args: tuple[Tensor, ...] | None = None,
    select: Literal["best", "last", "next"] = "best",
    floor: float | None = None,
    keep_state: bool = False,
) -> Solution[Tensor]:
    """Solve ``z = f(z)`` for every sample of a batch by itself.

    A sample that has converged is frozen: its answer does not depend on its batch-mates. Where fewer than half of the
    samples are left and ``args`` is given, the finished ones are taken out of the batch, so that they cost nothing.

    Args:
        f: the map, (B, N) -> (B, N), called as ``f(z, *args)``.
        z0: the start, (B, N), finite.
        solver: the method with its tolerances.
        args: batch-first tensors that ``f`` needs for its samples and that are cut with them. None: ``f`` may hold
            such tensors itself, and no sample ever leaves the batch.
        select: ``best`` returns each sample's iterate of least residual, ``last`` its last one, ``next`` the one after
            that, unmeasured, so that ``max_steps`` steps cost just as many evaluations (to backpropagate through them).
        floor: least relative tolerance; by default the resolution of the map's dtype.
        keep_state: put the method's last state into the solution, for what reuses it.

    Returns:
        the solution, with a value of shape (B, N).

    Raises:
        ValueError: the start is not finite, or the map changes shape or dtype.
    """
    device = z0.device.type
    if torch.is_autocast_enabled(device):
        # The map computes as its user asked for; the method's own products stay in the state's dtype.
        own = torch.autocast(device, dtype=torch.get_autocast_dtype(device))
        floor = resolution(f, z0) if floor is None else floor
        with torch.autocast(device, enabled=False):
            return _iterate(f, z0, solver, args, select, floor, keep_state, own)
    return _iterate(f, z0, solver, args, select, resolution(f, z0) if floor is None else floor, keep_state, None)


def _iterate(
    f: Map,
    z0: Tensor,
    solver: Solver,
    args: tuple[Tensor, ...] | None,
    select: str,
    floor: float,
    keep_state: bool,
    autocast: Any,
) -> Solution[Tensor]:
    batch, size = z0.shape
    if batch == 0 or size == 0:
        raise ValueError(f"Nothing to solve: the state has the shape {tuple(z0.shape)}; expected at least one sample.")
    call = Counted(f, args, autocast)
    target: Map = call
    if isinstance(f, Affine):
        target = Affine(_counted(f.linear, call), f.offset, f.transpose and _counted(f.transpose, call))
    elif solver.linear:
        target = Affine.of(call, z0)
    offset_norm = torch.linalg.vector_norm(target.offset, dim=1) if isinstance(target, Affine) else None
    rtol = max(solver.rtol, floor)

    work = Work(np.arange(batch), call, solver.init(target, z0))
    best: Tensor = z0
    best_norm = np.full(batch, np.inf)
    least = np.full(batch, np.inf)  # residual since the sample's last restart
    residual = np.full(batch, np.inf)
    steps = np.zeros(batch, dtype=np.int64)
    active = np.ones(batch, dtype=bool)
    converged, dead = ~active, ~active
    trace: list[np.ndarray] = []
    pending: Tensor | None = None  # None while every sample in the batch is active
    compact = args is not None and offset_norm is None
    track = select != "best" or not solver.monotone

    for k in range(solver.max_steps + 1):
        rows, state = work.rows, work.state
        scale = torch.linalg.vector_norm(state.z.detach(), dim=1) if offset_norm is None else offset_norm
        norm, scale = _read(state.norm, scale)
        if k == 0 and offset_norm is None and not np.isfinite(scale).all():
            raise ValueError(
                f"The start is not finite in samples {_few(~np.isfinite(scale))}; check the input for NaN."
            )
        whole = len(rows) == batch
        with np.errstate(invalid="ignore", over="ignore"):  # infinity over infinity: a sample that has diverged
            relative = norm / np.where(scale > 0, scale, np.where(norm > 0, norm, 1.0))
        trace.append(relative if whole else _scatter(relative, rows, batch))

        here = active[rows]
        finite = np.isfinite(norm)
        with np.errstate(invalid="ignore"):
            grown = here & (norm > solver.restart * least[rows])
        least[rows] = np.where(grown, norm, np.fmin(norm, least[rows]))
        better = here & finite & ((norm < best_norm[rows]) | (select != "best"))
        best_norm[rows] = np.where(better, norm, best_norm[rows])
        residual[rows] = np.where(better, relative, residual[rows])
        steps[rows] = np.where(here, k, steps[rows])
        hit = here & (norm <= solver.atol * math.sqrt(size) + rtol * scale)
        converged[rows] |= hit
        dead[rows] |= here & ~finite
        active = ~converged & ~dead

        last = k == solver.max_steps or not active.any()
        if track:
            best = _keep(best, solver.value(state), better, rows, whole)
        if last:
            break
        if grown.any():
            state = solver.forget(state, torch.from_numpy(grown).to(z0.device))
        left = int(active[rows].sum())
        if compact and 2 * left <= len(rows):
            keep = torch.from_numpy(np.flatnonzero(active[rows])).to(z0.device)
            call.args, state, rows = take(call.args, keep), take(state, keep), rows[active[rows]]
        pending = None if left == len(rows) else torch.from_numpy(active[rows]).to(z0.device)
        if select == "next" and k == solver.max_steps - 1:
            best = _keep(best, solver.propose(state)[0], active[rows], rows, len(rows) == batch)  # type: ignore[attr-defined]
            steps[rows] += active[rows]
            break
        work = Work(rows, call, solver.step(target, state, pending))

    if not track:
        best = solver.value(work.state)
    result = Result.nonfinite if dead.any() else Result.converged if converged.all() else Result.max_steps
    stats = Stats(
        nfe=call.calls,
        steps=torch.from_numpy(steps),
        residual=torch.from_numpy(residual),
        converged=torch.from_numpy(converged),
        trace=torch.from_numpy(np.stack(trace)),
        sample_nfe=call.samples,
    )
    if not keep_state:
        release(work.state)
    return Solution(best, result, stats, work.state if keep_state else None)


def _counted(product: Map, count: Counted) -> Map:
    def call(u: Tensor) -> Tensor:
        count.calls += 1
        count.samples += u.shape[0]
        return product(u)

    return call


def _read(norm: Tensor, scale: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Two numbers a sample, to the host in one transfer."""
    if norm.device.type != "cpu":
        norm, scale = torch.stack((norm, scale)).detach().cpu()
    return norm.detach().numpy().astype(np.float64), scale.detach().numpy().astype(np.float64)


def _keep(best: Tensor, z: Tensor, mask: np.ndarray, rows: np.ndarray, whole: bool) -> Tensor:
    """Put the masked rows of ``z`` into ``best``; by reference, without a copy, where that is every row."""
    if not mask.any():
        return best
    if whole and mask.all():
        return z
    if whole:
        return torch.where(torch.from_numpy(mask).to(z.device)[:, None], z, best)
    index = torch.from_numpy(rows[mask]).to(z.device)
    return best.index_copy(0, index, z.index_select(0, torch.from_numpy(np.flatnonzero(mask)).to(z.device)))


def _scatter(values: np.ndarray, rows: np.ndarray, batch: int) -> np.ndarray:
    out = np.full(batch, np.nan)
    out[rows] = values
    return out


def _few(mask: np.ndarray) -> str:
    where = np.flatnonzero(mask)
    return ", ".join(map(str, where[:5])) + (f" and {len(where) - 5} more" if len(where) > 5 else "")
