"""`iterate`, the one loop that runs a fixed-point method.

The loop owns stopping, the best iterate, frozen samples, statistics and taking finished samples out of the batch; a
method owns nothing but the proposal of its next iterate. The loop decides on the host, from one read a step of two
numbers a sample: ``|f(z) - z|`` and the scale that it is measured against.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from zoo.solvers.base import Affine, Map, Result, Solution, Solver, Stats, freeze, take
from zoo.solvers.history import release
from zoo.solvers.packing import call_unchanged, resolution
from zoo.solvers.profiler import profile_scope


class Counted:
    """A map bound to its per-sample arguments that counts its calls and refuses a change of shape or dtype."""

    def __init__(self, f: Map, args: tuple[Tensor, ...] | None, autocast: Any) -> None:
        self.f, self.args, self.autocast = f, args or (), autocast or nullcontext()
        self.calls = self.samples = 0

    def __call__(self, z: Tensor) -> Tensor:
        self.calls += 1
        self.samples += z.shape[0]
        with self.autocast, profile_scope("evaluation"):
            fz = call_unchanged(self.f, z, *self.args)
        if fz.shape != z.shape or fz.dtype != z.dtype:
            raise ValueError(
                f"The map must keep its state's shape and dtype: given {tuple(z.shape)} {z.dtype}, it returned "
                f"{tuple(fz.shape)} {fz.dtype}. Add a projection (or a .to(dtype)) at its end."
            )
        return fz

    def product(self, linear: Map) -> Map:
        """A product with a matrix, counted as an evaluation."""

        def call(u: Tensor) -> Tensor:
            self.calls += 1
            self.samples += u.shape[0]
            with profile_scope("product"):
                return linear(u)

        return call


class BatchProgress:
    """Which samples are still being solved, and what was measured of each; on the host.

    ``rows`` are the samples in hand, by their place in the whole batch; ``active``, ``best``, ``least`` likewise.
    """

    def __init__(self, batch: int, absolute: float, relative: float, restart: float, newest: bool) -> None:
        self.absolute, self.relative, self.newest = absolute, relative, newest
        self.restart = restart if math.isfinite(restart) else None
        self.rows = np.arange(batch)
        self.active = np.ones(batch, dtype=bool)
        self.left = batch  # how many are active
        self.best = np.full(batch, np.inf)  # the least residual of each, and at which step (of the whole batch)
        self.best_at = np.zeros(batch, dtype=np.int64)
        self.least = np.full(batch, np.inf)  # the least residual since the sample's history was last forgotten
        self.steps = np.zeros(batch, dtype=np.int64)
        self.converged, self.dead = np.zeros(batch, dtype=bool), np.zeros(batch, dtype=bool)
        self.log: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def lost(self, norm: np.ndarray) -> np.ndarray | None:
        """The active samples whose residual is not finite; None where there are none."""
        if math.isfinite(norm.sum()):
            return None
        lost = self.active & ~np.isfinite(norm)
        return lost if lost.any() else None

    def note(
        self, k: int, norm: np.ndarray, scale: np.ndarray, lost: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Take down step ``k``; returns which samples it improved, and whose residual has grown too much, if any."""
        self.log.append((self.rows, norm, scale))
        hit = norm <= self.absolute + self.relative * scale
        better = np.isfinite(norm) if self.newest else norm < self.best
        if self.left < len(self.rows):
            hit &= self.active
            better &= self.active
        self.best[better] = norm[better]
        self.best_at[self.rows[better]] = k
        grown = None
        if self.restart is not None:
            over = norm > self.restart * self.least
            if over.any():
                grown = over
                self.least[over] = np.inf
            np.fmin(self.least, norm, out=self.least)
        if hit.any():
            self.converged[self.rows[hit]] = True
            self._settle(k, hit)
        if lost is not None:
            self.dead[self.rows[lost]] = True
            self._settle(k, lost)
        return better, grown

    def _settle(self, k: int, which: np.ndarray) -> None:
        self.steps[self.rows[which]] = k
        self.active &= ~which
        self.left = int(self.active.sum())

    def cut(self) -> np.ndarray:
        """Let go of the settled samples; returns the places of the others among those that were in hand."""
        keep = np.flatnonzero(self.active)
        self.rows, self.best, self.least = self.rows[keep], self.best[keep], self.least[keep]
        self.active = np.ones(len(keep), dtype=bool)
        return keep

    def close(self, k: int) -> None:
        """The samples that are still active took ``k`` steps."""
        self.steps[self.rows[self.active]] = k

    def stats(self, calls: Counted) -> Stats:
        batch = len(self.steps)
        trace = np.full((len(self.log), batch), np.nan)
        with np.errstate(invalid="ignore", over="ignore"):  # infinity over infinity: a sample that has diverged
            for k, (rows, norm, scale) in enumerate(self.log):
                trace[k, rows] = norm / np.where(scale > 0, scale, np.where(norm > 0, norm, 1.0))
        return Stats(
            nfe=calls.calls,
            steps=torch.from_numpy(self.steps),
            residual=torch.from_numpy(trace[self.best_at, np.arange(batch)]),
            converged=torch.from_numpy(self.converged),
            trace=torch.from_numpy(trace),
            sample_nfe=calls.samples,
            lost=torch.from_numpy(self.dead),
        )

    @property
    def result(self) -> Result:
        if self.dead.any():
            return Result.nonfinite
        return Result.converged if self.converged.all() else Result.max_steps


def iterate(
    f: Map,
    z0: Tensor,
    solver: Solver,
    *,
    args: tuple[Tensor, ...] | None = None,
    select: Literal["best", "ahead", "last", "next"] = "best",
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
            ``ahead`` is ``best``, at the cost of ``next``: the unmeasured iterate is taken where the one before it was
            the best so far.
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
    newest = select in ("last", "next")
    if batch == 0 or size == 0:
        raise ValueError(f"Nothing to solve: the state has the shape {tuple(z0.shape)}; expected at least one sample.")
    call = Counted(f, args, autocast)
    target: Map = call
    if isinstance(f, Affine):
        target = Affine(call.product(f.linear), f.offset, f.transpose and call.product(f.transpose), f.zero)
    elif solver.linear:
        target = Affine.of(call, z0)
    affine = isinstance(target, Affine)
    fixed = torch.linalg.vector_norm(target.offset, dim=1).double().cpu().numpy() if affine else None
    progress = BatchProgress(
        batch, solver.atol * math.sqrt(size), max(solver.rtol, floor), solver.restart, newest=newest
    )
    compact = args is not None and not affine
    track = newest or not solver.monotone
    recorded = torch.is_grad_enabled() and solver.unrollable

    state = solver.init(target, z0)
    before: Any = None  # the start of the last step, kept only where that may have to be taken again or undone
    best = z0  # of the samples in hand
    value: Tensor | None = None  # of the whole batch, once samples have been let go
    pending: Tensor | None = None  # None while every sample in hand is active
    for k in range(solver.max_steps + 1):
        norm, scale = _read(state.norm, torch.linalg.vector_norm(state.z.detach(), dim=1) if fixed is None else fixed)
        left, lost = progress.left, progress.lost(norm)
        if lost is not None and k == 0:
            # Where b itself is not finite (a gradient that has overflowed, say), a start made of it is not to blame.
            _check_start(z0, lost if fixed is None else lost & np.isfinite(scale))
        elif lost is not None and recorded and (progress.active & ~lost).any():
            # The evaluation that was not finite would stay in the graph for the samples that go on, where 0 * NaN
            # reaches shared parameters: take the step once more, with the lost samples held where they were.
            moving = _to(progress.active & ~lost, z0)
            state = solver.step(target, freeze(before, moving), moving)
        elif lost is not None and not track:
            best = _keep(best, solver.value(before), lost)
        better, grown = progress.note(k, norm, scale, lost)
        if track:
            best = _keep(best, solver.value(state), better)
        if k == solver.max_steps or not progress.left:
            progress.close(k)
            break
        if grown is not None:
            state = solver.forget(state, _to(grown, z0))
        if recorded and progress.left < left:
            state = freeze(state, _to(progress.active, z0))
        if compact and 2 * progress.left <= len(progress.rows):
            value = best if value is None else _put(value, progress.rows, best)
            kept = progress.cut()
            keep, better = _to(kept, z0), better[kept]
            call.args, state, best, pending = take(call.args, keep), take(state, keep), best[keep], None
        elif progress.left < left:
            pending = _to(progress.active, z0)
        if select in ("next", "ahead") and k == solver.max_steps - 1:
            further = progress.active if newest else progress.active & better
            best = _keep(best, solver.propose(state)[0], further)  # type: ignore[attr-defined]
            progress.close(k + 1)
            break
        if recorded or not track:
            before = state
        state = solver.step(target, state, pending)

    if not track:
        best = _keep(solver.value(state), best, progress.dead[progress.rows])
    if value is not None:
        best = _put(value, progress.rows, best)
    if best.requires_grad and progress.dead.any():  # a sample that was lost has no say in any gradient
        best = torch.where(_to(progress.dead, z0)[:, None], best.detach(), best)
    if not keep_state:
        release(state)
    return Solution(best, progress.result, progress.stats(call), state if keep_state else None)


def _check_start(z0: Tensor, suspects: np.ndarray) -> None:
    """Raise where the start is not finite; looked at only where the first residual was not."""
    bad = suspects & ~torch.isfinite(z0.detach()).all(dim=1).cpu().numpy()
    if bad.any():
        where = ", ".join(map(str, np.flatnonzero(bad)[:5]))
        raise ValueError(f"The start is not finite in samples {where}; check the input for NaN.")


def _read(norm: Tensor, scale: Tensor | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two numbers a sample, to the host in one transfer; a scale that is there already stays as it is."""
    norm = norm.detach()
    if not isinstance(scale, Tensor):
        return norm.cpu().numpy().astype(np.float64), scale
    if norm.device.type != "cpu":
        norm, scale = torch.stack((norm, scale)).cpu()
    return norm.numpy().astype(np.float64), scale.numpy().astype(np.float64)


def _to(array: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(array.copy()).to(like.device)


def _keep(best: Tensor, z: Tensor, mask: np.ndarray) -> Tensor:
    """Put the masked rows of ``z`` into ``best``; by reference, without a copy, where that is every row."""
    if mask.all():
        return z
    return torch.where(_to(mask, z)[:, None], z, best) if mask.any() else best


def _put(value: Tensor, rows: np.ndarray, best: Tensor) -> Tensor:
    return value.index_copy(0, _to(rows, value), best)
