"""`iterate`, the one loop that runs a fixed-point method.

The loop owns stopping, the best iterate, frozen samples, statistics and taking finished samples out of the batch; a
method owns nothing but the proposal of its next iterate. The loop decides on the host, from one read a step of two
numbers a sample: ``|f(z) - z|`` and the scale that it is measured against.

A sample that has met its tolerance stays in the batch at its answer, and every later evaluation measures it again, for
nothing. Where its residual changes, the samples depend on one another: then it goes on where it must, no sample leaves
the batch, and the statistics say so (`Stats.coupled`). Where it stays, samples may leave.
"""

from __future__ import annotations

import dataclasses
import math
from contextlib import nullcontext
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from zoo.solvers.base import Affine, Map, Result, Solution, Solver, Stats, freeze, take
from zoo.solvers.history import release
from zoo.solvers.packing import mixes, refuse_in_place, resolution, versions
from zoo.solvers.profiler import profile_scope
from zoo.solvers.progress import BatchProgress, noise

Select = Literal["best", "ahead", "last", "next"]


class Counted:
    """A map bound to its per-sample arguments that counts its calls and refuses a change of shape or dtype."""

    def __init__(self, f: Map, args: tuple[Tensor, ...] | None, autocast: Any) -> None:
        self.f, self.args, self.autocast = f, args or (), autocast or nullcontext()
        self.calls = self.samples = 0

    def __call__(self, z: Tensor) -> Tensor:
        self.calls += 1
        self.samples += z.shape[0]
        given = (z.clone() if z.is_inference() else z, *self.args)  # whose writes nothing counts: a copy bears them
        before = versions(given)
        with self.autocast, profile_scope("evaluation"):
            fz = self.f(*given)
        refuse_in_place(given, before, "The map")
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


def iterate(
    f: Map,
    z0: Tensor,
    solver: Solver,
    *,
    args: tuple[Tensor, ...] | None = None,
    select: Select = "best",
    floor: float | None = None,
    keep_state: bool = False,
) -> Solution[Tensor]:
    """Solve ``z = f(z)`` for every sample of a batch by itself.

    A sample that has converged is frozen: its answer does not depend on its batch-mates. Where fewer than half of the
    samples are left and ``args`` is given, the finished ones are taken out of the batch, so that they cost nothing. A
    map that a part of the batch makes fail, or answer otherwise, gets the whole batch from then on.

    Args:
        f: the map, (B, N) -> (B, N), called as ``f(z, *args)``.
        z0: the start, (B, N), finite.
        solver: the method with its tolerances.
        args: batch-first tensors that ``f`` needs for its samples and that are cut with them. None: ``f`` may hold
            such tensors itself, and no sample ever leaves the batch.
        select: ``best`` returns each sample's iterate of least residual (one that met its tolerance: that one),
            ``last`` its last one, ``next`` the one after that, unmeasured, so that ``max_steps`` steps cost just as
            many evaluations (to backpropagate through them). ``ahead`` is ``best``, at the cost of ``next``: the
            unmeasured iterate is taken where the one before it was the best so far.
        floor: least relative tolerance; by default the resolution of the map's dtype.
        keep_state: put the method's last state into the solution, for what reuses it.

    Returns:
        the solution, with a value of shape (B, N).

    Raises:
        ValueError: the start is not finite, the map changes shape or dtype, or it writes into its input.
    """
    if z0.shape[0] == 0 or z0.shape[1] == 0:
        raise ValueError(f"Nothing to solve: the state has the shape {tuple(z0.shape)}; expected at least one sample.")
    device = z0.device.type
    floor = resolution(f, z0) if floor is None else floor
    autocast = torch.is_autocast_enabled(device)
    # The map computes as its user asked for; the method's own products stay in the state's dtype.
    own = torch.autocast(device, dtype=torch.get_autocast_dtype(device)) if autocast else None
    with torch.autocast(device, enabled=False) if autocast else nullcontext():
        loop = _Loop(Counted(f, args, own), z0, solver, args is not None, select, floor, keep_state)
        loop.progress.coupled = True if mixes(f) else None
        while (solution := loop.run()) is None:
            loop = loop.again()
    return solution


class _Loop:
    """One attempt at a solve.

    Args:
        call: the map, counted; its arguments are cut with the samples.
        z0: the start, (B, N).
        compact: whether finished samples may leave the batch.
        one: whether the batch is solved as one system, (1, B N).
        (the others as `iterate` has them)
    """

    def __init__(
        self,
        call: Counted,
        z0: Tensor,
        solver: Solver,
        compact: bool,
        select: Select,
        floor: float,
        keep_state: bool,
        one: bool = False,
    ) -> None:
        self.call, self.args, self.z0, self.solver, self.select = call, call.args, z0, solver, select
        self.floor, self.keep_state, self.one = floor, keep_state, one
        self.start = z0.reshape(1, -1) if one else z0
        self.target: Map = self._flat if one else call
        if isinstance(call.f, Affine):
            f = call.f
            self.target = Affine(call.product(f.linear), f.offset, f.transpose and call.product(f.transpose), f.zero)
        elif solver.linear:
            self.target = Affine.of(self.target, self.start)
        affine = isinstance(self.target, Affine)
        self.fixed = _norms(self.target.offset) if isinstance(self.target, Affine) else None
        self.newest = select in ("last", "next")
        self.progress = BatchProgress(
            len(self.start),
            self.start.shape[1],
            solver,
            floor,
            newest=self.newest,
            holds=solver.holds and not affine,
            noise=noise(floor, z0.device.type),
        )
        self.compact = compact and not affine
        self.track = self.newest or not solver.monotone
        self.recorded = torch.is_grad_enabled() and solver.unrollable
        self.whole = False
        kind = torch.finfo(z0.dtype)
        self.low = (kind.tiny / kind.eps * self.start.shape[1]) ** 0.5  # below it, squares leave the dtype's range
        self.best = self.start  # of the samples in hand
        self.value: Tensor | None = None  # of the whole batch, once samples have been let go

    def _flat(self, z: Tensor) -> Tensor:
        return self.call(z.view(self.z0.shape)).reshape(1, -1)

    def again(self) -> _Loop:
        """The next attempt, with the whole batch: as one system where a gradient has to cross coupled steps.

        It starts at what was reached, or, where the steps themselves are differentiated, at the start.
        """
        self.call.args = self.args
        start = self.z0 if self.recorded else self.answer().view(self.z0.shape)
        one = self.recorded and self.progress.coupled is True
        loop = _Loop(self.call, start, self.solver, False, self.select, self.floor, self.keep_state, one)
        loop.whole = True
        loop.progress.coupled = self.progress.coupled
        return loop

    def answer(self) -> Tensor:
        """What was reached so far, for the whole batch."""
        return self.best if self.value is None else _put(self.value, self.progress.rows, self.best)

    def run(self) -> Solution[Tensor] | None:
        """Return the solution; None where the attempt is void, and `again` says what to do."""
        progress, solver, z0 = self.progress, self.solver, self.start
        state = solver.init(self.target, z0)
        before: Any = None  # the start of the last step, kept only where that may have to be taken again or undone
        pending: Tensor | None = None  # None while every sample in hand is active
        for k in range(solver.max_steps + 1):
            norm, scale, ordinary = self._measure(state)
            lost = None if ordinary else progress.lost(norm)
            if lost is not None:
                state = self._lose(k, lost, scale, state, before)
            better, grown = progress.note(k, norm, scale, lost)
            if progress.coupled and not self.one and (progress.is_cut or self.recorded):
                return None
            if self.track:
                self.best = _keep(self.best, solver.value(state), better)
            if k == solver.max_steps or not progress.left:
                progress.close(k)
                break
            if grown is not None:
                state = solver.forget(state, _to(grown, z0))
            if self.recorded and progress.changed:
                state = freeze(state, _to(progress.active, z0))
            kept = progress.staying() if self.compact else None
            if kept is not None:
                self.value, better = self.answer(), better[kept]
                progress.cut(kept)
                index = _to(kept, z0)
                self.call.args, state, self.best = take(self.call.args, index), take(state, index), self.best[index]
            if kept is not None or progress.changed:
                pending = None if progress.left == len(progress.rows) else _to(progress.active, z0)
            if self.select in ("next", "ahead") and k == solver.max_steps - 1:
                self._look_ahead(state, better)
                progress.close(k + 1)
                break
            if self.recorded or not self.track:
                before = state
            try:
                state = solver.step(self.target, state, pending)
            except (RuntimeError, ValueError, IndexError):
                if not progress.is_cut:
                    raise
                return None  # the map holds something of the whole batch: a mask, an edge list, batch statistics
        return self._finish(state)

    def _measure(self, state: Any) -> tuple[np.ndarray, np.ndarray, bool]:
        """``|f(z) - z|`` and the scale, to the host in one transfer, and whether all are ordinary numbers.

        Where a square has left the range of the dtype, both are computed again, and exactly.
        """
        z = state.z.detach()
        norm, scale = _read(state.norm, torch.linalg.vector_norm(z, dim=1) if self.fixed is None else self.fixed)
        low = self.low
        if np.minimum.reduce(np.minimum(norm, scale)) >= low and math.isfinite(np.dot(norm, scale)):
            return norm, scale, True
        small = ~(norm >= low)  # or NaN
        doubt = small | ~np.isfinite(norm)
        if doubt.any() and (rest := self.solver.residual(state)) is not None:
            norm = np.where(doubt, _norms(rest.detach()), norm)
        if self.fixed is None:
            doubt = ~np.isfinite(scale) | ((scale < low) & ((scale > 0) | small))
            if doubt.any():
                scale = np.where(doubt, _norms(z), scale)
        return norm, scale, False

    def _lose(self, k: int, lost: np.ndarray, scale: np.ndarray, state: Any, before: Any) -> Any:
        """Part with samples whose residual is not finite; returns the state to go on from."""
        active = self.progress.active
        if k == 0:
            # Where b itself is not finite (a gradient that has overflowed, say), a start made of it is not to blame.
            _check_start(self.start, lost if self.fixed is None else lost & np.isfinite(scale))
        elif self.recorded and (active & ~lost).any():
            # The evaluation that was not finite would stay in the graph for the samples that go on, where 0 * NaN
            # reaches shared parameters: take the step once more, with the lost samples held where they were.
            moving = _to(active & ~lost, self.start)
            return self.solver.step(self.target, freeze(before, moving), moving)
        elif not self.track:
            self.best = _keep(self.best, self.solver.value(before), lost)
        return state

    def _look_ahead(self, state: Any, better: np.ndarray) -> None:
        """Take the iterate that follows, unmeasured, for the samples that it may serve."""
        further = self.progress.active if self.newest else self.progress.active & better
        proposed = self.solver.propose(state)[0]
        finite = torch.isfinite(proposed.detach().sum(dim=1)).cpu().numpy()
        if not finite[further].all():
            self.progress.lose(further & ~finite)
            further = further & finite
            proposed = self.solver.propose(freeze(state, _to(further, proposed)))[0]
        self.best = _keep(self.best, proposed, further)

    def _finish(self, state: Any) -> Solution[Tensor]:
        progress = self.progress
        if not self.track:
            self.best = _keep(self.solver.value(state), self.best, progress.dead[progress.rows])
        best = self.answer()
        if best.requires_grad and progress.dead.any():  # a sample that was lost has no say in any gradient
            best = torch.where(_to(progress.dead, best)[:, None], best.detach(), best)
        if not self.keep_state:
            release(state)
        stats = progress.stats(self.call.calls, self.call.samples)
        stats = dataclasses.replace(stats, whole=self.whole or (self.compact and progress.coupled is True))
        if self.one:
            stats, best = spread(stats, len(self.z0)), best.view(self.z0.shape)
        return Solution(best, progress.result, stats, state if self.keep_state else None)


def confirm(solution: Solution[Tensor], z: Tensor, fz: Tensor, solver: Solver, floor: float) -> Solution[Tensor]:
    """Hold a solution against one more evaluation, ``fz = f(z)``, of the whole batch at once.

    The residual that it shows is the true one, and the status is never better. It differs from what the solve has
    measured where samples depend on one another or where the map does not answer the same twice.

    Args:
        solution: of the solve.
        z, fz: its value and the map there, (B, N).
        solver: whose tolerances were to be met.
        floor: least relative tolerance.
    """
    stats = solution.stats
    norm, scale = (_exact_norms(x.detach()) for x in (fz.detach() - z.detach(), z))
    slack = noise(floor, z.device.type)
    converged, told = stats.converged.numpy(), stats.residual.numpy()
    ordinary = np.minimum.reduce(scale) > 0 and math.isfinite(np.dot(norm, scale))
    if ordinary and np.count_nonzero(np.abs(norm / scale - told) <= slack + 1e-6 * told) == len(told):
        return solution
    lost = stats.lost.numpy() if stats.lost is not None else np.zeros_like(converged)
    bound = solver.atol * z.shape[1] ** 0.5 + max(solver.rtol, floor) * scale
    with np.errstate(invalid="ignore", over="ignore"):
        true = norm / np.where(scale > 0, scale, np.where(norm > 0, norm, 1.0))
        moved = ~lost & ~(np.abs(true - told) <= slack + 1e-6 * told)
        failed = converged & ~(norm <= bound + slack * scale)
    if not moved.any():
        return solution
    result = solution.result
    if failed.any():
        result = Result.worst((result, Result.dependent if np.isfinite(norm[failed]).all() else Result.nonfinite))
    stats = dataclasses.replace(
        stats,
        residual=torch.from_numpy(np.where(lost, told, true)),
        converged=torch.from_numpy(converged & ~failed),
        coupled=len(z) > 1 or stats.coupled,
    )
    return dataclasses.replace(solution, result=result, stats=stats)


def spread(stats: Stats, batch: int) -> Stats:
    """Say the statistics of one system of each of its samples."""
    wide = {k: getattr(stats, k).expand(batch) for k in ("steps", "residual", "converged", "lost")}
    return dataclasses.replace(stats, **wide, trace=stats.trace.expand(-1, batch))


def _check_start(z0: Tensor, suspects: np.ndarray) -> None:
    """Raise where the start is not finite; looked at only where the first residual was not."""
    bad = suspects & ~torch.isfinite(z0.detach()).all(dim=1).cpu().numpy()
    if bad.any():
        where = ", ".join(map(str, np.flatnonzero(bad)[:5]))
        raise ValueError(f"The start is not finite in samples {where}; check the input for NaN.")


def _norms(x: Tensor) -> np.ndarray:
    """(B,) euclidean norms of (B, N), whose squares neither under- nor overflow."""
    x = x.detach().double()
    most = x.abs().amax(dim=1, keepdim=True)
    unit = torch.where((most > 0) & torch.isfinite(most), most, torch.ones_like(most))
    return (torch.linalg.vector_norm(x / unit, dim=1) * unit[:, 0]).cpu().numpy()


def _exact_norms(x: Tensor) -> np.ndarray:
    """`_norms`, by the fast road where that is safe."""
    norms = torch.linalg.vector_norm(x, dim=1).cpu().numpy().astype(np.float64)
    low = (torch.finfo(x.dtype).tiny / torch.finfo(x.dtype).eps * x.shape[1]) ** 0.5
    return norms if ((norms >= low) & np.isfinite(norms)).all() else _norms(x)


def _read(norm: Tensor, scale: Tensor | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two numbers a sample, to the host in one transfer; a scale that is there already stays as it is."""
    norm = norm.detach()
    if not isinstance(scale, Tensor):
        return norm.cpu().numpy().astype(np.float64), scale
    both = norm, scale
    if norm.device.type != "cpu":
        both = tuple(torch.stack(both).cpu())
    return both[0].numpy().astype(np.float64), both[1].numpy().astype(np.float64)


def _to(array: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(array.copy()).to(like.device)


def _keep(best: Tensor, z: Tensor, mask: np.ndarray) -> Tensor:
    """Put the masked rows of ``z`` into ``best``; by reference, without a copy, where that is every row."""
    count = np.count_nonzero(mask)
    if count == len(mask):
        return z
    return torch.where(_to(mask, z)[:, None], z, best) if count else best


def _put(value: Tensor, rows: np.ndarray, best: Tensor) -> Tensor:
    return value.index_copy(0, _to(rows, value), best)
